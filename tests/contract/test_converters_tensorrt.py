"""The TensorRT converter: what needs no library here, and real engines where one is installed."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lepton_edge import errors, options, sources, testing
from lepton_edge._tensorrt import cuda, library
from lepton_edge._tensorrt.plan import Plan
from lepton_edge.artifact import Artifact
from lepton_edge.model import Model, ModelSource, Signature, TensorSpec
from lepton_edge.samples import Samples, open_samples
from lepton_edge.target import Target

pytest.importorskip("torch", reason="needs lepton-edge[torch]")
pytest.importorskip("onnxruntime", reason="needs lepton-edge[onnx]")

from lepton_edge.converters import tensorrt as converter
from lepton_edge.runtimes import tensorrt as runtime

ZOO = Path(__file__).parents[1] / "zoo.py"
MODULES = [module for names in library.MODULES.values() for module in names]
INSTALLED = any(map(importlib.util.find_spec, MODULES))
needs_library = pytest.mark.skipif(not INSTALLED, reason=f"no TensorRT here: {library.INSTALL}")


def torch_model(name: str) -> Model:
    return sources.load(ModelSource(f"{ZOO}:{name}"))


def convert(
    model: Model,
    out: Path,
    precision: str = "fp32",
    *,
    calibration: Samples | None = None,
    device: str = "cpu",
    **knobs: Any,
) -> Artifact:
    out.mkdir()
    if device == "cpu" and importlib.util.find_spec("tensorrt") is None:
        knobs = {"compute_capability": "8.6", **knobs}
    return converter.convert(
        model,
        Target("tensorrt", precision, device),
        out,
        calibration=calibration,
        options=options.build(converter.Options, knobs),
    )


def gpu() -> str | None:
    """Why there is none here."""
    try:
        cuda.Gpu()
    except errors.BackendMissing as error:
        return error.message
    return None


NO_GPU = gpu()
needs_gpu = pytest.mark.skipif(NO_GPU is not None, reason=f"no engine runs here: {NO_GPU}")


@pytest.fixture
def warnings_of_the_library(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the library says at the level of warnings or above, while engines are built."""
    said: list[str] = []
    make = library.logger

    def listening(module: Any) -> Any:
        logger = make(module)
        log = type(logger).log

        def keep(self: Any, severity: Any, message: str) -> None:
            if severity not in (module.ILogger.INFO, module.ILogger.VERBOSE):
                said.append(message)
            log(self, severity, message)

        type(logger).log = keep
        return logger

    monkeypatch.setattr(library, "logger", listening)
    return said


@pytest.mark.skipif(INSTALLED, reason="a TensorRT library is installed")
def test_without_a_library_the_command_that_installs_it_is_named(tmp_path: Path) -> None:
    with pytest.raises(errors.BackendMissing) as caught:
        convert(torch_model("plain_cnn"), tmp_path / "out")
    assert "pip install" in (caught.value.next or "")
    assert not list((tmp_path / "out").iterdir())


def test_what_contradicts_itself_is_refused(tmp_path: Path) -> None:
    with pytest.raises(errors.UsageError, match="int8 needs real inputs"):
        convert(torch_model("plain_cnn"), tmp_path / "out", "int8")
    assert "not int4-weights" in (converter.refuses("torch", "int4-weights") or "")
    for precision in converter.PRECISIONS:
        assert converter.refuses("torch", precision) is None


@needs_library
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("name", ["mobilenet_v3", "gpt", "lstm"])
def test_engines_are_built_and_checked(name: str, precision: str, tmp_path: Path) -> None:
    for batch in (1, "dynamic"):
        artifact = convert(torch_model(name), tmp_path / str(batch), precision, batch=batch)
        assert artifact.size_bytes > 100_000
        assert [path.name for path in artifact.folder.iterdir()] == [f"{name}_{precision}.engine"]
        check, build = artifact.steps[-2:]
        assert check["max_relative_difference"] < (1e-4 if precision == "fp32" else 5e-2)
        assert build["tool"] in library.MODULES
        assert build["layers"] > 10


@needs_library
@pytest.mark.parametrize("precision", ["int8", "int8-mixed"])
@pytest.mark.parametrize("name", ["mobilenet_v3", "resnet", "ssd", "bert"])
def test_int8_engines_are_built_without_a_word_about_zero_points(
    name: str, precision: str, tmp_path: Path, warnings_of_the_library: list[str]
) -> None:
    model = torch_model(name)
    np.savez(tmp_path / "calibration.npz", **model.example(48))
    samples = open_samples(tmp_path / "calibration.npz")
    artifact = convert(model, tmp_path / "out", precision, calibration=samples, mixed_db=25)
    check, build = artifact.steps[-2:]
    assert check["sqnr_db"] > (20 if precision == "int8" else 23)
    assert build["strongly_typed"] is True
    assert artifact.calibration is not None
    assert artifact.calibration["n"] == 48
    assert not [text for text in warnings_of_the_library if "zero" in text.lower()]


@needs_library
def test_a_wrong_gpu_is_named_with_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(errors.UsageError, match="compute_capability"):
        convert(torch_model("plain_cnn"), tmp_path / "out", compute_capability="9.9")


@needs_library
def test_an_operator_that_the_parser_refuses_is_named(tmp_path: Path) -> None:
    import torch

    class Determinant(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.linalg.det(x)

    native = Determinant().eval()
    spec = (TensorSpec("x", (None, 3, 3), "float32"),)
    model = Model(
        "torch",
        ModelSource("x.py:det"),
        Signature(spec, (TensorSpec("output", (None,), "float32"),)),
        native,
        lambda feeds: {"output": native(torch.from_numpy(feeds["x"])).numpy()},
        lambda batch: {"x": np.random.default_rng(0).random((batch, 3, 3)).astype(np.float32)},
    )
    with pytest.raises(errors.CannotConvert, match="Det"):
        convert(model, tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_for_a_jetson_the_artefact_is_the_graph_and_a_plan(precision: str, tmp_path: Path) -> None:
    """It needs no TensorRT here; ONNX Runtime computes what the engine will."""
    from lepton_edge.runtimes import onnx

    model = torch_model("resnet")
    np.savez(tmp_path / "calibration.npz", **model.example(48))
    artifact = convert(
        model,
        tmp_path / "out",
        precision,
        calibration=open_samples(tmp_path / "calibration.npz"),
        device="jetson-orin-nano",
        batch="dynamic",
        max_batch=16,
        workspace_mb=256,
    ).save()
    assert sorted(artifact.files) == ["plan.json", f"resnet_{precision}.onnx"]
    assert artifact.format == "onnx"
    document = json.loads((artifact.folder / "plan.json").read_text())
    plan = Plan.from_dict(document)
    (shapes,) = plan.profiles.values()
    assert [shape[0] for shape in shapes] == [1, 8, 16]
    assert plan.versions == ("8.5.2", "8.6", "10.3", "11.4.1")
    assert (plan.library, plan.device, plan.workspace_mb) == ("tensorrt", "jetson-orin-nano", 256)
    assert [row["builder_flags"] for row in document["builds"]] == [
        *[[{"fp16": "FP16", "int8": "INT8"}[precision]]] * 2,
        [],
        [],
    ]
    feeds = model.example(2)
    with onnx.open_session(artifact, threads=1, options=onnx.Options()) as session:
        found = session.run(feeds)["output"]
    wanted = model.run(feeds)["output"]
    assert np.square(wanted).sum() > 100 * np.square(wanted - found).sum()


@pytest.mark.parametrize(
    ("device", "knobs", "kind", "says"),
    [
        ("jetson-nano", {}, errors.CannotConvert, "ends at TensorRT 8.2.1"),
        ("coral-usb", {}, errors.UsageError, "runs no TensorRT"),
        ("jetson-orin-nano", {"dla": 0}, errors.UsageError, "has no DLA"),
        ("jetson-agx-orin", {"dla": 0}, errors.UsageError, "fp16 only"),
        ("jetson-agx-orin", {"compute_capability": "8.7"}, errors.UsageError, "tensorrt_rtx"),
        ("cpu", {"profile": "y=1:1:1"}, errors.UsageError, "Unknown input of the profile 'y'"),
        ("cpu", {"allow_fallback": True}, errors.UsageError, "for the option dla"),
        ("cpu", {"batch": "dynamic", "max_batch": 4}, errors.UsageError, "best_batch <= max_batch"),
    ],
)
def test_what_a_device_cannot_have_is_told_before_anything_is_exported(
    device: str, knobs: dict[str, Any], kind: type[errors.EdgeError], says: str, tmp_path: Path
) -> None:
    if device == "cpu" and not INSTALLED:
        pytest.skip(f"no TensorRT here: {library.INSTALL}")
    with pytest.raises(kind) as caught:
        convert(torch_model("plain_cnn"), tmp_path / "out", device=device, **knobs)
    assert says in str(caught.value)
    assert not list((tmp_path / "out").iterdir())


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    if not INSTALLED:
        pytest.skip(f"no TensorRT here: {library.INSTALL}")
    folder = tmp_path_factory.mktemp("engine") / "out"
    made = convert(torch_model("plain_cnn"), folder, batch="dynamic", compute_capability=None)
    return made.save()


def test_an_engine_carries_what_it_holds_for(engine: Artifact) -> None:
    assert engine.engine is not None
    name, version = library.header(engine.path)
    assert engine.engine["library"] == name
    told = library.number(engine.engine["version"])
    assert told[: len(version)] == version[: len(told)]
    assert Artifact.load(engine.folder).engine == engine.engine
    assert [sizes[1][0] for sizes in engine.engine["profiles"].values()] == [8]


@pytest.mark.skipif(NO_GPU is None, reason="there is a GPU here")
def test_without_a_gpu_an_engine_is_not_opened(engine: Artifact) -> None:
    with pytest.raises(errors.BackendMissing, match="There is no CUDA device here") as caught:
        runtime.open_session(engine, device="cuda", options=runtime.Options())
    assert caught.value.exit_code == 4
    assert "--on ssh://" in (caught.value.next or "")


@pytest.mark.parametrize(
    ("key", "value"), [("version", "8.5.2.2"), ("architecture", "aarch64-of-elsewhere")]
)
def test_an_engine_from_elsewhere_never_reaches_tensorrt(
    engine: Artifact, key: str, value: str
) -> None:
    record = {**(engine.engine or {}), key: value, "rebuild": "lepton-edge convert m -o out"}
    other = dataclasses.replace(engine, engine=record)
    with pytest.raises(errors.BadInput, match=value) as caught:
        runtime.open_session(other, device="cuda", options=runtime.Options())
    assert caught.value.next == "Build it again: lepton-edge convert m -o out."


def test_the_files_own_version_counts_without_a_record(engine: Artifact, tmp_path: Path) -> None:
    data = bytearray(engine.path.read_bytes())
    data[24] += 3
    (tmp_path / "m.engine").write_bytes(data)
    bare = Artifact(tmp_path, "m.engine", "tensorrt")
    with pytest.raises(errors.BadInput, match="would not hold"):
        runtime.open_session(bare, device="cuda", options=runtime.Options())


@needs_library
def test_a_dynamic_dimension_takes_the_profile_that_is_given(tmp_path: Path) -> None:
    import torch

    class Scale(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.relu() * 2

    native = Scale().eval()
    specs = [(TensorSpec(name, (None, None), "float32"),) for name in ("x", "output")]
    model = Model(
        "torch",
        ModelSource("x.py:scale"),
        Signature(*specs),
        native,
        lambda feeds: {"output": native(torch.from_numpy(feeds["x"])).numpy()},
        lambda batch: {"x": np.ones((batch, 5), np.float32)},
    )
    with pytest.raises(errors.UsageError, match="free dimensions besides its batch"):
        convert(model, tmp_path / "no", batch="dynamic")
    profile = "x=1x1:2x8:4x16"
    artifact = convert(model, tmp_path / "out", batch="dynamic", profile=profile)
    assert artifact.engine is not None
    assert artifact.engine["profiles"] == {"x": [[1, 1], [2, 8], [4, 16]]}


@needs_gpu
@pytest.mark.parametrize("batch", [1, "dynamic"])
def test_the_runtime_keeps_the_contract(batch: int | str, tmp_path: Path) -> None:
    model = torch_model("plain_cnn")
    artifact = convert(model, tmp_path / "out", batch=batch, compute_capability=None).save()
    feeds = model.example(1)
    testing.check_runtime(runtime, artifact, feeds, model.run(feeds), device="cuda")


@needs_gpu
def test_a_shape_outside_the_profile_is_refused(engine: Artifact) -> None:
    model = torch_model("plain_cnn")
    with runtime.open_session(engine, device="cuda", options=runtime.Options()) as session:
        with pytest.raises(errors.UsageError, match="outside what the engine was built for"):
            session.run(model.example(33))
        assert session.run(model.example(32))["output"].shape[0] == 32
