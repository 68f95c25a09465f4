"""Gets Fashion-MNIST (Zalando Research, MIT licence), checks it, and keeps it in the user's cache.

Where from, in this order: the folder that the user names; the cache; Debian's package, unpacked
without root; the data set's official address. What was taken is printed and checked by sha256.
"""

from __future__ import annotations

import gzip
import hashlib
import shutil
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np

from lepton_edge import _cache, errors
from lepton_edge.artifact import replacing
from lepton_edge.model import Array

PACKAGE = "dataset-fashion-mnist"
ADDRESS = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/"
CLASSES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
# Of the unpacked idx files, so that a repacked .gz is still recognised.
SHA256 = {
    "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
}


def fetch(folder: Path | None = None) -> Path:
    """A folder with the four checked idx .gz files; `folder`, where given, is the only source."""
    if folder is not None:
        _check(folder)
        return folder
    kept = _cache.folder("fashion-mnist")
    if kept.is_dir():
        _check(kept)
        return kept
    with replacing(kept) as temporary:
        temporary.mkdir()
        if shutil.which("apt-get") and shutil.which("dpkg-deb"):
            failure = _from_debian(temporary)
        else:
            failure = "apt-get and dpkg-deb are not on PATH"
        if failure:
            print(f"Debian's package: {failure}; trying {ADDRESS}", file=sys.stderr)
            _from_address(temporary)
        _check(temporary)
    print(f"Fashion-MNIST is kept in {kept}", file=sys.stderr)
    return kept


def _from_debian(folder: Path) -> str | None:
    """Downloads and unpacks the package; returns why it did not work, None where it did."""
    print(f"Getting Debian's package {PACKAGE} (31 MB) ...", file=sys.stderr)
    with tempfile.TemporaryDirectory() as scratch:
        for command in (
            ["apt-get", "download", "-q", PACKAGE],
            ["sh", "-c", f"dpkg-deb -x {PACKAGE}_*.deb unpacked"],
        ):
            done = subprocess.run(command, cwd=scratch, capture_output=True, text=True)
            if done.returncode:
                lines = done.stderr.strip().splitlines() or [f"code {done.returncode}"]
                return f"{command[0]}: {lines[-1]}"
        unpacked = Path(scratch, "unpacked/usr/share/datasets/fashion-mnist")
        for name in SHA256:
            shutil.copy(unpacked / f"{name}.gz", folder)
    return None


def _from_address(folder: Path) -> None:
    for name in SHA256:
        try:
            with urllib.request.urlopen(f"{ADDRESS}{name}.gz", timeout=60) as answer:
                (folder / f"{name}.gz").write_bytes(answer.read())
        except (urllib.error.URLError, TimeoutError) as error:
            raise errors.BackendMissing(
                f"Cannot get Fashion-MNIST: neither Debian's package nor {ADDRESS} answered"
                f" ({error}).",
                next="Put its four .gz files into a folder and name it with --data-folder.",
            ) from None


def _unpack(path: Path) -> bytes:
    try:
        return gzip.decompress(path.read_bytes())
    except (OSError, EOFError) as error:
        raise errors.BadInput(
            f"Cannot read {str(path)!r}: {error}.",
            next="The folder must hold the four idx .gz files of Fashion-MNIST.",
        ) from None


def _check(folder: Path) -> None:
    for name, wanted in SHA256.items():
        got = hashlib.sha256(_unpack(folder / f"{name}.gz")).hexdigest()
        if got != wanted:
            raise errors.BadInput(
                f"{str(folder / name)!r}.gz is not Fashion-MNIST: the sha256 of its content is"
                f" {got[:16]}..., expected {wanted[:16]}...",
                next="Remove the folder and run again.",
            )


def read(folder: Path, split: str) -> tuple[Array, Array]:
    """Images uint8 [N, 28, 28] and labels int64 [N] of `train` (60,000) or `t10k` (10,000)."""
    images = np.frombuffer(_unpack(folder / f"{split}-images-idx3-ubyte.gz"), np.uint8, offset=16)
    labels = np.frombuffer(_unpack(folder / f"{split}-labels-idx1-ubyte.gz"), np.uint8, offset=8)
    return images.reshape(-1, 28, 28), labels.astype(np.int64)


def write_npz(folder: Path, out: Path, *, calibration_n: int = 512) -> tuple[Path, Path]:
    """`calib.npz` (the first training images) and `test.npz` (all test images) in `out`."""
    images, labels = read(folder, "train")
    test_images, test_labels = read(folder, "t10k")
    calib, test = out / "calib.npz", out / "test.npz"
    for path, part, truth in (
        (calib, images[:calibration_n], labels[:calibration_n]),
        (test, test_images, test_labels),
    ):
        with replacing(path) as temporary, temporary.open("wb") as file:
            np.savez(file, image=part, label=truth)
    return calib, test
