"""onnxruntime on ARM: s8 activations times s8 weights, which its NEON and dot kernels prefer."""

from lepton_edge.calibration.dialects import Dialect
from lepton_edge.calibration.dialects.ort_x86_vnni import DIALECT as _VNNI
from lepton_edge.calibration.grid import Grid

DIALECT = Dialect(
    name="ort_arm",
    source="onnxruntime/python/tools/quantization/quantize.py, docstring of quantize_static:"
    " S8S8 on ARM64",
    activation=Grid(),
    weight=Grid(symmetric=True, narrow=True),
    followers=_VNNI.followers,
)
