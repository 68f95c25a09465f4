"""A TorchScript archive (.pt). It carries no shapes, so its inputs must be named."""

from __future__ import annotations

import warnings

from lepton_edge import errors
from lepton_edge.model import Model, ModelSource
from lepton_edge.sources import _build, _check, _torch_run
from lepton_edge.sources._count_torch import count

__all__ = ["count", "load"]


def load(source: ModelSource) -> Model:
    """Raises `UsageError` without `source.inputs`, `BadInput` for a damaged archive."""
    torch = _torch_run.torch_library()
    try:
        with warnings.catch_warnings():
            # Making such files is deprecated; opening those that exist is what this is for.
            warnings.simplefilter("ignore", DeprecationWarning)
            module = torch.jit.load(source.file, map_location="cpu").eval()
    except (RuntimeError, ValueError) as error:
        raise _check.damaged(source.file, _check.first_line(error), "TorchScript") from None
    if not source.inputs:
        raise _torch_run.need_inputs(source, "TorchScript")
    takes = len(list(module.graph.inputs())) - 1  # the first is the module itself
    if takes != len(source.inputs):
        raise errors.UsageError(
            f"{source.path!r} takes {takes} inputs, {len(source.inputs)} were named."
        )
    run = _torch_run.runner(module, [spec.name for spec in source.inputs])
    example = _torch_run.example_of(source.inputs, {})
    return _build.probed("torchscript", source, module, run, example, source.inputs)
