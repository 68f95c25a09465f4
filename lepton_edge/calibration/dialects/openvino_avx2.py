"""OpenVINO's CPU plugin without VNNI: products of bytes are added in 16 bits, which saturate."""

from dataclasses import replace

from lepton_edge.calibration.dialects.openvino import DIALECT as _OPENVINO
from lepton_edge.calibration.grid import Grid

DIALECT = replace(
    _OPENVINO,
    name="openvino_avx2",
    source="nncf/quantization/advanced_parameters.py, OverflowFix: half the weights' range",
    weight=Grid(bits=7, symmetric=True, narrow=True),
)
