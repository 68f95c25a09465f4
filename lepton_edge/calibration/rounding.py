"""Codes for a layer's weights that keep its outputs, not the weights, near the float ones.

For inputs x (float network) and z (network quantised so far) the layer W is replaced by the grid
point V that minimises E|V z - W x|^2 = tr(V H V') - 2 tr(V C') + const, with H = E[z z'] and
C = W E[x z'], all centred where the layer has a bias, which then takes up the means (bias
correction). First column by column with the error handed on to the columns not yet rounded
(Optimal Brain Quantization / GPTQ, arXiv 2208.11580 and 2210.17323; the target from the float
network as in GPTAQ, arXiv 2504.02692), then by cyclic coordinate descent, with the scale of each
output channel refitted in between.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from lepton_edge.model import Array

DAMPING = 0.01  # of the mean diagonal of H, as in GPTQ
MEAN = 0.02
_BLOCK = 64
_WAITING_BYTES = 1 << 22  # of rows that are multiplied at once: products of few rows are slow
_SQUARED_MAX = 1e12  # sums of squares of such inputs stay far inside float32


@dataclass
class Moments:
    """Sums over samples for `groups` independent parts of a layer, each with K inputs.

    zz and xz are [groups, K, K], z and x are [groups, K]; float64 means are taken at the end.
    """

    zz: Array
    xz: Array
    z: Array
    x: Array
    n: int = 0
    _waiting: list[tuple[Array, Array]] = field(default_factory=list, repr=False)

    @classmethod
    def empty(cls, groups: int, size: int) -> Moments:
        square, row = (groups, size, size), (groups, size)
        return cls(
            np.zeros(square, np.float32),
            np.zeros(square, np.float32),
            np.zeros(row, np.float64),
            np.zeros(row, np.float64),
        )

    def add(self, x: Array, z: Array) -> None:
        """Rows of inputs, [groups, rows, K], of the float and of the quantised network."""
        self._waiting.append((x, z))
        self.n += x.shape[1]
        many = len(self.zz) > 1  # products are small then however many rows they have
        if many or sum(rows.nbytes for rows, _ in self._waiting) >= _WAITING_BYTES:
            self._multiply()

    def _multiply(self) -> None:
        if not self._waiting:
            return
        pairs = zip(*self._waiting, strict=True)
        x, z = (rows[0] if len(rows) == 1 else np.concatenate(rows, axis=1) for rows in pairs)
        self._waiting.clear()
        if max(np.abs(x).max(initial=0.0), np.abs(z).max(initial=0.0)) > _SQUARED_MAX:
            x, z = x.astype(np.float64), z.astype(np.float64)
            self.zz, self.xz = self.zz.astype(np.float64), self.xz.astype(np.float64)
        self.zz += z.transpose(0, 2, 1) @ z
        self.xz += x.transpose(0, 2, 1) @ z
        self.x += x.sum(axis=1, dtype=np.float64)
        self.z += z.sum(axis=1, dtype=np.float64)

    def plus(self, other: Moments) -> Moments:
        """The moments of both sets of samples together."""
        self._multiply()
        other._multiply()
        return Moments(
            self.zz + other.zz,
            self.xz + other.xz,
            self.z + other.z,
            self.x + other.x,
            self.n + other.n,
        )

    def finish(self, centred: bool) -> tuple[Array, Array, Array, Array]:
        """H, E[x z'], E[x], E[z] as float64; the second moments about the means if `centred`.

        A share MEAN of the means stays in, so that weights do not drift along a mean that the bias
        makes up for here but that other data need not have.
        """
        self._multiply()
        n = max(self.n, 1)
        hessian, cross = self.zz.astype(np.float64) / n, self.xz.astype(np.float64) / n
        x, z = self.x / n, self.z / n
        if centred:
            hessian -= (1 - MEAN) * z[:, :, None] * z[:, None, :]
            cross -= (1 - MEAN) * x[:, :, None] * z[:, None, :]
        return hessian, cross, x, z


def target(weight: Array, hessian: Array, cross: Array, ridge: float) -> tuple[Array, Array]:
    """(H with its ridge, C with its ridge): both pulled towards `weight`.

    `ridge` is a share of the mean diagonal of H: at 0 the target is E[(W x)(z)'], the float
    network's output on the quantised network's inputs; the larger, the nearer to W itself.
    """
    size = hessian.shape[-1]
    trace = np.maximum(np.einsum("gkk->g", hessian), 0.0)
    added = np.maximum(ridge * trace / size, 1e-12)
    damped = hessian + added[:, None, None] * np.eye(size)
    wanted = weight @ cross + added[:, None, None] * weight
    return damped, wanted


def learn(
    weight: Array,
    scale: Array,
    bounds: tuple[int, int],
    hessian: Array,
    cross: Array,
    *,
    ridge: float = DAMPING,
    sweeps: int = 2,
    refit: bool = True,
) -> tuple[Array, Array]:
    """Codes [groups, O, K] and scales [groups, O] for `weight` [groups, O, K].

    `bounds` are the lowest and highest code; `hessian`, `cross` and `ridge` as for `target`, with
    a larger ridge where H is too close to singular; `refit` fits the scale of each output anew.
    """
    while True:
        damped, wanted = target(weight, hessian, cross, ridge)
        try:
            inverse = np.linalg.inv(damped)
            inverse = (inverse + inverse.transpose(0, 2, 1)) / 2
            codes = _column_by_column(wanted @ inverse, scale, bounds, inverse)
            break
        except np.linalg.LinAlgError:
            ridge *= 10
    for _ in range(sweeps):
        codes = _descend(codes, scale, bounds, damped, wanted)
        if refit:
            scale = _refit(codes, scale, damped, wanted)
    return codes, scale


def strength(
    weight: Array,
    train: tuple[Array, Array],
    held_out: tuple[Array, Array],
    ridges: Sequence[float],
) -> float:
    """The ridge whose solution without rounding does best on moments that it was not fitted to.

    `train` and `held_out` are (H, E[x z']); `ridges` fall. Infinity where W itself does best.
    """
    hessian, cross = held_out
    wanted_out = weight @ cross
    best, lowest = float("inf"), float(loss(weight, hessian, wanted_out).sum())
    for ridge in ridges:
        damped, wanted = target(weight, *train, ridge)
        value = np.linalg.solve(damped, wanted.transpose(0, 2, 1)).transpose(0, 2, 1)
        now = float(loss(value, hessian, wanted_out).sum())
        if now >= lowest:
            break  # the loss is convex in the ridge, up to noise
        best, lowest = ridge, now
    return best


def loss(value: Array, hessian: Array, wanted: Array) -> Array:
    """tr(V H V') - 2 tr(V C') for each group and output: [groups, O]."""
    result: Array = np.einsum("gok,gok->go", value, value @ hessian - 2 * wanted)
    return result


def sqnr_db(weight: Array, value: Array, hessian: Array) -> float:
    """10 log10 of E|W z|^2 over E|(V - W) z|^2; 200 where they are equal."""
    noise = value - weight
    signal = float(np.einsum("gok,gok->", weight, weight @ hessian))
    error = float(np.einsum("gok,gok->", noise, noise @ hessian))
    return 10 * math.log10(signal / error) if error > signal * 1e-20 and signal > 0 else 200.0


def _round(value: Array, scale: Array, bounds: tuple[int, int]) -> Array:
    result: Array = np.clip(np.rint(value / scale), *bounds)
    return result


def _column_by_column(
    weight: Array, scale: Array, bounds: tuple[int, int], inverse: Array
) -> Array:
    groups, outputs, size = weight.shape
    # The least certain columns last: they can no longer hand their error on.
    order = np.argsort(np.einsum("gkk->gk", inverse), axis=1, kind="stable")
    pick = np.arange(groups)[:, None]
    inverse = inverse[pick[:, :, None], order[:, :, None], order[:, None, :]]
    upper = np.linalg.cholesky(inverse).transpose(0, 2, 1)
    left = np.take_along_axis(weight, order[:, None, :], axis=2).copy()
    codes = np.empty_like(left)
    for start in range(0, size, _BLOCK):
        stop = min(start + _BLOCK, size)
        errors = np.zeros((groups, outputs, stop - start))
        for column in range(start, stop):
            code = _round(left[:, :, column], scale, bounds)
            codes[:, :, column] = code
            error = (left[:, :, column] - code * scale) / upper[:, column, column, None]
            left[:, :, column:stop] -= error[:, :, None] * upper[:, None, column, column:stop]
            errors[:, :, column - start] = error
        left[:, :, stop:] -= errors @ upper[:, start:stop, stop:]
    back = np.argsort(order, axis=1)
    result: Array = np.take_along_axis(codes, back[:, None, :], axis=2)
    return result


def _descend(
    codes: Array, scale: Array, bounds: tuple[int, int], hessian: Array, wanted: Array
) -> Array:
    """One sweep over the columns: each code goes to its best value, all others held."""
    codes = codes.copy()
    value = codes * scale[:, :, None]
    gradient = value @ hessian - wanted
    size = codes.shape[-1]
    for start in range(0, size, _BLOCK):
        stop = min(start + _BLOCK, size)
        block = gradient[:, :, start:stop].copy()
        steps = np.zeros_like(block)
        for column in range(start, stop):
            curvature = hessian[:, column, column, None]
            best = codes[:, :, column] * scale - block[:, :, column - start] / curvature
            code = _round(best, scale, bounds)
            step = (code - codes[:, :, column]) * scale
            codes[:, :, column] = code
            steps[:, :, column - start] = step
            block += step[:, :, None] * hessian[:, None, column, start:stop]
        gradient += steps @ hessian[:, start:stop]
    return codes


def _refit(codes: Array, scale: Array, hessian: Array, wanted: Array) -> Array:
    """The best scale of each output for its codes; the old one where that is not better."""
    top = np.einsum("gok,gok->go", codes, wanted)
    bottom = np.einsum("gok,gok->go", codes, codes @ hessian)
    with np.errstate(divide="ignore", invalid="ignore"):
        best = top / bottom
    good = np.isfinite(best) & (best > 0.5 * scale) & (best < 2.0 * scale)
    result: Array = np.where(good, best, scale)
    return result
