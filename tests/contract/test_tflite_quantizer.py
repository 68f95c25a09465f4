"""int8 for TFLite by the project's quantiser: exact pieces, better than nearest, refusals named."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lepton_edge import errors
from lepton_edge.calibration import Data, Tuning, equalize_tflite, load, quantize_tflite
from lepton_edge.calibration import patches_tflite as patches
from lepton_edge.calibration.graph_tflite import Graph, interpreter
from lepton_edge.calibration.stepper_tflite import Stepper
from lepton_edge.calibration.tflite_quantizer import prepare
from lepton_edge.model import Array

# In a process of its own: TensorFlow is heavy, and must not meet the other backends' tests.
MAKE = """
import sys, numpy as np, tensorflow as tf
layers = tf.keras.layers
tf.keras.utils.set_random_seed(0)
def relu(value): return layers.ReLU()(value)
image = tf.keras.Input((16, 16, 3), batch_size=1, name="image")
body = relu(layers.Conv2D(8, 3, strides=2, padding="same", bias_initializer="normal")(image))
body = relu(layers.DepthwiseConv2D(3, padding="same", depth_multiplier=2)(body))
body = relu(layers.Conv2D(12, 1, bias_initializer="normal")(body))
body = relu(layers.Conv2D(12, 3, dilation_rate=2, groups=3)(body))
wide = layers.Dense(24)(layers.GlobalAveragePooling2D()(body))
model = tf.keras.Model(image, layers.Dense(6, use_bias=False)(layers.LeakyReLU()(wide)))
open(sys.argv[1], "wb").write(tf.lite.TFLiteConverter.from_keras_model(model).convert())
model = tf.keras.Model(image, layers.Dense(6)(layers.GlobalAveragePooling2D()(body)))
open(sys.argv[2], "wb").write(tf.lite.TFLiteConverter.from_keras_model(model).convert())
"""


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Convolutions of every kind, then two dense layers with LeakyReLU, or one."""
    for module, extra in (
        ("ai_edge_quantizer", "tflite-convert"),
        ("tensorflow", "tensorflow"),
    ):
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"needs {module}: pip install 'lepton-edge[{extra}]'")
    folder = tmp_path_factory.mktemp("quantizer")
    paths = folder / "leaky.tflite", folder / "plain.tflite"
    made = [sys.executable, "-c", MAKE, *map(str, paths)]
    subprocess.run(made, check=True, capture_output=True)
    return paths


def images(n: int, seed: int = 0) -> Iterator[Array]:
    """Smooth images, so that neighbours are as alike as in photographs."""
    rng = np.random.default_rng(seed)
    for _ in range(n):
        coarse = rng.standard_normal((1, 4, 4, 3)).repeat(4, 1).repeat(4, 2)
        yield (coarse + 0.2 * rng.standard_normal((1, 16, 16, 3))).astype(np.float32)


def data(graph: Graph, n: int = 32) -> Data:
    name = graph.name(graph.inputs[0])
    return Data(lambda: ({name: image} for image in images(n)), f"images:{n}")


def outputs(content: bytes, n: int = 48) -> Array:
    opened = interpreter(content, 1)
    given, taken = opened.get_input_details()[0], opened.get_output_details()[0]
    rows = []
    for image in images(n, seed=7):
        opened.set_tensor(given["index"], image)
        opened.invoke()
        rows.append(opened.get_tensor(taken["index"]))
    return np.concatenate(rows)


def sqnr_db(wanted: Array, got: Array) -> float:
    return float(10 * np.log10((wanted**2).sum() / ((wanted - got) ** 2).sum()))


def quantized(source: Path, out: Path, **options: Any) -> tuple[bytes, dict[str, Any]]:
    graph = Graph(source.read_bytes())
    record = quantize_tflite(source, out, data(graph), load("tflite"), Tuning(**options))
    return out.read_bytes(), record


def test_a_file_that_is_read_and_written_computes_the_same(files: tuple[Path, Path]) -> None:
    for file in files:
        content = file.read_bytes()
        for again in (Graph(content).to_bytes(), prepare(content, with_bias=True).to_bytes()):
            np.testing.assert_array_equal(outputs(again, 4), outputs(content, 4))


def test_pieces_compute_what_the_whole_does_and_rows_are_what_layers_read(
    files: tuple[Path, Path], tmp_path: Path
) -> None:
    graph = prepare(files[0].read_bytes(), with_bias=True)
    layers = [op for op in graph.ops if op.kind in patches.KNOWN]
    assert {op.kind for op in layers} == set(patches.KNOWN)
    targets = [tensor for op in layers for tensor in (op.inputs[0], op.outputs[0])]
    steps = Stepper(graph, targets, tmp_path / "steps")
    steps.start(data(graph, 3).feeds())
    whole = interpreter(graph.to_bytes(), 1, keep_all=True)
    for op in layers:
        pairs = list(zip(steps.advance(op.inputs[0]), images(3), strict=True))
        results = list(steps.advance(op.outputs[0]))
        weight = patches.to_matrix(graph, op, graph.constant(op.inputs[1]))
        np.testing.assert_array_equal(
            patches.from_matrix(graph, op, weight), graph.constant(op.inputs[1])
        )
        for (value, image), result in zip(pairs, results, strict=True):
            whole.set_tensor(whole.get_input_details()[0]["index"], image)
            whole.invoke()
            np.testing.assert_array_equal(result, whole.get_tensor(op.outputs[0]))
            (rows,) = patches.rows(graph, op, (value,), 10**6, 0)
            product = np.einsum("grk,gok->rgo", rows, weight).reshape(len(rows[0]), -1)
            product += graph.constant(op.inputs[2])
            options = graph.main.operators[op.index].builtinOptions
            if options.fusedActivationFunction == graph.schema.ActivationFunctionType.RELU:
                product = np.maximum(product, 0)
            np.testing.assert_allclose(product.reshape(result.shape), result, atol=2e-5)
    assert not list((tmp_path / "steps").glob(f"{graph.inputs[0]}.*"))  # no one needs it any more


def test_learned_beats_nearest_and_the_same_inputs_give_the_same_bytes(
    files: tuple[Path, Path], tmp_path: Path
) -> None:
    wanted = outputs(files[1].read_bytes())
    plain, _ = quantized(
        files[1], tmp_path / "n.tflite", rounding="nearest", correct_bias=False, equalize=False
    )
    learned, record = quantized(files[1], tmp_path / "l.tflite")
    assert sqnr_db(wanted, outputs(learned)) > max(30, sqnr_db(wanted, outputs(plain)))
    assert [each["node"] for each in record["layers"]]
    assert record["nearest"] == []
    assert quantized(files[1], tmp_path / "again.tflite")[0] == learned


def test_channels_rescaled_at_random_recover(files: tuple[Path, Path], tmp_path: Path) -> None:
    graph = prepare(files[1].read_bytes(), with_bias=True)
    wanted = outputs(graph.to_bytes())
    rng = np.random.default_rng(3)
    groups = equalize_tflite.groups(graph)
    assert len(groups) == 4  # every tensor between two layers
    for group in groups:
        channels = graph.shape(group.tensors[0])[-1]
        equalize_tflite.scale(graph, group, 10 ** rng.uniform(-1.5, 1.5, channels))
    hostile = tmp_path / "hostile.tflite"
    hostile.write_bytes(graph.to_bytes())
    assert sqnr_db(wanted, outputs(hostile.read_bytes())) > 80  # the function is the same
    bad, _ = quantized(hostile, tmp_path / "b.tflite", equalize=False, rounding="nearest")
    good, record = quantized(hostile, tmp_path / "g.tflite")
    assert len(record["equalized"]) == 4
    assert sqnr_db(wanted, outputs(good)) > max(30, sqnr_db(wanted, outputs(bad)) + 6)


def test_operators_stay_float_by_name(files: tuple[Path, Path], tmp_path: Path) -> None:
    graph = Graph(files[1].read_bytes())
    names = [op.scope for op in graph.ops if op.kind == "CONV_2D"]
    content, record = quantized(files[1], tmp_path / "m.tflite", keep_float=(names[1],))
    assert record["float_nodes"] == {names[1]: "kept by the options"}
    result = Graph(content)
    kinds = {op.scope: result.dtype(op.outputs[0]) for op in result.ops}
    assert [kinds[name] for name in names[:2]] == ["INT8", "FLOAT32"]
    with pytest.raises(errors.UsageError, match="nobody"):
        quantized(files[1], tmp_path / "u.tflite", keep_float=("nobody",))
    assert not (tmp_path / "u.tflite").exists()


def test_full_integer_is_whole_or_names_the_operator(
    files: tuple[Path, Path], tmp_path: Path
) -> None:
    graph, edgetpu = Graph(files[1].read_bytes()), load("edgetpu")
    out = tmp_path / "e.tflite"
    quantize_tflite(files[1], out, data(graph), edgetpu)
    result = Graph(out.read_bytes())
    assert {result.dtype(t) for op in result.ops for t in op.outputs} == {"INT8"}
    (dense,) = (op for op in result.ops if op.kind == "FULLY_CONNECTED")
    params = result.grid(dense.inputs[1])
    assert params is not None
    assert params.axis is None  # a scale a channel came after the Edge TPU's compiler
    with pytest.raises(errors.CannotConvert, match="LEAKY_RELU"):
        quantize_tflite(files[0], tmp_path / "no.tflite", data(graph), edgetpu)
    assert not (tmp_path / "no.tflite").exists()
    with pytest.raises(errors.UsageError, match="keep_float"):
        keep = Tuning(keep_float=(graph.ops[0].scope,))
        quantize_tflite(files[1], tmp_path / "no.tflite", data(graph), edgetpu, keep)
