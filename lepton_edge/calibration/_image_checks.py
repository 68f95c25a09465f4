"""What the statistics of one image tell: whether it is noise, whether its layout was mistaken."""

from __future__ import annotations

import numpy as np

from lepton_edge.model import Array

CHANNELS = (1, 3, 4)
LEAST_SIDE = 8
UNRELATED = 0.1  # correlation of neighbouring pixels; photographs and drawings have 0.5 and more
SMOOTHER = 0.7


def channel_axis(shape: tuple[int, ...]) -> int | None:
    """0 or 2 where the shape is surely that of an image, else None."""
    if len(shape) != 3:
        return None
    first = shape[0] in CHANNELS and min(shape[1:]) >= LEAST_SIDE
    last = shape[2] in CHANNELS and min(shape[:2]) >= LEAST_SIDE
    return None if first == last else 0 if first else 2


def is_noise(value: Array) -> bool:
    """Whether no pixel says anything of its neighbour, in either direction."""
    axis = channel_axis(value.shape)
    if axis is None:
        return False
    image = np.moveaxis(value, axis, 0).astype(np.float64)
    image = image - image.mean(axis=(1, 2), keepdims=True)
    power = float((image * image).sum())
    if not power:
        return False
    # For noise, the correlation of n pairs has a standard deviation of 1 / sqrt(n).
    limit = max(UNRELATED, 2 / np.sqrt(image[0].size))
    down = float((image[:, 1:] * image[:, :-1]).sum()) / power
    across = float((image[:, :, 1:] * image[:, :, :-1]).sum()) / power
    return bool(max(abs(down), abs(across)) < limit)


def is_reshaped(value: Array) -> bool:
    """Whether the memory read in the other layout is much smoother than as it is given.

    So it is where H x W x C was reshaped to C x H x W (or the other way round), not transposed.
    """
    axis = channel_axis(value.shape)
    if axis is None or value.shape[axis] == 1:
        return False
    image = value.astype(np.float64)
    if axis == 0:
        c, h, w = image.shape
        other, given = image.reshape(h, w, c), image.transpose(1, 2, 0)
    else:
        h, w, c = image.shape
        other, given = image.reshape(c, h, w).transpose(1, 2, 0), image
    return _roughness(other) < SMOOTHER * _roughness(given)


def _roughness(image: Array) -> float:
    """Mean absolute difference of neighbours in H x W x C."""
    return float(np.abs(np.diff(image, axis=0)).mean() + np.abs(np.diff(image, axis=1)).mean())
