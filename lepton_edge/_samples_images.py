"""Encoded images to arrays, with Pillow."""

from __future__ import annotations

import io
import warnings
from types import ModuleType

import numpy as np

from lepton_edge import errors
from lepton_edge.model import Array


def pillow() -> ModuleType:
    """`PIL.Image`; raises `BackendMissing` where Pillow is not installed."""
    try:
        from PIL import Image
    except ImportError:
        raise errors.BackendMissing(
            "Reading images needs Pillow, which is not installed.",
            next="pip install 'lepton-edge[data]'.",
        ) from None
    return Image


def decode(data: bytes, name: str) -> Array:
    """uint8 H x W for grey, else H x W x 3 (RGB); raises `BadInput` naming the image.

    Nothing is rotated by EXIF; transparency is dropped. More than 89 million pixels are refused,
    as Pillow's guard against decompression bombs.
    """
    image_module = pillow()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            with image_module.open(io.BytesIO(data)) as image:
                grey = image.mode in ("1", "L", "LA")
                value: Array = np.asarray(image.convert("L" if grey else "RGB"))
    except (OSError, ValueError, SyntaxError, EOFError, Warning) as error:
        raise errors.BadInput(f"{name} is not a readable image: {error}.") from None
    except image_module.DecompressionBombError as error:
        raise errors.BadInput(f"{name} is too large: {error}.") from None
    return value
