"""An ONNX file; the reference is ONNX Runtime on the CPU with the file as it is."""

from __future__ import annotations

from typing import Any

from lepton_edge.model import Array, Feeds, Model, ModelSource, TensorSpec
from lepton_edge.sources import _build, _check
from lepton_edge.sources._count_onnx import count

__all__ = ["count", "load"]

DTYPES = {
    "float": "float32",
    "double": "float64",
    "float16": "float16",
    "int8": "int8",
    "uint8": "uint8",
    "int16": "int16",
    "uint16": "uint16",
    "int32": "int32",
    "uint32": "uint32",
    "int64": "int64",
    "uint64": "uint64",
    "bool": "bool",
}


def load(source: ModelSource) -> Model:
    """`native` is the file's path. Raises `BadInput` for a file that ONNX Runtime refuses."""
    runtime = _build.backend("onnxruntime", "ONNX Runtime", "onnx")
    options = runtime.SessionOptions()
    options.log_severity_level = 3  # errors come as exceptions
    try:
        session = runtime.InferenceSession(
            str(source.file), options, providers=["CPUExecutionProvider"]
        )
    except _build.onnx_failures(runtime) as error:
        raise _check.damaged(source.file, _check.first_line(error), "ONNX") from None
    names = [value.name for value in session.get_outputs()]

    def run(feeds: Feeds) -> dict[str, Array]:
        return dict(zip(names, session.run(None, dict(feeds)), strict=True))

    inputs = [_spec(source, value) for value in session.get_inputs()]
    outputs = [_spec(source, value) for value in session.get_outputs()]
    return _build.from_file("onnx", source, source.file, inputs, outputs, run)


def _spec(source: ModelSource, value: Any) -> TensorSpec:
    kind = value.type.removeprefix("tensor(").removesuffix(")")
    if kind not in DTYPES:
        raise _check.damaged(source.file, f"{value.name!r} is a {value.type}", "tensors-only ONNX")
    shape = tuple(size if isinstance(size, int) else None for size in value.shape)
    return TensorSpec(value.name, shape, DTYPES[kind])
