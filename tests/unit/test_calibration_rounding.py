"""Learned rounding: better outputs than nearest, on the grid, and sane for degenerate inputs."""

import numpy as np
import pytest

from lepton_edge.calibration import rounding

BOUNDS = (-7, 7)


def _inputs(rng: np.random.Generator, rows: int, size: int, groups: int = 1) -> np.ndarray:
    mix = rng.standard_normal((groups, size, size))
    return (rng.standard_normal((groups, rows, size)) @ mix).astype(np.float32)


def _moments(x: np.ndarray, z: np.ndarray) -> rounding.Moments:
    moments = rounding.Moments.empty(x.shape[0], x.shape[2])
    for start in range(0, x.shape[1], 100):
        moments.add(x[:, start : start + 100], z[:, start : start + 100])
    return moments


def _nearest(weight: np.ndarray, scale: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(weight / scale[..., None]), *BOUNDS) * scale[..., None]


@pytest.mark.parametrize("groups", [1, 5])
@pytest.mark.parametrize("size", [9, 100])
def test_outputs_are_nearer_than_with_nearest_rounding(groups: int, size: int) -> None:
    rng = np.random.default_rng(0)
    z = _inputs(rng, 600, size, groups)
    weight = rng.standard_normal((groups, 6, size))
    scale = np.abs(weight).max(axis=2) / BOUNDS[1]
    hessian = _moments(z, z).finish(False)[0]
    codes, fitted = rounding.learn(weight, scale, BOUNDS, hessian, hessian)
    assert np.array_equal(codes, np.rint(codes))
    assert (np.abs(codes) <= 7).all()
    fresh = _inputs(np.random.default_rng(0), 900, size, groups)[:, 600:]  # same mix, new rows

    def error(value: np.ndarray) -> float:
        return float((((value - weight) @ fresh.transpose(0, 2, 1)) ** 2).mean())

    assert error(codes * fitted[..., None]) < 0.7 * error(_nearest(weight, scale))


def test_it_makes_up_for_a_scaled_input() -> None:
    rng = np.random.default_rng(1)
    x = _inputs(rng, 2000, 20)
    z = x * np.float32(0.9)
    weight = rng.standard_normal((1, 4, 20))
    scale = np.full((1, 4), 0.02)
    hessian, cross, _, _ = _moments(x, z).finish(False)
    codes, fitted = rounding.learn(weight, scale, (-127, 127), hessian, cross, ridge=1e-4)
    out, wanted = codes * fitted[..., None] @ z[0].T, weight @ x[0].T
    assert ((out - wanted) ** 2).mean() < 1e-3 * (wanted**2).mean()


def test_held_out_data_decide_how_far_to_follow() -> None:
    rng = np.random.default_rng(2)
    x, weight = _inputs(rng, 400, 30), rng.standard_normal((1, 4, 30))
    noise = rng.standard_normal(x.shape).astype(np.float32)
    useful = [_moments(part, part * np.float32(0.8)).finish(False)[:2] for part in (x, x)]
    assert rounding.strength(weight, useful[0], useful[1], (1.0, 0.1, 0.01)) == 0.01
    # Fitted to noise of 15 rows, the full solution is worse on other rows than W is.
    useless = [
        _moments(x[:, part], x[:, part] + 0.1 * noise[:, part]).finish(False)[:2]
        for part in (slice(0, 15), slice(15, 400))
    ]
    assert rounding.strength(weight, useless[0], useless[1], (1e-6,)) == float("inf")


@pytest.mark.parametrize("value", [0.0, 3.0])
def test_constant_inputs_leave_the_weights_alone(value: float) -> None:
    z = np.full((1, 64, 8), value, np.float32)
    weight = np.random.default_rng(0).standard_normal((1, 4, 8))
    scale = np.abs(weight).max(axis=2) / 127
    hessian, cross, _, _ = _moments(z, z).finish(True)
    codes, fitted = rounding.learn(weight, scale, (-127, 127), hessian, cross)
    assert np.abs(codes * fitted[..., None] - weight).max() < 3 * scale.max()


def test_the_bias_takes_the_mean_and_so_it_leaves_the_moments() -> None:
    rng = np.random.default_rng(3)
    x = _inputs(rng, 5000, 6) + np.float32(100)
    hessian, cross, mean, _ = _moments(x, x).finish(True)
    assert mean == pytest.approx(x.mean(axis=1), rel=1e-5)
    left = rounding.MEAN * mean[0][:, None] * mean[0][None]
    assert hessian[0] - left == pytest.approx(np.cov(x[0].T, bias=True), abs=0.5)
    assert cross == pytest.approx(hessian, abs=0.5)
