"""What one pass over the calibration data keeps of each tensor, in memory that does not grow.

Exact: count, minimum, maximum, and per channel minimum, maximum, mean and mean square. The
histogram has at most 2,048 bins whose width is a power of two and whose edges are multiples of it,
so that widening merges bins exactly and the result does not depend on the order of the samples.
"""

from __future__ import annotations

import hashlib
import json
import math
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from lepton_edge import errors
from lepton_edge.artifact import replacing
from lepton_edge.model import Array

BINS = 2048
SUBSAMPLE = 1 << 15  # values of one tensor and one sample that enter its histogram
VERSION = 1
CACHED = 64  # statistics of as many models and data sets are kept
_WIDTH_MIN, _WIDTH_MAX = -100, 120


class TensorStats:
    """Running statistics of one tensor; `axis` is its channel axis, None for no channels.

    `histogram[i]` counts the values in [(first + i) * width, (first + i + 1) * width) other than
    exact zeros, which `zeros` counts: zero is on every grid. Both come from an even subsample of
    at most SUBSAMPLE values a call. NaN and infinities only count in `nonfinite`.
    """

    def __init__(self, axis: int | None = None) -> None:
        self.axis = axis
        self.count = self.nonfinite = self.zeros = 0
        self.min, self.max = math.inf, -math.inf
        self.exponent = _WIDTH_MIN  # of the bin width
        self.first = 0
        self.histogram = np.zeros(BINS, np.int64)
        self.filled = False
        self.low = self.high = 0.0  # of the values in the histogram
        self.channel_n = 0
        self.channel_min = self.channel_max = np.zeros(0, np.float32)
        self.channel_sum = self.channel_square = np.zeros(0, np.float64)

    @property
    def width(self) -> float:
        return 2.0**self.exponent

    @property
    def channel_mean(self) -> Array:
        return self.channel_sum / max(1, self.channel_n)

    @property
    def range(self) -> tuple[float, float]:
        """(min, max) over the finite values; (0, 0) where there were none."""
        return (self.min, self.max) if self.count else (0.0, 0.0)

    def update(self, value: Array) -> None:
        """Takes in one array of floats; its size along `axis` must not change between calls."""
        if value.size == 0:
            return
        rows = self._rows(value.astype(np.float32, copy=False))
        low, high = rows.min(axis=1), rows.max(axis=1)
        if not (math.isfinite(float(low.min())) and math.isfinite(float(high.max()))):
            finite = np.isfinite(rows)
            self.nonfinite += int(rows.size - finite.sum())
            rows = np.where(finite, rows, 0).astype(rows.dtype)
            if not finite.any():
                return
            low, high = rows.min(axis=1), rows.max(axis=1)
        self._channels(rows, low, high)
        self.count += rows.size
        self.min = min(self.min, float(low.min()))
        self.max = max(self.max, float(high.max()))
        self._count(_subsample(rows, SUBSAMPLE))

    def _rows(self, value: Array) -> Array:
        if self.axis is None or value.ndim <= self.axis:
            return value.reshape(1, -1)
        if value.shape[0] == 1 and self.axis == 1:
            return value.reshape(value.shape[1], -1)
        return np.ascontiguousarray(np.moveaxis(value, self.axis, 0)).reshape(
            value.shape[self.axis], -1
        )

    def _channels(self, rows: Array, low: Array, high: Array) -> None:
        total = rows.sum(axis=1, dtype=np.float64)
        square = np.einsum("cn,cn->c", rows, rows).astype(np.float64)
        if self.channel_n and self.channel_min.shape == low.shape:
            self.channel_min = np.minimum(self.channel_min, low)
            self.channel_max = np.maximum(self.channel_max, high)
            self.channel_sum = self.channel_sum + total
            self.channel_square = self.channel_square + square
        else:
            self.channel_min, self.channel_max = low.copy(), high.copy()
            self.channel_sum, self.channel_square = total, square
            self.channel_n = 0
        self.channel_n += rows.shape[1]

    def _count(self, sample: Array) -> None:
        values = sample[sample != 0]
        self.zeros += int(sample.size - values.size)
        if values.size == 0:
            return
        low, high = float(values.min()), float(values.max())
        if self.filled:
            low, high = min(low, self.low), max(high, self.high)
        self._widen(low, high)
        # In float64: the product with a tiny value must not underflow to another bin.
        index = np.floor(values.astype(np.float64) * 2.0**-self.exponent).astype(np.int64)
        index -= self.first
        self.histogram += np.bincount(index, minlength=BINS)

    def _widen(self, low: float, high: float) -> None:
        """The smallest width that holds [low, high], with what was counted merged into it."""
        exponent = max(
            self.exponent, _ceil_log2((high - low) / BINS), _ceil_log2(max(high, -low)) - 50
        )
        exponent = min(max(exponent, _WIDTH_MIN), _WIDTH_MAX)
        while math.floor(high / 2.0**exponent) - math.floor(low / 2.0**exponent) >= BINS:
            exponent += 1
        first = math.floor(low / 2.0**exponent)
        if self.filled:
            merged = (self.first + np.arange(BINS)) >> (exponent - self.exponent)
            used = self.histogram > 0
            counts = np.zeros(BINS, np.int64)
            np.add.at(counts, merged[used] - first, self.histogram[used])
            self.histogram = counts
        self.exponent, self.first, self.low, self.high = exponent, first, low, high
        self.filled = True

    def centres(self) -> Array:
        """float64 [BINS]: the middle of each bin, clipped into what was seen."""
        middle = (self.first + np.arange(BINS) + 0.5) * self.width
        value: Array = np.clip(middle, self.low, self.high)
        return value


def _ceil_log2(value: float) -> int:
    return math.frexp(value)[1] if value > 0 else _WIDTH_MIN


def _subsample(rows: Array, n: int) -> Array:
    """At most about `n` values, evenly spaced with a step that shares no factor with a row."""
    flat = rows.reshape(-1)
    step = -(-flat.size // n)
    if step <= 1:
        return flat
    while math.gcd(step, rows.shape[-1]) != 1:
        step += 1
    return flat[::step]


@dataclass
class Statistics:
    """The statistics of a graph's tensors over `n` samples; `key` is `fingerprint(...)`."""

    tensors: dict[str, TensorStats] = field(default_factory=dict)
    n: int = 0
    key: str = ""

    def save(self, path: Path) -> None:
        """Writes one .npz without pickle; the same statistics give the same bytes."""
        arrays: dict[str, Array] = {}
        table = []
        for index, (name, stats) in enumerate(sorted(self.tensors.items())):
            table.append({"name": name, **{key: getattr(stats, key) for key in _SCALARS}})
            for key in _ARRAYS:
                arrays[f"{index}.{key}"] = getattr(stats, key)
        head = json.dumps({"version": VERSION, "n": self.n, "key": self.key, "tensors": table})
        arrays["head"] = np.frombuffer(head.encode(), np.uint8)
        with replacing(path) as temporary, temporary.open("wb") as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]

    @classmethod
    def load(cls, path: Path) -> Statistics:
        """Reads what `save` wrote; raises `BadInput` for anything else."""
        try:
            with path.open("rb") as file, np.load(file, allow_pickle=False) as data:
                head = json.loads(data["head"].tobytes())
                if head["version"] != VERSION:
                    raise ValueError(f"version {head['version']}")
                tensors = {}
                for index, row in enumerate(head["tensors"]):
                    stats = TensorStats()
                    for key in _SCALARS:
                        setattr(stats, key, row[key])
                    for key in _ARRAYS:
                        setattr(stats, key, data[f"{index}.{key}"])
                    tensors[row["name"]] = stats
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise errors.BadInput(
                f"{str(path)!r} does not hold calibration statistics: {error}.",
                next="Remove it and calibrate again.",
            ) from None
        return cls(tensors, head["n"], head["key"])


_SCALARS = (
    "axis", "count", "nonfinite", "zeros", "min", "max", "exponent", "first", "low", "high",
    "filled", "channel_n",
)  # fmt: skip
_ARRAYS = ("histogram", "channel_min", "channel_max", "channel_sum", "channel_square")


def fingerprint(graph: bytes, samples: str, preprocess: str, tensors: Iterable[str] = ()) -> str:
    """sha256 over all that statistics depend on; equal keys mean that they can be reused."""
    digest = hashlib.sha256(f"{VERSION}\0{samples}\0{preprocess}\0".encode())
    digest.update(hashlib.sha256(graph).digest())
    digest.update("\0".join(sorted(tensors)).encode())
    return digest.hexdigest()


def keep_newest(cache: Path) -> None:
    """Removes the oldest of the statistics in a folder, so that CACHED are left."""
    files = sorted(cache.glob("*.npz"), key=lambda path: path.stat().st_mtime)
    for path in files[:-CACHED]:
        path.unlink(missing_ok=True)
