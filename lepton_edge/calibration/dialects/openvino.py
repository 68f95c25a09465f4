"""OpenVINO's CPU plugin reading Q/DQ ONNX: u8 activations, s8 narrow weights, float biases.

Its importer turns Q/DQ into FakeQuantize and dequantisation; low-precision transformations then
move the dequantisation behind convolutions, so that outputs need no Q/DQ before an activation.
Joined tensors (Concat) get one grid, so that no requantisation is left in the graph.
"""

from lepton_edge.calibration.dialects import PASS_THROUGH, Dialect
from lepton_edge.calibration.grid import Grid

DIALECT = Dialect(
    name="openvino",
    source="docs.openvino.ai, Low Precision Transformations; nncf/quantization hardware config cpu",
    activation=Grid(signed=False),
    weight=Grid(symmetric=True, narrow=True),
    bias="float",
    placement="inputs",
    residual="both",
    followers=frozenset({"Add", "Mul", "AveragePool", "GlobalAveragePool", "Concat"}),
    same_scale=PASS_THROUGH | {"Concat"},
)
