"""The Edge TPU's rules against what Google's compiler did with public models.

The models are not part of the project: LEPTON_EDGE_SHARED names a folder that holds data/coral
with pairs X.tflite and X_edgetpu.tflite.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from lepton_edge import devices, errors
from lepton_edge.devices._tflite import read
from lepton_edge.devices.edgetpu import compiled, placement

SHARED = os.environ.get("LEPTON_EDGE_SHARED")
FOLDER = Path(SHARED or "absent") / "data" / "coral"
COMPILED = sorted(FOLDER.glob("*_edgetpu.tflite"))
CORAL = devices.load("coral-usb")

pytestmark = pytest.mark.skipif(
    not COMPILED, reason="set LEPTON_EDGE_SHARED to a folder with data/coral/*_edgetpu.tflite"
)


def raw_of(path: Path) -> Path:
    return path.with_name(path.name.replace("_edgetpu.tflite", ".tflite"))


@pytest.mark.parametrize("path", COMPILED, ids=lambda path: path.stem)
def test_every_operator_is_placed_as_the_compiler_placed_it(path: Path) -> None:
    raw = read(raw_of(path))
    predicted = devices.placement(raw_of(path), CORAL)["operators"]
    on_cpu = [row["index"] for row in predicted if row["placement"] != "accelerator"]
    assert on_cpu == placement.left_to_cpu(raw, read(path))
    assert len(predicted) == len(raw.operators)


@pytest.mark.parametrize("path", COMPILED, ids=lambda path: path.stem)
def test_cached_bytes_are_within_ten_percent(path: Path) -> None:
    predicted = devices.placement(raw_of(path), CORAL)["summary"]["cached_bytes"]
    assert predicted == pytest.approx(compiled.read_compiled(path).cached_bytes, rel=0.1)


@pytest.mark.parametrize("path", COMPILED, ids=lambda path: path.stem)
def test_a_compiled_file_tells_its_own_placement(path: Path) -> None:
    found = devices.placement(path, CORAL)
    json.dumps(found, allow_nan=False)
    summary = found["summary"]
    assert summary["source"] == "compiled"
    assert summary["accelerator"] == summary["segments"] == 1
    assert summary["instruction_bytes"] > 0
    assert summary["output_bytes"] > 0
    executables = compiled.read_compiled(path).executables
    assert {item.kind for item in executables} == {"parameter-caching", "execution-only"}


def test_cycles_are_read_where_the_compiler_left_them() -> None:
    found = compiled.read_compiled(FOLDER / "mobilenet_v2_1.0_224_quant_edgetpu.tflite")
    assert found.cycles == 458_040
    newer = compiled.read_compiled(FOLDER / "mobilenet_v1_0.25_128_quant_edgetpu.tflite")
    assert newer.cycles is None  # 0 in the file: not known


def test_a_raw_file_is_not_taken_for_a_compiled_one() -> None:
    with pytest.raises(errors.BadInput, match="was not compiled for the Edge TPU"):
        compiled.read_compiled(FOLDER / "split_concat.tflite")


def test_a_file_compiled_from_another_is_told() -> None:
    deeplab = read(FOLDER / "deeplabv3_mnv2_dm05_pascal_quant_edgetpu.tflite")
    with pytest.raises(errors.BadInput, match="was not compiled from"):
        placement.left_to_cpu(read(FOLDER / "split_concat.tflite"), deeplab)


def test_a_compiled_file_with_a_broken_package_is_damaged(tmp_path: Path) -> None:
    data = bytearray((FOLDER / "split_concat_edgetpu.tflite").read_bytes())
    at = data.find(b"DWN1")
    for bad in (b"XXXX", None):
        copy = bytearray(data)
        if bad:
            copy[at : at + 4] = bad
        else:
            copy[at - 4 : at] = b"\xff\xff\xff\x7f"
        path = tmp_path / "bad.tflite"
        path.write_bytes(bytes(copy))
        with pytest.raises(errors.BadInput):
            devices.placement(path, CORAL)
