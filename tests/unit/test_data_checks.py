"""Calibration data: what is suspicious is said and named, what is fine raises no alarm."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from lepton_edge.calibration.data_checks import check
from lepton_edge.model import Array
from lepton_edge.preprocess import Preprocess
from lepton_edge.samples import Samples, limit, open_samples
from tests.conftest import PREPROCESS

FASHION = Preprocess.parse(PREPROCESS)
RGB = Preprocess.parse("scale=1/255 mean=.491,.482,.447 std=.247,.243,.262 layout=NCHW")


def stored(
    path: Path, arrays: Mapping[str, Array], preprocess: Preprocess | None = None
) -> Samples:
    np.savez(path, **dict(arrays))
    return open_samples(path, preprocess=preprocess)


def scenes(n: int, size: int = 32, seed: int = 0, channels: int = 3) -> Array:
    """Smooth pictures in colour: sums of a few waves, uint8, [n, size, size, channels]."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:size, 0:size] / size
    pictures = np.zeros((n, size, size, channels))
    for _ in range(6):
        a, b, phase = rng.normal(0, 2, (3, n, 1, 1, 1))
        colour = rng.normal(0, 1, (n, 1, 1, channels))
        pictures += colour * np.sin(6 * (a * x[..., None] + b * y[..., None]) + phase)
    low, high = pictures.min(axis=(1, 2, 3)), pictures.max(axis=(1, 2, 3))
    scaled = (pictures - low[:, None, None, None]) / (high - low)[:, None, None, None]
    return np.rint(255 * scaled).astype(np.uint8)


# ---- no alarm where nothing is wrong ---------------------------------------------------------


def test_fashion_mnist_raises_no_alarm(images: tuple[Path, Path]) -> None:
    calib = open_samples(images[0], preprocess=FASHION)
    data = open_samples(images[1], preprocess=FASHION)
    assert check(calib, data=data, preprocess=FASHION, spread=1.02) == ()
    assert check(open_samples(images[0]), data=open_samples(images[1])) == ()


def test_cifar10_raises_no_alarm() -> None:
    given = os.environ.get("LEPTON_EDGE_SHARED")
    if not given:
        pytest.skip("set LEPTON_EDGE_SHARED to the folder with data/cifar10-train.parquet")
    pytest.importorskip("pyarrow", reason="pip install 'lepton-edge[data]'")
    train = open_samples(Path(given, "data", "cifar10-train.parquet"), preprocess=RGB)
    test = open_samples(Path(given, "data", "cifar10-test.parquet"), preprocess=RGB)
    for seed in range(4):  # four draws of 256 images
        assert check(limit(train, 256, seed=seed), data=test, preprocess=RGB) == ()


@pytest.mark.parametrize("name", ["load_digits", "load_wine", "load_breast_cancer", "load_iris"])
def test_data_sets_of_scikit_learn_raise_no_alarm(tmp_path: Path, name: str) -> None:
    datasets = pytest.importorskip("sklearn.datasets", reason="pip install scikit-learn")
    given = getattr(datasets, name)()
    x = given.images[..., None] if name == "load_digits" else given.data
    mixed = np.random.default_rng(0).permutation(x).astype(np.float32)
    calib = stored(tmp_path / "calib.npz", {"x": mixed[: len(x) // 2]})
    assert check(calib, data=stored(tmp_path / "data.npz", {"x": mixed[len(x) // 2 :]})) == ()


def test_crops_of_photographs_raise_no_alarm_unless_reshaped(tmp_path: Path) -> None:
    datasets = pytest.importorskip("sklearn.datasets", reason="pip install scikit-learn")
    rng = np.random.default_rng(0)
    crops = []
    for photo in 50 * datasets.load_sample_images().images:
        y, x = rng.integers(0, photo.shape[0] - 64), rng.integers(0, photo.shape[1] - 64)
        crops.append(photo[y : y + 64, x : x + 64])
    image = np.stack(crops)
    assert check(stored(tmp_path / "nhwc.npz", {"x": image})) == ()
    nchw = np.ascontiguousarray(image.transpose(0, 3, 1, 2))
    assert check(stored(tmp_path / "nchw.npz", {"x": nchw})) == ()
    wrong = stored(tmp_path / "wrong.npz", {"x": image.reshape(100, 3, 64, 64)})
    only(check(wrong), "reshaped rather than transposed")


def test_token_ids_with_a_mask_raise_no_alarm(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    ids = (1000 * rng.beta(0.5, 3, (128, 32))).astype(np.int64)
    parts = {"ids": ids, "mask": np.ones((128, 32), np.float32)}
    calib = stored(tmp_path / "calib.npz", parts)
    assert check(calib, data=stored(tmp_path / "data.npz", parts)) == ()


def test_time_series_raise_no_alarm(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)

    def series(n: int) -> Array:
        walks = rng.normal(0, 1, (n, 64, 6)).cumsum(axis=1)
        return (0.1 * walks + rng.normal(0, 0.3, (n, 64, 6))).astype(np.float32)

    calib = stored(tmp_path / "calib.npz", {"x": series(100)})
    assert check(calib, data=stored(tmp_path / "data.npz", {"x": series(100)})) == ()


def test_few_embedding_indices_repeat_without_alarm(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    parts = {"user": rng.integers(0, 40, (100, 1)), "items": rng.integers(0, 20, (100, 2))}
    assert check(stored(tmp_path / "calib.npz", parts)) == ()


def test_features_of_a_table_raise_no_alarm(tmp_path: Path) -> None:
    """Columns of different scales, few elements, the next column unrelated."""
    rng = np.random.default_rng(0)
    scale = np.array([1, 100, 0.01, 5, 40, 7, 1, 1, 3])
    rows = [(scale * rng.normal(1, 1, (150, 9))).astype(np.float32) for _ in range(2)]
    calib = stored(tmp_path / "calib.npz", {"x": rows[0]})
    assert check(calib, data=stored(tmp_path / "data.npz", {"x": rows[1]})) == ()


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_pictures_in_either_layout_raise_no_alarm(tmp_path: Path, layout: str) -> None:
    spec = Preprocess.parse(f"scale=1/255 layout={layout}")
    calib = stored(tmp_path / "calib.npz", {"image": scenes(80)}, spec)
    data = stored(tmp_path / "data.npz", {"image": scenes(80, seed=1)}, spec)
    assert check(calib, data=data, preprocess=spec, spread=0.9) == ()


# ---- each finding ----------------------------------------------------------------------------


def only(found: tuple[str, ...], *words: str) -> None:
    assert len(found) == 1, found
    for word in words:
        assert word in found[0], found[0]


@pytest.mark.parametrize("n", [1, 8, 63])
def test_too_few_samples_say_how_many_more(tmp_path: Path, n: int) -> None:
    found = check(stored(tmp_path / "calib.npz", {"image": scenes(n)}))
    chance = {1: "100 %", 8: "22 %", 63: "3 %"}[n]
    only(found, f"only {n} calibration samples", chance, f"{199 - n} more")


def test_the_stated_chance_is_that_of_a_new_extreme() -> None:
    """2 / (n + 1), whatever the distribution: the next of n + 1 is the first or last of them."""
    draws = np.random.default_rng(0).standard_cauchy((20_000, 9))
    outside = (draws[:, -1] > draws[:, :-1].max(1)) | (draws[:, -1] < draws[:, :-1].min(1))
    assert outside.mean() == pytest.approx(2 / 9, abs=0.01)


def test_noise_is_named(tmp_path: Path) -> None:
    pictures = scenes(80).astype(np.float32) / 255
    pictures[[7, 30]] = np.random.default_rng(0).random((2, 32, 32, 3))
    calib = stored(tmp_path / "calib.npz", {"image": pictures})
    only(check(calib), "2 of 80", "noise in 'image'", next(iter(limit(calib, 8))).name[:-1])
    whole = np.random.default_rng(1).standard_normal((80, 3, 32, 32)).astype(np.float32)
    only(check(stored(tmp_path / "noise.npz", {"image": whole})), "80 of 80", "noise")


def test_constants_are_named(tmp_path: Path) -> None:
    pictures = scenes(80).astype(np.float32)
    pictures[3] = 17
    only(check(stored(tmp_path / "calib.npz", {"x": pictures})), "1 of 80", "3", "17 everywhere")


def test_copies_are_named(tmp_path: Path) -> None:
    pictures = scenes(80)
    pictures[40:50] = pictures[5]
    only(check(stored(tmp_path / "calib.npz", {"x": pictures})), "10 of 80", "copies", "40", "5")


def test_an_outlier_is_named(tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(0, 1, (80, 64)).cumsum(axis=1).astype(np.float32)
    x[11, 5] = -900
    only(check(stored(tmp_path / "calib.npz", {"x": x})), "11", "alone sets the range", "-900")


@pytest.mark.parametrize(("ours", "theirs", "words"), [
    (1.0, 255.0, ("clipped", "as if scale=1/255 were missing")),
    (255.0, 1.0, ("fewer steps", "as if scale=1/255 were applied twice")),
    (1.0, 1.6, ("clipped",)),
])  # fmt: skip
def test_another_range_than_the_evaluation_datas(
    tmp_path: Path, ours: float, theirs: float, words: tuple[str, ...]
) -> None:
    calib = stored(tmp_path / "calib.npz", {"x": scenes(80) / np.float32(255 / ours)})
    data = stored(tmp_path / "data.npz", {"x": scenes(80, seed=1) / np.float32(255 / theirs)})
    only(check(calib, data=data), "'x'", *words)


def test_a_scale_applied_twice_or_missing(tmp_path: Path) -> None:
    floats = stored(tmp_path / "floats.npz", {"x": scenes(80) / np.float32(255)}, RGB)
    only(check(floats, preprocess=RGB), "0 to 1 already", "floats.npz")
    missing = Preprocess.parse("mean=.491,.482,.447 std=.247,.243,.262 layout=NCHW")
    raw = stored(tmp_path / "raw.npz", {"x": scenes(80)}, missing)
    only(check(raw, preprocess=missing), "scale=1/255 seems to be missing", "raw.npz")


@pytest.mark.parametrize(("spread", "words"), [
    (250.0, "as if scale=1/255 were missing"),
    (0.004, "as if scale=1/255 were applied twice"),
    (0.22, "0.22 times as spread"),
])  # fmt: skip
def test_a_spread_unlike_the_trainings(tmp_path: Path, spread: float, words: str) -> None:
    calib = stored(tmp_path / "calib.npz", {"x": scenes(80) / np.float32(255)})
    only(check(calib, spread=spread), "first normalisation", words)


def test_images_that_were_reshaped_for_another_layout(tmp_path: Path) -> None:
    pictures = scenes(80)
    wrong = stored(tmp_path / "wrong.npz", {"x": pictures.reshape(80, 3, 32, 32)})
    only(check(wrong), "reshaped rather than transposed", "wrong.npz")
    back = np.ascontiguousarray(pictures.transpose(0, 3, 1, 2)).reshape(80, 32, 32, 3)
    only(check(stored(tmp_path / "back.npz", {"x": back})), "reshaped", "back.npz")
