"""Structured pruning: channels are really removed, by Torch-Pruning's dependency graph."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from lepton_edge import errors
from lepton_edge.compress import _budget, _pass
from lepton_edge.compress._layers import (
    because,
    costs_of,
    example,
    measured,
    prunable,
    refuse_recurrent,
)
from lepton_edge.compress._training import Training
from lepton_edge.model import Array, Model
from lepton_edge.samples import Samples

if TYPE_CHECKING:
    from torch import Tensor, nn

    from lepton_edge.compress import _reconstruct
    from lepton_edge.compress._budget import Channels

GRADIENT_BATCHES = 8
SENSITIVITY_BATCH, SENSITIVITY_BATCHES = 64, 8
RECONSTRUCTION_BATCH, RECONSTRUCTION_BATCHES = 32, 256
ALIGNMENT = {"tensorrt": 16}  # tensor cores; vectors of the CPU formats hold 8 or more
RECOVERY = Training(epochs=3, lr=0.01)


def alignment(format: str) -> int:
    """The multiple of channels that a format's kernels run fastest on."""
    return ALIGNMENT.get(format, 8)


@dataclass(frozen=True)
class Prune:
    """Removes the share `ratio` of the model's `cost` (MACs or parameters), 0 < ratio < 1.

    `channels` in its place are pairs layer:number, what stays of those layers and of all that goes
    with them. The cost latency is `fixed_ms` and what the layers take, at `prices` (pairs
    layer:milliseconds a MAC) that were found by timing: `lepton_edge.prune` finds them.
    `scope` global weighs all layers against each other, and what is worth least for the cost saved
    goes first: by how far the answers on training samples move where a layer's channels are zero,
    without samples by importance. `layer` takes the same share of every group. `importance` of
    channels within a layer is by the L2 norm, by the first-order change of the loss (needs labelled
    samples), or by the scale of batch norms. What stays of a group is a multiple of `round_to`.
    `rounds` of pruning are each followed by `recovery` training where there are samples: by the
    labels, and by the answers of the model as it was; `recover` false leaves that out. Before it,
    with `reconstruct`, the layers that lost inputs are refitted to what they gave on samples.
    `keep` are module names (with * and ?) that are left alone. `output` as in `Finetune`.
    """

    ratio: float | None = None
    channels: tuple[str, ...] = ()
    cost: Literal["macs", "parameters", "latency"] = "macs"
    prices: tuple[str, ...] = ()
    fixed_ms: float = 0.0
    scope: Literal["global", "layer"] = "global"
    importance: Literal["magnitude", "taylor", "bn-scale"] = "magnitude"
    round_to: int = 8
    rounds: int = 1
    keep: tuple[str, ...] = ()
    recover: bool = True
    reconstruct: bool = True
    output: str | None = None
    recovery: Training = field(default_factory=lambda: RECOVERY)
    frameworks: ClassVar[tuple[str, ...]] = ("torch",)

    def __post_init__(self) -> None:
        if (self.ratio is None) == (not self.channels):
            raise errors.UsageError(
                "Pruning needs to know how much: a ratio, or the channels that stay, not both.",
                next="Give --ratio 0.5, or --channels conv1:16,conv2:32.",
            )
        if self.ratio is not None and not 0 < self.ratio < 1:
            raise errors.UsageError(
                f"Pruning cannot remove {self.ratio:g} of the {self.cost}.",
                next="Give a ratio between 0 and 1, such as 0.5.",
            )
        if self.channels and self.rounds > 1:
            raise errors.UsageError("Channels that are given are pruned in one round.")
        if (self.cost == "latency") != bool(_numbers(self.prices)):
            raise errors.UsageError(
                "What latency costs is known from prices alone, which are found by timing.",
                next="Call lepton_edge.prune with a format or a device.",
            )
        _numbers(self.channels)
        if self.round_to < 1 or self.rounds < 1:
            raise errors.UsageError("round_to and rounds are 1 or more.")

    def __call__(
        self,
        model: Model,
        training: Samples | Iterable[Any] | None = None,
        *,
        out: Path,
        work: Path | None = None,
        resume: bool = False,
    ) -> Model:
        """Writes the pruned model to the folder `out` and opens it; see `_pass.Work`.

        Raises `CannotConvert` where recurrent layers are not named in `keep`, where nothing can be
        removed, or not as much as was asked.
        """
        state = _pass.Work.begin(model, out, work, resume)
        refuse_recurrent(state.module, self.keep)
        if training is None and self.importance == "taylor":
            raise errors.UsageError(
                "Taylor importance needs labelled training samples.",
                next="Give --train, or importance=magnitude.",
            )
        inputs = example(model)
        original = copy.deepcopy(state.module)
        rounds, before = [], measured(state.module, inputs)
        whole = self._whole(state.module, inputs)
        for number in range(1, self.rounds + 1):
            share = (1 - (self.ratio or 0.0)) ** (number / self.rounds)
            found = self._round(state, training, inputs, whole * share)
            if training is not None and self.recover:
                found["recovery"] = self._recover(state, original, training)
            rounds.append(found)
        after = measured(state.module, inputs)
        record = {"pass": "prune", **asdict(self), "before": before, "after": after}
        layers = {each.name: each.cost for each in costs_of(state.module, inputs, "macs")}
        return state.finish({**record, "layer_macs": layers, "rounds": rounds})

    def survey(self, model: Model) -> dict[str, Any]:
        """What can be pruned: channels of `groups` by first layer, `macs` a sample by layer."""
        from lepton_edge.compress import _groups

        inputs = example(model)
        refuse_recurrent(model.native, self.keep)
        dependencies = _groups.Dependencies(model.native, inputs)
        _, channels, _ = prunable(dependencies, self.keep, self.round_to)
        layers = costs_of(model.native, inputs, "macs")
        return {
            "groups": {each.layer: each.size for each in channels},
            "macs": {each.name: each.cost for each in layers},
            "round_to": self.round_to,
        }

    def _round(
        self,
        state: _pass.Work,
        training: Samples | Iterable[Any] | None,
        inputs: Sequence[Tensor],
        target: float,
    ) -> dict[str, Any]:
        from lepton_edge.compress import _groups, _reconstruct

        module, whole = state.module, copy.deepcopy(state.module)
        samples = training if self.reconstruct else None
        batches = None if samples is None else self._batches(state, samples)
        kept_channels = _reconstruct.Kept(module)
        dependencies = _groups.Dependencies(module, inputs)
        groups, channels, kept = prunable(dependencies, self.keep, self.round_to)
        if self.importance == "taylor":
            assert training is not None
            self._gradients(state, training)
        values = _groups.importances(dependencies, groups, self.importance)
        module.zero_grad()
        if self.channels:
            removed = self._given(channels, kept)
        else:
            if training is None or self.scope == "layer":
                worth = [_budget.worth_of(each) for each in values]
            else:
                loss = self._loss(state, training)
                worth = _groups.sensitivities(dependencies, groups, values, loss, batches)
            removed = self._chosen(module, inputs, channels, kept, worth, target)
        for group, each, count in zip(groups, values, removed.tolist(), strict=True):
            if count:
                lowest = sorted(each.argsort(kind="stable")[:count].tolist())
                going = dependencies.again(group, lowest)
                for reached in dependencies.reached(going):
                    kept_channels.remove(*reached)
                going.prune()
        refitted = []
        if batches is not None:
            refitted = _reconstruct.reconstruct(whole, module, kept_channels, batches)
        sizes = [
            {"layer": each.layer, "channels": each.size, "kept": each.size - int(count)}
            for each, count in zip(channels, removed, strict=True)
        ]
        return {"layers": sizes, "not_pruned": kept, "reconstructed": refitted}

    def _chosen(
        self,
        module: nn.Module,
        inputs: Sequence[Tensor],
        channels: Sequence[Channels],
        kept: dict[str, str],
        worth: Sequence[Array],
        target: float,
    ) -> Array:
        """How many channels of each group go, so that the cost is `target` at most."""
        layers = self._layers(module, inputs)
        whole = self._whole(module, inputs)
        fixed = max(0.0, whole - sum(layer.cost for layer in layers))
        costs = _budget.Costs(layers, channels, fixed)
        if self.scope == "global":
            removed = _budget.by_worth(costs, channels, worth, target, self.round_to)
        else:
            removed = _budget.by_share(costs, channels, target, self.round_to)
        if costs.after(removed) > target * 1.001:
            possible = 1 - costs.after(_budget.limits(channels, self.round_to)) / whole
            raise errors.CannotConvert(
                f"Of this model's {self.cost} {100 * max(0.0, possible):.0f} % can be removed in"
                f" steps of {self.round_to} channels, not"
                f" {100 * (1 - target / whole):.0f} %{because(kept)}.",
                next="Give a smaller ratio or a smaller round_to.",
            )
        return removed

    def _given(self, channels: Sequence[Channels], kept: dict[str, str]) -> Array:
        """As `channels` says; a group may be named by any layer whose channels are the group's."""
        sizes = np.array([each.size for each in channels])
        wanted = sizes.copy()
        for name, number in _numbers(self.channels).items():
            found = [i for i, each in enumerate(channels) if name in each.outs]
            if not found:
                raise errors.CannotConvert(
                    f"The channels of {name!r} cannot be pruned{because(kept)}.",
                    next=f"What can be: {', '.join(each.layer for each in channels)}.",
                )
            if number % 1 or not 1 <= number <= sizes[found[0]]:
                raise errors.UsageError(
                    f"{name!r} has {sizes[found[0]]} channels, of which {number:g} cannot stay."
                )
            wanted[found[0]] = number
        if (wanted == sizes).all():
            raise errors.UsageError("All of those channels would stay: nothing would change.")
        removed: Array = sizes - wanted
        return removed

    def _layers(self, module: nn.Module, inputs: Sequence[Tensor]) -> list[_budget.Layer]:
        if self.cost != "latency":
            return costs_of(module, inputs, self.cost)
        prices = _numbers(self.prices)
        return [
            replace(layer, cost=layer.cost * prices.get(layer.name, 0.0))
            for layer in costs_of(module, inputs, "macs")
        ]

    def _whole(self, module: nn.Module, inputs: Sequence[Tensor]) -> float:
        if self.cost == "latency":
            return self.fixed_ms + sum(layer.cost for layer in self._layers(module, inputs))
        return measured(module, inputs)[self.cost]

    def _recover(
        self, state: _pass.Work, original: nn.Module, training: Samples | Iterable[Any]
    ) -> dict[str, Any]:
        from lepton_edge.compress._data import Table
        from lepton_edge.compress._objectives import Distillation, Task

        source = state.source(training)
        labelled = not isinstance(source, Table) or source.labels is not None
        task = Task(self.output, "auto", self.recovery.label_smoothing)
        objective = Distillation(original, task, temperature=2.0, weight=0.5 if labelled else 1.0)
        result = state.fit(objective, training, self.recovery)
        return {"labels": labelled, **result.as_dict()}

    def _loss(
        self, state: _pass.Work, training: Samples | Iterable[Any]
    ) -> Callable[[nn.Module], float]:
        """How far a module's answers on some samples are from the model's as it is now."""
        import torch

        from lepton_edge.compress._objectives import Distillation, Task

        as_it_is = copy.deepcopy(state.module).eval()
        objective = Distillation(as_it_is, Task(self.output), temperature=1.0, weight=1.0)
        some = list(self._inputs(state, training, SENSITIVITY_BATCH, SENSITIVITY_BATCHES))

        def loss(module: nn.Module) -> float:
            with torch.inference_mode():
                return float(np.mean([float(objective(module, each, None)[0]) for each in some]))

        return loss

    def _batches(
        self, state: _pass.Work, training: Samples | Iterable[Any]
    ) -> _reconstruct.Batches:
        return lambda: self._inputs(state, training, RECONSTRUCTION_BATCH, RECONSTRUCTION_BATCHES)

    def _inputs(
        self, state: _pass.Work, training: Samples | Iterable[Any], size: int, most: int
    ) -> Iterator[tuple[Tensor, ...]]:
        """The inputs of the first batches, at most so many; the same at each call."""
        import torch

        batches = state.source(training).epoch(0, self.recovery.seed, size, 0)
        for (inputs, _labels), _ in zip(batches, range(most), strict=False):
            yield tuple(torch.as_tensor(each) for each in inputs)

    def _gradients(self, state: _pass.Work, training: Samples | Iterable[Any]) -> None:
        """Gradients of the task's loss, summed over the first batches."""
        import torch

        from lepton_edge.compress._objectives import Task

        task = Task(self.output)
        for each in state.module.parameters():
            each.requires_grad_(each.is_floating_point())
        data = state.source(training)
        batches = data.epoch(0, self.recovery.seed, self.recovery.batch, 0)
        for _, (inputs, labels) in zip(range(GRADIENT_BATCHES), batches, strict=False):
            if labels is None:
                raise errors.UsageError(
                    "Taylor importance needs labels, and the training samples have none.",
                    next="Give labelled samples, or importance=magnitude.",
                )
            tensors = tuple(torch.as_tensor(each) for each in inputs)
            loss, _accuracy = task(state.module, tensors, torch.as_tensor(labels))
            loss.backward()


def _numbers(pairs: Sequence[str]) -> dict[str, float]:
    """`layer:number` pairs."""
    found = {}
    for each in pairs:
        name, _, number = each.rpartition(":")
        try:
            found[name] = float(number)
        except ValueError:
            name = ""
        if not name:
            raise errors.UsageError(f"Cannot read {each!r}.", next="Write layer:number.")
    return found


PASS = Prune
