"""Estimates from a measurement on a sibling device, and from a compiled Edge TPU file."""

from __future__ import annotations

import json
import math
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lepton_edge import devices, errors
from lepton_edge.cli import devices as verb
from lepton_edge.devices import transfer
from lepton_edge.devices._transfers import TRANSFERS

NX, AGX = devices.load("jetson-orin-nx"), devices.load("jetson-agx-orin")


def measurement(folder: Path, **changed: Any) -> Path:
    document: dict[str, Any] = {
        "artifact": {"path": "net.engine", "precision": "fp16"},
        "latency": {"p50_ms": 5.0, "batch": 1},
        "context": {"board": {"model": "NVIDIA Jetson Orin NX Engineering Reference"}},
    }
    path = folder / "measured.json"
    path.write_text(json.dumps(document | changed))
    return path


def test_a_measurement_is_transferred_with_its_interval(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = measurement(tmp_path)
    assert verb.command("predict", measured=str(path), device=AGX.name, json=True) == 0
    found = json.loads(capsys.readouterr().out)
    low, high = found["interval_ms"]
    assert low < found["latency_ms"] < high < 5.0
    assert (found["tier"], found["precision"]) == ("transferred", "fp16")
    assert found["basis"]["measured_on"] == NX.name
    assert found["basis"]["inside_learned_range"] is True


def test_there_and_back_is_where_it_began(tmp_path: Path) -> None:
    there = transfer.predict(transfer.read(measurement(tmp_path)), NX, AGX).latency_ms
    path = measurement(tmp_path, latency={"p50_ms": there, "batch": 1})
    assert transfer.predict(transfer.read(path), AGX, NX).latency_ms == pytest.approx(5.0, rel=0.1)


def test_with_the_model_the_ratio_is_that_of_its_estimates(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    onnx = pytest.importorskip("onnx", reason="needs onnx: pip install 'lepton-edge[onnx]'")
    node, kind = onnx.helper.make_node("Conv", ["x", "w"], ["y"]), onnx.TensorProto.FLOAT
    value = onnx.helper.make_tensor_value_info
    weight = onnx.numpy_helper.from_array(np.ones((8, 3, 3, 3), np.float32), "w")
    graph = onnx.helper.make_graph(
        [node], "net", [value("x", kind, [1, 3, 64, 64])], [value("y", kind, None)], [weight]
    )
    net = tmp_path / "net.onnx"
    onnx.save(onnx.helper.make_model(graph), net)
    path = measurement(tmp_path)
    given = {"measured": str(path), "device": AGX.name, "model": str(net)}
    assert verb.command("predict", **given, json=True) == 0
    found = json.loads(capsys.readouterr().out)
    learned = TRANSFERS[NX.name, AGX.name, "fp16"]
    assert learned.by_model is not None
    here, there = (devices.predict(net, each, "fp16").latency_ms for each in (NX, AGX))
    assert found["latency_ms"] == pytest.approx(5.0 * learned.by_model.factor * there / here)
    assert found["interval_ms"][1] / found["latency_ms"] < math.exp(learned.log_error)
    assert found["basis"]["read_from"] == str(net)
    assert verb.command("predict", **given) == 0
    assert "tier: transferred" in capsys.readouterr().out
    pi = measurement(tmp_path, artifact={"path": "net.tflite", "precision": "fp32"})
    given = {"measured": str(pi), "measured_on": "raspberry-pi-4", "model": str(net)}
    with pytest.raises(errors.UsageError, match="too few networks"):
        verb.command("predict", **given, device="raspberry-pi-5")


@pytest.mark.parametrize(
    ("board", "name"),
    [
        ("NVIDIA Jetson Orin Nano Developer Kit", "jetson-orin-nano"),
        ("NVIDIA Jetson Orin Nano Developer Kit Super", "jetson-orin-nano-super"),
        ("Raspberry Pi 5 Model B Rev 1.0", "raspberry-pi-5"),
    ],
)
def test_the_board_says_which_device_it_is(board: str, name: str, tmp_path: Path) -> None:
    path = measurement(tmp_path, context={"board": {"model": board}})
    assert transfer.board_name(transfer.read(path), devices.names()) == name


def test_what_cannot_be_transferred_is_one_sentence(tmp_path: Path) -> None:
    path = measurement(tmp_path)
    with pytest.raises(errors.UsageError, match="not in int8"):
        transfer.predict(transfer.read(path), NX, AGX, "int8")
    with pytest.raises(errors.UsageError, match="Nothing was learned"):
        transfer.predict(transfer.read(path), NX, devices.load("coral-usb"))
    nameless = transfer.read(measurement(tmp_path, context={}))
    with pytest.raises(errors.UsageError, match="does not say on which device"):
        transfer.board_name(nameless, devices.names())
    with pytest.raises(errors.BadInput, match="batch 8"):
        transfer.read(measurement(tmp_path, latency={"p50_ms": 5.0, "batch": 8}))
    for text in ("[1]", "{", '{"latency": {}}'):
        path.write_text(text)
        with pytest.raises(errors.BadInput, match="is no measurement"):
            transfer.read(path)
    with pytest.raises(errors.BadInput, match="Cannot read"):
        transfer.read(tmp_path / "absent.json")


CORAL = Path(os.environ.get("LEPTON_EDGE_SHARED") or "absent") / "data" / "coral"


@pytest.mark.skipif(not CORAL.is_dir(), reason="set LEPTON_EDGE_SHARED to a folder with data/coral")
def test_a_compiled_file_is_estimated_from_its_cycles_or_from_its_raw_file(tmp_path: Path) -> None:
    profile = devices.load("coral-usb")
    found = devices.predict(CORAL / "mobilenet_v2_1.0_224_quant_edgetpu.tflite", profile, "int8")
    assert found.tier == "compiled"
    assert found.latency_ms == pytest.approx(sum(found.basis["parts_ms"].values()))
    assert found.basis["parts_ms"]["chip_ms"] == pytest.approx(458_040 / 500e3)
    without = CORAL / "mobilenet_v1_0.25_128_quant_edgetpu.tflite"
    beside = devices.predict(without, profile, "int8")
    assert beside.tier == "calibrated"
    assert beside.basis["read_from"].endswith("mobilenet_v1_0.25_128_quant.tflite")
    alone = shutil.copy(without, tmp_path)
    with pytest.raises(errors.UsageError, match="holds no cycles"):
        devices.predict(alone, profile, "int8")
