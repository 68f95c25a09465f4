"""What is suspicious in calibration data: each finding is one sentence that names a sample.

One pass over at most 256 calibration and 128 evaluation samples. Only what can be seen is said:
nobody can tell the order of colour channels, so it is not guessed. Integer inputs (token ids,
embedding indices, masks) have no ranges, so that only copies and their number are looked at.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from lepton_edge.calibration import _image_checks as images
from lepton_edge.model import Array
from lepton_edge.preprocess import Preprocess
from lepton_edge.samples import Samples, limit, open_samples

MOST, MOST_DATA = 256, 128
FEW = 64  # below, a new sample is outside of what these reach with a chance of over 3 %
ENOUGH = 199  # from here on that chance is 1 % or less
FEW_RAW = 16  # samples that are looked at before preprocessing
KEPT = 512  # values kept of each sample, for quantiles
WIDER = 1.25  # evaluation data this much wider than calibration data are clipped
NARROWER = 2.0  # and this much narrower waste half of int8's steps
SPREAD = 3.0  # of the first normalisation; data like the training's stay within a factor of two
SMALL = 16  # elements; what is smaller may well be constant


@dataclass
class _Input:
    """What one pass keeps of an input: a few numbers a sample."""

    low: list[float] = field(default_factory=list)
    high: list[float] = field(default_factory=list)
    kept: list[Array] = field(default_factory=list)
    elements: int = 0
    likely_noise: list[bool] = field(default_factory=list)
    likely_reshaped: list[bool] = field(default_factory=list)

    def add(self, value: Array, rng: np.random.Generator) -> None:
        flat = value.reshape(-1).astype(np.float32)
        self.low.append(float(flat.min()))
        self.high.append(float(flat.max()))
        self.elements = max(self.elements, flat.size)
        self.kept.append(flat if flat.size <= KEPT else rng.choice(flat, KEPT, replace=False))
        self.likely_noise.append(images.is_noise(value))
        self.likely_reshaped.append(images.is_reshaped(value))

    def bulk(self) -> tuple[float, float] | None:
        """Where all but the outermost values lie; None where there are too few to say."""
        values = np.concatenate(self.kept)
        if values.size < 200:
            return None
        tail = 0.001 if values.size >= 2000 else 0.01
        low, high = np.quantile(values, (tail, 1 - tail))
        return float(low), float(high)


@dataclass
class _Seen:
    names: list[str] = field(default_factory=list)
    digests: list[bytes] = field(default_factory=list)
    inputs: dict[str, _Input] = field(default_factory=dict)
    integers: bool = True  # only integer inputs were seen
    several: bool = False  # more inputs than one


def check(
    calib: Samples,
    *,
    data: Samples | None = None,
    preprocess: Preprocess | None = None,
    spread: float | None = None,
) -> tuple[str, ...]:
    """Findings on `calib` (prepared samples), none where nothing is suspicious.

    `data` are evaluation samples, to compare ranges with; `preprocess` is what prepared both.
    `spread` is how far what the model's first batch normalisation gets is spread, in units of its
    training (`sources.input_spread`): a wrong scale of the inputs shows there.
    """
    seen = _look(limit(calib, MOST))
    found = [*_number(len(calib)), *_copies(seen)]
    for name, values in seen.inputs.items():
        found += _constant(name, values, seen)
        found += _noise(name, values, seen)
        found += _outlier(name, values, seen)
    found += _scale(calib, preprocess, spread)
    if data is not None:
        found += _ranges(seen, _look(limit(data, MOST_DATA)))
    return tuple(found)


def _look(samples: Samples) -> _Seen:
    seen, rng = _Seen(), np.random.default_rng(0)
    for sample in samples:
        seen.names.append(sample.name)
        seen.digests.append(sample.digest)
        seen.several = len(sample.inputs) > 1
        for name, value in sample.inputs.items():
            picture = value.dtype.kind == "u" and images.channel_axis(value.shape) is not None
            if value.size and (value.dtype.kind == "f" or picture):
                seen.integers = False
                seen.inputs.setdefault(name, _Input()).add(value, rng)
    return seen


def _number(n: int) -> Iterable[str]:
    """Of exchangeable samples the next is the largest or smallest with a chance of 2 / (n + 1)."""
    if n < FEW:
        yield (
            f"There are only {n} calibration samples: a new one lies outside of a range that they"
            f" set with a chance of up to {100 * min(1, 2 / (n + 1)):.0f} %; {ENOUGH - n} more"
            " would bring that to 1 %."
        )


def _copies(seen: _Seen) -> Iterable[str]:
    first: dict[bytes, str] = {}
    copies = []
    for digest, name in zip(seen.digests, seen.names, strict=True):
        if digest in first:
            copies.append((name, first[digest]))
        first.setdefault(digest, name)
    allowed = 0.5 if seen.integers else 0.05  # few indices repeat by themselves
    if len(copies) > allowed * len(seen.names):
        copy, original = copies[0]
        yield (
            f"{len(copies)} of {len(seen.names)} calibration samples are copies of others, such as"
            f" {copy} of {original}: they add nothing to the ranges."
        )


def _constant(name: str, values: _Input, seen: _Seen) -> Iterable[str]:
    low, high = np.array(values.low), np.array(values.high)
    flat = low == high
    if not flat.any() or values.elements < SMALL:
        return
    if seen.several and flat.all() and np.unique(low).size == 1:
        return  # a mask of ones beside the real input
    first = int(flat.argmax())
    yield (
        f"{int(flat.sum())} of {flat.size} calibration samples hold one constant in {name!r}, such"
        f" as {seen.names[first]} ({low[first]:g} everywhere)."
    )


def _noise(name: str, values: _Input, seen: _Seen) -> Iterable[str]:
    n = len(values.low)
    if sum(values.likely_reshaped) > n / 2:
        first = values.likely_reshaped.index(True)
        yield (
            f"The calibration images in {name!r} look reshaped rather than transposed, such as"
            f" {seen.names[first]}: channels and pixels are mixed up. Give H x W x C and"
            " layout=NCHW in --preprocess."
        )
    elif any(values.likely_noise):
        k, first = sum(values.likely_noise), values.likely_noise.index(True)
        yield (
            f"{k} of {n} calibration samples look like noise in {name!r}: neighbouring pixels are"
            f" unrelated, such as in {seen.names[first]}. Calibrate on real data."
        )


def _outlier(name: str, values: _Input, seen: _Seen) -> Iterable[str]:
    """One sample that alone makes the range twice as wide."""
    if len(values.low) < FEW:
        return
    low, high = np.array(values.low), np.array(values.high)
    width = high.max() - low.min()
    for ends, index in ((high, int(high.argmax())), (-low, int(low.argmin()))):
        others = np.delete(ends, index).max()
        if ends[index] - others > width / 2:
            yield (
                f"{seen.names[index]} alone sets the range of {name!r}: it reaches"
                f" {(high if ends is high else low)[index]:g}, the others"
                f" {others if ends is high else -others:g}."
            )


def _scale(calib: Samples, preprocess: Preprocess | None, spread: float | None) -> Iterable[str]:
    """What the raw values tell of the preprocessing, else what the model's own statistics tell."""
    example, top = "", 0.0
    raw = open_samples({**calib.as_dict(), "preprocess": None})
    for sample in limit(raw, FEW_RAW):
        (value, *_) = sample.inputs.values()
        if value.size and (float(value.max()) > top or not example):
            example, top = sample.name, float(value.max())
    unit = preprocess is not None and max(preprocess.std, default=2) <= 1  # mean, std of 0 to 1
    if preprocess is not None and 0 < top <= 1.5 and preprocess.scale <= 0.1:
        yield (
            f"The calibration data seem to be 0 to 1 already (such as {example}, at most"
            f" {top:.3g}), and scale={preprocess.scale:.3g} makes them smaller again."
        )
    elif unit and preprocess is not None and top * preprocess.scale > 8:
        yield (
            f"The calibration data reach {top:.3g} (in {example}) where mean and std are those of"
            " data from 0 to 1: scale=1/255 seems to be missing."
        )
    elif spread is not None and not 1 / SPREAD < spread < SPREAD:
        yield (
            f"The model's first normalisation gets values {spread:.2g} times as spread as in its"
            f" training (such as from {example}): the preprocessing seems not to be that of the"
            f" training{_as_if(spread)}."
        )


def _as_if(ratio: float) -> str:
    if 128 < ratio < 512:
        return ", as if scale=1/255 were missing"
    if 128 < 1 / max(ratio, 1e-9) < 512:
        return ", as if scale=1/255 were applied twice"
    return ""


def _ranges(calib: _Seen, data: _Seen) -> Iterable[str]:
    for name, theirs in _paired(calib.inputs, data.inputs):
        ours = calib.inputs[name]
        mine, other = ours.bulk(), theirs.bulk()
        if mine is None or other is None:
            continue
        width, wanted = mine[1] - mine[0], other[1] - other[0]
        beyond = max(other[1] - mine[1], mine[0] - other[0])
        spans = f"calibration data span [{mine[0]:.3g}, {mine[1]:.3g}] in {name!r}, evaluation data"
        spans += f" [{other[0]:.3g}, {other[1]:.3g}]"
        ratio = wanted / width if width else np.inf
        if beyond > (WIDER - 1) * width:
            high = other[1] - mine[1] >= mine[0] - other[0]
            index = int(np.argmax(theirs.high) if high else np.argmin(theirs.low))
            yield (
                f"The {spans}{_as_if(ratio)}: values as in {data.names[index]} would be clipped."
            )
        elif width > NARROWER * wanted:
            high = mine[1] - other[1] >= other[0] - mine[0]
            index = int(np.argmax(ours.high) if high else np.argmin(ours.low))
            yield (
                f"The {spans}{_as_if(ratio)}: values as in {calib.names[index]} leave int8 fewer"
                " steps for the evaluation data."
            )


def _paired(ours: Mapping[str, Any], theirs: Mapping[str, _Input]) -> Sequence[tuple[str, _Input]]:
    """Inputs of both, by name; where each has one, whatever it is called."""
    if len(ours) == len(theirs) == 1:
        return list(zip(ours, theirs.values(), strict=True))
    return [(name, theirs[name]) for name in ours if name in theirs]
