"""PyTorch to float .tflite by litert_torch."""

from __future__ import annotations

import re
import warnings
from pathlib import Path
from typing import Any

from lepton_edge import errors
from lepton_edge.converters._tflite_bind import first_line
from lepton_edge.model import Model

# The exporter specialises a batch of 1 to a constant, so a dynamic one is traced with more.
_TRACED = 8


def write(model: Model, file: Path, batch: int | None) -> dict[str, Any]:
    """Writes the float32 file; returns the step for artifact.json."""
    try:
        import torch
    except ImportError:
        raise _missing("torch") from None
    module = model.native
    if isinstance(module, torch.export.ExportedProgram):
        module = module.module()
        module.training = False  # such a module has no eval(): its mode is fixed in the graph
    example = model.example(_TRACED if batch is None else batch)
    arguments = tuple(torch.from_numpy(example[spec.name]) for spec in model.signature.inputs)
    wide = any(
        spec.dtype in ("int64", "float64")
        for spec in (*model.signature.inputs, *model.signature.outputs)
    )
    dynamic = None
    if batch is None:
        free = torch.export.Dim("batch", min=1)
        dynamic = tuple({0: free} for _ in arguments)
    with warnings.catch_warnings():
        # torch.export, torchao and jax announce changes of their own internals here.
        warnings.simplefilter("ignore")
        try:
            import litert_torch
        except ImportError:
            raise _missing("litert-torch") from None
        try:
            # Without enable_x64, int64 inputs and outputs would silently become int32.
            converted = litert_torch.convert(
                module, arguments, dynamic_shapes=dynamic, enable_x64=wide
            )
            converted.export(str(file))
        except MemoryError:
            raise
        except Exception as error:
            raise _cannot(error, batch) from error
    return {
        "step": "litert_torch.convert",
        "batch": "dynamic" if batch is None else batch,
        "enable_x64": wide,
    }


def _missing(library: str) -> errors.BackendMissing:
    return errors.BackendMissing(
        f"{library} is not installed.", next="pip install 'lepton-edge[tflite-convert]'."
    )


def _cannot(error: Exception, batch: int | None) -> errors.CannotConvert:
    text = str(error)
    operator = operator_in(text)
    what = f"the operator {operator}" if operator else f"this model ({first_line(error)})"
    if batch is None:
        return errors.CannotConvert(
            f"litert_torch cannot express {what} with a dynamic batch.",
            next="Use --option batch=1; or convert to ONNX (batch=dynamic) and give that file.",
        )
    return errors.CannotConvert(
        f"litert_torch cannot express {what}{': ' + first_line(error) if operator else ''}.",
        next="Replace it in the model, or convert to ONNX first and give that file.",
    )


def operator_in(text: str) -> str | None:
    """The ATen operator that a message of torch.export or litert_torch is about."""
    for pattern in (
        r"call_function\[target=torch\.ops\.([\w.]+)\]",
        r"[Ll]owering not found:?\s*([\w.:]+)",
        r"torch\.ops\.([\w.]+)",
        r"\b(aten[.:]+\w+(?:\.\w+)?)",
    ):
        found = re.search(pattern, text)
        if found:
            return found[1]
    return None
