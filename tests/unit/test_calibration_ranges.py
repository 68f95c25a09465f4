"""Range solvers: always finite, never wider than what was seen, and no worse than min-max."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from lepton_edge import errors
from lepton_edge.calibration import grid, ranges
from lepton_edge.calibration.statistics import TensorStats

U8, S8 = grid.Grid(signed=False), grid.Grid(symmetric=True, narrow=True)
METHODS = ("auto", "minmax", "percentile", "mse", "entropy")
ODD = st.floats(allow_nan=True, allow_infinity=True, width=32)


def _stats(values: np.ndarray) -> TensorStats:
    stats = TensorStats()
    stats.update(values.astype(np.float32))
    return stats


@given(
    values=hnp.arrays(np.float32, st.integers(0, 30), elements=ODD),
    method=st.sampled_from(METHODS),
    target=st.sampled_from([U8, S8]),
)
def test_any_tensor_gets_a_usable_range(
    values: np.ndarray, method: ranges.Method, target: grid.Grid
) -> None:
    stats = _stats(values)
    low, high = ranges.solve(stats, target, method)
    assert np.isfinite([low, high]).all()
    assert min(stats.range[0], 0) <= low <= 0 <= high <= max(stats.range[1], 0)
    params = grid.params(low, high, target)
    finite = values[np.isfinite(values)]
    assert np.isfinite(params.apply(finite)).all()


@given(
    seed=st.integers(0, 1000),
    power=st.floats(1, 4),
    shift=st.floats(-2, 2),
    target=st.sampled_from([U8, S8]),
)
def test_mse_is_no_worse_than_the_others(
    seed: int, power: float, shift: float, target: grid.Grid
) -> None:
    x = np.random.default_rng(seed).standard_normal(4000)
    x = np.sign(x) * np.abs(x) ** power + shift
    stats = _stats(x)
    solved = {m: ranges.solve(stats, target, m) for m in METHODS}
    error = {
        m: float(ranges.expected_error(stats, target, np.array(r[0]), np.array(r[1])))
        for m, r in solved.items()
    }
    # A grid of 64 steps a side may miss the best by a little.
    assert error["mse"] <= 1.05 * min(error.values())
    weighed = {
        m: float(
            ranges.expected_error(
                stats, target, np.array(r[0]), np.array(r[1]), clip_weight=ranges.CLIP_WEIGHT
            )
        )
        for m, r in solved.items()
    }
    assert weighed["auto"] == min(weighed.values())


@pytest.mark.parametrize("target", [U8, S8])
@pytest.mark.parametrize("cut", [1.0, 0.6, 0.3])
def test_the_expected_error_is_the_real_one(target: grid.Grid, cut: float) -> None:
    x = np.random.default_rng(0).standard_normal(30000).astype(np.float32) * 3
    low, high = float(x.min()) * cut, float(x.max()) * cut
    expected = ranges.expected_error(_stats(x), target, np.array(low), np.array(high))
    params = grid.params(low, high, target)
    real = ((params.apply(x) - x) ** 2).mean()
    assert float(expected) == pytest.approx(float(real), rel=0.05)


def test_an_outlier_is_cut_by_percentile_and_entropy() -> None:
    x = np.concatenate([np.random.default_rng(0).standard_normal(30000), [300.0]])
    stats = _stats(x)
    assert ranges.solve(stats, U8, "minmax")[1] == 300
    for method in ("percentile", "entropy"):
        assert ranges.solve(stats, U8, method)[1] < 150, method


def test_mse_cuts_the_tails_of_a_coarse_grid() -> None:
    x = np.random.default_rng(0).standard_normal(30000)
    low, high = ranges.solve(_stats(x), grid.Grid(bits=4), "mse")
    # The best uniform quantiser of 16 levels for a normal value reaches to 2.7 (J. Max, 1960).
    assert (-low, high) == (pytest.approx(2.7, abs=0.3), pytest.approx(2.7, abs=0.3))


def test_percentile_counts_zeros_and_stops_at_zero() -> None:
    x = np.concatenate([np.zeros(20000), np.linspace(0.001, 1, 10000)])
    assert ranges.solve(_stats(x), U8, "percentile", percentile=99.0) == (
        0,
        pytest.approx(0.985, abs=0.001),
    )
    assert ranges.solve(_stats(x), U8, "percentile", percentile=10.0) == (0, 0)


def test_an_unknown_method_is_named() -> None:
    with pytest.raises(errors.UsageError, match="entropi"):
        ranges.solve(TensorStats(), U8, "entropi")  # type: ignore[arg-type]
