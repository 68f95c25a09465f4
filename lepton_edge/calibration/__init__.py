"""The quantiser: one pass over the calibration data serves the int8 dialect of every backend.

`quantize_onnx(model, out, data, dialect)` writes Q/DQ ONNX for onnxruntime, OpenVINO and TensorRT;
`quantize_tflite(model, out, data, dialect)` int8 for TFLite and the Edge TPU, and
`ranges_for_tflite(model, feeds, dialect)` gives ai_edge_quantizer its calibration result.
numpy alone is needed to import this; onnx and onnxruntime are imported when a graph is opened.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lepton_edge.calibration.dialects import Dialect, load
    from lepton_edge.calibration.mixed import quantize_mixed
    from lepton_edge.calibration.observe_onnx import Data
    from lepton_edge.calibration.observe_tflite import ranges_for_tflite
    from lepton_edge.calibration.onnx_quantizer import quantize_onnx
    from lepton_edge.calibration.tflite_quantizer import quantize_tflite
    from lepton_edge.calibration.tuning import Tuning

__all__ = [
    "Data",
    "Dialect",
    "Tuning",
    "load",
    "quantize_mixed",
    "quantize_onnx",
    "quantize_tflite",
    "ranges_for_tflite",
]

_HOME = {
    "Data": "observe_onnx",
    "Dialect": "dialects",
    "load": "dialects",
    "Tuning": "tuning",
    "quantize_mixed": "mixed",
    "quantize_onnx": "onnx_quantizer",
    "quantize_tflite": "tflite_quantizer",
    "ranges_for_tflite": "observe_tflite",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
