"""Tiny networks and made-up data for the tests of compression; factories for `file.py:name`.

The data: images [3, 8, 8] of four classes, told apart by their mean colours and brightness.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn


def _ready(module: nn.Module, **inputs: Tensor) -> nn.Module:
    module.example_inputs = inputs or {"image": torch.zeros(1, 3, 8, 8)}  # type: ignore[assignment]
    return module.eval()


def cnn(width: float = 1.0) -> nn.Module:
    """Two convolutions with batch norms."""
    a, b = round(16 * width), round(32 * width)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return _ready(
            nn.Sequential(
                nn.Conv2d(3, a, 3, padding=1),
                nn.BatchNorm2d(a),
                nn.ReLU(),
                nn.Conv2d(a, b, 3, padding=1),
                nn.BatchNorm2d(b),
                nn.ReLU(),
                nn.AdaptiveAvgPool2d(1),
                nn.Flatten(),
                nn.Linear(b, 4),
            )
        )


def plain() -> nn.Module:
    """No batch norm and no dropout: nothing in it depends on how a batch is split."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return _ready(
            nn.Sequential(
                nn.Conv2d(3, 16, 3, padding=1),
                nn.ReLU(),
                nn.Conv2d(16, 16, 3, padding=1),
                nn.ReLU(),
                nn.AdaptiveAvgPool2d(2),
                nn.Flatten(),
                nn.Linear(64, 4),
            )
        )


def five() -> nn.Module:
    """A teacher of another task: five classes."""
    net = cnn()
    net[8] = nn.Linear(32, 5)  # type: ignore[operator]
    return net


class _Named(nn.Module):
    """`cnn` in a module of its own: NNCF takes no bare nn.Sequential."""

    def __init__(self) -> None:
        super().__init__()
        self.body = cnn()

    def forward(self, image: Tensor) -> Tensor:
        result: Tensor = self.body(image)
        return result


def named() -> nn.Module:
    return _ready(_Named())


class _HardCoded(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 16, 3, padding=1), nn.Linear(16, 4)

    def forward(self, image: Tensor) -> Tensor:
        value = torch.relu(self.conv(image)).reshape(-1, 16, 64)  # 16 is written down here
        result: Tensor = self.head(value.mean(2))
        return result


def hard_coded() -> nn.Module:
    return _ready(_HardCoded())


class _Tied(nn.Module):
    """`again` has the very weights of `once`; `free` can be pruned."""

    def __init__(self) -> None:
        super().__init__()
        self.free = nn.Conv2d(3, 16, 3, padding=1)
        self.mid = nn.Conv2d(16, 16, 3, padding=1)
        self.once, self.again = (nn.Conv2d(16, 16, 3, padding=1) for _ in range(2))
        self.again.weight = self.once.weight
        self.head = nn.Linear(16, 4)

    def forward(self, image: Tensor) -> Tensor:
        value = torch.relu(self.mid(torch.relu(self.free(image))))
        value = torch.relu(self.again(torch.relu(self.once(value))))
        result: Tensor = self.head(value.mean((2, 3)))
        return result


def tied() -> nn.Module:
    return _ready(_Tied())


class _Twice(nn.Module):
    """One convolution runs twice, so that its inputs and outputs must stay of one size."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 16, 3, padding=1)
        self.shared = nn.Conv2d(16, 16, 3, padding=1)
        self.head = nn.Linear(16, 4)

    def forward(self, image: Tensor) -> Tensor:
        value = torch.relu(self.first(image))
        value = torch.relu(self.shared(torch.relu(self.shared(value))))
        result: Tensor = self.head(value.mean((2, 3)))
        return result


def twice() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return _ready(_Twice())


def linear() -> nn.Module:
    """Its only layer is the output."""
    return _ready(nn.Sequential(nn.Flatten(), nn.Linear(192, 4)))


class _Views(nn.Module):
    """Its forward calls view, which needs images whose channels come first."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 16, 3, padding=1), nn.Linear(1024, 4)

    def forward(self, image: Tensor) -> Tensor:
        result: Tensor = self.head(self.conv(image).view(-1, 1024))
        return result


def views() -> nn.Module:
    return _ready(_Views())


def samples(path: Path, n: int = 256, seed: int = 0, labels: bool = True) -> Path:
    """Writes `n` samples to the .npz at `path`."""
    rng = np.random.default_rng(seed)
    label = rng.integers(0, 4, n)
    image = 0.6 * rng.standard_normal((n, 3, 8, 8)).astype(np.float32)
    image[np.arange(n), label % 3] += (1 + label[:, None, None] // 3).astype(np.float32)
    np.savez(path, **({"image": image, "label": label} if labels else {"image": image}))
    return path
