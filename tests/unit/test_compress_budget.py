"""Which channels go: numbers alone, no model."""

from __future__ import annotations

import numpy as np
import pytest

from lepton_edge.compress._budget import (
    Channels,
    Costs,
    Layer,
    by_share,
    by_worth,
    limits,
    worth_of,
)
from lepton_edge.compress._data import Table

# Two convolutions in a row and a head: 3 -> a(16) -> b(32) -> 10.
LAYERS = (
    Layer("one", 16, 3, 3 * 16 * 100.0, depthwise=False),
    Layer("two", 32, 16, 16 * 32 * 100.0, depthwise=False),
    Layer("head", 10, 32, 320.0, depthwise=False),
)
GROUPS = (
    Channels("one", 16, {"one": 1.0}, {"two": 1.0}),
    Channels("two", 32, {"two": 1.0}, {"head": 1.0}),
)
COSTS = Costs(LAYERS, GROUPS, fixed=0.0)


def exact(removed: list[int]) -> float:
    a, b = 16 - removed[0], 32 - removed[1]
    return 100.0 * (3 * a + a * b) + 10 * b


@pytest.mark.parametrize("removed", [[0, 0], [4, 0], [0, 8], [8, 16], [12, 28]])
def test_the_cost_is_that_of_the_smaller_network(removed: list[int]) -> None:
    assert COSTS.after(np.array(removed)) == pytest.approx(exact(removed))


@pytest.mark.parametrize("round_to", [1, 2, 4, 8])
@pytest.mark.parametrize("ratio", [0.2, 0.5, 0.7])
def test_the_target_is_met_in_whole_steps(round_to: int, ratio: float) -> None:
    rng = np.random.default_rng(0)
    importance = [rng.uniform(0.1, 2, 16), rng.uniform(0.1, 2, 32)]
    target = (1 - ratio) * COSTS.total
    for removed in (
        by_worth(COSTS, GROUPS, [worth_of(i) for i in importance], target, round_to),
        by_share(COSTS, GROUPS, target, round_to),
    ):
        assert COSTS.after(removed) <= target
        assert (removed <= limits(GROUPS, round_to)).all()
        assert all((g.size - r) % round_to == 0 for g, r in zip(GROUPS, removed, strict=True))


def test_nothing_can_be_given_back() -> None:
    """No chunk fewer would do, in any group: the choice is minimal."""
    rng = np.random.default_rng(1)
    importance = [rng.uniform(0.1, 2, 16), rng.uniform(0.1, 2, 32)]
    target = 0.5 * COSTS.total
    removed = by_worth(COSTS, GROUPS, [worth_of(i) for i in importance], target, 4)
    for index in range(2):
        if removed[index]:
            fewer = removed.copy()
            fewer[index] -= 4
            assert COSTS.after(fewer) > target


def test_a_depthwise_layer_shrinks_once() -> None:
    layers = (Layer("wide", 16, 8, 128.0, False), Layer("depth", 16, 16, 144.0, True))
    group = Channels("wide", 16, {"wide": 1.0, "depth": 1.0}, {"depth": 1.0})
    costs = Costs(layers, (group,), fixed=10.0)
    assert costs.after(np.array([8])) == pytest.approx(10 + 64 + 72)


def test_a_table_splits_and_repeats_its_order() -> None:
    rows = np.arange(40, dtype=np.float32)[:, None]
    table = Table((rows,), np.arange(40), "key")
    train, held = table.split(0.25, seed=3)
    seen = [set(part.rows(np.arange(len(part)))[1].tolist()) for part in (train, held)]  # type: ignore[union-attr]
    assert len(seen[0]) == 30
    assert len(seen[1]) == 10
    assert not seen[0] & seen[1]
    whole = [labels.tolist() for _, labels in train.epoch(2, 7, 8, 0)]
    assert [labels.tolist() for _, labels in train.epoch(2, 7, 8, 2)] == whole[2:]
    assert whole != [labels.tolist() for _, labels in train.epoch(3, 7, 8, 0)]
