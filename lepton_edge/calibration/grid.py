"""The integer grid of one tensor: scale and zero point from a range, and the way there and back.

Definitions as in ONNX QuantizeLinear: q = clip(round_half_even(x / scale) + zero_point).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lepton_edge.model import Array

# The product of two scales (the scale of a bias) stays a normal float32 above this floor, and the
# product of a scale and 2^31 stays finite below the ceiling.
SCALE_MIN = 2.0**-60
SCALE_MAX = 2.0**60
_LARGEST = SCALE_MAX * 255


@dataclass(frozen=True)
class Grid:
    """Which integers may be used: `bits` wide, `signed` or not.

    `symmetric` fixes the real zero to the middle (0 where signed, 2^(bits-1) where not); `narrow`
    leaves out the lowest value of a signed grid, so that it is symmetric in its ends too.
    `storage` is the dtype of the codes.
    """

    bits: int = 8
    signed: bool = True
    symmetric: bool = False
    narrow: bool = False

    @property
    def qmin(self) -> int:
        return -(1 << (self.bits - 1)) + int(self.narrow) if self.signed else 0

    @property
    def qmax(self) -> int:
        return (1 << (self.bits - 1)) - 1 if self.signed else (1 << self.bits) - 1

    @property
    def storage(self) -> str:
        return "int8" if self.signed else "uint8"


@dataclass(frozen=True)
class QParams:
    """Scale (float32) and zero point (integers), scalars or one a channel along `axis`."""

    scale: Array
    zero_point: Array
    grid: Grid
    axis: int | None = None

    def _shaped(self, value: Array, ndim: int) -> Array:
        if self.axis is None:
            return value
        shape = [1] * ndim
        shape[self.axis] = -1
        return value.reshape(shape)

    def quantize(self, x: Array) -> Array:
        """Codes of `x` in the grid's storage dtype; NaN becomes the zero point."""
        scale = self._shaped(self.scale, x.ndim)
        zero = self._shaped(self.zero_point, x.ndim)
        with np.errstate(over="ignore", invalid="ignore"):
            code = np.rint(x / scale) + zero
        code = np.where(np.isnan(code), np.broadcast_to(zero, code.shape), code)
        result: Array = np.clip(code, self.grid.qmin, self.grid.qmax).astype(self.grid.storage)
        return result

    def dequantize(self, code: Array) -> Array:
        """float32 values of the codes."""
        zero = self._shaped(self.zero_point, code.ndim)
        value: Array = (code.astype(np.int32) - zero.astype(np.int32)).astype(np.float32)
        return value * self._shaped(self.scale, code.ndim)

    def apply(self, x: Array) -> Array:
        """`x` rounded to the grid, float32."""
        return self.dequantize(self.quantize(x))

    @property
    def low(self) -> Array:
        """The lowest real value that the grid holds."""
        value: Array = (self.grid.qmin - self.zero_point.astype(np.float64)) * self.scale
        return value

    @property
    def high(self) -> Array:
        """The highest real value that the grid holds."""
        value: Array = (self.grid.qmax - self.zero_point.astype(np.float64)) * self.scale
        return value


def params(low: Array | float, high: Array | float, grid: Grid, axis: int | None = None) -> QParams:
    """The finest grid that covers [low, high] and holds zero exactly.

    `low` and `high` are scalars, or arrays with one entry a channel along `axis`. Always finite:
    NaN counts as 0, infinities as the largest range; an empty range gets the scale 1.
    """
    lo = np.nan_to_num(np.asarray(low, np.float64), posinf=_LARGEST, neginf=-_LARGEST)
    hi = np.nan_to_num(np.asarray(high, np.float64), posinf=_LARGEST, neginf=-_LARGEST)
    lo = np.clip(lo, -_LARGEST, 0.0)
    hi = np.clip(hi, 0.0, _LARGEST)
    if grid.symmetric:
        middle = 0 if grid.signed else 1 << (grid.bits - 1)
        # The shorter side decides for negatives, where the grid has one step more on that side.
        scale = np.maximum(hi / (grid.qmax - middle), -lo / (middle - grid.qmin))
        if grid.signed:
            scale = np.maximum(hi, -lo) / grid.qmax
    else:
        scale = (hi - lo) / (grid.qmax - grid.qmin)
    empty = scale <= 0
    scale = np.where(empty, 1.0, np.clip(scale, SCALE_MIN, SCALE_MAX)).astype(np.float32)
    if grid.symmetric:
        zero = np.full(scale.shape, middle)
    else:
        zero = np.clip(np.rint(grid.qmin - lo / scale.astype(np.float64)), grid.qmin, grid.qmax)
    return QParams(scale, zero.astype(grid.storage), grid, axis)
