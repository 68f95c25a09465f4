"""Trains the demo's CNN on the 60,000 training images and writes its weights.

    python examples/fashion_mnist/train.py --data FOLDER --output cnn.safetensors

FOLDER holds the four idx .gz files of Fashion-MNIST. On two cores it takes a few minutes.
"""

from __future__ import annotations

import argparse
import gzip
import time
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch.nn import functional

from lepton_edge.demo.cnn import FashionCNN

MEAN, STD = 0.2860, 0.3530


def read(folder: Path, split: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Normalised float images [N, 1, 28, 28] and labels [N]."""
    raw = gzip.decompress((folder / f"{split}-images-idx3-ubyte.gz").read_bytes())
    images = np.frombuffer(raw, np.uint8, offset=16).reshape(-1, 1, 28, 28)
    raw = gzip.decompress((folder / f"{split}-labels-idx1-ubyte.gz").read_bytes())
    labels = np.frombuffer(raw, np.uint8, offset=8).astype(np.int64)
    return torch.from_numpy((images.astype(np.float32) / 255 - MEAN) / STD), torch.tensor(labels)


def flip(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Mirrors a random half of the images."""
    chosen = torch.rand(len(images), generator=generator) < 0.5
    return torch.where(chosen[:, None, None, None], images.flip(3), images)


@torch.inference_mode()
def accuracy(model: torch.nn.Module, images: torch.Tensor, labels: torch.Tensor) -> float:
    model.eval()
    hits = sum(
        int((model(part).argmax(1) == truth).sum())
        for part, truth in zip(images.split(500), labels.split(500), strict=True)
    )
    return hits / len(labels)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--output", type=Path, default=Path("cnn.safetensors"))
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()

    torch.manual_seed(options.seed)
    generator = torch.Generator().manual_seed(options.seed)
    images, labels = read(options.data, "train")
    test_images, test_labels = read(options.data, "t10k")
    model = FashionCNN()
    optimizer = torch.optim.SGD(model.parameters(), momentum=0.9, weight_decay=5e-4, nesterov=True)
    steps = -(-len(images) // options.batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=0.1, epochs=options.epochs, steps_per_epoch=steps
    )
    start = time.perf_counter()
    for epoch in range(options.epochs):
        model.train()
        total = 0.0
        for rows in torch.randperm(len(images), generator=generator).split(options.batch):
            logits = model(flip(images[rows], generator))
            loss = functional.cross_entropy(logits, labels[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += float(loss.detach()) * len(rows)
        elapsed = time.perf_counter() - start
        print(f"epoch {epoch + 1}: loss {total / len(images):.4f}, {elapsed:.0f} s", flush=True)
    result = accuracy(model, test_images, test_labels)
    print(f"accuracy on the {len(test_labels):,} test images: {100 * result:.2f} %")
    save_file(model.state_dict(), options.output)
    print(f"wrote {options.output}")


if __name__ == "__main__":
    main()
