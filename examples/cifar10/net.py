"""The networks of the example: the brief's small CNN, and a residual network to teach it.

`brief` is the network of the case study, 4.3 million parameters, most of them in one linear layer;
`teacher` is a residual network with batch norms (He et al. 2016, arXiv 1603.05027 in spirit).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


class Brief(nn.Module):
    """conv 3->32, pool, conv 32->64, pool, 4096->1024, 1024->10; `width` scales what is inside."""

    def __init__(self, width: float = 1.0) -> None:
        super().__init__()
        one, two, hidden = (max(8, round(size * width)) for size in (32, 64, 1024))
        self.conv1 = nn.Conv2d(3, one, 3, padding=1)
        self.conv2 = nn.Conv2d(one, two, 3, padding=1)
        self.fc1 = nn.Linear(two * 8 * 8, hidden)
        self.fc2 = nn.Linear(hidden, 10)

    def forward(self, image: Tensor) -> Tensor:
        """float32 [N, 3, 32, 32] to logits [N, 10]."""
        value = functional.max_pool2d(functional.relu(self.conv1(image)), 2)
        value = functional.max_pool2d(functional.relu(self.conv2(value)), 2)
        result: Tensor = self.fc2(functional.relu(self.fc1(value.flatten(1))))
        return result


class Residual(nn.Module):
    def __init__(self, inside: int, out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inside, out, 3, stride, 1, bias=False)
        self.norm1, self.norm2 = nn.BatchNorm2d(out), nn.BatchNorm2d(out)
        self.conv2 = nn.Conv2d(out, out, 3, 1, 1, bias=False)
        self.short = nn.Sequential()
        if stride > 1 or inside != out:
            self.short = nn.Sequential(
                nn.Conv2d(inside, out, 1, stride, bias=False), nn.BatchNorm2d(out)
            )

    def forward(self, value: Tensor) -> Tensor:
        inner = functional.relu(self.norm1(self.conv1(value)))
        return functional.relu(self.norm2(self.conv2(inner)) + self.short(value))


class Teacher(nn.Module):
    """A stem of stride 1 and three residual blocks of 1x, 2x and 4x `channels`."""

    def __init__(self, channels: int = 48) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels), nn.ReLU()
        )
        self.body = nn.Sequential(
            Residual(channels, channels, 2),
            Residual(channels, 2 * channels, 2),
            Residual(2 * channels, 4 * channels, 2),
        )
        self.head = nn.Linear(4 * channels, 10)

    def forward(self, image: Tensor) -> Tensor:
        result: Tensor = self.head(self.body(self.stem(image)).mean((2, 3)))
        return result


def _seeded(module: nn.Module) -> nn.Module:
    module.example_inputs = {"image": torch.zeros(1, 3, 32, 32)}  # type: ignore[assignment]
    return module


def brief(width: float = 1.0) -> nn.Module:
    """The brief's network, untrained, seeded."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return _seeded(Brief(width))


def teacher() -> nn.Module:
    """The residual network, untrained, seeded."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return _seeded(Teacher())
