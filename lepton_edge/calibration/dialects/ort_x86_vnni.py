"""onnxruntime on x86 with VNNI (or AMX): u8 activations times s8 weights."""

from lepton_edge.calibration.dialects import Dialect
from lepton_edge.calibration.grid import Grid

DIALECT = Dialect(
    name="ort_x86_vnni",
    source="onnxruntime/python/tools/quantization/quantize.py, docstring of quantize_static:"
    " U8S8 on x86 with VNNI; kernels in onnxruntime/core/optimizer/qdq_transformer",
    activation=Grid(signed=False),
    weight=Grid(symmetric=True, narrow=True),
    followers=frozenset(
        {"Add", "Mul", "AveragePool", "GlobalAveragePool", "Concat", "LeakyRelu", "Sigmoid"}
    ),
)
