"""Edge TPU: TFLite's int8 with no float tensor left, inputs and outputs included."""

from dataclasses import replace

from lepton_edge.calibration.dialects.tflite import DIALECT as _TFLITE

DIALECT = replace(
    _TFLITE,
    name="edgetpu",
    source="coral.ai/docs/edgetpu/models-intro: model requirements;"
    " tensorflow/lite/g3doc/performance/quantization_spec.md",
    full_integer=True,
)
