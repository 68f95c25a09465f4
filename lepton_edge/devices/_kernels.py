"""What a model's work is counted in: kernels, with their MACs, weights and elements moved.

A cost is counted a kernel: an activation or a normalisation that every runtime fuses into the
operator before it has none of its own. Only shapes and element counts are read, no values.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from lepton_edge import errors

KINDS = ("conv", "pointwise", "depthwise", "dense", "move", "boxes")  # boxes: SSD's selection


@dataclass(frozen=True)
class Kernel:
    """One kernel: `kind` is one of KINDS; `weights`, `read` and `written` count elements."""

    kind: str
    macs: int
    weights: int
    read: int
    written: int


@dataclass(frozen=True)
class Cost:
    """A model's kernels in order, and the elements that enter and leave it."""

    kernels: tuple[Kernel, ...]
    inputs: int
    outputs: int

    @property
    def macs(self) -> int:
        return sum(kernel.macs for kernel in self.kernels)

    @property
    def weights(self) -> int:
        return sum(kernel.weights for kernel in self.kernels)


def convolution(
    weights: int, kernel: int, group_inputs: int, outputs: int, read: int, channels: int
) -> Kernel:
    """A convolution of `kernel` taps and `group_inputs` channels a group; the rest in elements."""
    macs = outputs * kernel * group_inputs
    kind = "depthwise" if group_inputs == 1 and channels > 1 else "conv"
    return Kernel(kind if kernel > 1 else "pointwise", macs, weights, read, outputs)


def refuse_open(path: str | Path, name: str, free: Collection[int]) -> None:
    """`free` are the dimensions without a size; an open batch counts as one."""
    if any(free):
        raise errors.BadInput(
            f"Dimension {max(free)} of the input {name!r} of {str(path)!r} has no size.",
            next="Give a file with fixed shapes; only the batch may be open.",
        )


def refuse_operator(path: str | Path, name: str) -> errors.UsageError:
    """For an operator whose cost no fit has seen: it would be counted as moving its data."""
    return errors.UsageError(
        f"{str(path)!r} has {name}, and no estimate knows what that costs.",
        next="Measure it on the device.",
    )
