"""Intervals, tests and curves, in numpy alone; every method names its source.

All intervals are 95 % and two-sided. Random ones are seeded: the same data give the same interval.
"""

from __future__ import annotations

import math

import numpy as np

from lepton_edge.measurement import Interval
from lepton_edge.model import Array

Z = 1.959964  # standard normal quantile at 0.975
Z_POWER_80 = 0.841621  # standard normal quantile at 0.80
DRAWS = 10_000
CHUNK = 2_000_000  # indices drawn at once, so that memory stays near 32 MB
MOST_SAMPLES = 1_000_000_000  # beyond it, "how many would decide" is no answer
# Student's t at 0.975 for 1 to 30 degrees of freedom; beyond, the last is used (wider than exact).
T_975 = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228,
    2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086,
    2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
)  # fmt: skip


def bootstrap_mean(values: Array, *, seed: int = 0, draws: int = DRAWS) -> Interval:
    """Percentile bootstrap interval of the mean of `values` (1-D).

    On paired differences this is the paired bootstrap. Efron & Tibshirani, An Introduction to the
    Bootstrap (1993), ch. 13. Few distinct values are drawn as counts (multinomial): the same
    distribution, faster. Below about 30 samples the percentile interval is too narrow.
    """
    values = np.asarray(values, np.float64)
    levels, counts = np.unique(values, return_counts=True)
    if len(levels) <= 64:
        return _multinomial_mean(levels, counts.astype(np.float64), len(values), seed, draws)
    rng = np.random.default_rng(seed)
    step = max(1, CHUNK // len(values))
    means = np.concatenate(
        [
            values[rng.integers(0, len(values), (min(step, draws - start), len(values)))].mean(1)
            for start in range(0, draws, step)
        ]
    )
    return _percentiles(means)


def bootstrap_paired_rate(lost: int, won: int, n: int, *, seed: int = 0) -> Interval:
    """Paired bootstrap interval of (lost - won) / n, for hits of two models on n samples.

    `lost`: only the first model was right; `won`: only the second. Half a count is added to each
    of the four cells (Agresti & Min, Statistics in Medicine 24:729, 2005), since the plain
    bootstrap of few or no discordant pairs is far too narrow: no difference on 5 samples is no
    proof of none. At thousands of samples the addition does not show.
    """
    counts = np.array([won + 0.5, n - won - lost + 1.0, lost + 0.5])
    return _multinomial_mean(np.array([-1.0, 0.0, 1.0]), counts, n + 2, seed, DRAWS)


def _multinomial_mean(levels: Array, counts: Array, n: int, seed: int, draws: int) -> Interval:
    rng = np.random.default_rng(seed)
    drawn = rng.multinomial(n, counts / counts.sum(), draws)
    return _percentiles(drawn @ levels / n)


def _percentiles(values: Array) -> Interval:
    low, high = np.quantile(values, [0.025, 0.975])
    return float(low), float(high)


def mcnemar(lost: int, won: int) -> float:
    """Two-sided exact p-value that discordant pairs are equally likely either way.

    min(1, 2 P(X <= min(lost, won))), X ~ Binomial(lost + won, 1/2). McNemar, Psychometrika 12:153
    (1947), in its exact form. Summed in logarithms: no overflow at any size.
    """
    n, least = lost + won, min(lost, won)
    if n == 0:
        return 1.0
    k = np.arange(1, least + 1, dtype=np.float64)
    logs = np.concatenate([[0.0], np.cumsum(np.log(n - k + 1) - np.log(k))])
    top = logs.max()
    tail = top + math.log(np.exp(logs - top).sum()) - n * math.log(2)
    return min(1.0, 2 * math.exp(tail))


def wilson(hits: int, n: int) -> Interval:
    """Score interval of a rate. Wilson, JASA 22:209 (1927)."""
    rate, square = hits / n, Z * Z
    centre = (rate + square / (2 * n)) / (1 + square / n)
    half = Z / (1 + square / n) * math.sqrt(rate * (1 - rate) / n + square / (4 * n * n))
    return (
        0.0 if hits == 0 else max(0.0, centre - half),
        1.0 if hits == n else min(1.0, centre + half),
    )


def bootstrap_median(values: Array, *, seed: int = 0, draws: int = 2_000) -> Interval:
    """Block bootstrap interval of the median of a time series (1-D, in order).

    Runs near in time are alike on a busy machine, so blocks of neighbours are drawn, not single
    runs: Carlstein, Annals of Statistics 14:1171 (1986), with blocks of n^(1/3) runs or more (at
    most 100 blocks). The median of a draw is found among at most 4,096 ranks.
    """
    values = np.asarray(values, np.float64)
    n = len(values)
    length = max(math.ceil(n ** (1 / 3)), math.ceil(n / 100))
    block = np.arange(n) // length
    blocks = int(block[-1]) + 1
    order = np.argsort(values, kind="stable")
    bins = min(n, 4096)
    bin_of = np.empty(n, np.int64)
    bin_of[order] = np.arange(n) * bins // n
    table = np.zeros((blocks, bins), np.float32)
    np.add.at(table, (block, bin_of), 1.0)
    rng = np.random.default_rng(seed)
    drawn = rng.multinomial(blocks, np.full(blocks, 1 / blocks), draws).astype(np.float32)
    cumulative = np.cumsum(drawn @ table, axis=1)
    middle = (cumulative >= cumulative[:, -1:] / 2).argmax(axis=1)
    representative = np.searchsorted(bin_of[order], np.arange(bins))
    low, high = _percentiles(values[order][representative][middle])
    median = float(np.median(values))
    return min(low, median), max(high, median)


def ratio_of_pairs(first: Array, second: Array) -> tuple[float, Interval]:
    """Geometric mean of second / first over pairs, with its interval; needs 2 pairs or more.

    Student's t on the logarithms of the paired ratios, so the spread between the pairs (fresh
    processes, other neighbours on the machine) is what sets the width; runs within a process are
    not independent evidence. Kalibera & Jones, Rigorous Benchmarking in Reasonable Time (2013).
    """
    logs = np.log(np.asarray(second, np.float64) / np.asarray(first, np.float64))
    mean = float(logs.mean())
    k = len(logs)
    half = T_975[min(k - 1, len(T_975)) - 1] * float(logs.std(ddof=1)) / math.sqrt(k)
    return math.exp(mean), (math.exp(mean - half), math.exp(mean + half))


def samples_to_decide(mean: float, deviation: float, threshold: float) -> int | None:
    """n at which the interval of a mean clears `threshold`, were mean and deviation as seen.

    ((z_.975 + z_.80) * deviation / (mean - threshold))^2: decides in 80 % of draws. Cohen,
    Statistical Power Analysis (1988), ch. 2. None where more than a billion would be needed.
    """
    distance = abs(mean - threshold)
    if distance == 0 or (Z + Z_POWER_80) * deviation / distance > math.sqrt(MOST_SAMPLES):
        return None
    return max(2, math.ceil(((Z + Z_POWER_80) * deviation / distance) ** 2))


def roc(scores: Array, positive: Array) -> tuple[Array, Array, float]:
    """False and true positive rates by falling score, and the area; ties move diagonally.

    The area is the Mann-Whitney statistic with ties counted half: Fawcett, Pattern Recognition
    Letters 27:861 (2006). Needs both positives and negatives.
    """
    order = np.argsort(-scores, kind="stable")
    ranked, hits = scores[order], positive[order].astype(np.float64)
    last = np.append(np.flatnonzero(np.diff(ranked)), len(ranked) - 1)
    true = np.concatenate([[0.0], np.cumsum(hits)[last]])
    false = np.concatenate([[0.0], (np.arange(1, len(hits) + 1) - np.cumsum(hits))[last]])
    true, false = true / true[-1], false / false[-1]
    return false, true, float(np.sum(np.diff(false) * (true[1:] + true[:-1]) / 2))


def thin(false: Array, true: Array, most: int = 200) -> tuple[Array, Array]:
    """At most `most` points of a ROC curve, evenly along its length, both ends kept."""
    if len(false) <= most:
        return false, true
    along = np.concatenate([[0.0], np.cumsum(np.diff(false) + np.diff(true))])
    chosen = np.unique(
        np.searchsorted(along, np.linspace(0, along[-1], most)).clip(0, len(false) - 1)
    )
    return false[chosen], true[chosen]
