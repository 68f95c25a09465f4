"""Dialects are data: one file each, and light to import."""

import subprocess
import sys

import pytest

from lepton_edge import errors
from lepton_edge.calibration import dialects


@pytest.mark.parametrize("name", dialects.names())
def test_each_dialect_says_who_it_is_and_where_it_is_written(name: str) -> None:
    dialect = dialects.load(name)
    assert dialect.name == name
    assert len(dialect.source) > 20
    assert dialect.weight.symmetric
    assert dialect.anchors


def test_the_known_dialects() -> None:
    assert set(dialects.names()) >= {
        "edgetpu",
        "openvino",
        "ort_arm",
        "ort_x86",
        "ort_x86_vnni",
        "tensorrt",
        "tflite",
    }
    assert dialects.load("tensorrt").activation.symmetric
    assert dialects.load("tensorrt").bias == "float"
    # Two products of u8 and these weights fit into int16, which is what saturates without VNNI.
    assert 2 * 255 * dialects.load("ort_x86").weight.qmax < 2**15
    assert dialects.load("edgetpu").full_integer
    assert dialects.load("tflite").fixed["SOFTMAX"] == (1 / 256, -128)


def test_a_misspelt_dialect_gets_a_hint() -> None:
    with pytest.raises(errors.UsageError, match="tensorrt"):
        dialects.load("tensort")


def test_importing_calibration_loads_no_backend() -> None:
    code = (
        "import sys, lepton_edge.calibration.dialects, lepton_edge.calibration.ranges;"
        "bad = {'onnx', 'onnxruntime', 'torch', 'tensorflow'} & set(sys.modules);"
        "sys.exit(str(bad) if bad else 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
