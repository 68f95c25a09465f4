"""Which layer int8 damages is found, and int8-mixed keeps just such layers in float."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

onnx = pytest.importorskip("onnx", reason="pip install 'lepton-edge[onnx]'")
pytest.importorskip("onnxruntime", reason="pip install 'lepton-edge[onnx]'")

from onnx import TensorProto, helper, numpy_helper  # noqa: E402

from lepton_edge import calibration, errors  # noqa: E402
from lepton_edge.calibration import mixed, sensitivity  # noqa: E402
from lepton_edge.calibration.graph import session  # noqa: E402
from lepton_edge.calibration.onnx_quantizer import Work  # noqa: E402
from lepton_edge.converters import _qdq  # noqa: E402

RNG = np.random.default_rng(3)
VNNI = calibration.load("ort_x86_vnni")


def images() -> calibration.Data:
    def feeds() -> Iterator[dict[str, np.ndarray]]:
        rng = np.random.default_rng(4)
        for _ in range(24):
            yield {"x": rng.standard_normal((8, 3, 12, 12)).astype(np.float32)}

    return calibration.Data(feeds, "normal, seed 4")


@pytest.fixture
def damaged(tmp_path: Path) -> Path:
    """Six convolutions; between c1 and the depthwise c2, channels differ a thousandfold."""
    spread = np.geomspace(1, 1000, 8).astype(np.float32)
    weights = {
        "w0": RNG.standard_normal((8, 3, 3, 3)).astype(np.float32),
        "w1": RNG.standard_normal((8, 8, 1, 1)).astype(np.float32) * spread[:, None, None, None],
        "w2": RNG.standard_normal((8, 1, 3, 3)).astype(np.float32) / spread[:, None, None, None],
        **{f"w{i}": RNG.standard_normal((8, 8, 1, 1)).astype(np.float32) for i in (3, 4, 5)},
    }
    nodes, tensor = [], "x"
    for index in range(6):
        group = 8 if index == 2 else 1
        size = weights[f"w{index}"].shape[-1]
        nodes.append(
            helper.make_node(
                "Conv",
                [tensor, f"w{index}"],
                [f"c{index}"],
                f"c{index}",
                group=group,
                pads=[size // 2] * 4,
            )
        )
        tensor = f"c{index}"
        if index in (0, 3):
            nodes.append(helper.make_node("Relu", [tensor], [f"r{index}"], f"r{index}"))
            tensor = f"r{index}"
    graph = helper.make_graph(
        nodes,
        "damaged",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, 12, 12])],
        [helper.make_tensor_value_info("c5", TensorProto.FLOAT, ["N", 8, 12, 12])],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    path = tmp_path / "damaged.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]), path)
    return path


PLAIN = calibration.Tuning(equalize=False, calibration_threads=1)


def test_the_damaged_layer_comes_first(damaged: Path) -> None:
    layers = sensitivity.rank(Work(damaged, images(), VNNI, PLAIN, cache=None))
    assert {layer.node for layer in layers} == {f"c{index}" for index in range(6)}
    # The tensor between them: whoever rounds it does the damage, as writer or as reader.
    assert {layers[0].node, layers[1].node} == {"c1", "c2"}
    assert layers[0].share + layers[1].share > 0.5
    assert sum(layer.share for layer in layers) == pytest.approx(1)
    assert [layer.share for layer in layers] == sorted((x.share for x in layers), reverse=True)
    assert all(layer.float_us and layer.float_us > 0 for layer in layers)


@pytest.mark.parametrize("name", ["ort_x86_vnni", "ort_arm", "openvino", "tensorrt"])
def test_mixed_reaches_the_target_with_few_layers_in_float(
    damaged: Path, tmp_path: Path, name: str
) -> None:
    out, dialect = tmp_path / "mixed.onnx", calibration.load(name)
    whole = tmp_path / "int8.onnx"
    calibration.quantize_onnx(damaged, whole, images(), dialect, PLAIN)
    record = calibration.quantize_mixed(damaged, out, images(), dialect, PLAIN, target_db=30.0)
    assert record["kept_in_float"][0] in ("c1", "c2")
    assert 1 <= len(record["kept_in_float"]) <= 3
    assert len(record["evaluations"]) <= mixed.EVALUATIONS
    judge = sensitivity.Judge(
        Work(damaged, images(), dialect, PLAIN, cache=None), first=0, samples=64
    )
    assert judge(onnx.load(whole)).sqnr_db < 20
    assert judge(onnx.load(out)).sqnr_db > 29
    assert record["int8_nodes"] >= 3


def test_a_layer_kept_in_float_keeps_its_weights_in_the_runtime(
    damaged: Path, tmp_path: Path
) -> None:
    """onnxruntime would quantise them, one scale for all channels, between two integer layers."""
    if _qdq.has_vnni("cpu") is False:
        pytest.skip("this CPU has no VNNI: its integer kernels saturate with weights of 8 bits")
    out = tmp_path / "kept.onnx"
    options = calibration.Tuning(equalize=False, keep_float=("c1", "c3"))
    calibration.quantize_onnx(damaged, out, images(), VNNI, options)
    feeds = next(iter(images().feeds()))
    model = onnx.load(out)
    plain, optimised = (
        session(model, level=level).run(None, dict(feeds))[0] for level in ("none", "all")
    )
    # Sums in another order move single codes; per-tensor weights would cost 20 dB.
    assert ((plain - optimised) ** 2).sum() < 1e-3 * (plain**2).sum()


def test_a_target_out_of_reach_is_an_error(damaged: Path, tmp_path: Path) -> None:
    out = tmp_path / "mixed.onnx"
    with pytest.raises(errors.CannotConvert, match=r"int8-mixed reaches .* not 150 dB"):
        calibration.quantize_mixed(damaged, out, images(), VNNI, PLAIN, target_db=150.0)
    assert not out.exists()


# In a process of its own: TensorFlow is heavy, and must not meet the other backends' tests.
MAKE_TFLITE = """
import sys, numpy as np, tensorflow as tf
layers = tf.keras.layers
tf.keras.utils.set_random_seed(0)
image = tf.keras.Input((12, 12, 3), batch_size=1, name="image")
body = layers.Conv2D(8, 3, activation="relu", padding="same", name="c0")(image)
wide = layers.Conv2D(8, 1, name="c1")
body = layers.DepthwiseConv2D(3, padding="same", name="c2")(wide(body))
body = layers.Conv2D(8, 1, activation="relu", name="c3")(body)
model = tf.keras.Model(image, layers.Dense(5, name="d")(layers.Flatten()(body)))
spread = np.geomspace(1, 1000, 8).astype("float32")
wide.set_weights([wide.get_weights()[0] * spread, wide.get_weights()[1]])
deep = model.get_layer("c2")
deep.set_weights([deep.get_weights()[0] / spread[:, None], deep.get_weights()[1]])
open(sys.argv[1], "wb").write(tf.lite.TFLiteConverter.from_keras_model(model).convert())
"""


@pytest.mark.filterwarnings("ignore")  # ai_edge_quantizer's own imports announce changes
def test_tflite_has_it_too(tmp_path: Path) -> None:
    for module, extra in (
        ("ai_edge_litert", "tflite"), ("tensorflow", "tensorflow"),
        ("ai_edge_quantizer", "tflite-convert"),
    ):  # fmt: skip
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"needs {module}: pip install 'lepton-edge[{extra}]'")
    from lepton_edge.calibration import sensitivity_tflite, tflite_quantizer

    model, out = tmp_path / "float.tflite", tmp_path / "mixed.tflite"
    subprocess.run([sys.executable, "-c", MAKE_TFLITE, model], check=True, capture_output=True)

    def feeds() -> Iterator[dict[str, np.ndarray]]:
        rng = np.random.default_rng(4)
        for _ in range(96):
            image = rng.standard_normal((1, 12, 12, 3)).astype(np.float32)
            yield {"serving_default_image:0": image}

    data, tflite = calibration.Data(feeds, "normal, seed 4, NHWC"), calibration.load("tflite")
    work = tflite_quantizer.Work(model, data, tflite, PLAIN, float_io=True, cache=None)
    layers = sensitivity_tflite.rank(work)
    assert layers[0].op == "DEPTHWISE_CONV_2D" or layers[1].op == "DEPTHWISE_CONV_2D"
    assert sum(layer.share for layer in layers) == pytest.approx(1)
    judge = sensitivity_tflite.Judge(work, first=0, samples=64)
    whole = judge(work.quantize()[0]).sqnr_db
    record = mixed.quantize_tflite_mixed(
        model, out, data, tflite, PLAIN, target_db=max(whole + 6, 28)
    )
    assert 1 <= len(record["kept_in_float"]) < len(layers)
    assert judge(out.read_bytes()).sqnr_db > whole + 4
    with pytest.raises(errors.UsageError, match="no operator in float"):
        mixed.quantize_tflite_mixed(
            model, out, data, calibration.load("edgetpu"), PLAIN, target_db=20
        )
