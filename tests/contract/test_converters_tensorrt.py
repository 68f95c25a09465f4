"""The TensorRT converter: what needs no library here, and real engines where one is installed."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lepton_edge import errors, options, sources
from lepton_edge.artifact import Artifact
from lepton_edge.model import Model, ModelSource, Signature, TensorSpec
from lepton_edge.samples import Samples, open_samples
from lepton_edge.target import Target

pytest.importorskip("torch", reason="needs lepton-edge[torch]")
pytest.importorskip("onnxruntime", reason="needs lepton-edge[onnx]")

from lepton_edge.converters import tensorrt as converter

ZOO = Path(__file__).parents[1] / "zoo.py"
INSTALLED = any(importlib.util.find_spec(name) for name in converter.LIBRARIES)
needs_library = pytest.mark.skipif(not INSTALLED, reason=f"no TensorRT here: {converter.INSTALL}")


def torch_model(name: str) -> Model:
    return sources.load(ModelSource(f"{ZOO}:{name}"))


def convert(
    model: Model,
    out: Path,
    precision: str = "fp32",
    *,
    calibration: Samples | None = None,
    **knobs: Any,
) -> Artifact:
    out.mkdir()
    return converter.convert(
        model,
        Target("tensorrt", precision),
        out,
        calibration=calibration,
        options=options.build(converter.Options, {"compute_capability": "8.6", **knobs}),
    )


@pytest.fixture
def warnings_of_the_library(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the library says at the level of warnings or above, while engines are built."""
    said: list[str] = []
    make = converter._logger

    def listening(library: Any) -> Any:
        logger = make(library)
        log = type(logger).log

        def keep(self: Any, severity: Any, message: str) -> None:
            if severity not in (library.ILogger.INFO, library.ILogger.VERBOSE):
                said.append(message)
            log(self, severity, message)

        type(logger).log = keep
        return logger

    monkeypatch.setattr(converter, "_logger", listening)
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
        assert build["tool"] in converter.LIBRARIES
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
