"""An `nn.Module` from `file.py:factory`, which is the user's own code and is run.

The factory takes no arguments and returns the module, untrained or trained. Weights come from
.safetensors, or from a .pth loaded with weights_only: nothing is unpickled. Inputs come from
`ModelSource.inputs`, else from the module's attribute `example_inputs`, a dict of tensors.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lepton_edge import errors
from lepton_edge._user_code import load_function, raised
from lepton_edge.model import Array, Model, ModelSource, TensorSpec
from lepton_edge.sources import _build, _check, _torch_run
from lepton_edge.sources._count_torch import count

__all__ = ["count", "load"]


def load(source: ModelSource) -> Model:
    """Raises `BadInput` where the factory or the weights fail, `UsageError` without inputs."""
    torch = _torch_run.torch_library()
    factory = load_function(source.file, source.path.rpartition(":")[2])
    try:
        module = factory()
    except (Exception, SystemExit) as error:
        raise raised(source.path, error) from error
    if not isinstance(module, torch.nn.Module):
        raise errors.BadInput(
            f"{source.path!r} returns a {type(module).__name__}, not a torch.nn.Module.",
            next="A file whose factory makes a Keras model imports keras itself, and not torch.",
        )
    if source.weights is not None:
        _put_weights(module, Path(source.weights))
    module.eval()
    given = _example_inputs(source, torch, module)
    specs = source.inputs or tuple(
        TensorSpec(name, (None, *value.shape[1:]), value.dtype.name)
        for name, value in given.items()
    )
    if not specs:
        raise _torch_run.need_inputs(source, "The module of")
    specs = _in_order(source, module, specs)
    run = _torch_run.runner(module, [spec.name for spec in specs])
    return _build.probed("torch", source, module, run, _torch_run.example_of(specs, given), specs)


def _example_inputs(source: ModelSource, torch: Any, module: Any) -> dict[str, Array]:
    """The attribute `example_inputs` as arrays; the first axis of each is the batch."""
    given = getattr(module, "example_inputs", None) or {}
    if not isinstance(given, Mapping):
        raise errors.BadInput(
            f"The example_inputs of {source.path!r} are a {type(given).__name__}.",
            next="Make them a dict: name of the input -> tensor.",
        )
    for name, value in given.items():
        if not isinstance(value, torch.Tensor) or value.ndim == 0:
            raise errors.BadInput(
                f"The example input {name!r} of {source.path!r} is no tensor with a batch axis.",
                next="Give tensors whose first axis is the batch.",
            )
    return {str(name): value.detach().cpu().numpy() for name, value in given.items()}


def _in_order(
    source: ModelSource, module: Any, specs: tuple[TensorSpec, ...]
) -> tuple[TensorSpec, ...]:
    """Inputs are given by position: in the order of forward's parameters where they carry their
    names, else as they stand. Raises `UsageError` where the names contradict the positions.
    """
    parameters = [
        each.name
        for each in inspect.signature(module.forward).parameters.values()
        if each.kind in (each.POSITIONAL_ONLY, each.POSITIONAL_OR_KEYWORD)
    ]
    known = {spec.name for spec in specs} & set(parameters)
    if len(known) == len(specs):
        specs = tuple(sorted(specs, key=lambda spec: parameters.index(spec.name)))
    wrong = [
        spec.name
        for position, spec in enumerate(specs)
        if spec.name in known and parameters.index(spec.name) != position
    ]
    if wrong:
        raise errors.UsageError(
            f"The input {wrong[0]!r} of {source.path!r} is not where forward has it.",
            next=f"forward takes {', '.join(parameters)}: give inputs in this order, without gaps.",
        )
    return specs


def _put_weights(module: Any, path: Path) -> None:
    if not path.is_file():
        raise errors.BadInput(f"There is no file {str(path)!r}.")
    state = _safetensors(path) if path.suffix == ".safetensors" else _weights_only(path)
    try:
        found = module.load_state_dict(state, strict=False)
    except RuntimeError as error:  # a shape that differs
        lines = [line.strip() for line in str(error).splitlines()[1:]] or [str(error)]
        raise _mismatch(path, lines[0].rstrip(".")) from None
    if found.missing_keys:
        raise _mismatch(path, f"it lacks {_some(found.missing_keys)}")
    if found.unexpected_keys:
        raise _mismatch(path, f"the module has no {_some(found.unexpected_keys)}")


def _mismatch(path: Path, why: str) -> errors.BadInput:
    return errors.BadInput(f"The weights {str(path)!r} do not fit the module: {why}.")


def _some(names: list[str]) -> str:
    rest = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(map(repr, names[:3])) + rest


def _safetensors(path: Path) -> Any:
    safetensors = _build.backend("safetensors.torch", "safetensors", "torch")
    from safetensors import SafetensorError

    try:
        return safetensors.load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise errors.BadInput(
            f"Cannot read the weights {str(path)!r}: {_check.first_line(error)}."
        ) from None


def _weights_only(path: Path) -> Any:
    torch = _torch_run.torch_library()
    if _check.starts_with(path, b"PK"):
        _check.archive(path, "PyTorch").close()
    try:
        with warnings.catch_warnings():
            # Of pickle protocols that torch.save does not write: what matters is whether it loads.
            warnings.simplefilter("ignore", UserWarning)
            state = torch.load(path, map_location="cpu", weights_only=True)
    except _torch_run.UNPICKLING as error:
        raise errors.BadInput(
            f"{str(path)!r} holds more than weights, or is damaged, and is not loaded"
            f" ({_check.first_line(error)[:120]}).",
            next="Save model.state_dict(), best as .safetensors.",
        ) from None
    if isinstance(state, dict) and isinstance(state.get("state_dict"), dict):
        state = state["state_dict"]
    if not isinstance(state, dict) or not all(torch.is_tensor(item) for item in state.values()):
        raise errors.BadInput(
            f"{str(path)!r} is no state_dict.",
            next="Save model.state_dict(), best as .safetensors.",
        )
    return state
