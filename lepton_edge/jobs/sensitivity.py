"""The job `sensitivity`: what int8 does to each layer of a model, without labels."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lepton_edge import calibration, errors, sources
from lepton_edge.calibration import sensitivity
from lepton_edge.calibration.onnx_quantizer import Work
from lepton_edge.converters import _float_onnx as floats
from lepton_edge.converters import _qdq
from lepton_edge.converters.onnx import dialect_of
from lepton_edge.model import ModelSource
from lepton_edge.samples import open_samples


def run(
    source: Mapping[str, Any], calib: Mapping[str, Any], device: str, dialect: str | None
) -> dict[str, Any]:
    """See `inspection.sensitivity`."""
    model = sources.load(ModelSource.from_dict(source))
    if model.framework not in floats.FRAMEWORKS:
        raise errors.CannotConvert(f"There is no way from {model.framework} to ONNX.")
    chosen = calibration.load(dialect or dialect_of(device))
    if chosen.container != "onnx":
        raise errors.UsageError(
            f"The dialect {chosen.name} is TFLite's; layers are ranked on the ONNX graph.",
            next="Name one of ort_x86_vnni, ort_x86, ort_arm, openvino, tensorrt.",
        )
    with tempfile.TemporaryDirectory() as place:
        made = floats.export(
            model, Path(place), batch=1, opset=None, exporter=None, simplify="onnxslim"
        )
        file = Path(place, "model.onnx")
        floats.save(made.proto, file)
        data = _qdq.calibration_data(open_samples(calib), made.signature)
        work = Work(file, data, chosen, calibration.Tuning(), cache=_qdq.cache())
        layers = sensitivity.rank(work)
    return {
        "dialect": chosen.name,
        "samples": min(sensitivity.SAMPLES, work.stats.n),
        "layers": [asdict(layer) for layer in layers],
    }
