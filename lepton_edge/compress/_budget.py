"""How many channels each group gives up, so that the model's cost falls to a target.

The cost of a layer falls with the channels that it computes and with those that it reads; both are
known from the groups alone, so that the choice needs no model: only numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lepton_edge.model import Array

MOST = 0.9  # of a group's channels may go


@dataclass(frozen=True)
class Channels:
    """One group: `layer` begins it and has `size` channels.

    `outs` and `ins` say how many channels of a layer (module name) go with one of the group's: of
    what it computes, and of what it reads.
    """

    layer: str
    size: int
    outs: dict[str, float]
    ins: dict[str, float]


@dataclass(frozen=True)
class Layer:
    """A convolution or linear layer: its sizes, and its cost (MACs or parameters) as it stands."""

    name: str
    outs: int
    ins: int
    cost: float
    depthwise: bool


class Costs:
    """The cost of all layers as a function of the channels removed from each group."""

    def __init__(self, layers: Sequence[Layer], groups: Sequence[Channels], fixed: float) -> None:
        self.fixed = fixed
        self.cost = np.array([layer.cost for layer in layers])
        self.total = fixed + float(self.cost.sum())
        sides = []
        for side in ("outs", "ins"):
            share = np.zeros((len(layers), len(groups)))
            for row, layer in enumerate(layers):
                if side == "ins" and layer.depthwise:
                    continue
                for column, group in enumerate(groups):
                    share[row, column] = getattr(group, side).get(layer.name, 0.0)
                share[row] /= max(1, getattr(layer, side))
            sides.append(share)
        self.outs, self.ins = sides

    def after(self, removed: Array) -> float:
        """The whole cost with `removed[g]` channels of each group gone."""
        kept_outs = np.clip(1 - self.outs @ removed, 0, 1)
        kept_ins = np.clip(1 - self.ins @ removed, 0, 1)
        return self.fixed + float((self.cost * kept_outs * kept_ins).sum())


def limits(groups: Sequence[Channels], round_to: int) -> Array:
    """The most channels that each group can lose: what stays is a multiple of `round_to`."""
    found = []
    for group in groups:
        least = max(round_to, int(np.ceil(group.size * (1 - MOST) / round_to)) * round_to)
        found.append(max(0, group.size - least))
    return np.array(found, np.int64)


def chunk(size: int, removed: int, round_to: int) -> int:
    """The next number of channels to remove, such that a multiple of `round_to` stays."""
    return (size - removed) % round_to or round_to


def by_worth(
    costs: Costs,
    groups: Sequence[Channels],
    worth: Sequence[Array],
    target: float,
    round_to: int,
) -> Array:
    """Removes, chunk by chunk, what is worth least for the cost that it saves, over all groups.

    `worth[g][r]` is what the least important r channels of a group are worth together.
    """
    most = limits(groups, round_to)
    removed = np.zeros(len(groups), np.int64)
    cost = costs.after(removed)
    while cost > target:
        best, least = None, np.inf
        for index, group in enumerate(groups):
            trial = removed.copy()
            trial[index] += chunk(group.size, int(removed[index]), round_to)
            if trial[index] > most[index]:
                continue
            lost = worth[index][trial[index]] - worth[index][removed[index]]
            price = lost / max(cost - costs.after(trial), 1e-12)
            if price < least:
                best, least = trial, price
        if best is None:
            return removed
        removed, cost = best, costs.after(best)
    return _settled(costs, groups, worth, target, removed, round_to)


def worth_of(importance: Array) -> Array:
    """float64 [size + 1]: what the least important r channels are worth, as a share of their layer.

    A channel counts for more where few are left, since those carry the whole layer. Shares, since a
    layer of many channels is not worth more than one of few (without data nothing tells).
    """
    each = np.sort(importance) / (1 - np.arange(len(importance)) / len(importance))
    return np.concatenate([[0.0], np.cumsum(each) / max(float(np.sum(importance)), 1e-12)])


def _settled(
    costs: Costs,
    groups: Sequence[Channels],
    worth: Sequence[Array],
    target: float,
    removed: Array,
    round_to: int,
) -> Array:
    """The last chunk may have saved too much: gives chunks back, or takes cheaper ones instead."""
    most = limits(groups, round_to)

    def lost(trial: Array) -> float:
        return float(sum(w[r] for w, r in zip(worth, trial.tolist(), strict=True)))

    def neighbours() -> list[Array]:
        found = []
        for index, group in enumerate(groups):
            gone = int(removed[index])
            if not gone:
                continue
            back = removed.copy()
            # What stays was made a multiple of `round_to` by the first chunk.
            back[index] -= round_to if gone > group.size % round_to else gone
            found.append(back)
            for other, another in enumerate(groups):
                trial = back.copy()
                while other != index and costs.after(trial) > target:
                    trial[other] += chunk(another.size, int(trial[other]), round_to)
                    if trial[other] > most[other]:
                        break
                found.append(trial)
        fine = [each for each in found if (each >= 0).all() and (each <= most).all()]
        return [each for each in fine if costs.after(each) <= target]

    while True:
        best = min(neighbours(), key=lost, default=removed)
        if lost(best) >= lost(removed) * (1 - 1e-9):
            return removed
        removed = best


def by_share(costs: Costs, groups: Sequence[Channels], target: float, round_to: int) -> Array:
    """The same share of every group, the smallest that reaches the target."""
    most = limits(groups, round_to)
    sizes = np.array([group.size for group in groups])
    low, high = 0.0, 1.0

    def removed(share: float) -> Array:
        kept = np.ceil(sizes * (1 - share) / round_to) * round_to
        gone: Array = np.clip(sizes - kept, 0, most).astype(np.int64)
        return gone

    for _ in range(40):
        middle = (low + high) / 2
        low, high = (low, middle) if costs.after(removed(middle)) <= target else (middle, high)
    return removed(high)
