"""Calibration data are looked at where they enter a conversion; the warnings reach the user."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lepton_edge import demo, sources
from lepton_edge.conversion import convert
from lepton_edge.demo import keras_twin
from lepton_edge.model import ModelSource
from lepton_edge.preprocess import Preprocess
from lepton_edge.samples import Samples, batches, limit, open_samples
from tests.conftest import MODEL, PREPROCESS, Done

pytest.importorskip("torch", reason="pip install 'lepton-edge[torch]'")
Cli = Callable[..., Done]
ZOO = Path(__file__).parents[1] / "zoo.py"
MISSING = PREPROCESS.replace("scale=1/255 ", "")


def spread(source: ModelSource, samples: Samples) -> float | None:
    model = sources.load(source)
    (batch,) = batches(limit(samples, 32), model.signature, 32)
    return sources.input_spread(model, batch.feeds)


def test_the_first_batch_normalisation_knows_the_scale_of_training(
    images: tuple[Path, Path],
) -> None:
    right = open_samples(images[1], preprocess=Preprocess.parse(PREPROCESS))
    assert spread(demo.SOURCE, right) == pytest.approx(1, rel=0.3)
    assert spread(demo.SOURCE, right) == spread(demo.SOURCE, right)
    raw = open_samples(images[1], preprocess=Preprocess.parse(MISSING))
    found = spread(demo.SOURCE, raw)
    assert found is not None
    assert 128 < found < 512


def test_keras_has_it_too(images: tuple[Path, Path], tmp_path: Path) -> None:
    pytest.importorskip("keras", reason="pip install 'lepton-edge[tensorflow]'")
    import subprocess
    import sys

    twin = tmp_path / "twin.keras"
    subprocess.run([sys.executable, keras_twin.__file__, str(twin)], check=True)
    right = PREPROCESS.replace("NCHW", "NHWC")
    samples = open_samples(images[1], preprocess=Preprocess.parse(right))
    assert spread(ModelSource(str(twin)), samples) == pytest.approx(1, rel=0.3)


@pytest.mark.parametrize("name", ["bert", "lstm", "two_tower"])
def test_models_without_it_are_not_judged(name: str) -> None:
    model = sources.load(ModelSource(f"{ZOO}:{name}"))
    assert sources.input_spread(model, model.example(4)) is None


def test_the_hook_leaves_the_model_as_it_was() -> None:
    model = sources.load(demo.SOURCE)
    feeds = model.example(2)
    before = model.run(feeds)["output"]
    sources.input_spread(model, feeds)
    assert not any(module._forward_pre_hooks for module in model.native.modules())
    np.testing.assert_array_equal(model.run(feeds)["output"], before)


@pytest.fixture(scope="module")
def wrong(
    cli: Cli, images: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Done]:
    """int8 of the demo's CNN, calibrated on images whose scale was forgotten."""
    pytest.importorskip("onnxruntime", reason="pip install 'lepton-edge[onnx]'")
    out = tmp_path_factory.mktemp("wrong") / "out"
    done = cli("convert", *MODEL, "--to", "onnx", "--precision", "int8", "--calib", images[0],
               "--preprocess", MISSING, "-o", out, "--json")  # fmt: skip
    assert done.code == 0, done.err
    return out, done


def test_a_warning_is_printed_and_stored(wrong: tuple[Path, Done]) -> None:
    out, done = wrong
    record: dict[str, Any] = json.loads((out / "artifact.json").read_text())
    (warning,) = record["calibration"]["warnings"]
    assert "scale=1/255 seems to be missing" in warning
    assert f"lepton-edge: warning: {warning}" in done.err
    assert done.document["warnings"] == [warning]


def test_the_report_shows_it(
    cli: Cli, wrong: tuple[Path, Done], few_images: Path, tmp_path: Path
) -> None:
    done = cli("report", wrong[0], "--data", few_images, "--window", "20,0.1", "-o", tmp_path)
    assert done.code == 0, done.err
    (row,) = json.loads((tmp_path / "report.json").read_text())["rows"]
    assert "seems to be missing" in row["facts"]["calibration_warnings"][0]
    for form in ("report.html", "report.md"):
        assert "Calibration: The calibration data reach 255" in (tmp_path / form).read_text()


@pytest.mark.parametrize("format", ["onnx", "openvino", "tflite"])
def test_the_demos_data_raise_no_alarm(
    images: tuple[Path, Path], few_images: Path, tmp_path: Path, format: str
) -> None:
    library = {"onnx": "onnxruntime", "openvino": "nncf", "tflite": "ai_edge_quantizer"}[format]
    pytest.importorskip(library, reason="pip install 'lepton-edge[all]'")
    artifact = convert(
        demo.SOURCE, to=format, precision="int8", output=tmp_path / "out", calib=images[0],
        data=few_images, preprocess=demo.NCHW, verify=False,
    )  # fmt: skip
    assert artifact.calibration is not None
    assert artifact.calibration["warnings"] == []
