"""The ONNX converter on real models: every kind of source, every precision, every refusal."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lepton_edge import errors, options, sources
from lepton_edge.artifact import Artifact
from lepton_edge.model import Model, ModelSource, TensorSpec
from lepton_edge.samples import open_samples
from lepton_edge.target import Target

onnx = pytest.importorskip("onnx", reason="needs lepton-edge[onnx]")
pytest.importorskip("onnxruntime", reason="needs lepton-edge[onnx]")

from lepton_edge.converters import _float_onnx as floats  # noqa: E402
from lepton_edge.converters import _qdq  # noqa: E402
from lepton_edge.converters import onnx as converter  # noqa: E402

ZOO = Path(__file__).parents[1] / "zoo.py"


def torch_model(name: str) -> Model:
    pytest.importorskip("torch", reason="needs lepton-edge[torch]")
    return sources.load(ModelSource(f"{ZOO}:{name}"))


def convert(model: Model, out: Path, precision: str = "fp32", **knobs: Any) -> Artifact:
    out.mkdir(exist_ok=True)
    calibration = None
    if precision in ("int8", "int8-mixed"):
        file = out.parent / "calibration.npz"
        np.savez(file, **model.example(32))
        calibration = open_samples(file)
    return converter.convert(
        model,
        Target("onnx", precision),
        out,
        calibration=calibration,
        options=options.build(converter.Options, knobs),
    )


def sqnr_db(model: Model, artifact: Artifact, batch: int = 1) -> float:
    """The worst output's, over 8 batches of the model's own examples."""
    feeds = model.example(8 * batch)
    wanted = model.run(feeds)
    proto = onnx.load(artifact.path)
    rows = [
        floats.run(proto, {k: v[i : i + batch] for k, v in feeds.items()})
        for i in range(0, 8 * batch, batch)
    ]
    worst = float("inf")
    for name, value in wanted.items():
        error = value - np.concatenate([row[name] for row in rows])
        worst = min(worst, 10 * np.log10(np.sum(value**2.0) / max(np.sum(error**2.0), 1e-30)))
    return worst


def kinds(artifact: Artifact) -> set[str]:
    return {node.op_type for node in onnx.load(artifact.path).graph.node}


@pytest.mark.parametrize("name", ["mobilenet_v3", "ssd", "gru", "gpt", "two_tower"])
@pytest.mark.parametrize("batch", [1, "dynamic"])
def test_torch_agrees_and_keeps_names_and_batch(name: str, batch: Any, tmp_path: Path) -> None:
    model = torch_model(name)
    artifact = convert(model, tmp_path / "out", batch=batch)
    graph = onnx.load(artifact.path).graph
    assert [item.name for item in graph.input] == [s.name for s in model.signature.inputs]
    assert [item.name for item in graph.output] == [s.name for s in model.signature.outputs]
    first = graph.input[0].type.tensor_type.shape.dim[0]
    assert first.dim_value == (0 if batch == "dynamic" else 1)
    assert first.HasField("dim_param") == (batch == "dynamic")
    assert sqnr_db(model, artifact) > 100
    if batch == "dynamic":
        assert sqnr_db(model, artifact, 5) > 100
    assert [path.name for path in artifact.folder.iterdir()] == [artifact.file]
    assert str(tmp_path) not in str(onnx.load(artifact.path))


@pytest.mark.filterwarnings("ignore:.*isinstance.treespec:FutureWarning")  # torch.export's own
def test_dynamo_keeps_the_batch_of_a_gru_free(tmp_path: Path) -> None:
    model = torch_model("gru")
    artifact = convert(model, tmp_path / "out", batch="dynamic", exporter="dynamo")
    assert artifact.steps[0]["tool"] == "torch.onnx dynamo"
    assert artifact.steps[0]["opset"] == 18
    assert sqnr_db(model, artifact, 5) > 100


@pytest.mark.parametrize(
    ("precision", "least"),
    [("fp16", 50), ("int8", 20), ("int8-dynamic", 20), ("int8-weights", 30), ("int4-weights", 15)],
)
@pytest.mark.parametrize("name", ["plain_cnn", "lstm", "bert"])
def test_precisions_are_real_and_close(
    name: str, precision: str, least: float, tmp_path: Path
) -> None:
    model = torch_model(name)
    whole = convert(model, tmp_path / "whole")
    artifact = convert(model, tmp_path / "out", precision)
    assert sqnr_db(model, artifact) > least
    assert artifact.signature == whole.signature
    graph = onnx.load(artifact.path).graph
    weights = [tensor for tensor in graph.initializer if np.prod(tensor.dims) > 64]
    types = {onnx.TensorProto.DataType.Name(tensor.data_type) for tensor in weights}
    if precision == "fp16":
        assert "FLOAT16" in types
        assert "FLOAT" not in types
        assert artifact.size_bytes < 0.75 * whole.size_bytes
    else:
        assert types & {"INT8", "UINT8"}
    if precision == "int8-weights":
        before, after = artifact.steps[-1]["weight_bytes"]
        assert after < 0.45 * before  # a quarter, and the scales
        assert artifact.size_bytes < 0.7 * whole.size_bytes
    elif precision != "fp16":
        assert artifact.steps[-1]["quantize_nodes"] > 0
    if precision == "int8":
        assert artifact.calibration is not None
        assert artifact.calibration["n"] == 32


def test_4_bit_weights_need_a_matrix_product(tmp_path: Path) -> None:
    with pytest.raises(errors.CannotConvert, match="no operator for int4-weights"):
        convert(torch_model("unet"), tmp_path / "out", "int4-weights")
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize(("quantizer", "least"), [("lepton", 42), ("library", 33)])
def test_int8_on_the_trained_demo(
    images: tuple[Path, Path], tmp_path: Path, quantizer: Any, least: float
) -> None:
    pytest.importorskip("torch", reason="needs lepton-edge[torch]")
    from lepton_edge import demo
    from lepton_edge.preprocess import Preprocess

    folder = Path(demo.__file__).parent
    model = sources.load(
        ModelSource(f"{folder / 'cnn.py'}:factory", str(folder / "cnn.safetensors"))
    )
    spec = Preprocess.parse("scale=1/255 mean=.2860 std=.3530 layout=NCHW")
    artifact = converter.convert(
        model,
        Target("onnx", "int8"),
        tmp_path,
        calibration=open_samples(images[0], preprocess=spec),
        options=converter.Options(quantizer=quantizer),
    )
    assert artifact.steps[-1]["tool"] == {
        "lepton": "lepton-edge", "library": "onnxruntime.quantization.quantize_static"
    }[quantizer]  # fmt: skip
    test = iter(open_samples(images[1], preprocess=spec))
    rows = np.stack([next(iter(next(test).inputs.values())) for _ in range(100)])
    wanted = model.run({"image": rows})["output"]
    proto = onnx.load(artifact.path)
    found = np.concatenate([floats.run(proto, {"image": row[None]})["output"] for row in rows])
    if _qdq.has_vnni("cpu") is False:
        least -= 6  # the weights have a bit less
        bits = {"lepton": "ort_x86", "library": "7 bits"}[quantizer]
        assert bits in str(artifact.steps[-1])
    assert 10 * np.log10(np.sum(wanted**2) / np.sum((wanted - found) ** 2)) > least


@pytest.mark.filterwarnings("ignore")  # TensorFlow's and tf2onnx's own imports warn
@pytest.mark.parametrize("form", ["keras", "savedmodel", "tflite"])
def test_tensorflow_sources_agree(form: str, tmp_path: Path) -> None:
    pytest.importorskip("tf2onnx", reason="needs lepton-edge[tf2onnx]")
    keras = pytest.importorskip("keras", reason="needs lepton-edge[tensorflow]")
    from tests import zoo

    path = zoo.save_keras("keras_dense_policy", tmp_path / "policy.keras")
    if form != "keras":
        folder = tmp_path / "policy"
        keras.models.load_model(path).export(folder, verbose=False)
        path = folder
    if form == "tflite":
        import tensorflow as tf

        path = tmp_path / "policy.tflite"
        path.write_bytes(tf.lite.TFLiteConverter.from_saved_model(str(folder)).convert())
    model = sources.load(ModelSource(str(path)))
    assert model.framework == form
    for batch in (1, "dynamic"):
        artifact = convert(model, tmp_path / f"out-{batch}", batch=batch)
        assert sqnr_db(model, artifact, 1 if batch == 1 else 4) > 100
        assert {b.name for b in artifact.outputs} == {s.name for s in model.signature.outputs}


@pytest.mark.filterwarnings("ignore")  # TensorFlow's and tf2onnx's own imports warn
def test_what_a_keras_layer_holds_outside_its_weights_is_a_constant(tmp_path: Path) -> None:
    pytest.importorskip("tf2onnx", reason="needs lepton-edge[tf2onnx]")
    keras = pytest.importorskip("keras", reason="needs lepton-edge[tensorflow]")
    given = keras.Input((8, 8, 3))
    normal = keras.layers.Normalization(mean=[0.4, 0.5, 0.6], variance=[0.1, 0.2, 0.3])(given)
    path = tmp_path / "normal.keras"
    keras.Model(given, keras.layers.Conv2D(4, 3)(normal)).save(path)
    model = sources.load(ModelSource(str(path)))
    artifact = convert(model, tmp_path / "out")
    assert len(onnx.load(artifact.path).graph.input) == 1
    assert sqnr_db(model, artifact) > 100


@pytest.mark.filterwarnings("ignore")  # TensorFlow's and tf2onnx's own imports warn
def test_keras_operators_that_tf2onnx_lacks_are_written_with_others(tmp_path: Path) -> None:
    pytest.importorskip("tf2onnx", reason="needs lepton-edge[tf2onnx]")
    keras = pytest.importorskip("keras", reason="needs lepton-edge[tensorflow]")
    given = keras.Input((8, 8, 4))
    grouped = keras.layers.Conv2D(8, 3, groups=2)(given)  # a function of its own in Keras
    path = tmp_path / "gelu.keras"
    keras.Model(given, keras.layers.Activation("gelu")(grouped)).save(path)  # by Erfc
    model = sources.load(ModelSource(str(path)))
    artifact = convert(model, tmp_path / "out")
    assert sqnr_db(model, artifact) > 100
    assert kinds(artifact) >= {"Conv", "Erf"}


@pytest.mark.filterwarnings("ignore")  # TensorFlow's and tf2onnx's own imports warn
def test_large_keras_weights_stay_out_of_tf2onnx_and_the_graph_is_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("tf2onnx", reason="needs lepton-edge[tf2onnx]")
    keras = pytest.importorskip("keras", reason="needs lepton-edge[tensorflow]")
    from lepton_edge.converters import _tf_onnx

    layers = keras.layers
    image, item = keras.Input((8, 8, 3), name="image"), keras.Input((1,), dtype="int32", name="id")
    made = layers.BatchNormalization()(layers.Conv2D(16, 3, use_bias=False)(image))
    made = layers.Concatenate()(
        [
            layers.Dense(8)(layers.Flatten()(layers.ReLU()(made))),
            layers.Flatten()(layers.Embedding(50, 8)(item)),
        ]
    )
    path = tmp_path / "two.keras"
    keras.Model({"image": image, "id": item}, {"a": layers.Dense(4)(made), "b": made}).save(path)
    model = sources.load(ModelSource(str(path)))
    plain = convert(model, tmp_path / "plain")
    monkeypatch.setattr(_tf_onnx, "_LARGE_BYTES", 0)
    monkeypatch.setattr(_tf_onnx, "_LARGE_ITEMS", 64)
    assert len(_tf_onnx._large_weights(model.native)) == 4
    lean = convert(model, tmp_path / "lean")
    nodes = [
        sorted(node.op_type for node in onnx.load(each.path).graph.node) for each in (plain, lean)
    ]
    assert nodes[0] == nodes[1]
    assert [each.name for each in lean.inputs] == [each.name for each in plain.inputs]
    assert sqnr_db(model, lean) > 100


def keras_recurrent(form: str, path: Path) -> Model:
    """A model with a time axis of any length, and biases that are not zero."""
    keras = pytest.importorskip("keras", reason="needs lepton-edge[tensorflow]")
    keras.utils.set_random_seed(0)
    layers, given = keras.layers, keras.Input((None if form == "any length" else 12, 6), name="x")
    inputs = [given]
    if form == "states":
        _, *states = layers.LSTM(8, return_state=True)(given)
        inputs.append(keras.Input((5, 6), name="y"))
        made = layers.LSTM(8, return_sequences=True)(inputs[1], initial_state=states)
    elif form == "bidirectional":
        made = layers.Bidirectional(layers.LSTM(8, return_sequences=True))(given)
        made = layers.Bidirectional(layers.GRU(5))(made)
    elif form == "backwards":
        made = layers.GRU(8, go_backwards=True, return_sequences=True, reset_after=False)(given)
        made = layers.LSTM(5, use_bias=False, unroll=True)(made)
    elif form == "masked":
        made = layers.LSTM(8)(layers.Masking()(given))
    else:
        made = layers.GRU(8, activation="relu", return_sequences=True)(given)
        made = layers.SimpleRNN(5)(made)
    model = keras.Model(inputs, layers.Dense(3)(made))
    rng = np.random.default_rng(0)
    model.set_weights([each + rng.normal(0, 0.1, each.shape) for each in model.get_weights()])
    model.save(path)
    return sources.load(ModelSource(str(path)))


@pytest.mark.filterwarnings("ignore")  # TensorFlow's and tf2onnx's own imports warn
@pytest.mark.parametrize(
    ("form", "expected"),
    [
        ("states", {"LSTM": 2}),
        ("bidirectional", {"LSTM": 2, "GRU": 2}),
        ("backwards", {"LSTM": 1, "GRU": 1}),
        ("any length", {"GRU": 1, "RNN": 1}),
        ("masked", {"Loop": 1}),
    ],
)
def test_keras_recurrent_layers_are_operators(
    form: str, expected: dict[str, int], tmp_path: Path
) -> None:
    pytest.importorskip("tf2onnx", reason="needs lepton-edge[tf2onnx]")
    model = keras_recurrent(form, tmp_path / "model.keras")
    artifact = convert(model, tmp_path / "out")
    assert sqnr_db(model, artifact) > 100
    found = [node.op_type for node in onnx.load(artifact.path).graph.node]
    for kind in ("LSTM", "GRU", "RNN", "Loop"):
        assert found.count(kind) == expected.get(kind, 0)


@pytest.mark.filterwarnings("ignore")  # TensorFlow's and tf2onnx's own imports warn
def test_int8_of_a_graph_with_a_loop_leaves_the_loop_float(tmp_path: Path) -> None:
    """What only the loop's body reads is kept."""
    pytest.importorskip("tf2onnx", reason="needs lepton-edge[tf2onnx]")
    model = keras_recurrent("masked", tmp_path / "model.keras")
    artifact = convert(model, tmp_path / "out", "int8")
    assert kinds(artifact) >= {"Loop", "QuantizeLinear"}
    assert sqnr_db(model, artifact) > 20


# Scripting is going away in PyTorch; files made by it are still there.
@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_an_exported_program_and_a_script_agree(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch", reason="needs lepton-edge[torch]")
    module = torch_model("gpt").native
    ids = torch.zeros(2, 16, dtype=torch.int64)
    batch = torch.export.Dim("batch")
    program = torch.export.export(module, (ids,), dynamic_shapes=({0: batch},))
    torch.export.save(program, tmp_path / "gpt.pt2")
    model = sources.load(ModelSource(str(tmp_path / "gpt.pt2")))
    assert sqnr_db(model, convert(model, tmp_path / "pt2")) > 100

    class Branch(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if bool(x.sum() > 0):
                return x * 2
            return x - 1

    torch.jit.script(Branch()).save(tmp_path / "branch.pt")
    spec = TensorSpec("x", (None, 3), "float32")
    script = sources.load(ModelSource(str(tmp_path / "branch.pt"), inputs=(spec,)))
    artifact = convert(script, tmp_path / "pt")
    assert "If" in kinds(artifact)  # a script keeps its branches
    for feeds in ({"x": np.ones((1, 3), np.float32)}, {"x": -np.ones((1, 3), np.float32)}):
        found = floats.run(onnx.load(artifact.path), feeds)["output"]
        np.testing.assert_array_equal(found, script.run(feeds)["output"])


def test_an_onnx_source_is_copied_fixed_and_refused_when_quantised(tmp_path: Path) -> None:
    model = torch_model("resnet")
    free = convert(model, tmp_path / "free", batch="dynamic")
    again = sources.load(ModelSource(str(free.path)))
    fixed = convert(again, tmp_path / "fixed", batch=4)
    dims = onnx.load(fixed.path).graph.output[0].type.tensor_type.shape.dim
    assert dims[0].dim_value == 4
    assert sqnr_db(model, fixed, 4) > 100
    with pytest.raises(errors.CannotConvert, match="fixed at 4, not 1"):
        convert(sources.load(ModelSource(str(fixed.path))), tmp_path / "other")
    quantized = convert(again, tmp_path / "q", "int8")
    with pytest.raises(errors.CannotConvert, match="quantised already"):
        convert(sources.load(ModelSource(str(quantized.path))), tmp_path / "qq", "int8")
    half = convert(again, tmp_path / "h", "fp16")
    with pytest.raises(errors.CannotConvert, match="half precision already"):
        convert(sources.load(ModelSource(str(half.path))), tmp_path / "hh")


def test_a_weight_beyond_float16_is_named(tmp_path: Path) -> None:
    model = torch_model("plain_cnn")
    model.native.fc2.weight.data[3, 5] = 1e6
    with pytest.raises(errors.CannotConvert, match=r"fc2\.weight.* holds 1e\+06"):
        convert(model, tmp_path / "out", "fp16")
    assert not list((tmp_path / "out").iterdir())


def test_cleaning_that_changes_outputs_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    onnxslim = pytest.importorskip("onnxslim", reason="needs lepton-edge[onnx]")
    slim = onnxslim.slim

    def damage(proto: Any) -> Any:
        cleaned = slim(proto)
        weight = next(each for each in cleaned.graph.initializer if len(each.dims) == 4)
        value = onnx.numpy_helper.to_array(weight) * 1.01
        weight.CopyFrom(onnx.numpy_helper.from_array(value.astype(np.float32), weight.name))
        return cleaned

    monkeypatch.setattr(onnxslim, "slim", damage)
    model = torch_model("plain_cnn")
    with pytest.raises(errors.CannotConvert, match="changed its outputs") as caught:
        convert(model, tmp_path / "out")
    assert "simplify=none" in str(caught.value)
    assert sqnr_db(model, convert(model, tmp_path / "other", simplify="none")) > 100


def test_an_operator_without_an_onnx_form_is_named(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch", reason="needs lepton-edge[torch]")

    class Special(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.special.bessel_j0(x)

    model = torch_model("plain_cnn")
    spec = (TensorSpec("x", (None, 4), "float32"),)
    special = Model(
        "torch",
        model.source,
        type(model.signature)(spec, (TensorSpec("output", (None, 4), "float32"),)),
        Special(),
        model.run,
        lambda batch: {"x": np.ones((batch, 4), np.float32)},
    )
    with pytest.raises(errors.CannotConvert, match="bessel_j0") as caught:
        convert(special, tmp_path / "out")
    assert "exporter=dynamo" in str(caught.value)


@pytest.mark.parametrize(("name", "least"), [("two_tower", 30), ("lstm", 40), ("gpt", 20)])
def test_int8_stores_embeddings_and_recurrent_weights_narrow(
    name: str, least: float, tmp_path: Path
) -> None:
    model = torch_model(name)
    whole = convert(model, tmp_path / "whole")
    artifact = convert(model, tmp_path / "out", "int8")
    before, after = artifact.steps[-1]["tables"]["bytes"]
    assert after < 0.5 * before
    assert artifact.size_bytes < 0.75 * whole.size_bytes
    assert sqnr_db(model, artifact) > least


def test_an_activation_beyond_float16_is_named(tmp_path: Path) -> None:
    def node(op: str, inputs: list[str], output: str) -> onnx.NodeProto:
        return onnx.helper.make_node(op, inputs, [output], f"{op}_{output}")

    def value(name: str) -> onnx.ValueInfoProto:
        return onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1, 4])

    weights = {"big": np.full(4, 6e4, np.float32), "small": np.full(4, 1e-5, np.float32)}
    graph = onnx.helper.make_graph(
        [
            node("Mul", ["x", "big"], "scaled"),
            node("Mul", ["scaled", "big"], "loud"),
            node("Mul", ["loud", "small"], "quiet"),
            node("Tanh", ["quiet"], "kept"),
            node("Sub", ["quiet", "kept"], "y"),
        ],
        "loud",
        [value("x")],
        [value("y")],
        [onnx.numpy_helper.from_array(each, name) for name, each in weights.items()],
    )
    path = tmp_path / "loud.onnx"
    opsets = [onnx.helper.make_opsetid("", 17)]
    onnx.save(onnx.helper.make_model(graph, opset_imports=opsets, ir_version=9), path)
    with pytest.raises(errors.CannotConvert, match=r"activation .* beyond float16's 65504"):
        convert(sources.load(ModelSource(str(path))), tmp_path / "out", "fp16", simplify="none")


def test_requests_that_contradict_themselves(tmp_path: Path) -> None:
    model = torch_model("plain_cnn")
    with pytest.raises(errors.UsageError, match="needs real inputs"):
        converter.convert(model, Target("onnx", "int8"), tmp_path, options=converter.Options())
    with pytest.raises(errors.UsageError, match="takes 1 or more"):
        convert(model, tmp_path / "out", batch=0)
    with pytest.raises(errors.CannotConvert, match="bf16"):
        convert(model, tmp_path / "out", "bf16")
    with pytest.raises(errors.UsageError, match="own quantiser only"):
        convert(model, tmp_path / "mixed", "int8-mixed", quantizer="library")
    assert converter.refuses("torch", "bf16") is not None
    assert converter.refuses("torch", "int8") is None
