"""Streaming statistics: exact where promised, flat in memory, the same in any order."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from lepton_edge import errors
from lepton_edge.calibration.statistics import (
    BINS,
    SUBSAMPLE,
    Statistics,
    TensorStats,
    fingerprint,
)

FLOATS = st.floats(-(2.0**100), 2.0**100, width=32)
BATCH = hnp.arrays(np.float32, (2, 3, 4), elements=FLOATS)


def _of(batches: list[np.ndarray], axis: int | None = 1) -> TensorStats:
    stats = TensorStats(axis)
    for batch in batches:
        stats.update(batch)
    return stats


def test_extremes_and_channel_means_are_exact() -> None:
    rng = np.random.default_rng(0)
    batches = [rng.standard_normal((2, 3, 40, 50)).astype(np.float32) for _ in range(5)]
    stats, whole = _of(batches), np.concatenate(batches)
    assert stats.range == (whole.min(), whole.max())
    assert stats.count == whole.size
    assert np.array_equal(stats.channel_min, whole.min(axis=(0, 2, 3)))
    assert np.array_equal(stats.channel_max, whole.max(axis=(0, 2, 3)))
    assert stats.channel_mean == pytest.approx(whole.mean(axis=(0, 2, 3)), abs=1e-6)
    square = stats.channel_square / stats.channel_n
    assert square == pytest.approx((whole.astype(float) ** 2).mean(axis=(0, 2, 3)), rel=1e-5)


@given(st.lists(BATCH, min_size=1, max_size=5), st.randoms(use_true_random=False))
def test_the_order_of_samples_does_not_matter(batches: list[np.ndarray], random: object) -> None:
    shuffled = list(batches)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    one, two = _of(batches), _of(shuffled)
    assert (one.exponent, one.first, one.range) == (two.exponent, two.first, two.range)
    assert np.array_equal(one.histogram, two.histogram)


@given(st.lists(BATCH, min_size=1, max_size=5))
def test_every_value_is_counted_in_its_bin(batches: list[np.ndarray]) -> None:
    stats, whole = _of(batches), np.concatenate(batches).ravel()
    assert stats.histogram.shape == (BINS,)
    assert stats.histogram.sum() + stats.zeros == whole.size == stats.count
    used = np.flatnonzero(stats.histogram)
    if used.size:
        nonzero = whole[whole != 0].astype(float)
        assert (stats.first + used[0]) * stats.width <= nonzero.min()
        assert nonzero.max() < (stats.first + used[-1] + 1) * stats.width


def test_a_large_tensor_is_subsampled_but_its_extremes_are_kept() -> None:
    value = np.random.default_rng(0).random((1, 8, 256, 256)).astype(np.float32)
    value[0, 3, 100, 101] = 50
    stats = _of([value])
    assert stats.range[1] == 50
    assert stats.histogram.sum() <= SUBSAMPLE


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (np.zeros((2, 0)), (0, 0)),
        (np.zeros((2, 3)), (0, 0)),
        (np.full((2, 3), np.nan), (0, 0)),
        (np.array([[np.inf, 1.0, -np.inf]]), (0, 1)),
        (np.full((2, 3), 7.0), (7, 7)),
        (np.full((2, 3), 1e-42), (1e-42, 1e-42)),
    ],
)
def test_odd_tensors(value: np.ndarray, expected: tuple[float, float]) -> None:
    stats = _of([value.astype(np.float32)], axis=None)
    assert stats.range == pytest.approx(expected, abs=1e-44)
    assert stats.nonfinite == int((~np.isfinite(value)).sum())


def test_saved_statistics_come_back_and_damage_is_named(tmp_path: Path) -> None:
    stats = Statistics({"b": _of([np.ones((1, 2, 3), np.float32)]), "a": TensorStats()}, 4, "key")
    path = tmp_path / "s.npz"
    stats.save(path)
    first = path.read_bytes()
    loaded = Statistics.load(path)
    assert (loaded.n, loaded.key, sorted(loaded.tensors)) == (4, "key", ["a", "b"])
    assert np.array_equal(loaded.tensors["b"].histogram, stats.tensors["b"].histogram)
    assert loaded.tensors["b"].range == (1, 1)
    loaded.save(path)
    assert path.read_bytes() == first
    path.write_bytes(first[:100])
    with pytest.raises(errors.BadInput, match="calibration statistics"):
        Statistics.load(path)


def test_the_fingerprint_depends_on_each_part() -> None:
    base = fingerprint(b"g", "s", "p", ["a", "b"])
    assert base == fingerprint(b"g", "s", "p", ["b", "a"])
    others = {
        fingerprint(b"x", "s", "p", ["a", "b"]),
        fingerprint(b"g", "x", "p", ["a", "b"]),
        fingerprint(b"g", "s", "x", ["a", "b"]),
        fingerprint(b"g", "s", "p", ["a"]),
    }
    assert len(others | {base}) == 5
