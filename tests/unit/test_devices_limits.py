"""`inspect MODEL --device D` before a conversion: verdicts by their tables, the rest unknown."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from lepton_edge import devices, errors, inspection
from lepton_edge.cli import inspect as verb
from lepton_edge.devices import _documented, _lowered, limits
from lepton_edge.devices._tflite_schema import OPERATORS
from lepton_edge.devices.edgetpu import rules
from lepton_edge.model import ModelSource, TensorSpec

TESTS = Path(__file__).parents[1]
ZOO = TESTS / "zoo.py"
PLACES = {"accelerator", "cpu", "unsupported"}


def placed(found: dict[str, Any]) -> dict[str, str]:
    return {row["op"]: row["placement"] for row in found["operators"]}


def what(found: dict[str, Any]) -> dict[str, str]:
    return {each["what"]: each["reason"] for each in found["limits"]}


def described(
    framework: str = "onnx",
    operators: tuple[tuple[str, int], ...] = (("Relu", 1),),
    parameters: int = 1000,
    inputs: tuple[TensorSpec, ...] = (TensorSpec("x", (None, 3, 8, 8), "float32"),),
) -> limits.Described:
    return limits.Described(framework, operators, parameters, inputs, {})


def onnx_file(folder: Path, *names: str, parameters: int = 1) -> Path:
    """A chain of these operators over x, 1 x 4."""
    onnx = pytest.importorskip("onnx", reason="pip install 'lepton-edge[onnx]'")
    pytest.importorskip("onnxruntime", reason="pip install 'lepton-edge[onnx]'")
    make, value = onnx.helper, onnx.helper.make_tensor_value_info
    nodes = [make.make_node(name, [f"t{i}"], [f"t{i + 1}"]) for i, name in enumerate(names)]
    graph = make.make_graph(
        nodes, "g", [value("t0", 1, [1, 4])], [value(f"t{len(names)}", 1, None)]
    )
    path = folder / "m.onnx"
    onnx.save(
        make.make_model(graph, opset_imports=[make.make_opsetid("", 18)], ir_version=10), path
    )
    return path


def test_the_tables_name_operators_that_exist() -> None:
    known = {*OPERATORS.values(), "TFLite_Detection_PostProcess"}
    assert known >= _documented.TFLM
    for framework, table in _lowered._TABLES.items():
        for name in table:
            for alternatives in _lowered.lowered(framework, name) or []:
                assert set(alternatives) <= known, name
    has = _documented.TENSORRT_HAS
    assert not has & _documented.TENSORRT_8_4_LACKS
    onnx = pytest.importorskip("onnx", reason="pip install 'lepton-edge[onnx]'")
    standard = {schema.name for schema in onnx.defs.get_all_schemas_with_history()}
    later = {"ImageScaler", "ParametricSoftplus", "ScaledTanh"}  # of ONNX before its first release
    documented = has | _documented.TENSORRT_8_4_LACKS | _documented.TENSORRT_8_5_ADDS
    assert documented - standard <= later


@pytest.mark.parametrize("name", devices.names())
def test_every_device_answers_for_every_framework(name: str) -> None:
    profile = devices.load(name)
    for framework, table in _lowered._TABLES.items():
        operators = ((next(iter(table)), 2), ("of_my_own", 3))
        found = limits.predict(described(framework, operators), profile)
        assert json.loads(json.dumps(found)) == found
        summary = found["summary"]
        assert summary["total"] == 5
        assert sum(summary[each] for each in (*PLACES, "unknown")) == 5
        assert set(placed(found).values()) <= PLACES
        assert all(re.search(r"\.$", each["reason"]) for each in found["limits"])
        if profile.kind != "cpu":  # what converts runs on a CPU; elsewhere a list decides
            assert "of_my_own" not in placed(found)
            assert any("of_my_own" in w and "ot known" in r for w, r in what(found).items())


@pytest.mark.parametrize("name", devices.names())
def test_every_constraint_is_worked_out_or_listed(name: str) -> None:
    """A model that breaks them all has a limit for each; one that breaks none has only the rest."""
    profile = devices.load(name)
    inputs = TensorSpec("x", (5000, 3, None, 8), "float32"), TensorSpec("i", (1, 8), "int64")
    bad = limits.predict(described(operators=(("Hardmax", 1),), inputs=inputs), profile)
    good = limits.predict(described(inputs=(TensorSpec("x", (1, 3, 8, 8), "float32"),)), profile)
    told, quiet = {w for each in bad["limits"] for w in each["what"].split(", ")}, what(good)
    for constraint in profile.constraints:
        if constraint.limit is None:
            told_as = [each for each in good["limits"] if constraint.source in each["reason"]]
            assert constraint.text.rstrip(".") in " ".join(each["reason"] for each in told_as)
            assert constraint.next in [each["next"] for each in told_as]
        elif constraint.limit == "operators":
            assert bad["summary"]["accelerator"] == 0
            assert good["summary"]["accelerator"] == 1
        elif constraint.limit == "segment":  # by the operator that is left to the CPU
            cut = limits.predict(described(operators=(("Relu", 1), ("LeakyRelu", 1))), profile)
            assert "segment" in what(cut)
            assert "segment" not in quiet
        else:
            assert constraint.limit in told
            assert constraint.limit == "tensorrt" or constraint.limit not in quiet
    if profile.kind == "edgetpu":
        assert "inputs" in told
        assert "inputs" not in quiet


def test_a_jetson_that_ends_before_what_engines_need() -> None:
    for name in ("jetson-nano", "jetson-tx2"):
        found = {
            each["what"]: each for each in limits.predict(described(), devices.load(name))["limits"]
        }
        assert "engines are built from 8.5 on" in found["tensorrt"]["reason"]
        assert "Convert to onnx or tflite" in found["tensorrt"]["next"]
        assert "Python 3.6 at most" in found["python"]["reason"]
    assert not {"tensorrt", "python"} & set(
        what(limits.predict(described(), devices.load("jetson-xavier-nx")))
    )


def test_a_profile_without_runtimes_says_so() -> None:
    bare = devices.Profile("mine", "M", "cpu", "aarch64")
    found = what(limits.predict(described(), bare))
    assert "names none" in found["runtimes"]
    assert "4.0 KB in fp32, 1.0 KB in int8" in found["memory"]


def test_torch_for_the_edge_tpu() -> None:
    pytest.importorskip("torch", reason="pip install 'lepton-edge[torch]'")
    found = inspection.limits(f"{ZOO}:mobilenet_v3", "coral-usb")
    assert found["framework"] == "torch"
    where = placed(found)
    assert (where["conv2d"], where["linear"]) == ("accelerator", "accelerator")
    assert where["hardswish"] == "cpu"
    row = next(row for row in found["operators"] if row["op"] == "hardswish")
    assert row["count"] == 8
    assert row["reason"] == ("It becomes HARD_SWISH, which the Edge TPU does not have; use RELU6.")
    assert "segment" in what(found)
    assert "hardsigmoid" not in where  # its decomposition is the converter's choice
    assert "fp32, fp16, bf16" in what(found)


def test_torch_recurrent_cells() -> None:
    pytest.importorskip("torch", reason="pip install 'lepton-edge[torch]'")
    source = ModelSource(f"{ZOO}:gru")
    pi = inspection.limits(source, "raspberry-pi-5")
    assert "stay float" in what(pi)["gru"]
    assert pi["summary"]["cpu"] == pi["summary"]["total"]
    assert "stay float" in what(inspection.limits(source, "jetson-orin-nano"))["gru"]
    assert "stay float" not in json.dumps(inspection.limits(source, "jetson-nano"))  # no int8 there
    assert "no GRU" in " ".join(what(inspection.limits(source, "coral-m2")).values())


def test_onnx_for_jetsons(tmp_path: Path) -> None:
    path = onnx_file(tmp_path, "Relu", "Reciprocal", "Hardmax", "Mish")
    old = inspection.limits(str(path), "jetson-tx2")
    assert placed(old) == {
        "Relu": "accelerator", "Reciprocal": "unsupported", "Hardmax": "unsupported",
    }  # fmt: skip
    assert "not list it" in what(old)["Mish"]
    assert "8.2.1" in what(old)["tensorrt"]
    middle = inspection.limits(str(path), "jetson-xavier-nx")
    assert placed(middle) | {"Mish": ""} == {
        "Relu": "accelerator", "Reciprocal": "accelerator", "Hardmax": "unsupported", "Mish": "",
    }  # fmt: skip
    new = inspection.limits(str(path), "jetson-orin-nano")
    assert "Hardmax" not in placed(new)
    assert "later releases" in what(new)["Hardmax"]


def test_the_command_on_onnx(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = onnx_file(tmp_path, "Relu", "LeakyRelu")
    assert verb.command(str(path), device="coral-usb", json=True) == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["status"], document["exit_code"]) == ("PASS", 0)
    assert placed(document) == {"Relu": "accelerator", "LeakyRelu": "cpu"}
    assert {"what", "reason", "next"} == set(document["limits"][0])
    assert verb.command(str(path), device="coral-usb") == 0
    assert "RELU, RELU6 or PRELU" in capsys.readouterr().out


def test_a_tflite_on_a_microcontroller(capsys: pytest.CaptureFixture[str]) -> None:
    probe = TESTS.parent / "lepton_edge/jobs/probe.tflite"
    assert verb.command(str(probe), device="mcu-tflm", json=True) == 0
    document = json.loads(capsys.readouterr().out)
    assert {row["placement"] for row in document["operators"]} == {"cpu"}
    assert "not known" in what(document)["memory"].lower()


def test_a_tflite_with_an_operator_that_the_device_lacks(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("flatbuffers", reason="needs flatbuffers to write .tflite files")
    pytest.importorskip("ai_edge_litert", reason="needs ai-edge-litert for the .tflite schema")
    from tests.unit.test_edgetpu_rules import File

    made = File()
    given, out = made.tensor(1, 8), made.tensor(1, 8)
    made.add("GELU", [given], [out])
    made.graph.inputs, made.graph.outputs = [given], [out]
    path = made.write(tmp_path)
    assert verb.command(str(path), device="mcu-tflm", json=True) == 5
    document = json.loads(capsys.readouterr().out)
    assert document["status"] == "FALLBACK"
    assert placed(document) == {"GELU": "unsupported"}
    assert verb.command(str(path), device="raspberry-pi-4", json=True) == 0
    assert placed(json.loads(capsys.readouterr().out)) == {"GELU": "cpu"}
    assert verb.command(str(path), device="coral-usb", json=True) == 5
    assert "Nothing can be mapped" in what(json.loads(capsys.readouterr().out))["compiler"]


def test_what_is_about_the_whole_model() -> None:
    coral = devices.load("coral-usb")
    free = described(inputs=(TensorSpec("x", (4, 3, None, 8), "float32"),))
    found = what(limits.predict(free, coral))
    assert "fixed shapes" in found["shapes"]
    assert "batch of 4" in found["batch"]
    assert "cache" not in found
    assert "cache" in what(limits.predict(described(parameters=25_000_000), coral))
    nano = devices.load("jetson-nano")
    assert "memory" not in what(limits.predict(described(), nano))
    assert "every variant" in what(limits.predict(described(parameters=3 * 10**9), nano))["memory"]
    pi = devices.load("raspberry-pi-4")
    some = what(limits.predict(described(parameters=3 * 10**8), pi))["memory"]
    assert "1200.00 MB in fp32" in some
    assert "smaller variants" in some
    volume = described(operators=(("Conv", 1),), inputs=(TensorSpec("x", (1,) * 5, "float32"),))
    assert limits.predict(volume, coral)["summary"]["unknown"] == 1  # Conv is 3-D there


def test_a_source_that_nothing_turns_into_what_the_device_runs() -> None:
    stuck = limits.Described(
        "torchscript", (("relu", 1),), 1, (), {("tflite", "int8"): "it cannot"}
    )
    found = limits.predict(stuck, devices.load("coral-usb"))
    assert found["operators"] == []
    assert what(found)["tflite int8"] == "Not made from it: it cannot."
    assert "none can be made" in what(found)["format"]


def test_a_profile_of_ones_own_and_an_unknown_device(tmp_path: Path) -> None:
    board = tmp_path / "my-mcu.toml"
    board.write_text(
        'name = "my-mcu"\ntitle = "M"\nkind = "mcu"\narchitecture = "cortex-m"\n[facts]\n'
        'memory = { value = 0.0000001, unit = "GB", source = "its data sheet" }\n'
        '[[runtimes]]\nname = "tflm"\nformat = "tflite"\nprecisions = ["int8"]\nsource = "s"\n'
    )
    path = onnx_file(tmp_path, "Relu")
    found = inspection.limits(str(path), "my-mcu", devices_folder=str(tmp_path))
    assert placed(found) == {"Relu": "cpu"}
    profile = devices.load("my-mcu", tmp_path)
    assert "every variant" in what(limits.predict(described(), profile))["memory"]
    with pytest.raises(errors.UsageError, match="Did you mean 'coral-usb'"):
        verb.command(str(path), device="coral-usd")


def test_what_the_edge_tpu_lacks_is_not_in_its_table() -> None:
    """Each verdict `cpu` of the tables is an operator outside the allow-list."""
    coral = devices.load("coral-usb")
    for framework, table in _lowered._TABLES.items():
        for name in table:
            row = limits.predict(described(framework, ((name, 1),)), coral)["operators"]
            needs = _lowered.lowered(framework, name) or []
            lacking = [each for each in needs if not set(each) & set(rules.MAPPED)]
            assert bool(lacking) == bool(row and row[0]["placement"] == "cpu")
