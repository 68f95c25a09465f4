"""An `nn.Module` from `file.py:factory`, which is the user's own code and is run.

The factory takes no arguments and returns the module, untrained or trained. Weights come from
.safetensors, or from a .pth loaded with weights_only: nothing is unpickled. Inputs come from
`ModelSource.inputs`, else from the module's attribute `example_inputs`, a dict of tensors.
"""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

from lepton_edge import errors
from lepton_edge._user_code import load_function, raised
from lepton_edge.model import Array, Model, ModelSource, TensorSpec
from lepton_edge.sources import _build, _torch_run
from lepton_edge.sources._count_torch import count

__all__ = ["count", "load"]


def load(source: ModelSource) -> Model:
    """Raises `BadInput` where the factory or the weights fail, `UsageError` without inputs."""
    torch = _torch_run.torch_library()
    factory = load_function(source.file, source.path.rpartition(":")[2])
    try:
        module = factory()
    except Exception as error:
        raise raised(source.path, error) from error
    if not isinstance(module, torch.nn.Module):
        raise errors.BadInput(
            f"{source.path!r} returns a {type(module).__name__}, not a torch.nn.Module."
        )
    if source.weights is not None:
        _put_weights(module, Path(source.weights))
    module.eval()
    given: dict[str, Array] = {
        name: value.detach().cpu().numpy()
        for name, value in getattr(module, "example_inputs", {}).items()
    }
    specs = source.inputs or tuple(
        TensorSpec(name, (None, *value.shape[1:]), value.dtype.name)
        for name, value in given.items()
    )
    if not specs:
        raise _torch_run.need_inputs(source, "The module of")
    run = _torch_run.runner(module, [spec.name for spec in specs])
    return _build.probed("torch", source, module, run, _torch_run.example_of(specs, given), specs)


def _put_weights(module: Any, path: Path) -> None:
    if not path.exists():
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
        raise errors.BadInput(f"Cannot read the weights {str(path)!r}: {error}.") from None


def _weights_only(path: Path) -> Any:
    torch = _torch_run.torch_library()
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError, OSError) as error:
        raise errors.BadInput(
            f"{str(path)!r} holds more than weights, or is damaged, and is not loaded"
            f" ({str(error).strip().splitlines()[0][:120]}).",
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
