"""TensorRT, explicit quantisation: symmetric s8 everywhere, zero point 0, float biases.

Q/DQ stands before each convolution and matrix product, and on the skip branch of a residual sum,
so that the sum fuses into the convolution before it. All else stays float and is fused.
"""

from lepton_edge.calibration.dialects import Dialect
from lepton_edge.calibration.grid import Grid

DIALECT = Dialect(
    name="tensorrt",
    source="docs.nvidia.com/deeplearning/tensorrt, Working with quantized types: Q/DQ placement"
    " recommendations; Model-Optimizer modelopt/onnx/quantization/graph_utils.py",
    activation=Grid(symmetric=True, narrow=True),
    weight=Grid(symmetric=True, narrow=True),
    bias="float",
    placement="inputs",
    residual="skip",
    fold_activation=False,
    anchors=frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"}),
)
