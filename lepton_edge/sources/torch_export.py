"""A program saved by torch.export (.pt2); what torch would execute in it is checked before."""

from __future__ import annotations

from typing import Any

from lepton_edge import errors
from lepton_edge.model import Array, Model, ModelSource, TensorSpec
from lepton_edge.sources import _build, _check, _pt2, _torch_run
from lepton_edge.sources._count_torch import count

__all__ = ["count", "load"]


def load(source: ModelSource) -> Model:
    """Raises `BadInput` for an archive that is damaged or holds more than tensors and operators."""
    torch = _torch_run.torch_library()
    with _check.archive(source.file, "torch.export") as archive:
        _pt2.refuse_code(source.file, archive, torch)
    try:
        program = torch.export.load(source.file)
    except (*_check.UNREADABLE, ValueError, TypeError, AttributeError, AssertionError) as error:
        raise _check.damaged(source.file, _check.first_line(error), "torch.export") from None
    own, given = _inputs(source, torch, program)
    specs = _build.declared(source, own)
    run = _torch_run.runner(program.module(), [spec.name for spec in specs])
    return _build.probed(
        "torch.export", source, program, run, _torch_run.example_of(specs, given), specs
    )


def _inputs(
    source: ModelSource, torch: Any, program: Any
) -> tuple[list[TensorSpec], dict[str, Array]]:
    """The inputs by their names in the graph; dimensions that are symbols are free."""
    values = {node.name: node.meta.get("val") for node in program.graph.nodes}
    names = program.graph_signature.user_inputs
    tensors: list[Any] = [values.get(name) for name in names if isinstance(name, str)]
    positional = torch.utils._pytree.tree_structure(((0,) * len(names), {}))
    if (
        program.call_spec.in_spec != positional
        or len(tensors) < len(names)
        or not all(isinstance(value, torch.Tensor) for value in tensors)
    ):
        raise errors.BadInput(
            f"{source.path!r} takes keyword arguments, containers or plain numbers.",
            next="Export it again with tensors alone, given by position.",
        )
    specs: list[TensorSpec] = []
    examples: dict[str, Array] = {}
    kept = program.example_inputs[0] if program.example_inputs else ()
    for index, (name, value) in enumerate(zip(names, tensors, strict=True)):
        shape = tuple(size if isinstance(size, int) else None for size in value.shape)
        specs.append(TensorSpec(name, shape, str(value.dtype).removeprefix("torch.")))
        if index < len(kept):
            examples[name] = kept[index].numpy()
    return specs, examples
