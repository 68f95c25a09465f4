"""Structured pruning: channels are really removed, by Torch-Pruning's dependency graph."""

from __future__ import annotations

import copy
import fnmatch
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from lepton_edge import errors
from lepton_edge.compress import _budget, _pass
from lepton_edge.compress._training import Training
from lepton_edge.model import Model
from lepton_edge.samples import Samples

if TYPE_CHECKING:
    from torch import Tensor, nn

    from lepton_edge.compress._budget import Channels

EXAMPLE = 2  # rows to trace and to try with
GRADIENT_BATCHES = 8
ALIGNMENT = {"tensorrt": 16}  # tensor cores; vectors of the CPU formats hold 8 or more
RECOVERY = Training(epochs=3, lr=0.01)


def alignment(format: str) -> int:
    """The multiple of channels that a format's kernels run fastest on."""
    return ALIGNMENT.get(format, 8)


@dataclass(frozen=True)
class Prune:
    """Removes the share `ratio` of the model's `cost` (MACs or parameters), 0 < ratio < 1.

    `scope` global weighs all layers against each other: least importance for the cost saved first;
    `layer` takes the same share of every group. `importance` is by the L2 norm, by the first-order
    change of the loss (needs labelled samples), or by the scale of batch norms. What stays of a
    group is a multiple of `round_to`. `rounds` of pruning are each followed by `recovery` training
    where there are samples: by the labels, and by the answers of the model as it was. `keep` are
    module names (with * and ?) that are left alone. `output` as in `Finetune`.
    """

    ratio: float
    cost: Literal["macs", "parameters"] = "macs"
    scope: Literal["global", "layer"] = "global"
    importance: Literal["magnitude", "taylor", "bn-scale"] = "magnitude"
    round_to: int = 8
    rounds: int = 1
    keep: tuple[str, ...] = ()
    output: str | None = None
    recovery: Training = field(default_factory=lambda: RECOVERY)

    def __post_init__(self) -> None:
        if not 0 < self.ratio < 1:
            raise errors.UsageError(
                f"Pruning cannot remove {self.ratio:g} of the {self.cost}.",
                next="Give a ratio between 0 and 1, such as 0.5.",
            )
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
        for number in range(1, self.rounds + 1):
            share = (1 - self.ratio) ** (number / self.rounds)
            found = self._round(state, training, inputs, before[self.cost] * share)
            if training is not None:
                found["recovery"] = self._recover(state, original, training)
            rounds.append(found)
        after = measured(state.module, inputs)
        record = {"pass": "prune", **asdict(self), "before": before, "after": after}
        return state.finish({**record, "rounds": rounds})

    def _round(
        self,
        state: _pass.Work,
        training: Samples | Iterable[Any] | None,
        inputs: Sequence[Tensor],
        target: float,
    ) -> dict[str, Any]:
        from lepton_edge.compress import _groups

        module = state.module
        dependencies = _groups.Dependencies(module, inputs)
        groups, channels, kept = self._prunable(dependencies)
        layers = costs_of(module, inputs, self.cost)
        whole = measured(module, inputs)[self.cost]
        fixed = max(0.0, whole - sum(layer.cost for layer in layers))
        costs = _budget.Costs(layers, channels, fixed)
        if self.importance == "taylor":
            assert training is not None
            self._gradients(state, training)
        worth = _groups.importances(dependencies, groups, self.importance)
        if self.scope == "global":
            removed = _budget.by_worth(costs, channels, worth, target, self.round_to)
        else:
            removed = _budget.by_share(costs, channels, target, self.round_to)
        if costs.after(removed) > target * 1.001:
            possible = 1 - costs.after(_budget.limits(channels, self.round_to)) / whole
            reasons = "; ".join(f"{name}: {why}" for name, why in list(kept.items())[:4])
            raise errors.CannotConvert(
                f"Of this model's {self.cost} {100 * max(0.0, possible):.0f} % can be removed in"
                f" steps of {self.round_to} channels, not"
                f" {100 * (1 - target / whole):.0f} %{f' ({reasons})' if reasons else ''}.",
                next="Give a smaller ratio or a smaller round_to.",
            )
        for group, values, count in zip(groups, worth, removed.tolist(), strict=True):
            if count:
                lowest = sorted(values.argsort(kind="stable")[:count].tolist())
                dependencies.again(group, lowest).prune()
        module.zero_grad()
        sizes = [
            {"layer": each.layer, "channels": each.size, "kept": each.size - int(count)}
            for each, count in zip(channels, removed, strict=True)
        ]
        return {"layers": sizes, "not_pruned": kept}

    def _prunable(self, dependencies: Any) -> tuple[list[Any], list[Channels], dict[str, str]]:
        """Groups that passed their trial, and why each other layer is left alone."""
        groups, channels, kept = [], [], {}
        shared = shared_modules(dependencies.module)
        for group in dependencies.groups():
            found = dependencies.channels(group)
            members = {*found.outs, *found.ins}
            asked = [name for name in members if any(fnmatch.fnmatch(name, k) for k in self.keep)]
            if asked:
                reason: str | None = f"kept as asked ({min(asked)})"
            elif members & shared:
                reason = f"{min(members & shared)!r} shares its weights with another layer"
            elif found.size <= self.round_to:
                reason = f"it has {found.size} channels, and they go in steps of {self.round_to}"
            else:
                reason = dependencies.fault(group, self.round_to)
            if reason is None:
                groups.append(group)
                channels.append(found)
            else:
                kept[found.layer] = reason
        if not groups:
            reasons = "; ".join(f"{name}: {why}" for name, why in list(kept.items())[:4])
            raise errors.CannotConvert(
                f"Nothing in this model can be pruned: {reasons or 'it has no such layers'}.",
                next="Sizes that a forward writes down as numbers must follow its tensors.",
            )
        return groups, channels, kept

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


def refuse_recurrent(module: nn.Module, keep: Sequence[str]) -> None:
    """`CannotConvert` naming the recurrent layers, whose hidden sizes would silently stay."""
    import torch

    found = [
        f"{name} ({type(each).__name__})"
        for name, each in module.named_modules()
        if isinstance(each, (torch.nn.RNNBase, torch.nn.RNNCellBase))
        and not any(fnmatch.fnmatch(name, pattern) for pattern in keep)
    ]
    if found:
        raise errors.CannotConvert(
            f"The hidden size of {', '.join(found)} cannot be pruned.",
            next="Name it with keep= to prune the other layers, or distil into a smaller one.",
        )


def shared_modules(module: nn.Module) -> set[str]:
    """Names of modules that own a parameter which another one owns too."""
    owners: dict[int, set[str]] = {}
    for name, each in module.named_modules():
        for parameter in each.parameters(recurse=False):
            owners.setdefault(id(parameter), set()).add(name)
    return {name for names in owners.values() if len(names) > 1 for name in names}


def example(model: Model) -> tuple[Tensor, ...]:
    """A few rows of the model's example, in the order of its inputs."""
    import torch

    feeds = model.example(model.signature.inputs[0].shape[0] or EXAMPLE)
    return tuple(torch.from_numpy(feeds[spec.name].copy()) for spec in model.signature.inputs)


def measured(module: nn.Module, inputs: Sequence[Tensor]) -> dict[str, float]:
    """Parameters, and multiply-accumulates a sample as PyTorch's counter sees them."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from lepton_edge.compress._groups import plain_attention

    module.eval()
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), plain_attention(), counter:
        module(*inputs)
    return {
        "parameters": float(sum(each.numel() for each in module.parameters())),
        "macs": counter.get_total_flops() / 2 / len(inputs[0]),
    }


def costs_of(module: nn.Module, inputs: Sequence[Tensor], cost: str) -> list[_budget.Layer]:
    """Every convolution and linear layer that runs, with its MACs a sample or its weights."""
    import torch

    from lepton_edge.compress._objectives import watched

    kinds = (torch.nn.modules.conv._ConvNd, torch.nn.Linear)
    names = [name for name, each in module.named_modules() if isinstance(each, kinds)]
    module.eval()
    with torch.no_grad(), watched(module, names) as seen:
        module(*inputs)
    layers = []
    for name, each in module.named_modules():
        if not isinstance(each, kinds) or name not in seen:
            continue
        sizes = vars(each)
        outs = int(sizes.get("out_channels") or sizes["out_features"])
        ins = int(sizes.get("in_channels") or sizes["in_features"])
        places = 1.0
        if cost == "macs":
            value = seen[name]
            if isinstance(each, torch.nn.modules.conv._ConvTransposeNd):
                places = value[0, 0].numel() / _stride(each)
            else:
                places = value.numel() / outs / len(inputs[0])
        depthwise = getattr(each, "groups", 1) == ins == outs and ins > 1
        layers.append(_budget.Layer(name, outs, ins, each.weight.numel() * places, depthwise))
    return layers


def _stride(layer: Any) -> int:
    """Places of a transposed convolution's input are fewer than of its output by this."""
    product = 1
    for each in layer.stride:
        product *= int(each)
    return product


PASS = Prune
