"""The demo: a small trained CNN that ships with the package, and real images to run it on."""

from __future__ import annotations

from pathlib import Path

from lepton_edge.model import ModelSource
from lepton_edge.preprocess import Preprocess

FOLDER = Path(__file__).parent
SOURCE = ModelSource(f"{FOLDER / 'cnn.py'}:factory", str(FOLDER / "cnn.safetensors"))
# The training images' own mean and standard deviation, as examples/fashion_mnist/train.py has them.
NCHW = Preprocess(scale=1 / 255, mean=(0.2860,), std=(0.3530,), layout="NCHW")
NHWC = Preprocess(scale=1 / 255, mean=(0.2860,), std=(0.3530,), layout="NHWC")
