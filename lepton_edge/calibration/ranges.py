"""Range solvers: from the statistics of a tensor to the range that its grid should cover.

`minmax` keeps everything; `percentile` cuts equal tails; `mse` minimises the expected squared
error of rounding and clipping together; `entropy` minimises the Kullback-Leibler divergence
(TensorRT's calibration, S. Migacz, GTC 2017). `auto` takes whichever of them has the smallest
expected error, where an error by clipping counts CLIP_WEIGHT times: unlike rounding it does not
average out in the layers that follow, and the tails of other data reach further.
"""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np

from lepton_edge import errors
from lepton_edge.calibration import grid
from lepton_edge.calibration.statistics import BINS, TensorStats
from lepton_edge.model import Array

Method = Literal["auto", "minmax", "percentile", "mse", "entropy"]
Range = tuple[float, float]
CLIP_WEIGHT = 8.0
_STEPS = 64
_FIXED: tuple[Method, ...] = ("minmax", "percentile", "mse", "entropy")


def solve(
    stats: TensorStats, target: grid.Grid, method: Method = "auto", *, percentile: float = 99.99
) -> Range:
    """(low, high) for `target`, always finite, low <= 0 <= high, and within what was seen."""
    if method not in get_args(Method):
        raise errors.unknown("range method", method, get_args(Method))
    if not stats.filled:
        return 0.0, 0.0
    if method == "auto":
        candidates = [
            *(solve(stats, target, each, percentile=percentile) for each in _FIXED),
            _mse(stats, target, CLIP_WEIGHT),
        ]
        lows, highs = np.array(candidates).T
        error = expected_error(stats, target, lows, highs, clip_weight=CLIP_WEIGHT)
        best = candidates[int(np.argmin(error))]
    elif method == "minmax":
        best = stats.range
    elif method == "percentile":
        best = _percentile(stats, target, percentile)
    elif method == "mse":
        best = _mse(stats, target)
    else:
        best = _entropy(stats, target)
    low, high = stats.range
    return float(np.clip(best[0], min(low, 0.0), 0.0)), float(np.clip(best[1], 0.0, max(high, 0.0)))


def expected_error(
    stats: TensorStats,
    target: grid.Grid,
    low: Array,
    high: Array,
    *,
    clip_weight: float = 1.0,
) -> Array:
    """Mean squared error of a value, for arrays of candidate ranges: rounding plus clipping.

    Rounding is uniform within a step (step^2 / 12), and nothing for exact zeros; clipping is taken
    from the histogram, without a loop over candidates.
    """
    scale, low, high = _steps(target, low, high)
    mass, first, second, edges = _moments(stats)

    def tail(moment: Array, at: Array) -> Array:
        value: Array = np.interp(at, edges, moment)  # of what lies below `at`
        return value

    def clipped(at: Array, above: bool) -> Array:
        parts = [tail(moment, at) for moment in (mass, first, second)]
        if above:
            whole = (mass, first, second)
            parts = [all_[-1] - part for all_, part in zip(whole, parts, strict=True)]
        value: Array = np.maximum(parts[2] - 2 * at * parts[1] + at * at * parts[0], 0.0)
        return value

    inside = tail(mass, high) - tail(mass, low)
    rounding = scale**2 / 12 * inside
    clipping = clipped(low, False) + clipped(high, True)
    error: Array = (rounding + clip_weight * clipping) / (mass[-1] + stats.zeros)
    return error


def _steps(target: grid.Grid, low: Array, high: Array) -> tuple[Array, Array, Array]:
    """Scale and the ends that the grid really reaches, without rounding the zero point."""
    low, high = np.minimum(low, 0.0), np.maximum(high, 0.0)
    if target.symmetric:
        middle = 0 if target.signed else 1 << (target.bits - 1)
        scale = np.maximum(high, -low) / (target.qmax - middle)
        return scale, scale * (target.qmin - middle), scale * (target.qmax - middle)
    return (high - low) / (target.qmax - target.qmin), low, high


def _moments(stats: TensorStats) -> tuple[Array, Array, Array, Array]:
    """Cumulative count, sum and sum of squares at the BINS + 1 edges, and the edges."""
    counts, centres = stats.histogram.astype(np.float64), stats.centres()
    edges = (stats.first + np.arange(BINS + 1)) * stats.width

    def cumulative(values: Array) -> Array:
        return np.concatenate([[0.0], np.cumsum(values)])

    return (
        cumulative(counts),
        cumulative(counts * centres),
        cumulative(counts * centres**2),
        edges,
    )


def _percentile(stats: TensorStats, target: grid.Grid, percentile: float) -> Range:
    edges = (stats.first + np.arange(BINS + 1)) * stats.width
    counts = stats.histogram.astype(np.float64)
    below_zero = counts[stats.centres() < 0].sum()
    cumulative = np.concatenate([[0.0], np.cumsum(counts)])
    total = cumulative[-1] + stats.zeros
    cut = total * (1 - percentile / 100) / (1 if target.symmetric else 2)
    # Exact zeros lie between the negative and the positive bins; neither tail reaches past zero.
    low = np.interp(cut, cumulative, edges) if cut < below_zero else 0.0
    above = cumulative[-1] - cut
    high = np.interp(above, cumulative, edges) if above > below_zero else 0.0
    return float(low), float(high)


def _shrunk(stats: TensorStats, target: grid.Grid) -> tuple[Array, Array]:
    """Candidate ranges: each end shrunk on its own, or both together where symmetric."""
    low, high = min(stats.range[0], 0.0), max(stats.range[1], 0.0)
    factors = np.linspace(1.0 / _STEPS, 1.0, _STEPS)
    if target.symmetric:
        most = max(high, -low)
        return -most * factors, most * factors
    lows = low * factors if low < 0 else np.zeros(1)
    highs = high * factors if high > 0 else np.zeros(1)
    grid_low, grid_high = np.meshgrid(lows, highs)
    return grid_low.ravel(), grid_high.ravel()


def _mse(stats: TensorStats, target: grid.Grid, clip_weight: float = 1.0) -> Range:
    lows, highs = _shrunk(stats, target)
    error = expected_error(stats, target, lows, highs, clip_weight=clip_weight)
    best = int(np.argmin(error))
    return float(lows[best]), float(highs[best])


def _entropy(stats: TensorStats, target: grid.Grid) -> Range:
    """One threshold for both ends, as the method is defined: each end is cut at +-threshold."""
    low, high = min(stats.range[0], 0.0), max(stats.range[1], 0.0)
    most = max(high, -low)
    thresholds = most * np.linspace(0.25, 1.0, _STEPS)
    scores = [_divergence(stats, target, max(low, -t), min(high, t)) for t in thresholds]
    best = thresholds[int(np.argmin(scores))]
    return max(low, -best), min(high, best)


def _divergence(stats: TensorStats, target: grid.Grid, low: float, high: float) -> float:
    counts = stats.histogram.astype(np.float64)
    centres = stats.centres()
    scale, reach_low, _ = _steps(target, np.array(low), np.array(high))
    inside = (centres >= low) & (centres <= high)
    if scale <= 0 or not inside.any():
        return float("inf")
    clipped = counts[inside].copy()
    clipped[0] += counts[centres < low].sum()
    clipped[-1] += counts[centres > high].sum()
    level = np.floor((centres[inside] - reach_low) / scale).astype(np.int64)
    level = np.clip(level, 0, target.qmax - target.qmin)
    present = counts[inside] > 0
    sums = np.bincount(level, counts[inside])
    sizes = np.bincount(level, present.astype(np.float64))
    spread = np.where(present, sums[level] / np.maximum(sizes[level], 1.0), 0.0)
    p, q = clipped / clipped.sum(), spread / max(spread.sum(), 1e-300)
    both = (p > 0) & (q > 0)
    missing = p[(p > 0) & (q <= 0)].sum()
    return float((p[both] * np.log(p[both] / q[both])).sum() + missing * 50.0)
