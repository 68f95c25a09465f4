"""The demo's network for 28x28 grey images in ten classes, in PyTorch."""

from __future__ import annotations

import torch
from torch import nn


def _block(channels_in: int, channels_out: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels_in, channels_out, 3, stride, 1, bias=False),
        nn.BatchNorm2d(channels_out),
        nn.ReLU(),
    )


class FashionCNN(nn.Module):
    """Five 3x3 convolutions with batch norm, a global mean, a linear layer: 70 k parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            _block(1, 16),
            _block(16, 32, 2),
            _block(32, 32),
            _block(32, 64, 2),
            _block(64, 64),
        )
        self.classifier = nn.Linear(64, 10)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Float32 [N, 1, 28, 28], normalised, to logits [N, 10]."""
        value: torch.Tensor = self.classifier(self.features(image).mean((2, 3)))
        return value


def factory() -> nn.Module:
    """The network without weights, with an example of its input."""
    model = FashionCNN()
    model.example_inputs = {"image": torch.zeros(1, 1, 28, 28)}  # type: ignore[assignment]
    return model
