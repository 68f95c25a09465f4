"""The inputs that a layer keeps are weighed anew, so that it still gives what it gave.

Least squares on samples, layer by layer in the order in which they run, each from what the pruned
layers before it give (He et al. 2017, arXiv 1707.06168, section 3.2). Needs no labels.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from lepton_edge import errors
from lepton_edge.model import Array

Batches = Callable[[], Iterable[tuple[Tensor, ...]]]  # the same ones at each call

RIDGES = (
    1e-6,
    1e-4,
    1e-3,
    1e-2,
    1e-1,
)  # pulls to the weights as they are, of the inputs' mean square
ROWS = 8  # of a fit, for each of its unknowns
SPREAD = 16  # batches that those rows are taken from, where one batch has many
LARGEST = 8192  # inputs that a fit is still solved for: time goes with their cube
HELD = 4  # one of so many batches only checks the fit


class Kept:
    """Which channels of a module's layers stay, as they were numbered before any went."""

    def __init__(self, module: nn.Module) -> None:
        self.outs: dict[str, Array] = {}
        self.ins: dict[str, Array] = {}
        for name, layer in module.named_modules():
            if _solvable(layer):
                self.outs[name], self.ins[name] = map(np.arange, layer.weight.shape[:2])

    def remove(self, name: str, indices: Sequence[int], out: bool) -> None:
        """Takes out `indices`, as the channels are numbered now."""
        side = self.outs if out else self.ins
        if name in side:
            side[name] = np.delete(side[name], indices)


@dataclass(frozen=True)
class _Rows:
    """What a layer reads [n, inputs] and what it should give [n, outputs]; and held-out ones."""

    reads: Tensor
    wanted: Tensor
    held_reads: Tensor
    held_wanted: Tensor


def reconstruct(
    whole: nn.Module, pruned: nn.Module, kept: Kept, batches: Batches
) -> list[dict[str, Any]]:
    """Refits, in place, the layers of `pruned` that lost inputs, and says how near each came.

    Rows are `layer` and the squared error of its outputs over their square, `before` and `after`,
    on batches that the fit has not seen. A layer that comes no nearer stays as it is. Outputs are
    those before the activation. Convolutions in groups, transposed or in three dimensions, and
    layers that read more than LARGEST numbers are left alone.
    """
    theirs, mine = (dict(each.eval().named_modules()) for each in (whole, pruned))
    lost = [name for name, ins in kept.ins.items() if len(ins) < theirs[name].weight.shape[1]]
    found = []
    for name, calls in _calls(whole, lost, batches).items():
        outs = torch.from_numpy(kept.outs[name])
        rows = _rows((whole, theirs[name]), (pruned, mine[name]), outs, calls, batches)
        before, after = _refit(mine[name], rows)
        found.append({"layer": name, "before": before, "after": after})
    return found


def squares(module: nn.Module, names: Sequence[str], batches: Batches) -> dict[str, Tensor]:
    """float64 [inputs + 1, inputs + 1] for each layer: its inputs and a one, times themselves."""
    layers = dict(module.eval().named_modules())
    names = [name for name in names if _solvable(layers[name])]
    found = {}
    for name, calls in _calls(module, names, batches).items():
        layer = layers[name]
        here = (module, layer)
        every = torch.arange(layer.weight.shape[0])
        reads = _with_one(_rows(here, here, every, calls, batches).reads)
        found[name] = reads.T @ reads
    return found


def cover(layer: Any, square: Tensor, gone: Sequence[int]) -> None:
    """Gives, in place, what the channels `gone` gave to the others, as far as those know it."""
    size = layer.weight[0, 0].numel()
    lost = torch.zeros(layer.weight.shape[1], dtype=torch.bool)
    lost[list(gone)] = True
    columns = torch.cat([lost.repeat_interleave(size), torch.tensor([False])])
    kept, weight = ~columns, layer.weight.detach().flatten(1).double()
    cross = square[kept][:, columns] @ weight[:, columns[:-1]].T
    change = torch.zeros(len(square), len(weight), dtype=torch.float64)
    change[kept] = _solved(square[kept][:, kept], cross, RIDGES[2])
    _add(layer, change)


def _refit(layer: Any, rows: _Rows) -> tuple[float, float]:
    """Changes the layer where that helps on the rows held out; the errors before and after."""
    weight = layer.weight.detach().flatten(1).double()
    bias = 0.0 if layer.bias is None else layer.bias.detach().double()
    reads, held = _with_one(rows.reads), _with_one(rows.held_reads)
    if layer.bias is None:
        reads, held = reads[:, :-1], held[:, :-1]
    columns = weight.shape[1]
    missing = rows.wanted.double() - reads[:, :columns] @ weight.T - bias
    wanted = rows.held_wanted.double()
    off = wanted - held[:, :columns] @ weight.T - bias
    whole = float(wanted.square().sum()) or 1.0
    before = best = float(off.square().sum()) / whole
    square, cross = reads.T @ reads, reads.T @ missing
    change = None
    for ridge in RIDGES:
        trial = _solved(square, cross, ridge)
        error = float((off - held @ trial).square().sum()) / whole
        if error < best:
            best, change = error, trial
    if change is not None:
        _add(layer, change)
    return before, best


def _solved(square: Tensor, cross: Tensor, ridge: float) -> Tensor:
    pull = ridge * square.diagonal().mean().clamp_min(1e-12)
    factor = torch.linalg.cholesky(square + pull * torch.eye(len(square), dtype=square.dtype))
    return torch.cholesky_solve(cross, factor)


def _add(layer: Any, change: Tensor) -> None:
    """`change` [inputs, or inputs and one for the bias, outputs] onto the layer's parameters."""
    columns = layer.weight[0].numel()
    with torch.no_grad():
        layer.weight += change[:columns].T.reshape(layer.weight.shape).to(layer.weight.dtype)
        if layer.bias is not None:
            layer.bias += change[columns].to(layer.bias.dtype)


def _with_one(reads: Tensor) -> Tensor:
    return functional.pad(reads.double(), (0, 1), value=1.0)


def _rows(
    whole: tuple[nn.Module, nn.Module],
    pruned: tuple[nn.Module, nn.Module],
    outs: Tensor,
    calls: int,
    batches: Batches,
) -> _Rows:
    """What the pruned model's layer reads, and the outputs `outs` of the whole model's layer."""
    layer: Any = pruned[1]
    need = ROWS * (layer.weight[0].numel() + 1)
    generator = torch.Generator().manual_seed(0)
    parts: list[tuple[Tensor, Tensor]] = []
    for batch in batches():
        reads = torch.cat([_patches(layer, read) for read, _ in _run(*pruned, calls, batch)])
        gives = torch.cat([_places(layer, give) for _, give in _run(*whole, calls, batch)])
        some = torch.randperm(len(reads), generator=generator)[: max(HELD, -(-need // SPREAD))]
        parts.append((reads[some], gives[some][:, outs]))
        if sum(len(reads) for reads, _ in parts) >= need and len(parts) >= HELD:
            break
    if len(parts) < HELD:  # few samples: rows in place of batches
        reads, gives = (torch.cat(each) for each in zip(*parts, strict=True))
        parts = list(zip(reads.tensor_split(HELD), gives.tensor_split(HELD), strict=True))
    columns = [
        torch.cat(each)
        for held in (False, True)
        for each in zip(
            *(part for index, part in enumerate(parts) if (index % HELD == HELD - 1) == held),
            strict=True,
        )
    ]
    if not all(bool(each.isfinite().all()) for each in columns):
        raise errors.CannotConvert(
            "On the training samples a layer of this model gives values that are not finite.",
            next="Look at the preprocessing and at the weights.",
        )
    return _Rows(*columns)


class _Reached(Exception):
    """The layer has run as often as it does: the rest of the forward is not needed."""


def _run(
    module: nn.Module, layer: nn.Module, calls: int, batch: tuple[Tensor, ...]
) -> list[tuple[Tensor, Tensor]]:
    """Input and output of each of the layer's calls."""
    seen: list[tuple[Tensor, Tensor]] = []

    def keep(_layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        seen.append((inputs[0], output))
        if len(seen) == calls:
            raise _Reached

    with _hooked({layer: keep}), torch.inference_mode(), suppress(_Reached):
        module(*batch)
    return seen


def _calls(module: nn.Module, names: Sequence[str], batches: Batches) -> dict[str, int]:
    """How often each of the layers runs, in the order in which they first do."""
    known = dict(module.named_modules())
    calls: Counter[str] = Counter()

    def count(name: str) -> Callable[..., None]:
        return lambda *_: calls.update([name])

    with _hooked({known[name]: count(name) for name in names}), torch.inference_mode():
        module(*next(iter(batches())))
    return dict(calls)


@contextmanager
def _hooked(hooks: dict[nn.Module, Callable[..., None]]) -> Iterator[None]:
    handles = [layer.register_forward_hook(hook) for layer, hook in hooks.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _solvable(layer: Any) -> bool:
    """Linear layers, and convolutions in one or two dimensions whose outputs read all channels."""
    if isinstance(layer, (nn.Conv1d, nn.Conv2d)):
        if layer.groups > 1 or layer.padding_mode != "zeros" or isinstance(layer.padding, str):
            return False
    elif not isinstance(layer, nn.Linear):
        return False
    return bool(layer.weight[0].numel() <= LARGEST)


def _patches(layer: Any, read: Tensor) -> Tensor:
    """[n, inputs]: what each output place is computed from, in the order of the weights."""
    if isinstance(layer, nn.Linear):
        return read.flatten(0, -2)
    kernel, dilation, padding, stride = (
        (neutral, *value) if len(value) == 1 else value
        for value, neutral in (
            (layer.kernel_size, 1), (layer.dilation, 1), (layer.padding, 0), (layer.stride, 1)
        )
    )  # fmt: skip
    image = read.unsqueeze(2) if read.ndim == 3 else read
    return functional.unfold(image, kernel, dilation, padding, stride).mT.flatten(0, 1)


def _places(layer: Any, output: Tensor) -> Tensor:
    """[n, outputs] in the order of `_patches`."""
    if isinstance(layer, nn.Linear):
        return output.flatten(0, -2)
    return output.flatten(2).mT.flatten(0, 1)
