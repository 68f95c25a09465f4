"""Preprocessing against Pillow and by hand."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lepton_edge import errors
from lepton_edge.preprocess import Preprocess, resize

IMAGE = np.random.default_rng(0).integers(0, 256, (37, 53, 3), dtype=np.uint8)


@pytest.mark.parametrize("size", [(224, 224), (74, 106), (20, 20), (7, 90), (37, 53), (1, 1)])
def test_resize_is_pillows_bilinear(size):
    image_module = pytest.importorskip("PIL.Image", reason="needs lepton-edge[data]")
    picture = image_module.fromarray(IMAGE)
    bilinear = image_module.Resampling.BILINEAR
    want = np.asarray(picture.resize((size[1], size[0]), bilinear)).astype(int)
    got = resize(IMAGE, size).astype(int)
    # Pillow rounds to 8 bits between its two passes, we do not: one level apart at most.
    assert np.abs(got - want).max() <= 1


def test_imagenet_style():
    spec = Preprocess.parse("resize=32 crop=28 scale=1/255 mean=.5,.4,.3 std=.2,.25,.5 layout=NCHW")
    got = spec(IMAGE)
    assert (got.shape, got.dtype) == ((3, 28, 28), np.float32)
    small = resize(IMAGE, (32, round(53 * 32 / 37)))
    top, left = (32 - 28) // 2, (small.shape[1] - 28) // 2
    part = small[top : top + 28, left : left + 28].astype(np.float64) / 255
    want = (part - [0.5, 0.4, 0.3]) / [0.2, 0.25, 0.5]
    np.testing.assert_allclose(got, want.transpose(2, 0, 1), atol=1e-5)
    assert got.flags.c_contiguous


def test_grey_images_get_a_channel():
    grey = IMAGE[:28, :28, 0]
    assert Preprocess(layout="NCHW")(grey).shape == (1, 28, 28)
    assert Preprocess(layout="NHWC")(grey).shape == (28, 28, 1)
    assert Preprocess(scale=2.0)(grey).shape == (28, 28)


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 255))
def test_resize_keeps_a_flat_image_flat(height, width, level):
    flat = np.full((11, 9, 2), level, np.uint8)
    assert (resize(flat, (height, width)) == level).all()


def test_round_trip_through_json():
    spec = Preprocess.parse("resize=256 crop=224,224 mean=1,2,3 std=1,1,2 dtype=float16")
    assert Preprocess.from_dict(json.loads(json.dumps(spec.as_dict()))) == spec


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("resise=3", "Did you mean 'resize'"),
        ("layout=NCWH", "Did you mean 'NCHW'"),
        ("std=0,1", "zero"),
        ("resize=0", "positive"),
        ("dtype=float33", "float33"),
        ("scale=big", "big"),
    ],
)
def test_wrong_keys_and_values(text, words):
    with pytest.raises(errors.UsageError, match=words) as caught:
        Preprocess.parse(text)
    assert caught.value.exit_code == 2


def test_images_that_do_not_fit():
    with pytest.raises(errors.BadInput, match="Cannot crop 64x64"):
        Preprocess(crop=(64, 64))(IMAGE)
    with pytest.raises(errors.BadInput, match="height x width x channels"):
        Preprocess(resize=(4,))(np.zeros(5, np.uint8))
