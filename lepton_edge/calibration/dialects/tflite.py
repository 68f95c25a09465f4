"""TFLite (LiteRT) int8: asymmetric s8 activations, symmetric s8 weights, fixed output grids.

Operators are named as in TFLite. Names here are upper case where ONNX's are mixed.
"""

from lepton_edge.calibration.dialects import Dialect
from lepton_edge.calibration.grid import Grid

# AVERAGE_POOL_2D, MAX_POOL_2D, CONCATENATION ... : "restriction: Input and outputs must all have
# same scale/zero_point".
SAME_SCALE = frozenset(
    {"AVERAGE_POOL_2D", "MAX_POOL_2D", "CONCATENATION", "GATHER", "MAXIMUM", "MINIMUM", "PAD"}
    | {"PADV2", "MIRROR_PAD", "RESHAPE", "RESIZE_BILINEAR", "RESIZE_NEAREST_NEIGHBOR", "SLICE"}
    | {"STRIDED_SLICE", "SPLIT", "SPLIT_V", "SQUEEZE", "EXPAND_DIMS", "TRANSPOSE", "PACK"}
    | {"UNPACK", "SPACE_TO_DEPTH", "DEPTH_TO_SPACE", "SPACE_TO_BATCH_ND", "BATCH_TO_SPACE_ND"}
    | {"BROADCAST_TO", "TILE"}
)
FIXED = {
    "SOFTMAX": (1 / 256, -128),
    "LOGISTIC": (1 / 256, -128),
    "TANH": (1 / 128, 0),
    "L2_NORMALIZATION": (1 / 128, 0),
    "LOG_SOFTMAX": (16 / 256, 127),
}

DIALECT = Dialect(
    name="tflite",
    source="tensorflow/lite/g3doc/performance/quantization_spec.md",
    container="tflite",
    activation=Grid(),
    weight=Grid(symmetric=True, narrow=True),
    anchors=frozenset(
        {"CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "TRANSPOSE_CONV", "BATCH_MATMUL"}
    ),
    same_scale=SAME_SCALE,
    fixed=FIXED,
)
