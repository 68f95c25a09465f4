"""The integer grid: bounds that hold for any range, however odd."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lepton_edge.calibration import grid

GRIDS = [
    grid.Grid(),
    grid.Grid(signed=False),
    grid.Grid(symmetric=True, narrow=True),
    grid.Grid(signed=False, symmetric=True),
    grid.Grid(bits=7, symmetric=True, narrow=True),
    grid.Grid(bits=4, symmetric=True),
]
ANY = st.floats(allow_nan=True, allow_infinity=True, width=32)
ORDINARY = st.floats(-1e6, 1e6, width=32)


@given(low=ANY, high=ANY, target=st.sampled_from(GRIDS))
def test_scale_and_zero_point_are_always_usable(low: float, high: float, target: grid.Grid) -> None:
    params = grid.params(low, high, target)
    assert params.scale.dtype == np.float32
    assert np.isfinite(params.scale)
    assert grid.SCALE_MIN <= params.scale <= grid.SCALE_MAX
    assert target.qmin <= int(params.zero_point) <= target.qmax
    assert params.apply(np.zeros(3, np.float32)).tolist() == [0, 0, 0]
    if target.symmetric:
        assert int(params.zero_point) == (0 if target.signed else 1 << (target.bits - 1))


@given(
    ends=st.tuples(ORDINARY, ORDINARY).map(sorted),
    share=st.lists(st.floats(0, 1), min_size=1, max_size=20),
    target=st.sampled_from(GRIDS),
)
def test_what_is_inside_the_range_moves_by_at_most_a_step(
    ends: list[float], share: list[float], target: grid.Grid
) -> None:
    low, high = min(ends[0], 0.0), max(ends[1], 0.0)
    params = grid.params(low, high, target)
    x = (low + np.array(share) * (high - low)).astype(np.float32)
    # Half a step of rounding, and half a step by which the rounded zero point shifts the ends.
    limit = params.scale * (1.0 + 1e-5) + 1e-30
    assert (np.abs(params.apply(x) - x) <= limit).all()
    inside = (x >= params.low) & (x <= params.high)
    assert (np.abs(params.apply(x) - x)[inside] <= params.scale * 0.5001 + 1e-30).all()


@given(
    values=st.lists(ORDINARY, min_size=3, max_size=3),
    target=st.sampled_from([g for g in GRIDS if g.symmetric]),
)
def test_a_channel_each_is_as_one_by_one(values: list[float], target: grid.Grid) -> None:
    most = np.abs(np.array(values))
    x = np.random.default_rng(0).standard_normal((2, 3, 5)).astype(np.float32)
    together = grid.params(-most, most, target, axis=1).apply(x)
    for channel in range(3):
        alone = grid.params(-most[channel], most[channel], target)
        assert np.array_equal(together[:, channel], alone.apply(x[:, channel]))


@pytest.mark.parametrize("target", GRIDS)
def test_nan_and_infinities_become_codes(target: grid.Grid) -> None:
    params = grid.params(-1, 1, target)
    codes = params.quantize(np.array([np.nan, np.inf, -np.inf], np.float32))
    assert codes.tolist() == [int(params.zero_point), target.qmax, target.qmin]


def test_relu6_keeps_its_end() -> None:
    params = grid.params(0, 6, grid.Grid(signed=False))
    assert int(params.zero_point) == 0
    assert params.apply(np.array([6, 7, -1], np.float32)) == pytest.approx([6, 6, 0])
