"""The OpenVINO converter on real models: each way from the source, each precision, each refusal."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lepton_edge import errors, options, sources
from lepton_edge.artifact import Artifact
from lepton_edge.model import Model, ModelSource
from lepton_edge.samples import open_samples
from lepton_edge.target import Target

ov = pytest.importorskip("openvino", reason="needs lepton-edge[openvino]")
pytest.importorskip("torch", reason="needs lepton-edge[torch]")
pytest.importorskip("onnxruntime", reason="needs lepton-edge[onnx]")

from lepton_edge.converters import _qdq  # noqa: E402
from lepton_edge.converters import openvino as converter  # noqa: E402

ZOO = Path(__file__).parents[1] / "zoo.py"
HINTS = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}


def torch_model(name: str) -> Model:
    return sources.load(ModelSource(f"{ZOO}:{name}"))


def convert(model: Model, out: Path, precision: str = "fp32", **knobs: Any) -> Artifact:
    out.mkdir()
    calibration = None
    if precision == "int8":
        file = out.parent / "calibration.npz"
        np.savez(file, **model.example(32))
        calibration = open_samples(file)
    return converter.convert(
        model,
        Target("openvino", precision),
        out,
        calibration=calibration,
        options=options.build(converter.Options, knobs),
    )


def sqnr_db(model: Model, artifact: Artifact, batch: int = 1, rows: int = 8) -> float:
    """The worst output's, in float32, over `rows` batches of the model's own examples."""
    feeds = model.example(rows * batch)
    wanted = model.run(feeds)
    compiled = ov.Core().compile_model(str(artifact.path), "CPU", HINTS)
    found: dict[str, list[Any]] = {name: [] for name in wanted}
    for start in range(0, rows * batch, batch):
        result = compiled({name: value[start : start + batch] for name, value in feeds.items()})
        for name, parts in found.items():
            parts.append(np.array(result[name]))
    worst = float("inf")
    for name, value in wanted.items():
        error = value - np.concatenate(found[name])
        worst = min(worst, 10 * np.log10(np.sum(value**2.0) / max(np.sum(error**2.0), 1e-30)))
    return worst


@pytest.mark.parametrize("name", ["ssd", "gru", "transformer_encoder", "two_tower"])
@pytest.mark.parametrize("through", ["onnx", "direct"])
def test_torch_agrees_by_both_ways(name: str, through: str, tmp_path: Path) -> None:
    model = torch_model(name)
    for batch in (1, "dynamic"):
        artifact = convert(model, tmp_path / str(batch), batch=batch, through=through)
        assert sqnr_db(model, artifact, 1 if batch == 1 else 3) > 100
        read = ov.Core().read_model(str(artifact.path))
        assert [port.get_names() for port in read.inputs] == [
            {spec.name} for spec in model.signature.inputs
        ]
        dim = read.inputs[0].get_partial_shape()[0]
        assert dim.is_dynamic == (batch == "dynamic")
        names = {path.name for path in artifact.folder.iterdir()}
        assert names == {artifact.file, artifact.file.replace(".xml", ".bin")}
        assert str(tmp_path) not in artifact.path.read_text()


@pytest.mark.parametrize("name", ["resnet", "bert"])
def test_half_is_half_as_large(name: str, tmp_path: Path) -> None:
    model = torch_model(name)
    whole = convert(model, tmp_path / "fp32")
    half = convert(model, tmp_path / "fp16", "fp16")
    sizes = [each.path.with_suffix(".bin").stat().st_size for each in (half, whole)]
    assert sizes[0] < 0.6 * sizes[1]
    assert sqnr_db(model, half) > 50


# Some of NNCF's imports use parts of Python and PyTorch that are going away.
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("quantizer", ["lepton", "library"])
@pytest.mark.parametrize(("name", "least"), [("resnet", 28), ("lstm", 35), ("bert", 25)])
def test_int8_beats_nncfs_default_settings(
    name: str, least: float, quantizer: str, tmp_path: Path
) -> None:
    pytest.importorskip("nncf", reason="needs lepton-edge[openvino]")
    model, knobs = torch_model(name), {"quantizer": quantizer}
    if quantizer == "library" and _qdq.has_vnni("cpu") is False:
        knobs["overflow_fix"] = "all"
    artifact = convert(model, tmp_path / "out", "int8", **knobs)
    assert sqnr_db(model, artifact, rows=16) > least
    types = {node.get_type_name() for node in ov.Core().read_model(str(artifact.path)).get_ops()}
    assert "FakeQuantize" in types
    assert artifact.calibration is not None
    assert artifact.calibration["n"] == 32
    again = convert(model, tmp_path / "again", "int8", **knobs)
    assert again.path.read_bytes() == artifact.path.read_bytes()


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize(("precision", "least"), [("int8-weights", 30), ("int4-weights", 12)])
@pytest.mark.parametrize("name", ["plain_cnn", "bert"])
def test_weights_alone_are_narrow(name: str, precision: str, least: float, tmp_path: Path) -> None:
    pytest.importorskip("nncf", reason="needs lepton-edge[openvino]")
    model = torch_model(name)
    whole = convert(model, tmp_path / "whole")
    artifact = convert(model, tmp_path / "out", precision)
    assert sqnr_db(model, artifact) > least
    sizes = [a.path.with_suffix(".bin").stat().st_size for a in (artifact, whole)]
    assert sizes[0] < (0.45 if precision == "int8-weights" else 0.4) * sizes[1]
    kinds = artifact.steps[-1]["weights"]
    assert set(kinds) & ({"i8", "u8"} if precision == "int8-weights" else {"i4", "u4"})


@pytest.mark.filterwarnings("ignore")  # TensorFlow's own imports warn
def test_a_sequential_model_has_its_shapes(tmp_path: Path) -> None:
    pytest.importorskip("keras", reason="needs lepton-edge[tensorflow]")
    from tests import zoo

    path = zoo.save_keras("keras_lstm", tmp_path / "lstm.keras")
    model = sources.load(ModelSource(str(path)))
    for batch in (1, "dynamic"):
        artifact = convert(model, tmp_path / str(batch), batch=batch)
        assert sqnr_db(model, artifact, 1) > 100


@pytest.mark.filterwarnings("ignore")  # TensorFlow's own imports warn
@pytest.mark.parametrize("form", ["keras", "savedmodel"])
def test_keras_agrees_by_both_ways(form: str, tmp_path: Path) -> None:
    keras = pytest.importorskip("keras", reason="needs lepton-edge[tensorflow]")
    pytest.importorskip("tf2onnx", reason="needs lepton-edge[tf2onnx]")
    from tests import zoo

    path = zoo.save_keras("keras_two_tower", tmp_path / "tower.keras")
    if form == "savedmodel":
        folder = tmp_path / "tower"
        keras.models.load_model(path).export(folder, verbose=False)
        path = folder
    model = sources.load(ModelSource(str(path)))
    for through in ("direct", "onnx"):
        artifact = convert(model, tmp_path / through, through=through, batch="dynamic")
        assert artifact.steps[-1]["through"] == through
        assert sqnr_db(model, artifact, 3) > 100


def test_a_batch_is_fixed_in_the_file(tmp_path: Path) -> None:
    model = torch_model("plain_cnn")
    artifact = convert(model, tmp_path / "out", batch=4)
    assert artifact.signature is not None
    assert artifact.signature.outputs[0].shape == (4, 10)
    assert sqnr_db(model, artifact, 4) > 100
    source = sources.load(ModelSource(str(_onnx(model, tmp_path / "onnx"))))
    with pytest.raises(errors.CannotConvert, match="fixed at 2, not 1"):
        convert(source, tmp_path / "other")


def _onnx(model: Model, out: Path) -> Path:
    from lepton_edge.converters import onnx

    out.mkdir()
    return onnx.convert(model, Target("onnx"), out, options=onnx.Options(batch=2)).path


def test_requests_that_contradict_themselves(tmp_path: Path) -> None:
    model = torch_model("plain_cnn")
    with pytest.raises(errors.UsageError, match="needs real inputs"):
        converter.convert(model, Target("openvino", "int8"), tmp_path, options=converter.Options())
    for knobs in ({"through": "direct"}, {"bias_correction": "fast"}, {"overflow_fix": "all"}):
        with pytest.raises(errors.UsageError, match="The option") as caught:
            convert(model, tmp_path / next(iter(knobs)), "int8", **knobs)
        assert "quantizer=library" in (caught.value.next or "")
    assert "precision hint" in (converter.refuses("torch", "bf16") or "")
    assert converter.refuses("torch", "int8-dynamic") is not None
    assert converter.refuses("keras", "int8") is None
