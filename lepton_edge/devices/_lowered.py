"""What a source's operator becomes in a .tflite, as far as that is known before the conversion.

An entry lists the operators that are needed, `|` between alternatives that depend on arguments; an
empty one is folded into its neighbours. What is not here is not known before the conversion.
From memory of the converters, but gelu and hardswish (litert_torch's build_aten_composite_pass);
tests/contract/test_inspect.py holds the entries of Keras and TensorFlow against real files.
"""

from __future__ import annotations

_CLAMP = "RELU|RELU6|RELU_N1_TO_1|MAXIMUM|MINIMUM"
_NORM = "MUL|ADD"  # where it is not folded into a convolution
_CONV = "CONV_2D|DEPTHWISE_CONV_2D"
_TORCH = {
    "add": "ADD",
    "avg_pool2d": "AVERAGE_POOL_2D",
    "amax": "REDUCE_MAX",
    "batch_norm": _NORM,
    "cat": "CONCATENATION",
    "contiguous": "",
    "conv2d": _CONV,
    "conv_transpose2d": "TRANSPOSE_CONV",
    "dropout": "",
    "elu": "ELU",
    "embedding": "EMBEDDING_LOOKUP|GATHER",
    "gelu": "GELU",
    "hardswish": "HARD_SWISH",
    "hardtanh": _CLAMP,
    "linear": "FULLY_CONNECTED",
    "matmul": "FULLY_CONNECTED|BATCH_MATMUL",
    "max_pool2d": "MAX_POOL_2D",
    "mean": "MEAN",
    "mul": "MUL",
    "relu": "RELU",
    "relu6": "RELU6",
    "scaled_dot_product_attention": "BATCH_MATMUL SOFTMAX",
    "sigmoid": "LOGISTIC",
    "softmax": "SOFTMAX",
    "sub": "SUB",
    "tanh": "TANH",
    **dict.fromkeys(("permute", "transpose"), "TRANSPOSE"),
    **dict.fromkeys(("flatten", "reshape", "squeeze", "unflatten", "unsqueeze", "view"), "RESHAPE"),
}
_ONNX = {
    "Add": "ADD",
    "ArgMax": "ARG_MAX",
    "AveragePool": "AVERAGE_POOL_2D",
    "BatchNormalization": _NORM,
    "Clip": _CLAMP,
    "Concat": "CONCATENATION",
    "Constant": "",
    "Conv": _CONV,
    "ConvTranspose": "TRANSPOSE_CONV",
    "Dropout": "",
    "Elu": "ELU",
    "Flatten": "RESHAPE",
    "Gemm": "FULLY_CONNECTED|BATCH_MATMUL",
    "GlobalAveragePool": "MEAN",
    "HardSwish": "HARD_SWISH",
    "Identity": "",
    "LeakyRelu": "LEAKY_RELU",
    "MatMul": "FULLY_CONNECTED|BATCH_MATMUL",
    "MaxPool": "MAX_POOL_2D",
    "Mul": "MUL",
    "PRelu": "PRELU",
    "ReduceMean": "MEAN",
    "Relu": "RELU",
    "Reshape": "RESHAPE",
    "Sigmoid": "LOGISTIC",
    "Softmax": "SOFTMAX",
    "Sub": "SUB",
    "Tanh": "TANH",
    "Transpose": "TRANSPOSE",
}
_KERAS = {
    "Add": "ADD",
    "AveragePooling2D": "AVERAGE_POOL_2D",
    "BatchNormalization": _NORM,
    "Concatenate": "CONCATENATION",
    "Conv2D": "CONV_2D",
    "Conv2DTranspose": "TRANSPOSE_CONV",
    "Dense": "FULLY_CONNECTED",
    "DepthwiseConv2D": "DEPTHWISE_CONV_2D",
    "Dropout": "",
    "ELU": "ELU",
    "Embedding": "EMBEDDING_LOOKUP|GATHER",
    "Flatten": "RESHAPE",
    "GlobalAveragePooling2D": "MEAN",
    "GlobalMaxPooling2D": "REDUCE_MAX",
    "LeakyReLU": "LEAKY_RELU",
    "MaxPooling2D": "MAX_POOL_2D",
    "Maximum": "MAXIMUM",
    "Minimum": "MINIMUM",
    "Multiply": "MUL",
    "PReLU": "PRELU",
    "Reshape": "RESHAPE",
    "SeparableConv2D": "DEPTHWISE_CONV_2D CONV_2D",
    "Softmax": "SOFTMAX",
    "Subtract": "SUB",
    "ZeroPadding2D": "PAD",
}
_TENSORFLOW = {
    "AddV2": "ADD",
    "AvgPool": "AVERAGE_POOL_2D",
    "ConcatV2": "CONCATENATION",
    "Conv2D": "CONV_2D",
    "DepthwiseConv2dNative": "DEPTHWISE_CONV_2D",
    "Elu": "ELU",
    "GatherV2": "GATHER",
    "LeakyRelu": "LEAKY_RELU",
    "MaxPool": "MAX_POOL_2D",
    "Maximum": "MAXIMUM",
    "Mean": "MEAN",
    "Minimum": "MINIMUM",
    "Mul": "MUL",
    "Pad": "PAD",
    "Relu": "RELU",
    "Relu6": "RELU6",
    "Reshape": "RESHAPE",
    "Rsqrt": "RSQRT",
    "Sigmoid": "LOGISTIC",
    "Softmax": "SOFTMAX",
    "Sub": "SUB",
    "Tanh": "TANH",
    "Transpose": "TRANSPOSE",
}
_TABLES = {
    "torch": _TORCH,
    "torch.export": _TORCH,
    "torchscript": _TORCH,
    "onnx": _ONNX,
    "keras": _KERAS,
    "savedmodel": _TENSORFLOW,
}


def lowered(framework: str, operator: str) -> list[list[str]] | None:
    """What a .tflite needs for `operator`, each with its alternatives; None where not known."""
    if framework == "tflite":
        return [[operator]]
    entry = _TABLES.get(framework, {}).get(operator)
    return None if entry is None else [needed.split("|") for needed in entry.split()]
