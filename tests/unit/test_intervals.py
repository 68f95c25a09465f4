"""Statistics against published, hand-computed or independently computed values."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lepton_edge import intervals


@pytest.mark.parametrize(
    ("lost", "won", "p"),
    [
        (0, 0, 1.0),
        (1, 0, 1.0),
        (6, 0, 2 / 64),  # 2 * (1/2)^6
        (1, 7, 2 * (1 + 8) / 256),
        (8, 2, 2 * (1 + 10 + 45) / 1024),
        (5, 5, 1.0),
        (59, 6, 2 * sum(math.comb(65, k) for k in range(7)) / 2**65),
    ],
)
def test_mcnemar(lost, won, p):
    assert intervals.mcnemar(lost, won) == pytest.approx(p, rel=1e-9)
    assert intervals.mcnemar(won, lost) == pytest.approx(p, rel=1e-9)


def test_mcnemar_is_stable_for_large_counts():
    assert intervals.mcnemar(500_000, 500_000) == 1.0
    assert intervals.mcnemar(0, 5_000) == 0.0  # 2^-4999 is below the smallest double
    # the normal approximation with continuity correction: z = (|b - c| - 1) / sqrt(b + c)
    z = (2_000 - 1) / math.sqrt(1_000_000)
    assert intervals.mcnemar(501_000, 499_000) == pytest.approx(
        math.erfc(z / math.sqrt(2)), rel=1e-3
    )


def test_wilson_against_published_values():
    # Newcombe, Statistics in Medicine 17:857 (1998), table I, method 3
    for hits, n, low, high in [
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0000, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ]:
        assert intervals.wilson(hits, n) == pytest.approx((low, high), abs=5e-5)
    assert intervals.wilson(29, 29)[1] == 1.0


@given(st.integers(1, 5000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_holds_the_rate(pair):
    hits, n = pair
    low, high = intervals.wilson(hits, n)
    assert 0 <= low <= hits / n <= high <= 1


def test_bootstrap_of_the_mean_agrees_with_the_normal_theory():
    values = np.random.default_rng(5).normal(3.0, 2.0, 4_000)
    low, high = intervals.bootstrap_mean(values)
    half = intervals.Z * values.std() / math.sqrt(len(values))
    assert low == pytest.approx(values.mean() - half, abs=0.05 * half)
    assert high == pytest.approx(values.mean() + half, abs=0.05 * half)
    assert intervals.bootstrap_mean(values) == (low, high)  # seeded


def test_bootstrap_by_counts_is_the_bootstrap_by_draws():
    values = np.repeat([-1.0, 0.0, 1.0], [30, 900, 70])
    by_counts = intervals.bootstrap_mean(values)
    jitter = values + np.linspace(-1e-9, 1e-9, len(values))  # too many levels: draws indices
    assert by_counts == pytest.approx(intervals.bootstrap_mean(jitter), abs=1.5e-3)


def test_few_samples_without_a_difference_prove_little():
    low, high = intervals.bootstrap_paired_rate(0, 0, 5)
    assert low < -0.2
    assert high > 0.2
    low, high = intervals.bootstrap_paired_rate(0, 0, 10_000)
    assert -0.001 < low <= 0 <= high < 0.001
    # large sample: the Wald interval of a paired difference
    low, high = intervals.bootstrap_paired_rate(200, 120, 10_000)
    half = intervals.Z * math.sqrt((320 - 80**2 / 10_000) / 10_000**2)
    assert (low, high) == pytest.approx((0.008 - half, 0.008 + half), abs=2e-4)


def test_paired_rate_covers():
    """About 95 of 100 intervals hold the true drop, also where discordant pairs are rare."""
    rng = np.random.default_rng(11)
    inside = 0
    for _ in range(300):
        lost, won, _same = rng.multinomial(200, [0.03, 0.01, 0.96])
        low, high = intervals.bootstrap_paired_rate(int(lost), int(won), 200)
        inside += low <= 0.02 <= high
    assert 0.92 <= inside / 300 <= 1.0


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(0.01, 1000), min_size=2, max_size=400))
def test_median_interval_holds_the_median(values):
    low, high = intervals.bootstrap_median(np.array(values), draws=200)
    assert min(values) <= low <= np.median(values) <= high <= max(values)


def test_median_interval_of_independent_and_of_correlated_runs():
    rng = np.random.default_rng(2)
    plain = rng.normal(10, 1, 4_000)
    low, high = intervals.bootstrap_median(plain)
    # asymptotic standard error of a normal sample's median: 1.2533 sigma / sqrt(n)
    assert (high - low) / 2 == pytest.approx(intervals.Z * 1.2533 / math.sqrt(4_000), rel=0.35)
    waves = plain + 3 * np.repeat(rng.normal(0, 1, 10), 400)
    wide_low, wide_high = intervals.bootstrap_median(waves)
    assert wide_high - wide_low > 4 * (high - low)


def test_median_of_a_million_runs_stays_small():
    values = np.random.default_rng(3).gamma(4, 1, 1_000_000)
    low, high = intervals.bootstrap_median(values)
    assert low <= np.median(values) <= high
    assert high - low < 0.03


def test_ratio_of_pairs():
    ratio, (low, high) = intervals.ratio_of_pairs(np.array([1.0, 2, 4]), np.array([1.1, 2.2, 4.4]))
    assert (ratio, low, high) == pytest.approx((1.1, 1.1, 1.1))
    # by hand: logs of 1.0, 1.1, 1.2; mean 0.0925439, sd 0.0911925, t(2) = 4.303
    ratio, (low, high) = intervals.ratio_of_pairs(np.ones(3), np.array([1.0, 1.1, 1.2]))
    half = 4.303 * 0.0911925 / math.sqrt(3)
    assert math.log(ratio) == pytest.approx(0.0925439, abs=1e-6)
    assert math.log(high) - math.log(ratio) == pytest.approx(half, rel=1e-4)
    assert math.log(ratio) - math.log(low) == pytest.approx(half, rel=1e-4)


def test_samples_to_decide():
    # (1.959964 + 0.841621)^2 * (0.2 / 0.005)^2 = 12,558.2
    assert intervals.samples_to_decide(0.005, 0.2, 0.01) == 12_559
    assert intervals.samples_to_decide(0.01, 0.2, 0.01) is None
    assert intervals.samples_to_decide(0.0, 0.0, 0.01) == 2


def test_roc_by_hand():
    # Fawcett 2006, figure 3: 20 instances
    truth = np.array([c == "p" for c in "ppnpppnnpnpnpnnnpnpn"])
    scores = np.array(
        [.9, .8, .7, .6, .55, .54, .53, .52, .51, .505,
         .4, .39, .38, .37, .36, .35, .34, .33, .30, .1]
    )  # fmt: skip
    false, true, area = intervals.roc(scores, truth)
    assert false[:5] == pytest.approx([0, 0, 0, 0.1, 0.1])
    assert true[:5] == pytest.approx([0, 0.1, 0.2, 0.2, 0.3])
    pairs = [(p, n) for p in scores[truth] for n in scores[~truth]]
    assert area == pytest.approx(np.mean([p > n for p, n in pairs]))
    assert area == pytest.approx(0.68)


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=2, max_size=60))
def test_area_is_mann_whitney_with_ties(items):
    scores = np.array([float(score) for score, _ in items])
    truth = np.array([label for _, label in items])
    if truth.all() or not truth.any():
        return
    false, true, area = intervals.roc(scores, truth)
    pairs = [(p > n) + (p == n) / 2 for p in scores[truth] for n in scores[~truth]]
    assert area == pytest.approx(float(np.mean(pairs)))
    assert (false[-1], true[-1]) == (1.0, 1.0)
    assert (np.diff(false) >= 0).all()
    assert (np.diff(true) >= 0).all()


def test_thinned_curve_keeps_its_ends_and_its_shape():
    rng = np.random.default_rng(0)
    truth = rng.random(5_000) < 0.3
    false, true, area = intervals.roc(rng.normal(truth * 1.0, 1), truth)
    few_false, few_true = intervals.thin(false, true)
    assert len(few_false) <= 200
    assert (few_false[0], few_true[0], few_false[-1], few_true[-1]) == (0, 0, 1, 1)
    again = np.sum(np.diff(few_false) * (few_true[1:] + few_true[:-1]) / 2)
    assert again == pytest.approx(area, abs=2e-3)
