"""A TFLite file; the reference is the interpreter that is installed, with the file as it is."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from lepton_edge import errors
from lepton_edge.model import Array, Feeds, Model, ModelSource, TensorSpec
from lepton_edge.sources import _build, _check
from lepton_edge.sources._count_tflite import count

__all__ = ["count", "load"]

_INTERPRETERS = ("ai_edge_litert.interpreter", "tflite_runtime.interpreter", "tensorflow.lite")


def load(source: ModelSource) -> Model:
    """`native` is the file's path; tensors have the file's own names."""
    try:
        interpreter = _interpreter()(model_path=str(source.file))
        interpreter.allocate_tensors()
        inputs, outputs = interpreter.get_input_details(), interpreter.get_output_details()
    except (ValueError, RuntimeError) as error:
        raise _check.damaged(source.file, _check.first_line(error), "TFLite") from None
    shapes = {detail["index"]: tuple(detail["shape"]) for detail in inputs}

    def run(feeds: Feeds) -> dict[str, Array]:
        changed = False
        for detail in inputs:
            value = feeds[detail["name"]]
            if value.shape != shapes[detail["index"]]:
                interpreter.resize_tensor_input(detail["index"], value.shape)
                shapes[detail["index"]] = value.shape
                changed = True
        if changed:
            interpreter.allocate_tensors()
        for detail in inputs:
            interpreter.set_tensor(detail["index"], feeds[detail["name"]])
        interpreter.invoke()
        return {each["name"]: interpreter.get_tensor(each["index"]) for each in outputs}

    return _build.from_file(
        "tflite",
        source,
        source.file,
        [_spec(detail) for detail in inputs],
        [_spec(detail) for detail in outputs],
        run,
    )


def _interpreter() -> Any:
    for name in _INTERPRETERS:
        try:
            return importlib.import_module(name).Interpreter
        except ImportError:
            continue
    raise errors.BackendMissing(
        "No TFLite interpreter can be imported.", next="pip install 'lepton-edge[tflite]'."
    )


def _spec(detail: Mapping[str, Any]) -> TensorSpec:
    sizes = detail.get("shape_signature", detail["shape"])
    sizes = sizes if len(sizes) else detail["shape"]
    shape = tuple(None if size < 0 else int(size) for size in sizes)
    return TensorSpec(detail["name"], shape, np.dtype(detail["dtype"]).name)
