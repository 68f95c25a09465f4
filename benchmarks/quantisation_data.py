"""The data sets of benchmarks/quantisation.py, as .npz files with one array an input and `label`.

`rows`: Fashion-MNIST images as sequences of 28 rows. `words`: the same images cut into 4 x 4
patches, each named by the nearest of 256 patches (k-means on training images); blank patches are
masked, so that sentences differ in length. `fashion`: the images of the demo's CNN. `cifar10`:
CIFAR-10 from the parquet files of a folder that the user names.
"""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np

from lepton_edge import errors
from lepton_edge.artifact import replacing
from lepton_edge.demo import data as fashion
from lepton_edge.model import Array

FASHION = (0.2860, 0.3530)  # mean and standard deviation of the training images
CIFAR = ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616))
WORDS = 256
Split = dict[str, Array]


def load(name: str, split: str, n: int, cifar10: Path | None) -> Split:
    """Arrays of the first `n` samples of `train` or `test`, inputs ready for the network.

    Raises `UsageError` where CIFAR-10 is asked for and no folder was named.
    """
    if name == "cifar10":
        return _cifar(split, n, cifar10)
    folder = fashion.fetch()
    images, label = fashion.read(folder, "train" if split == "train" else "t10k")
    images, label = images[:n], label[:n]
    if name == "words":
        ids, mask = _words(images, _centres(fashion.read(folder, "train")[0][:2000]))
        return {"ids": ids, "mask": mask, "label": label}
    value = (images.astype(np.float32) / 255 - FASHION[0]) / FASHION[1]
    return {"series": value, "label": label} if name == "rows" else {
        "image": value[:, None], "label": label
    }  # fmt: skip


def save(arrays: Split, path: Path, first: int = 0, n: int | None = None) -> Path:
    """Writes `n` samples from `first` on as .npz."""
    with replacing(path) as temporary, temporary.open("wb") as file:
        stop = None if n is None else first + n
        np.savez(file, allow_pickle=False, **{k: v[first:stop] for k, v in arrays.items()})
    return path


def decode(path: Path, n: int) -> tuple[Array, Array]:
    """uint8 images [n, 32, 32, 3] and labels of a CIFAR-10 parquet file."""
    import pyarrow.parquet as parquet
    from PIL import Image

    images, labels = [], []
    for batch in parquet.ParquetFile(path).iter_batches(1000):
        for row in batch.to_pylist()[: n - len(images)]:
            with Image.open(io.BytesIO(row["image"]["bytes"])) as image:
                images.append(np.asarray(image.convert("RGB")))
            labels.append(row["label"])
        if len(images) >= n:
            break
    return np.stack(images), np.array(labels, np.int64)


def _cifar(split: str, n: int, folder: Path | None) -> Split:
    path = folder / f"cifar10-{split}.parquet" if folder else None
    if path is None or not path.exists():
        raise errors.UsageError(
            "CIFAR-10 is not there.",
            next="Name a folder with cifar10-train.parquet and cifar10-test.parquet: --cifar10.",
        )
    images, label = decode(path, n)
    mean, std = (np.array(each, np.float32) for each in CIFAR)
    value = (images.astype(np.float32) / 255 - mean) / std
    return {"image": np.ascontiguousarray(value.transpose(0, 3, 1, 2)), "label": label}


def _patches(images: Array) -> Array:
    """[n, 49, 16] from [n, 28, 28]."""
    parts = images.reshape(-1, 7, 4, 7, 4).transpose(0, 1, 3, 2, 4)
    value: Array = parts.reshape(-1, 49, 16).astype(np.float32)
    return value


def _centres(images: Array) -> Array:
    """k-means of the patches that are not blank: ten rounds from seeded patches."""
    rng = np.random.default_rng(0)
    flat = _patches(images).reshape(-1, 16)
    flat = flat[flat.max(axis=1) > 0]
    flat = flat[rng.permutation(len(flat))[:20_000]]
    centres = flat[:WORDS].copy()
    for _ in range(10):
        owner = _nearest(flat, centres)
        for index in range(WORDS):
            if (owner == index).any():
                centres[index] = flat[owner == index].mean(axis=0)
    return centres


def _nearest(values: Array, centres: Array) -> Array:
    half = (centres**2).sum(axis=1) / 2
    parts = [np.argmax(part @ centres.T - half, axis=1) for part in np.array_split(values, 64)]
    return np.concatenate(parts)


def _words(images: Array, centres: Array) -> tuple[Array, Array]:
    patches = _patches(images)
    mask = (patches.max(axis=2) > 0).astype(np.int64)
    mask[:, 24] = 1  # the middle always counts, so that no sentence is empty
    ids = _nearest(patches.reshape(-1, 16), centres).reshape(mask.shape).astype(np.int64)
    return ids * mask, mask
