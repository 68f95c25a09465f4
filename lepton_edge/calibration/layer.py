"""What is fitted for one layer, whatever file it stands in: codes, scales and a shift of its bias.

The layer is a matrix [groups, outputs, K] and two sets of moments of its inputs in the float and
in the quantised network, as in `lepton_edge.calibration.rounding`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from lepton_edge.calibration import rounding
from lepton_edge.calibration.rounding import Moments
from lepton_edge.model import Array

RIDGES = (10.0, 3.0, 1.0, 0.3, 0.1, 0.03, 0.01, 0.003)
_ROWS = 48  # rows of inputs for each of a layer's K unknowns, over all samples


@dataclass(frozen=True)
class LayerRecord:
    """What was done to one layer: SQNR of W z against V z, nearest and learned, in dB.

    `ridge` is None where the difference between the two networks is not compensated.
    """

    node: str
    inputs: int
    rows: int
    ridge: float | None
    nearest_db: float
    learned_db: float


@dataclass(frozen=True)
class Fit:
    """Codes [groups, outputs, K], scale and bias shift [groups, outputs]; the shift may be None."""

    codes: Array
    scale: Array
    shift: Array | None
    record: LayerRecord


def rows_each(size: int, samples: int) -> int:
    """How many rows of K = `size` inputs to take of each of `samples`."""
    return max(32, _ROWS * size // samples)


def fit(
    node: str,
    matrix: Array,
    scale: Array,
    bounds: tuple[int, int],
    sets: tuple[Moments, Moments],
    *,
    corrected: bool,
    rounded: bool,
    compensated: bool,
    refit: bool,
) -> Fit:
    """Fits the layer to `sets`: the moments that it is fitted to, and those held out.

    `scale` is [groups, outputs] before, `bounds` the lowest and highest code. `rounded`: learned
    rounding, else nearest; `compensated`: towards the float network's outputs, as far as that
    holds on the set held out; `corrected`: a shift of the bias takes up the mean difference;
    `refit`: each output's scale may change.
    """
    fitted, held = sets
    hessian, cross, x, z = fitted.plus(held).finish(corrected)
    closest = np.clip(np.rint(matrix / scale[:, :, None]), *bounds)
    codes, ridge, plain = closest, math.inf, scale
    if rounded:
        if compensated and held.n:
            ridge = rounding.strength(
                matrix, fitted.finish(corrected)[:2], held.finish(corrected)[:2], RIDGES
            )
        codes, scale = rounding.learn(
            matrix,
            scale,
            bounds,
            hessian,
            cross if math.isfinite(ridge) else hessian,
            ridge=ridge if math.isfinite(ridge) else rounding.DAMPING,
            refit=refit,
        )
    value = codes * scale[:, :, None]
    shift = None
    if corrected:
        shift = np.einsum("gok,gk->go", matrix, x) - np.einsum("gok,gk->go", value, z)
    record = LayerRecord(
        node,
        matrix.shape[2],
        fitted.n + held.n,
        ridge if math.isfinite(ridge) else None,
        rounding.sqnr_db(matrix, closest * plain[:, :, None], hessian),
        rounding.sqnr_db(matrix, value, hessian),
    )
    return Fit(codes, scale, shift, record)
