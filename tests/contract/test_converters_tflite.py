"""TFLite from every source: names, order and layout are found by running, int8 by real ranges."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lepton_edge import errors, loading, parity, sources
from lepton_edge.artifact import Artifact
from lepton_edge.converters import _tflite_bind, _tflite_onnx, tflite
from lepton_edge.model import Array, Feeds, Model, ModelSource, Signature, TensorSpec
from lepton_edge.samples import Sample, Samples, open_samples
from lepton_edge.target import Target
from tests.conftest import DEMO

torch = pytest.importorskip("torch", reason="pip install 'lepton-edge[torch]'")
pytest.importorskip("ai_edge_litert", reason="pip install 'lepton-edge[tflite]'")
ZOO = Path(__file__).parents[1] / "zoo.py"
# Importing litert_torch or tensorflow inside a product call is silenced there; Keras and
# TensorFlow themselves, when a test builds a model, warn about their own internals.
own_noise = pytest.mark.filterwarnings("ignore")


def made(
    model: Model,
    folder: Path,
    precision: str = "fp32",
    calibration: Samples | None = None,
    **options: Any,
) -> Artifact:
    place = folder / f"{precision}-{len(list(folder.iterdir()))}"
    place.mkdir()
    return tflite.convert(
        model,
        Target("tflite", precision),
        place,
        calibration=calibration,
        options=tflite.Options(**options),
    )


def outputs(artifact: Artifact, feeds: Feeds) -> dict[str, Array]:
    with loading.load(artifact, threads=1) as session:
        return session.run(feeds)


def agrees(model: Model, artifact: Artifact, batch: int = 1) -> None:
    example = model.example(batch)
    result = parity.compare_outputs(
        model.run(example), outputs(artifact, example), precision="fp32", inputs="example"
    )
    assert result.status == "PASS", result.reasons


def module(
    function: Callable[..., Any], inputs: Mapping[str, Any], names: tuple[str, ...] = ("output",)
) -> Model:
    """A model of a function of tensors, with the outputs under `names`."""

    class Body(torch.nn.Module):  # type: ignore[misc, name-defined]
        def forward(self, *given: Any) -> Any:
            return function(*given)

    body = Body().eval()
    wanted = list(inputs)

    def run(feeds: Feeds) -> dict[str, Array]:
        results = body(*(torch.from_numpy(feeds[name]) for name in wanted))
        results = results if isinstance(results, tuple) else (results,)
        return {name: value.numpy() for name, value in zip(names, results, strict=True)}

    def example(batch: int) -> dict[str, Array]:
        rng = np.random.default_rng(batch)
        return {
            name: rng.standard_normal((batch, *value.shape[1:])).astype(np.float32)
            for name, value in inputs.items()
        }

    def specs(values: Mapping[str, Array]) -> tuple[TensorSpec, ...]:
        return tuple(
            TensorSpec(name, (None, *value.shape[1:]), value.dtype.name)
            for name, value in values.items()
        )

    one = example(1)
    signature = Signature(specs(one), specs(run(one)))
    return Model("torch", ModelSource("made.py:body"), signature, body, run, example)


@pytest.fixture(scope="module")
def demo() -> Model:
    return sources.load(
        ModelSource(f"{DEMO / 'cnn.py'}:factory", weights=str(DEMO / "cnn.safetensors"))
    )


@pytest.fixture(scope="module")
def floats(demo: Model, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    pytest.importorskip("ai_edge_quantizer", reason="pip install 'lepton-edge[tflite-convert]'")
    return made(demo, tmp_path_factory.mktemp("floats"))


@pytest.fixture(scope="module")
def float_file(floats: Artifact) -> Model:
    """The float .tflite as a source of its own: it is slow to make and serves all precisions."""
    return sources.load(ModelSource(str(floats.path)))


def npz(path: Path, values: Array) -> Samples:
    np.savez(path, image=values)
    return open_samples(path)


@pytest.fixture(scope="module")
def calibration(images: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Samples:
    """128 training images, as the demo prepares them."""
    with np.load(images[0]) as given:
        return npz(tmp_path_factory.mktemp("calib") / "calib.npz", prepared(given["image"][:128]))


def prepared(images: Array) -> Array:
    scaled: Array = ((images.reshape(-1, 1, 28, 28) / 255 - 0.2860) / 0.3530).astype(np.float32)
    return scaled


def sqnr_db(expected: Array, got: Array) -> float:
    return float(10 * np.log10((expected**2).sum() / ((expected - got) ** 2).sum()))


def test_a_float_file_keeps_names_dtypes_and_batch(demo: Model, floats: Artifact) -> None:
    agrees(demo, floats)
    assert floats.file == "cnn_fp32.tflite"
    assert floats.signature == demo.signature.with_batch(1)
    assert floats.steps[0]["step"] == "litert_torch.convert"
    assert "litert-torch" in floats.versions


def test_int64_inputs_stay_int64(tmp_path: Path) -> None:
    model = sources.load(ModelSource(f"{ZOO}:two_tower"))
    artifact = made(model, tmp_path)
    agrees(model, artifact)
    inputs, _ = _tflite_bind.tensors(artifact.path)
    assert [each.dtype for each in inputs] == ["int64", "int64"]
    assert [binding.name for binding in artifact.inputs] == ["user", "items"]


def test_a_dynamic_batch_where_it_works_and_the_operator_where_not(
    tmp_path: Path, demo: Model
) -> None:
    model = sources.load(ModelSource(f"{ZOO}:unet"))
    artifact = made(model, tmp_path, batch="dynamic")
    assert artifact.signature is not None
    assert artifact.signature.inputs[0].shape[0] is None
    for batch in (1, 3):
        agrees(model, artifact, batch)
    with pytest.raises(errors.CannotConvert, match=r"aten\.\w+.* dynamic batch") as caught:
        made(sources.load(ModelSource(f"{ZOO}:plain_cnn")), tmp_path, batch="dynamic")
    assert "batch=1" in (caught.value.next or "")


def test_an_operator_without_a_form_is_named(tmp_path: Path) -> None:
    square = {"x": torch.zeros(1, 4, 4)}
    with pytest.raises(errors.CannotConvert, match=r"aten\._linalg_det"):
        made(module(lambda x: torch.linalg.det(x)[:, None], square), tmp_path)
    with pytest.raises(errors.CannotConvert, match="STABLEHLO_SORT"):
        made(module(lambda x: torch.sort(x, 1)[0], {"x": torch.zeros(1, 5)}), tmp_path)


def test_outputs_of_one_shape_are_told_apart_by_their_values(tmp_path: Path) -> None:
    pair = {"a": torch.zeros(1, 5), "b": torch.zeros(1, 5)}
    model = module(lambda a, b: (a - b, a * b + a), pair, ("difference", "product"))
    artifact = made(model, tmp_path)
    agrees(model, artifact)
    swapped = dataclasses.replace(
        model,
        signature=Signature(model.signature.inputs, model.signature.outputs[::-1]),
    )
    _, found = _tflite_bind.bind(swapped, artifact.path, 1, writer="test")
    assert {each.name: each.tensor for each in found} == {
        each.name: each.tensor for each in artifact.outputs
    }


def test_a_changed_layout_is_found_even_where_the_shape_does_not_tell(tmp_path: Path) -> None:
    weight = torch.randn(8, 8)
    square = {"x": torch.zeros(1, 8, 8)}
    source = module(lambda x: x @ weight, square)
    changed = made(module(lambda x: (x.transpose(1, 2) @ weight).transpose(1, 2), square), tmp_path)
    inputs, found = _tflite_bind.bind(source, changed.path, 1, writer="test")
    assert (inputs[0].permute, found[0].permute) == ((0, 2, 1), (0, 2, 1))
    bound = dataclasses.replace(
        changed, inputs=inputs, outputs=found, signature=source.signature.with_batch(1)
    )
    agrees(source, bound)


def test_a_file_that_computes_something_else_is_refused(tmp_path: Path) -> None:
    square = {"x": torch.zeros(1, 8, 8)}
    other = made(module(lambda x: x * 2, square), tmp_path)
    with pytest.raises(errors.GateFailed, match="differs from its source"):
        _tflite_bind.bind(module(lambda x: x * 3, square), other.path, 1, writer="test")


def test_fp16_halves_the_file_and_says_what_computes(
    float_file: Model, floats: Artifact, tmp_path: Path
) -> None:
    half = made(float_file, tmp_path, "fp16")
    assert half.size_bytes < 0.6 * floats.size_bytes
    assert "float32" in half.steps[-1]["computes"]
    example = float_file.example(1)
    expected, got = float_file.run(example), outputs(half, example)
    assert sqnr_db(*(next(iter(each.values())) for each in (expected, got))) > 50


def test_int8_keeps_the_accuracy_of_the_demo(
    float_file: Model, calibration: Samples, images: tuple[Path, Path], tmp_path: Path
) -> None:
    small = made(float_file, tmp_path, "int8", calibration)
    assert small.calibration is not None
    assert small.calibration["n"] == 128
    with np.load(images[1]) as given:
        test = prepared(given["image"][:200])
    name = float_file.signature.inputs[0].name
    with loading.load(small, threads=1) as session:
        assert session.signature.inputs[0].dtype == "float32"
        got = np.concatenate([next(iter(session.run({name: x[None]}).values())) for x in test])
    expected = np.concatenate([next(iter(float_file.run({name: x[None]}).values())) for x in test])
    # The library's own moving average gives 17 dB here, min-max 34.6; weights alone cost 37.
    assert sqnr_db(expected, got) > 30


def test_ranges_are_the_least_and_the_largest_value_seen(float_file: Model, tmp_path: Path) -> None:
    values = np.random.default_rng(0).standard_normal((20, 1, 28, 28)).astype(np.float32)
    values[7, 0, 3, 3], values[11, 0, 4, 4] = 9.0, -5.0  # a moving average would clip both
    small = made(float_file, tmp_path, "int8", npz(tmp_path / "c.npz", values), io="int8")
    (binding,) = small.inputs
    assert binding.dtype == "int8"
    assert binding.scale == pytest.approx(14 / 255, rel=1e-5)


def test_integer_inputs_and_outputs_are_converted_by_the_session(
    float_file: Model, tmp_path: Path
) -> None:
    values = np.random.default_rng(0).standard_normal((20, 1, 28, 28)).astype(np.float32)
    samples = npz(tmp_path / "c.npz", values)
    floating = made(float_file, tmp_path, "int8", samples)
    whole = made(float_file, tmp_path, "int8", samples, io="int8").save()
    assert [each.dtype for each in _tflite_bind.tensors(whole.path)[0]] == ["int8"]
    feeds = {float_file.signature.inputs[0].name: values[:1]}
    one, two = outputs(floating, feeds), outputs(Artifact.load(whole.folder), feeds)
    for name in one:
        assert two[name].dtype == np.float32
        np.testing.assert_allclose(two[name], one[name], atol=1e-5)


@pytest.mark.parametrize("precision", ["int8-dynamic", "int8-weights"])
def test_int8_without_data_where_only_weights_are_stored(
    float_file: Model, floats: Artifact, tmp_path: Path, precision: str
) -> None:
    small = made(float_file, tmp_path, precision)
    assert small.size_bytes < 0.4 * floats.size_bytes
    example = float_file.example(1)
    expected, got = float_file.run(example), outputs(small, example)
    assert sqnr_db(*(next(iter(each.values())) for each in (expected, got))) > 25


def test_an_edge_tpu_gets_integers_only(float_file: Model, tmp_path: Path) -> None:
    values = np.random.default_rng(0).standard_normal((20, 1, 28, 28)).astype(np.float32)
    samples = npz(tmp_path / "c.npz", values)

    def convert(place: str, **options: Any) -> Artifact:
        (tmp_path / place).mkdir()
        return tflite.convert(
            float_file,
            Target("tflite", "int8", "coral-usb"),
            tmp_path / place,
            calibration=samples,
            options=tflite.Options(**options),
        )

    whole = convert("coral")
    assert {each.dtype for side in _tflite_bind.tensors(whole.path) for each in side} == {"int8"}
    assert whole.steps[-1]["dialect"] == "edgetpu"
    feeds = {float_file.signature.inputs[0].name: values[:1]}
    wanted, got = float_file.run(feeds), outputs(whole, feeds)
    assert sqnr_db(*(next(iter(each.values())) for each in (wanted, got))) > 20
    for options in ({"io": "float"}, {"keep_float": ("any",)}):
        with pytest.raises(errors.UsageError):
            convert(f"refused-{min(options)}", **options)


def test_operators_in_float_by_name_are_int8_mixed(
    float_file: Model, calibration: Samples, tmp_path: Path
) -> None:
    quick = {"rounding": "nearest", "correct_bias": False, "equalize": False}
    whole = made(float_file, tmp_path, "int8", calibration, **quick)
    name = "serving_default_output_0_output"
    mixed = made(float_file, tmp_path, "int8-mixed", calibration, keep_float=(name,), **quick)
    kept = mixed.steps[-1]["float_nodes"]
    assert kept.pop(name) == "kept by the options"
    assert set(kept.values()) == {"read by float only"}  # the pooling before that layer
    assert mixed.steps[-1]["int8_nodes"] == whole.steps[-1]["int8_nodes"] - len(kept) - 1
    with pytest.raises(errors.UsageError, match="compensate has no effect"):
        made(float_file, tmp_path, "int8", calibration, quantizer="library", compensate=False)
    with pytest.raises(errors.UsageError, match="ranges has no effect with precision fp16"):
        made(float_file, tmp_path, "fp16", ranges="minmax")


def test_int4_weights_are_smaller_still(
    float_file: Model, floats: Artifact, tmp_path: Path
) -> None:
    small = made(float_file, tmp_path, "int4-weights")
    assert small.size_bytes < 0.3 * floats.size_bytes
    example = float_file.example(1)
    expected, got = float_file.run(example), outputs(small, example)
    assert sqnr_db(*(next(iter(each.values())) for each in (expected, got))) > 10


def test_fp16_names_what_does_not_fit(tmp_path: Path) -> None:
    weight = torch.ones(4, 4)
    inputs = {"x": torch.zeros(1, 4)}
    loud = made(module(lambda x: ((x @ weight) * 6e4) @ weight, inputs), tmp_path)
    half = made(sources.load(ModelSource(str(loud.path))), tmp_path, "fp16")
    assert half.steps[-1]["activations_beyond_65504"]
    weight = torch.full((4, 4), 7e4) + torch.eye(4)
    beyond = made(module(lambda x: x @ weight, inputs), tmp_path)
    with pytest.raises(errors.CannotConvert, match=r"holds 70001, beyond float16's 65504"):
        made(sources.load(ModelSource(str(beyond.path))), tmp_path, "fp16")


class Counted(Samples):
    """Twelve samples that know how many of them were asked for."""

    def __init__(self) -> None:
        self.pulled = 0

    def __len__(self) -> int:
        return 12

    def __iter__(self) -> Iterator[Sample]:
        rng = np.random.default_rng(0)
        for index in range(len(self)):
            self.pulled += 1
            value = rng.standard_normal((1, 28, 28)).astype(np.float32)
            yield Sample({"image": value}, None, f"row {index}")

    def content(self) -> Iterator[bytes]:
        return (bytes(32) for _ in range(len(self)))

    def as_dict(self) -> dict[str, Any]:
        return {}


def test_calibration_holds_one_batch_at_a_time(
    float_file: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ai_edge_quantizer import calibrator

    samples, seen = Counted(), []
    library = calibrator.Calibrator.calibrate

    def watched(self: Any, data: Mapping[str, Any], *rest: Any) -> None:
        seen.append((samples.pulled, [len(each) for each in data.values()]))
        library(self, data, *rest)

    monkeypatch.setattr(calibrator.Calibrator, "calibrate", watched)
    made(float_file, tmp_path, "int8", samples, quantizer="library")
    assert seen == [(pulled, [1]) for pulled in range(1, 13)]


def test_requests_that_contradict_themselves(
    float_file: Model, demo: Model, calibration: Samples, tmp_path: Path
) -> None:
    with pytest.raises(errors.UsageError, match="calibration") as caught:
        made(demo, tmp_path, "int8")
    assert "--calib" in (caught.value.next or "")
    with pytest.raises(errors.UsageError, match="io=int8"):
        made(demo, tmp_path, "fp16", io="int8")
    with pytest.raises(errors.CannotConvert, match="fixed batch of 1"):
        made(float_file, tmp_path, batch=4)
    small = made(float_file, tmp_path, "int8", calibration)
    source = sources.load(ModelSource(str(small.path)))
    with pytest.raises(errors.CannotConvert, match="is int8 already"):
        made(source, tmp_path)
    again = made(source, tmp_path, "int8", calibration)
    assert again.path.read_bytes() == small.path.read_bytes()


def test_what_is_refused_at_once() -> None:
    for framework in ("torch", "torch.export", "keras", "savedmodel", "onnx", "tflite"):
        for precision in ("fp32", "fp16", "int8", "int8-dynamic", "int8-weights"):
            assert tflite.refuses(framework, precision) is None
    assert "TorchScript" in (tflite.refuses("torchscript", "fp32") or "")
    assert "bf16" in (tflite.refuses("torch", "bf16") or "")


def test_an_exported_program(demo: Model, tmp_path: Path) -> None:
    program = torch.export.export(demo.native, (torch.zeros(1, 1, 28, 28),))
    torch.export.save(program, tmp_path / "cnn.pt2")
    model = sources.load(ModelSource(str(tmp_path / "cnn.pt2")))
    agrees(model, made(model, tmp_path))


@own_noise
@pytest.mark.parametrize("name", ["keras_dense_policy", "keras_two_tower", "keras_mobilenet"])
def test_keras_and_saved_model(name: str, tmp_path: Path) -> None:
    pytest.importorskip("tensorflow", reason="pip install 'lepton-edge[tensorflow]'")
    from tests import zoo

    model = sources.load(ModelSource(str(zoo.save_keras(name, tmp_path / f"{name}.keras"))))
    for batch in (1, "dynamic"):
        agrees(model, made(model, tmp_path, batch=batch), 1 if batch == 1 else 3)
    model.native.export(str(tmp_path / "saved"), verbose=False)
    saved = sources.load(ModelSource(str(tmp_path / "saved")))
    agrees(saved, made(saved, tmp_path))


@pytest.mark.filterwarnings("ignore")  # TensorFlow's own imports warn
def test_keras_recurrent_layers_at_every_precision(tmp_path: Path) -> None:
    """A loop stays float; an unrolled layer is int8, and a part of it that nothing reads too."""
    keras = pytest.importorskip("keras", reason="needs lepton-edge[tensorflow]")
    from lepton_edge.calibration.graph_tflite import Graph
    from tests import zoo

    keras.utils.set_random_seed(0)
    loop = keras.Sequential([keras.Input((12, 6)), keras.layers.GRU(16), keras.layers.Dense(5)])
    loop.save(tmp_path / "loop.keras")
    zoo.save_keras("keras_lstm", tmp_path / "unrolled.keras")
    for name, least in (("loop", 1), ("unrolled", 20)):
        model = sources.load(ModelSource(str(tmp_path / f"{name}.keras")))
        feeds = model.example(48)
        np.savez(tmp_path / f"{name}.npz", **feeds)
        data = open_samples(tmp_path / f"{name}.npz")
        (wanted,) = model.run(feeds).values()
        for precision in ("fp16", "int8"):
            artifact = made(model, tmp_path, precision, calibration=data)
            rows = [
                outputs(artifact, {key: value[i : i + 1] for key, value in feeds.items()})
                for i in range(48)
            ]
            got = np.concatenate([next(iter(row.values())) for row in rows])
            assert sqnr_db(wanted, got) > (50 if precision == "fp16" else 25)
        graph = Graph(artifact.path.read_bytes())
        dense = [op for op in graph.ops if op.kind == "FULLY_CONNECTED"]
        assert len(dense) >= least
        assert {graph.dtype(op.inputs[1]) for op in dense} == {"INT8"}


def test_without_the_environment_of_onnx2tf_the_commands_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(errors.BackendMissing) as caught:
        _tflite_onnx.python(None)
    place = tmp_path / "lepton-edge" / "onnx2tf"
    assert f"python3.12 -m venv {place}" in (caught.value.next or "")
    assert f"onnx2tf=={_tflite_onnx.VERSION}" in (caught.value.next or "")
    with pytest.raises(errors.BackendMissing, match="nowhere"):
        _tflite_onnx.python(str(tmp_path / "nowhere"))


def through_onnx(name: str, folder: Path) -> tuple[Model, str | None]:
    """The zoo's model as an ONNX source, and the Python that has onnx2tf; skips without it."""
    pytest.importorskip("onnxruntime", reason="pip install 'lepton-edge[onnx]'")
    given = os.environ.get("LEPTON_EDGE_ONNX2TF_PYTHON")
    if given is None and not (_tflite_onnx.place() / "bin" / "python").exists():
        pytest.skip(f"no environment of onnx2tf; create it with: {_tflite_onnx.recipe()}")
    from lepton_edge.converters import onnx

    origin = sources.load(ModelSource(f"{ZOO}:{name}"))
    (folder / "onnx").mkdir()
    file = onnx.convert(
        origin, Target("onnx"), folder / "onnx", options=onnx.Options(batch="dynamic")
    )
    return sources.load(ModelSource(str(file.path))), given


@pytest.mark.parametrize("name", ["unet", "lstm", "ssd", "bert"])
def test_onnx_by_onnx2tf(name: str, tmp_path: Path) -> None:
    model, python = through_onnx(name, tmp_path)
    artifact = made(model, tmp_path, onnx2tf_python=python)
    agrees(model, artifact)
    image = name in ("unet", "ssd")
    assert (artifact.inputs[0].permute == (0, 2, 3, 1)) is image
    assert artifact.steps[0]["version"]


def test_onnx2tf_names_what_it_lacks(tmp_path: Path) -> None:
    model, python = through_onnx("gru", tmp_path)
    with pytest.raises(errors.CannotConvert, match="operator GRU"):
        made(model, tmp_path, onnx2tf_python=python)
