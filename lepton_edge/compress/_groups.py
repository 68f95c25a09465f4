"""The groups of channels that can only be removed together, found by Torch-Pruning and tried out.

Torch-Pruning's dependency graph (Fang et al. 2023, arXiv 2301.12900) says which channels belong
together. It cannot see sizes written into a forward, or a split that reads channels by number; so
each group is tried on a copy: removing channels must give what the same channels set to zero give.
"""

from __future__ import annotations

import copy
import importlib
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lepton_edge import errors
from lepton_edge.compress import _reconstruct
from lepton_edge.compress._budget import Channels
from lepton_edge.model import Array
from lepton_edge.sources._torch_run import tensors as named

TOLERANCE = 1e-3  # of the largest output, between removed channels and channels set to zero


def torch_pruning() -> Any:
    try:
        return importlib.import_module("torch_pruning")
    except ImportError as error:
        raise errors.BackendMissing(
            f"Torch-Pruning is needed to prune and cannot be imported ({error}).",
            next="pip install 'lepton-edge[prune]'.",
        ) from None


class Dependencies:
    """The dependency graph of `module` as it runs on `inputs`; the module is pruned in place."""

    def __init__(self, module: nn.Module, inputs: Sequence[Tensor]) -> None:
        self.module, self.inputs = module, tuple(inputs)
        self.tp = torch_pruning()
        self.names = {each: name for name, each in module.named_modules()}
        with traced(module):
            try:
                self.graph = self._graph()
            except Exception as error:
                raise errors.CannotConvert(
                    "Torch-Pruning cannot trace this model:"
                    f" {type(error).__name__}: {_first(error)}.",
                    next="Its own README lists what it takes.",
                ) from error

    def _graph(self) -> Any:
        inputs = self.inputs if len(self.inputs) > 1 else self.inputs[0]
        graph = self.tp.DependencyGraph()
        graph.verbose = False
        return graph.build_dependency(self.module, example_inputs=inputs)

    def groups(self) -> list[Any]:
        """Every group from its first layer, as Torch-Pruning has it."""

        kinds = [torch.nn.modules.conv._ConvNd, torch.nn.Linear]
        with traced(self.module):
            return list(self.graph.get_all_groups(root_module_types=kinds))

    def again(self, group: Any, chosen: Sequence[int]) -> Any:
        """The group of that group's first layer with those channels alone."""
        dependency = group[0].dep
        return self.graph.get_pruning_group(
            dependency.target.module, dependency.handler, list(chosen)
        )

    def channels(self, group: Any) -> Channels:
        """What the group reaches."""
        size = len(group[0].idxs)
        outs: dict[str, float] = {}
        ins: dict[str, float] = {}
        for name, indices, out in self.reached(group):
            side = outs if out else ins
            side[name] = side.get(name, 0.0) + len(indices) / size
        return Channels(self.names[group[0].dep.target.module], size, outs, ins)

    def reached(self, group: Any) -> Iterator[tuple[str, list[int], bool]]:
        """Module, channels as they are numbered now, and whether it computes or reads them."""
        for dependency, indices in group:
            name = self.names.get(dependency.target.module)
            if name is not None:  # else an operation or a bare parameter
                plain = [int(getattr(index, "idx", index)) for index in indices]
                yield name, plain, self.graph.is_out_channel_pruning_fn(dependency.handler)

    def fault(self, group: Any, count: int) -> str | None:
        """Why `count` channels of the group cannot be removed, or None; tried on a copy."""

        size = len(group[0].idxs)
        if size < 2:
            return "it has one channel"
        chosen = np.linspace(0, size - 1, min(count, size - 1)).round().astype(int).tolist()
        silent, smaller = (copy.deepcopy(self.module).eval() for _ in range(2))
        try:
            with traced(smaller), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                theirs = Dependencies(smaller, self.inputs)
                root = dict(smaller.named_modules())[self.names[group[0].dep.target.module]]
                handler = getattr(
                    theirs.graph.get_pruner_of_module(root), group[0].dep.handler.__name__
                )
                removed = theirs.graph.get_pruning_group(root, handler, chosen)
                _silence(silent, theirs, removed)
                removed.prune()
            with torch.no_grad(), plain_attention():
                wanted, got = named(silent(*self.inputs)), named(smaller(*self.inputs))
        except Exception as error:  # noqa: BLE001 - the user's own forward may raise anything
            return f"its forward does not run with fewer of them ({_first(error)})"
        if {k: v.shape for k, v in wanted.items()} != {k: v.shape for k, v in got.items()}:
            return "they are outputs of the model"
        for name, value in wanted.items():
            span = float(value.float().abs().max()) or 1.0
            worst = float((value.float() - got[name].float()).abs().max())
            if not worst <= TOLERANCE * span:
                return "removing them does not equal setting them to zero"
        return None


def _silence(module: nn.Module, theirs: Dependencies, removed: Any) -> None:
    """Sets to zero in `module` what `removed` is about to take from its twin."""

    mine = dict(module.named_modules())
    with torch.no_grad():
        for name, plain, out in theirs.reached(removed):
            layer = mine[name]
            if isinstance(layer, torch.nn.MultiheadAttention):
                raise ValueError("attention of several heads is left as it is")
            if isinstance(layer, torch.nn.Embedding):
                layer.weight[:, plain] = 0
            elif layer.__class__.__name__.startswith("ConvTranspose") and layer.weight.ndim > 2:
                layer.weight[(slice(None), plain) if out else plain] = 0
            elif isinstance(getattr(layer, "weight", None), torch.Tensor):
                alone = layer.weight.ndim == 1 or layer.weight.shape[1] == 1
                layer.weight[plain if out or alone else (slice(None), plain)] = 0
            if out and isinstance(getattr(layer, "bias", None), torch.Tensor):
                layer.bias[plain] = 0
            if isinstance(layer, torch.nn.modules.batchnorm._BatchNorm):
                assert layer.running_mean is not None
                layer.running_mean[plain] = 0


def importances(dependencies: Dependencies, groups: Sequence[Any], importance: str) -> list[Array]:
    """One number a channel for each group, comparable between groups (mean 1 in each).

    `magnitude` is the L2 norm of all that a channel's weights are, `taylor` the first-order change
    of the loss (gradients must be there), `bn-scale` the scale of its batch norm.
    """
    tp = dependencies.tp.importance
    score = {
        "magnitude": lambda: tp.GroupMagnitudeImportance(p=2),
        "taylor": tp.GroupTaylorImportance,
        "bn-scale": tp.BNScaleImportance,
    }[importance]()
    found = []
    for group in groups:
        whole = dependencies.again(group, range(len(group[0].idxs)))
        value = score(whole)
        if value is None:
            raise errors.CannotConvert(
                f"{dependencies.names[group[0].dep.target.module]!r} has no {importance}"
                " importance" + (": it has no batch norm." if importance == "bn-scale" else "."),
                next="Use importance=magnitude.",
            )
        values = value.detach().double().cpu().numpy()
        found.append(values / max(float(values.mean()), 1e-12))
    return found


LEVELS = (0.125, 0.25, 0.5, 0.75, 0.9)  # of a group's channels, set to zero


def sensitivities(
    dependencies: Dependencies,
    groups: Sequence[Any],
    importance: Sequence[Array],
    loss: Callable[[nn.Module], float],
    batches: _reconstruct.Batches | None,
) -> list[Array]:
    """For each group float64 [size + 1]: the loss where its least important r channels are zero.

    Measured at LEVELS for each group alone, straight lines between, never falling. With `batches`
    the layers that read those channels take the rest from the others, as after a reconstruction.
    """
    found = []
    for group, values in zip(groups, importance, strict=True):
        order, size = values.argsort(kind="stable"), len(values)
        readers = list(dependencies.channels(group).ins)
        known = _reconstruct.squares(dependencies.module, readers, batches) if batches else {}
        counts = sorted({max(1, round(level * size)) for level in LEVELS})
        worth = [0.0]
        for count in counts:
            silent = copy.deepcopy(dependencies.module).eval()
            removed = dependencies.again(group, order[:count].tolist())
            for name, channels, out in dependencies.reached(removed):
                if name in known and not out:
                    _reconstruct.cover(silent.get_submodule(name), known[name], channels)
            _silence(silent, dependencies, removed)
            worth.append(max(worth[-1], loss(silent)))
        slope = (worth[-1] - worth[-2]) / (counts[-1] - counts[-2]) if len(counts) > 1 else 0.0
        last = worth[-1] + slope * (size - counts[-1])
        found.append(np.interp(np.arange(size + 1), [0, *counts, size], [*worth, last]))
    return found


@contextmanager
def plain_attention() -> Iterator[None]:
    """Without the fused kernel of attention, which is traced as one operator."""

    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


@contextmanager
def traced(module: nn.Module) -> Iterator[None]:
    """Gradients on, as the tracer needs them, and its warnings of what it leaves alone quiet."""
    before = {each: each.requires_grad for each in module.parameters()}
    for each in module.parameters():
        each.requires_grad_(each.is_floating_point())
    try:
        with plain_attention(), warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            yield
    finally:
        for each, wanted in before.items():
            each.requires_grad_(wanted)


def _first(error: BaseException) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0].rstrip(".")[:160]
