"""`Training`: how a network is trained, as one frozen object that a checkpoint belongs to."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from lepton_edge import errors

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn


def training_folder(out: Path, work: str | Path | None) -> Path:
    """Where a run keeps its checkpoint and events: `work`, else OUT.training."""
    return out.with_name(f"{out.name}.training") if work is None else Path(work)


def refuse_on_keras(training: Training, processes: int = 1) -> None:
    """`UsageError` for what Keras' own loop does not have."""
    if training.precision != "fp32":
        raise errors.UsageError(
            f"A Keras model trains in the precision of its layers, not in {training.precision}.",
            next="Leave precision out, or build the model with a dtype policy such as"
            " mixed_bfloat16.",
        )
    if training.channels_last:
        raise errors.UsageError(
            "channels_last is for PyTorch: a Keras model has its layout in its layers.",
            next="Leave it out.",
        )
    if processes > 1:
        raise errors.UsageError(
            "Several processes train a PyTorch module, not a Keras model.",
            next="Leave --processes out.",
        )


@dataclass(frozen=True)
class Training:
    """`epochs` passes over the data, or `steps` batches where given; `batch` over all processes.

    `schedule` is the learning rate's: a linear `warmup` (share of the steps), then half a cosine to
    zero, or constant. `weight_decay` is for matrices and kernels alone. `clip` bounds the
    gradient's norm. `augment` has `flip` (half of the images mirrored) and `crop` (shifted by up to
    an eighth, the border reflected), for images: channels first in PyTorch, last in Keras.
    `holdout` is the share of the training samples that no step sees: after each epoch they choose
    the best weights, and after `patience` epochs without a better one training stops. `precision`
    bf16 is autocast. `channels_last` lays images and kernels out so, which CPUs and tensor cores
    convolve faster; a module that calls view on them has to call reshape. Both are for PyTorch.
    """

    epochs: int = 5
    steps: int | None = None
    batch: int = 64
    optimizer: Literal["sgd", "adam", "adamw"] = "sgd"
    lr: float = 0.01
    momentum: float = 0.9
    weight_decay: float = 5e-4
    schedule: Literal["cosine", "constant"] = "cosine"
    warmup: float = 0.1
    label_smoothing: float = 0.0
    clip: float | None = 5.0
    augment: tuple[Literal["flip", "crop"], ...] = ()
    holdout: float = 0.0
    patience: int | None = None
    precision: Literal["fp32", "bf16"] = "fp32"
    channels_last: bool = False
    seed: int = 0
    checkpoint_steps: int = 200
    log_steps: int = 20

    def __post_init__(self) -> None:
        wrong = {
            "epochs": self.epochs < 1,
            "steps": self.steps is not None and self.steps < 1,
            "batch": self.batch < 1,
            "lr": not 0 < self.lr < math.inf,
            "momentum": not 0 <= self.momentum < 1,
            "weight_decay": not 0 <= self.weight_decay < math.inf,
            "warmup": not 0 <= self.warmup < 1,
            "label_smoothing": not 0 <= self.label_smoothing < 1,
            "clip": self.clip is not None and not self.clip > 0,
            "holdout": not 0 <= self.holdout < 1,
            "patience": self.patience is not None and self.patience < 1,
            "checkpoint_steps": self.checkpoint_steps < 1,
            "log_steps": self.log_steps < 1,
        }
        for name, bad in wrong.items():
            if bad:
                raise errors.UsageError(f"Training cannot have {name}={getattr(self, name)!r}.")
        if self.patience is not None and not self.holdout:
            raise errors.UsageError(
                "Early stopping needs samples that are held out.", next="Give holdout=0.1 too."
            )

    def rate(self, step: int, total: int) -> float:
        """The factor of the learning rate at that step, from 0."""
        rising = round(self.warmup * total)
        if step < rising:
            return (step + 1) / (rising + 1)
        if self.schedule == "constant":
            return 1.0
        return 0.5 * (1 + math.cos(math.pi * (step - rising) / max(1, total - rising)))

    def optimizer_of(self, module: nn.Module) -> torch.optim.Optimizer:
        """Weight decay for parameters of two dimensions and more."""
        import torch

        chosen = [each for each in module.parameters() if each.requires_grad]
        groups: list[dict[str, Any]] = [
            {"params": [p for p in chosen if p.ndim > 1], "weight_decay": self.weight_decay},
            {"params": [p for p in chosen if p.ndim <= 1], "weight_decay": 0.0},
        ]
        groups = [group for group in groups if group["params"]]
        if self.optimizer == "sgd":
            return torch.optim.SGD(
                groups, self.lr, self.momentum, nesterov=self.momentum > 0, fused=True
            )
        adam = torch.optim.Adam if self.optimizer == "adam" else torch.optim.AdamW
        return adam(groups, lr=self.lr, fused=True)

    def augmented(self, value: Tensor, generator: torch.Generator) -> Tensor:
        """A batch of images [N, C, H, W], each changed on its own; other inputs as they are."""
        import torch
        from torch.nn import functional

        if value.ndim != 4 or not value.is_floating_point():
            return value
        n, _, height, width = value.shape
        if "flip" in self.augment:
            chosen = torch.rand(n, generator=generator) < 0.5
            value = torch.where(chosen[:, None, None, None].to(value.device), value.flip(3), value)
        if "crop" in self.augment:
            pad = max(1, min(height, width) // 8)
            wide = functional.pad(value, (pad,) * 4, mode="reflect")
            rows = torch.randint(0, 2 * pad + 1, (n, 1), generator=generator)
            columns = torch.randint(0, 2 * pad + 1, (n, 1), generator=generator)
            y = (rows + torch.arange(height))[:, None, :, None].to(value.device)
            x = (columns + torch.arange(width))[:, None, None, :].to(value.device)
            samples = torch.arange(n, device=value.device)[:, None, None, None]
            channels = torch.arange(value.shape[1], device=value.device)[None, :, None, None]
            value = wide[samples, channels, y, x]
        return value
