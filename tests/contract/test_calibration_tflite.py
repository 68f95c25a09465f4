"""Ranges for TFLite: complete, within TFLite's rules, and accepted by ai_edge_quantizer."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from lepton_edge import errors
from lepton_edge.calibration import dialects, observe_tflite, ranges_for_tflite
from lepton_edge.calibration.statistics import Statistics, TensorStats

INPUT = "serving_default_image:0"


# In a process of its own: TensorFlow is heavy, and must not meet the other backends' tests.
MAKE = """
import sys, tensorflow as tf
layers = tf.keras.layers
tf.keras.utils.set_random_seed(0)
image = tf.keras.Input((16, 16, 3), batch_size=1, name="image")
body = layers.Conv2D(8, 3, activation="relu6", padding="same")(image)
body = layers.AveragePooling2D(2)(body)
left = layers.Conv2D(4, 1, activation="relu")(body)
right = layers.Conv2D(4, 3, padding="same")(body)
joined = layers.Flatten()(layers.Concatenate()([left, right]))
model = tf.keras.Model(image, layers.Dense(5, activation="softmax")(joined))
open(sys.argv[1], "wb").write(tf.lite.TFLiteConverter.from_keras_model(model).convert())
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """conv-relu6, average pool, concat of two convs, dense, softmax."""
    for module, extra in (("ai_edge_litert", "tflite"), ("tensorflow", "tensorflow")):
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"needs {module}: pip install 'lepton-edge[{extra}]'")
    path = tmp_path_factory.mktemp("tflite") / "float.tflite"
    subprocess.run([sys.executable, "-c", MAKE, str(path)], check=True, capture_output=True)
    return path


def _feeds(n: int, seed: int = 0) -> list[dict[str, np.ndarray]]:
    rng = np.random.default_rng(seed)
    return [{INPUT: rng.standard_normal((1, 16, 16, 3)).astype(np.float32)} for _ in range(n)]


def test_ranges_follow_the_rules_of_tflite(model: Path) -> None:
    observed = observe_tflite.observe(model, _feeds(16))
    solved = observe_tflite.solve(observed, dialects.load("tflite"))
    shared = 0
    for operation in observed.operations:
        names = [observed.names[i] for i in operation.outputs]
        if operation.name == "SOFTMAX":
            assert [solved[name] for name in names] == [(0.0, 255 / 256)]
        if operation.name in ("CONCATENATION", "AVERAGE_POOL_2D"):
            shared += 1
            inputs = [observed.names[i] for i in operation.inputs]
            assert len({solved[name] for name in (*inputs, *names)}) == 1
    assert shared == 2
    assert all(low <= 0 <= high and np.isfinite([low, high]).all() for low, high in solved.values())
    assert observed.statistics.n == 16
    assert solved[INPUT][1] <= max(feed[INPUT].max() for feed in _feeds(16))


# ai_edge_quantizer opens the file with all tensors kept, and the interpreter warns about memory.
@pytest.mark.filterwarnings("ignore:.*experimental_preserve_all_tensors")
def test_the_quantizer_takes_them_and_the_model_stays_close(model: Path, tmp_path: Path) -> None:
    quantizer = pytest.importorskip(
        "ai_edge_quantizer.quantizer", reason="pip install 'lepton-edge[tflite-convert]'"
    )
    from ai_edge_litert.interpreter import Interpreter
    from ai_edge_quantizer import recipe

    found = ranges_for_tflite(model, _feeds(64), dialects.load("tflite"))
    worker = quantizer.Quantizer(str(model))
    worker.load_quantization_recipe(recipe.static_wi8_ai8())
    out = tmp_path / "int8.tflite"
    out.write_bytes(worker.quantize(found).quantized_model)

    def run(path: Path) -> np.ndarray:
        interpreter = Interpreter(model_path=str(path))
        interpreter.allocate_tensors()
        given, taken = interpreter.get_input_details()[0], interpreter.get_output_details()[0]
        rows = []
        for feed in _feeds(32, seed=9):
            value = feed[INPUT]
            if given["dtype"] is np.int8:
                scale, zero = given["quantization"]
                value = np.clip(np.rint(value / scale) + zero, -128, 127).astype(np.int8)
            interpreter.set_tensor(given["index"], value)
            interpreter.invoke()
            row = interpreter.get_tensor(taken["index"])
            if taken["dtype"] is np.int8:
                scale, zero = taken["quantization"]
                row = (row.astype(np.float32) - zero) * scale
            rows.append(row)
        return np.concatenate(rows)

    wanted, got = run(model), run(out)
    assert 10 * np.log10((wanted**2).sum() / ((wanted - got) ** 2).sum()) > 30
    assert (wanted.argmax(1) == got.argmax(1)).mean() > 0.9


def test_bad_requests_say_what_to_do(model: Path, tmp_path: Path) -> None:
    dialect = dialects.load("tflite")
    with pytest.raises(errors.UsageError, match="empty"):
        ranges_for_tflite(model, [], dialect)
    with pytest.raises(errors.UsageError, match="takes"):
        ranges_for_tflite(model, [{"other": np.zeros(1, np.float32)}], dialect)
    damaged = tmp_path / "damaged.tflite"
    damaged.write_bytes(model.read_bytes()[:500])
    with pytest.raises(errors.BadInput, match="Cannot open"):
        ranges_for_tflite(damaged, _feeds(1), dialect)


def test_a_chain_of_shared_grids_is_one_group() -> None:
    def stats(top: float) -> TensorStats:
        item = TensorStats()
        item.update(np.linspace(0, top, 100, dtype=np.float32))
        return item

    names = {0: "a", 1: "b", 2: "c", 3: "d"}
    operations = (
        observe_tflite.Operation("RESHAPE", (0,), (1,)),
        observe_tflite.Operation("CONCATENATION", (1, 2), (3,)),
    )
    tops = {"a": 1.0, "b": 1.0, "c": 5.0, "d": 5.0}
    observed = observe_tflite.Observed(
        Statistics({name: stats(top) for name, top in tops.items()}, 1),
        operations,
        names,
        dict.fromkeys(tops, 1),
    )
    solved = observe_tflite.solve(observed, dialects.load("tflite"), "minmax")
    assert set(solved.values()) == {(0.0, 5.0)}
