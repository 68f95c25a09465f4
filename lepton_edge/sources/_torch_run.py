"""What the three kinds of PyTorch models share: how they are run, and how outputs are named."""

from __future__ import annotations

import pickle
import struct
import zipfile
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from lepton_edge import errors
from lepton_edge.model import Array, Feeds, ModelSource, TensorSpec, random_feeds
from lepton_edge.sources import _build

# What torch.load(weights_only=True) raises for a pickle that is damaged or more than tensors.
UNPICKLING = (
    *(pickle.UnpicklingError, struct.error, EOFError, OSError, RuntimeError, ValueError),
    *(TypeError, LookupError, AttributeError, AssertionError, zipfile.BadZipFile),
)


def torch_library() -> Any:
    return _build.backend("torch", "PyTorch", "torch")


def runner(call: Callable[..., Any], names: Sequence[str]) -> Callable[[Feeds], dict[str, Array]]:
    """Runs `call` on positional tensors in the order of `names`, without gradients."""
    torch = torch_library()
    apart: bool | None = None  # inputs are neither written to, as by a first `relu_`, nor returned

    def run(feeds: Feeds) -> dict[str, Array]:
        nonlocal apart
        arrays = [feeds[name] for name in names]
        # The first run, of copies, tells whether the caller's arrays can be used as they are.
        if not apart or not all(array.flags.writeable for array in arrays):
            arrays = [np.array(array) for array in arrays]
        given = [torch.from_numpy(array) for array in arrays]
        with torch.inference_mode():
            outputs = call(*given)
            if isinstance(outputs, torch.Tensor):  # spares the common case the walk
                found: dict[str, Array] = {"output": outputs.numpy()}
            else:
                found = flatten(outputs)
        # A write that depends on the data may come later: then it is copied from there on.
        if apart is not False:
            apart = not any(tensor._version for tensor in given) and (
                apart
                or not any(
                    np.may_share_memory(each, array) for each in found.values() for array in arrays
                )
            )
        return found

    return run


def flatten(outputs: Any) -> dict[str, Array]:
    """The arrays of `tensors`."""
    return {name: value.numpy() for name, value in tensors(outputs).items()}


def tensors(outputs: Any) -> dict[str, Any]:
    """Named tensors: `output` for one, `output_0` ... for several, else a dict's own keys."""
    torch = torch_library()
    found: dict[str, Any] = {}

    def walk(name: str, value: Any) -> None:
        if isinstance(value, torch.Tensor):
            found[name or "output"] = value
        elif isinstance(value, Mapping):
            for key, item in value.items():
                walk(f"{name}_{key}" if name else str(key), item)
        elif isinstance(value, (list, tuple)):
            for index, item in enumerate(value):
                walk(f"{name or 'output'}_{index}", item)
        elif value is not None:
            raise errors.CannotConvert(
                f"The model returns a {type(value).__name__}, which is no tensor.",
                next="Return tensors, or tuples or dicts of them.",
            )

    walk("", outputs)
    return found


def example_of(specs: Sequence[TensorSpec], given: Mapping[str, Array]) -> dict[str, Array]:
    """Values for `specs`: the given example where it fits (more rows of it where the batch is
    fixed), else seeded random ones. Free dimensions have the example's sizes.
    """
    feeds: dict[str, Array] = {}
    for spec in specs:
        value = given.get(spec.name)
        fits = value is not None and len(value.shape) == len(spec.shape) and all(
            dim is None or dim == size
            for dim, size in zip(spec.shape[1:], value.shape[1:], strict=True)
        )  # fmt: skip
        if value is None or not fits:
            feeds |= random_feeds(_build.sized([spec]), spec.shape[0] or 1)
        else:
            rows = spec.shape[0] or len(value)
            whole = value if rows == len(value) else _build.vary({"": value}, rows)[""]
            feeds[spec.name] = whole.astype(spec.dtype)
    return feeds


def need_inputs(source: ModelSource, kind: str) -> errors.UsageError:
    return errors.UsageError(
        f"{kind} {source.path!r} does not say what its inputs are.",
        next="Name them in order with --input name=1x3x224x224:float32"
        " (or give the module an attribute example_inputs: a dict of tensors).",
    )
