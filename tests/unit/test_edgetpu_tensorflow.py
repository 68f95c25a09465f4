"""The rules on files that TensorFlow's converter writes today: which version of what it emits."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from lepton_edge import devices

pytestmark = pytest.mark.skipif(
    find_spec("tensorflow") is None,
    reason="needs TensorFlow: pip install 'lepton-edge[tensorflow]'",
)

# In a process of its own: the converter warns, and takes over a gigabyte.
WRITE = """
import sys, pathlib, numpy as np, tensorflow as tf
from tensorflow import keras
out = pathlib.Path(sys.argv[1])
image = keras.Input((16, 16, 3), batch_size=1)
x = keras.layers.Conv2D(8, 3, strides=2, activation="relu")(image)
x = keras.layers.DepthwiseConv2D(3, activation="relu")(x)
x = keras.layers.Conv2D(12, 1)(x)
leaky = keras.layers.LeakyReLU()(x)
def head(x):
    x = keras.layers.GlobalAveragePooling2D()(x)
    return keras.layers.Dense(10, activation="softmax")(x)
plain, cut = keras.Model(image, head(x)), keras.Model(image, head(leaky))
def write(name, model, io):
    made = tf.lite.TFLiteConverter.from_keras_model(model)
    made.optimizations = [tf.lite.Optimize.DEFAULT]
    data = np.random.default_rng(0).normal(size=(8, 1, 16, 16, 3)).astype("f4")
    made.representative_dataset = lambda: ([row] for row in data)
    made.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    made.inference_input_type = made.inference_output_type = io
    (out / f"{name}.tflite").write_bytes(made.convert())
write("full", plain, tf.int8)
write("float_io", plain, tf.float32)
write("leaky", cut, tf.int8)
float_model = tf.lite.TFLiteConverter.from_keras_model(plain).convert()
(out / "float.tflite").write_bytes(float_model)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("tensorflow")
    done = subprocess.run(
        [sys.executable, "-c", WRITE, str(made)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return made


def placed(path: Path) -> dict[str, list[str]]:
    found = devices.placement(path, devices.load("coral-usb"))
    kinds: dict[str, list[str]] = {"accelerator": [], "cpu": [], "unsupported": []}
    for row in found["operators"]:
        kinds[row["placement"]].append(row["op"])
    return kinds


def test_full_int8_is_mapped_whole(folder: Path) -> None:
    kinds = placed(folder / "full.tflite")
    assert not kinds["cpu"]
    assert {"CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "SOFTMAX"} <= {*kinds["accelerator"]}


def test_float_inputs_and_outputs_stay_on_the_cpu(folder: Path) -> None:
    kinds = placed(folder / "float_io.tflite")
    assert kinds["cpu"] == ["QUANTIZE", "DEQUANTIZE"]
    assert "CONV_2D" in kinds["accelerator"]


def test_leaky_relu_cuts_the_model(folder: Path) -> None:
    kinds = placed(folder / "leaky.tflite")
    assert kinds["accelerator"] == ["CONV_2D", "DEPTHWISE_CONV_2D", "CONV_2D"]
    assert kinds["cpu"][0] == "LEAKY_RELU"
    assert "SOFTMAX" in kinds["cpu"]


def test_a_float_model_is_not_compiled(folder: Path) -> None:
    found = devices.placement(folder / "float.tflite", devices.load("coral-usb"))
    assert found["summary"]["accelerator"] == 0
    assert found["summary"]["compiles"] is False
    assert "float32" in found["summary"]["reason"]
