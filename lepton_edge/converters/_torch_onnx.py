"""PyTorch to ONNX with torch.onnx: by its TorchScript exporter, or by dynamo.

Measured (torch 2.13, the 15 families of the tests' zoo, fixed and free batch): every export agrees
with its source to 1e-6 of the range either way; TorchScript takes 0.03-0.4 s each, dynamo 0.7-3.4 s
and 3 s more for the first. So TorchScript is the default. Dynamo is for what it cannot trace, and
for an exported program with a free batch: its graph holds the batch of its own example as numbers.
"""

from __future__ import annotations

import contextlib
import io
import re
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lepton_edge import errors
from lepton_edge.converters._float_onnx import OPSET, Batch, Exporter, backend, first_line
from lepton_edge.model import Model, Signature

if TYPE_CHECKING:
    import onnx
    import torch

DYNAMO_OPSET = 18
# Of an RNN or attention, dynamo freezes a batch of 1 although it is declared free.
FREE_BATCH_EXAMPLE = 3


def export(
    model: Model,
    signature: Signature,
    folder: Path,
    *,
    batch: Batch,
    opset: int | None,
    exporter: Exporter | None,
) -> tuple[onnx.ModelProto, dict[str, Any], tuple[str, ...]]:
    """The graph, the step's record, and the libraries that took part."""
    import onnx

    torch = backend("torch", "PyTorch", "torch")
    if exporter is None:
        frozen = model.framework == "torch.export" and batch == "dynamic"
        exporter = "dynamo" if frozen else "torchscript"
    if exporter == "dynamo" and model.framework == "torchscript":
        raise errors.CannotConvert(
            "The dynamo exporter does not take TorchScript files.",
            next="Pass the option exporter=torchscript, or give the model as file.py:factory.",
        )
    if exporter == "dynamo":
        backend("onnxscript", "onnxscript", "onnx")
    opset = opset or (DYNAMO_OPSET if exporter == "dynamo" else OPSET)
    step: dict[str, Any] = {"step": "export", "tool": f"torch.onnx {exporter}", "opset": opset}
    file = folder / ".export.onnx"
    noise = io.StringIO()  # the dynamo exporter prints its progress
    try:
        with ready(torch), warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            with contextlib.redirect_stdout(noise):
                _export(torch, model, signature, file, batch=batch, opset=opset, exporter=exporter)
        # A trace that took one side of a branch says so here; the parity check decides.
        traced = {
            first_line(warning.message)
            for warning in caught
            if isinstance(warning.message, torch.jit.TracerWarning)
        }
        if traced:
            step["tracer_warnings"] = sorted(traced)
        return onnx.load(file), step, ("torch", *(("onnxscript",) * (exporter == "dynamo")))
    except (RuntimeError, ValueError, TypeError, LookupError, AttributeError) as error:
        raise _cannot(error, model.framework, exporter, opset) from None
    finally:
        for part in folder.glob(f"{file.name}*"):
            part.unlink()


def _export(
    torch: Any,
    model: Model,
    signature: Signature,
    file: Path,
    *,
    batch: Batch,
    opset: int,
    exporter: Exporter,
) -> None:
    example = model.example(FREE_BATCH_EXAMPLE if batch == "dynamic" else batch)
    arguments = tuple(torch.from_numpy(example[spec.name]) for spec in signature.inputs)
    names = {
        "input_names": [spec.name for spec in signature.inputs],
        "output_names": [spec.name for spec in signature.outputs],
        "opset_version": opset,
    }
    free = {
        spec.name: {
            axis: "batch" if axis == 0 else f"{spec.name}_{axis}"
            for axis, size in enumerate(spec.shape)
            if size is None
        }
        for spec in (*signature.inputs, *signature.outputs)
    }
    free = {name: axes for name, axes in free.items() if axes}
    if exporter == "torchscript":
        # A script is exported as it is, its branches and loops kept; all else is traced.
        subject = model.native if model.framework == "torchscript" else positional(model)
        torch.onnx.export(subject, arguments, file, dynamo=False, dynamic_axes=free, **names)
        return
    if model.framework == "torch.export":
        torch.onnx.export(model.native, arguments, file, dynamo=True, verbose=False, **names)
        return
    shapes = tuple(
        dict.fromkeys(free.get(spec.name, {}), torch.export.Dim.DYNAMIC)
        for spec in signature.inputs
    )
    torch.onnx.export(
        positional(model),
        arguments,
        file,
        dynamo=True,
        dynamic_shapes=(shapes,) if any(shapes) else None,
        verbose=False,
        **names,
    )


@contextlib.contextmanager
def ready(torch: Any) -> Iterator[None]:
    """No gradients, and no fused attention: its kernel has no form outside PyTorch."""
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with torch.no_grad():
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)


def positional(model: Model) -> torch.nn.Module:
    """The model as a module of tensors in the signature's order to a tuple of its outputs."""
    import torch

    native = model.native.module() if model.framework == "torch.export" else model.native

    class Positional(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.native = native

        def train(self, mode: bool = True) -> Positional:
            """Modes stop here: the model is in inference, and an exported program has none."""
            self.training = mode
            return self

        def forward(self, *arguments: Any) -> Any:
            outputs = tuple(_leaves(self.native(*arguments)))
            return outputs[0] if len(outputs) == 1 else outputs

    return Positional().eval()


def _leaves(value: Any) -> Iterator[Any]:
    """Tensors in the order of the signature's outputs: as written, containers opened."""
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        for item in value:
            yield from _leaves(item)
    elif value is not None:
        yield value


def _cannot(error: Exception, framework: str, exporter: str, opset: int) -> errors.CannotConvert:
    operator = re.search(r"\b(?:aten|prim|quantized|torchvision)(?:::|\.)\w+", str(error))
    other = "dynamo" if exporter == "torchscript" else "torchscript"
    subject = f"the operator {operator[0]!r}" if operator else "this model"
    advice = (
        "Give the model as file.py:factory or as .pt2, or convert to openvino with through=direct."
        if framework == "torchscript"
        else f"Pass the option exporter={other} or another opset, or rewrite that part."
    )
    return errors.CannotConvert(
        f"torch.onnx ({exporter}, opset {opset}) cannot export {subject}: {first_line(error)}.",
        next=advice,
    )
