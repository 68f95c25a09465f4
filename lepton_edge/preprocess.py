"""Preprocessing as data, in numpy alone, so that the device does what the host did.

An image (uint8, height x width x channels) becomes one model input without its batch dimension:
resize the shorter side, crop the centre, scale, subtract the mean, divide by std, lay out.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from lepton_edge import errors
from lepton_edge.model import Array


@dataclass(frozen=True)
class Preprocess:
    """The spec stored in artifact.json. `mean` and `std` are in units after `scale`.

    `resize` is the new length of the shorter side, or (height, width); `crop` is (height, width)
    around the centre. Resizing is bilinear with half-pixel centres, and averages when it shrinks
    (triangle filter over the source pixels, as Pillow's BILINEAR).
    """

    resize: tuple[int, ...] = ()
    crop: tuple[int, ...] = ()
    scale: float = 1.0
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    layout: Literal["NCHW", "NHWC", "as-is"] = "as-is"
    dtype: str = "float32"

    def __post_init__(self) -> None:
        for name in ("resize", "crop"):
            if len(getattr(self, name)) > 2 or any(size < 1 for size in getattr(self, name)):
                raise errors.UsageError(f"preprocess {name!r} takes one or two positive sizes.")
        if any(value == 0 for value in self.std):
            raise errors.UsageError("preprocess 'std' has a zero.")
        try:
            np.dtype(self.dtype)
        except TypeError:
            raise errors.UsageError(f"preprocess 'dtype' is unknown: {self.dtype!r}.") from None

    def as_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, given: Mapping[str, Any]) -> Preprocess:
        from lepton_edge import options

        return options.build(cls, given, what="preprocess key")

    @classmethod
    def parse(cls, text: str) -> Preprocess:
        """`scale=1/255 mean=.485,.456,.406 layout=NCHW`: keys of this class, space-separated."""
        pairs = dict(item.partition("=")[::2] for item in text.split())
        return cls.from_dict(pairs)

    def __call__(self, image: Array) -> Array:
        """One image (H x W x C, or H x W) to one input, without a batch dimension."""
        if self.resize or self.crop or self.layout != "as-is":
            if image.ndim == 2:
                image = image[:, :, None]
            if image.ndim != 3:
                raise errors.BadInput(
                    f"Preprocessing takes an image of height x width x channels, got {image.shape}."
                )
        if self.resize:
            image = resize(image, _new_size(image.shape[:2], self.resize))
        if self.crop:
            image = _centre_crop(image, self.crop)
        value = image
        if self.scale != 1.0 or self.mean or self.std:
            value = image.astype(np.float32)
            if self.scale != 1.0:
                value = value * np.float32(self.scale)
            if self.mean:
                value = value - np.asarray(self.mean, np.float32)
            if self.std:
                value = value / np.asarray(self.std, np.float32)
        if self.layout == "NCHW":
            value = value.transpose(2, 0, 1)
        return np.ascontiguousarray(value, np.dtype(self.dtype))


def _new_size(size: tuple[int, ...], wanted: tuple[int, ...]) -> tuple[int, int]:
    if len(wanted) == 2:
        return wanted[0], wanted[1]
    height, width = size
    ratio = wanted[0] / min(height, width)
    return max(1, round(height * ratio)), max(1, round(width * ratio))


def _centre_crop(image: Array, crop: tuple[int, ...]) -> Array:
    height, width = (crop[0], crop[-1])
    if image.shape[0] < height or image.shape[1] < width:
        raise errors.BadInput(
            f"Cannot crop {height}x{width} from an image of {image.shape[0]}x{image.shape[1]}.",
            next="Add a resize before the crop.",
        )
    top, left = (image.shape[0] - height) // 2, (image.shape[1] - width) // 2
    return image[top : top + height, left : left + width]


def resize(image: Array, size: tuple[int, int]) -> Array:
    """Bilinear resize of H x W x C; uint8 in gives uint8 out, rounded."""
    rows, columns = _weights(image.shape[0], size[0]), _weights(image.shape[1], size[1])
    value = np.einsum("ih,hwc->iwc", rows, image.astype(np.float32), optimize=True)
    value = np.einsum("jw,iwc->ijc", columns, value, optimize=True)
    if image.dtype == np.uint8:
        value = np.clip(np.rint(value), 0, 255)
    result: Array = value.astype(image.dtype)
    return result


def _weights(old: int, new: int) -> Array:
    """Row-stochastic (new x old) matrix of the triangle filter, widened when shrinking."""
    ratio = old / new
    support = max(ratio, 1.0)
    centres = (np.arange(new, dtype=np.float64) + 0.5) * ratio
    distance = np.abs(np.arange(old)[None, :] + 0.5 - centres[:, None]) / support
    weights = np.maximum(0.0, 1.0 - distance)
    result: Array = (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)
    return result
