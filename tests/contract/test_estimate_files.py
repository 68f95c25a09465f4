"""Published networks, built and converted, cost what the fits' tables of layers say."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest

from lepton_edge import options, sources
from lepton_edge.converters import onnx as to_onnx
from lepton_edge.converters import tflite as to_tflite
from lepton_edge.devices._cost import cost
from lepton_edge.devices._fitted import FITS
from lepton_edge.devices.estimate import general_features
from lepton_edge.model import ModelSource
from lepton_edge.target import Target

pytest.importorskip("onnx", reason="needs lepton-edge[onnx]")
pytest.importorskip("tf2onnx", reason="needs lepton-edge[tf2onnx]")
pytest.importorskip("tensorflow", reason="needs lepton-edge[tensorflow]")

CONVERTERS = {"onnx": to_onnx, "tflite": to_tflite}


@pytest.fixture(scope="module")
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    import keras

    path = tmp_path_factory.mktemp("keras") / f"{request.param}.keras"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        getattr(keras.applications, request.param)(weights=None).save(path)
        return request.param, sources.load(ModelSource(str(path)))


@pytest.mark.filterwarnings("ignore")  # TensorFlow's and tf2onnx's own imports warn
@pytest.mark.parametrize("model", ["MobileNet", "DenseNet121"], indirect=True)
@pytest.mark.parametrize(
    ("form", "device", "precision"),
    [("tflite", "raspberry-pi-4", "fp32"), ("onnx", "jetson-agx-xavier", "fp16")],
)
def test_a_converted_network_costs_what_the_table_says(
    model: Any, form: str, device: str, precision: str, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    import fit_architectures as table

    name, loaded = model
    written = {
        "MobileNet": table.mobilenet_v1,
        "DenseNet121": lambda: table.densenet(121),
    }[name]()
    converter: Any = CONVERTERS[form]
    artifact = converter.convert(
        loaded, Target(form), tmp_path, options=options.build(converter.Options, {})
    )
    fit = FITS[device, precision]
    found = fit.latency_ms(general_features(cost(artifact.path)))
    assert found == pytest.approx(fit.latency_ms(general_features(written)), rel=0.1)
