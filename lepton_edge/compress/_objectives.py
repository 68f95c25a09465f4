"""Losses as modules: `objective(module, inputs, labels) -> (loss, accuracy)` of one batch.

Distillation: Hinton et al. 2015 (arXiv 1503.02531) for logits, Romero et al. 2015 (1412.6550) for
features, Zagoruyko & Komodakis 2017 (1612.03928) for attention maps.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from lepton_edge import errors
from lepton_edge.sources._torch_run import tensors as named

if TYPE_CHECKING:
    from collections.abc import Iterator

Loss = Literal["auto", "cross-entropy", "mse"]


def logits(value: Tensor) -> Tensor:
    """[..., K] for a loss: classes last, and probabilities turned into their logarithms."""
    value = value.float()
    if value.ndim == 4:
        value = value.movedim(1, -1)
    with torch.no_grad():
        sums = value.sum(-1)
        probabilities = bool((value >= 0).all()) and torch.allclose(
            sums, torch.ones_like(sums), atol=1e-3
        )
    return value.clamp_min(1e-8).log() if probabilities else value


class Task(nn.Module):
    """Cross-entropy for integer labels, mean squared error for arrays of the output's shape."""

    def __init__(self, output: str | None = None, loss: Loss = "auto", smoothing: float = 0.0):
        super().__init__()
        self.output, self.loss, self.smoothing = output, loss, smoothing

    def forward(
        self, module: nn.Module, inputs: Sequence[Tensor], labels: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        return self.of(named(module(*inputs)), labels)

    def of(self, outputs: Mapping[str, Tensor], labels: Tensor | None) -> tuple[Tensor, Tensor]:
        """The loss and the share of right answers (0 where labels are no classes)."""
        if labels is None:
            raise errors.UsageError(
                "The training samples have no labels, and this training needs them.",
                next="Give labelled samples, or distil from a teacher.",
            )
        value = chosen(outputs, self.output)
        classes = not labels.is_floating_point()
        if self.loss == "mse" or (self.loss == "auto" and not classes):
            if value.shape != labels.shape:
                raise errors.UsageError(
                    f"The labels have the shape {list(labels.shape)}, the output"
                    f" {list(value.shape)}.",
                    next="Name another output with output=, or give labels of its shape.",
                )
            return functional.mse_loss(value.float(), labels.float()), value.new_zeros(())
        scores = logits(value)
        if not classes or scores.shape[:-1] != labels.shape:
            raise errors.UsageError(
                f"Labels of {labels.dtype} {list(labels.shape)} are no classes of the output"
                f" {list(value.shape)}.",
                next="Give class indices, or loss=mse.",
            )
        if int(labels.min()) < 0 or int(labels.max()) >= scores.shape[-1]:
            raise errors.UsageError(
                f"The labels go from {int(labels.min())} to {int(labels.max())}; the output has"
                f" {scores.shape[-1]} classes.",
                next="Labels are class indices that begin at 0.",
            )
        flat, truth = scores.reshape(-1, scores.shape[-1]), labels.reshape(-1)
        loss = functional.cross_entropy(flat, truth, label_smoothing=self.smoothing)
        return loss, (flat.detach().argmax(1) == truth).float().mean()


def chosen(outputs: Mapping[str, Tensor], output: str | None) -> Tensor:
    """The output of that name, or the only one."""
    if output is None and len(outputs) == 1:
        return next(iter(outputs.values()))
    if output is None:
        raise errors.UsageError(
            f"The model has {len(outputs)} outputs.",
            next=f"Name the one to train with output=, of {', '.join(outputs)}.",
        )
    if output not in outputs:
        raise errors.unknown("output", output, outputs)
    return outputs[output]


class Distillation(nn.Module):
    """`weight` parts of the teacher's answer, the rest the labels' loss where there are labels.

    The answer is compared by KL divergence at `temperature` over the classes of the main output;
    with several outputs and none named, by the mean squared error of each, relative to the
    teacher's variance. `features` are pairs of module names (student, teacher) whose outputs are
    matched through a learned 1x1 projection, `attention` pairs by their maps; each sum has the
    weight `feature_weight`.
    """

    def __init__(
        self,
        teacher: nn.Module,
        task: Task,
        *,
        temperature: float,
        weight: float,
        features: Sequence[tuple[str, str]] = (),
        attention: Sequence[tuple[str, str]] = (),
        feature_weight: float = 1.0,
    ) -> None:
        super().__init__()
        # Not a submodule: its weights are in no checkpoint, and no process has to send them.
        self._teacher = (teacher.eval(),)
        for parameter in teacher.parameters():
            parameter.requires_grad_(False)
        self.task, self.temperature, self.weight = task, temperature, weight
        self.pairs = [*features, *attention]
        self.attention, self.feature_weight = set(attention), feature_weight
        self.projections = nn.ModuleDict()

    def forward(
        self, module: nn.Module, inputs: Sequence[Tensor], labels: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        self.teacher.to(inputs[0].device)
        with torch.no_grad(), watched(self.teacher, [b for _, b in self.pairs]) as theirs:
            target = named(self.teacher(*inputs))
        with watched(module, [a for a, _ in self.pairs]) as ours:
            outputs = named(module(*inputs))
        loss = self._answers(outputs, target)
        for mine, other in self.pairs:
            part = self._pair(mine, other, ours[mine], theirs[other])
            loss = loss + self.feature_weight * part
        if labels is None:
            with torch.no_grad():
                return loss, _agreement(outputs, target, self.task.output)
        if self.weight == 1.0 and len(outputs) > 1 and self.task.output is None:
            return loss, loss.new_zeros(())
        own, accuracy = self.task.of(outputs, labels)
        return self.weight * loss + (1 - self.weight) * own, accuracy

    @property
    def teacher(self) -> nn.Module:
        return self._teacher[0]

    def _answers(self, outputs: Mapping[str, Tensor], target: Mapping[str, Tensor]) -> Tensor:
        if self.task.output is None and len(outputs) > 1:
            parts = [
                functional.mse_loss(outputs[name].float(), value.float())
                / value.float().var().clamp_min(1e-6)
                for name, value in target.items()
                if value.is_floating_point() and value.numel() > 1
            ]
            return torch.stack(parts).mean()
        mine, other = (chosen(each, self.task.output) for each in (outputs, target))
        if mine.shape[-1] == 1:  # one number a sample: there are no classes to compare
            return functional.mse_loss(mine.float(), other.float())
        size = logits(mine).shape[-1]
        student = functional.log_softmax(logits(mine).reshape(-1, size) / self.temperature, 1)
        teacher = functional.log_softmax(logits(other).reshape(-1, size) / self.temperature, 1)
        divergence = functional.kl_div(student, teacher, reduction="batchmean", log_target=True)
        return divergence * self.temperature**2

    def prepare(self, module: nn.Module, inputs: Sequence[Tensor]) -> None:
        """Checks every pair on a batch and makes the projections, before training begins."""
        with torch.no_grad():
            with watched(self.teacher, [b for _, b in self.pairs]) as theirs:
                target = named(self.teacher(*inputs))
            with watched(module, [a for a, _ in self.pairs]) as ours:
                outputs = named(module(*inputs))
        shapes = {name: list(value.shape) for name, value in outputs.items()}
        others = {name: list(value.shape) for name, value in target.items()}
        if shapes != others:
            raise errors.UsageError(
                f"The teacher's outputs are {others}, the student's {shapes}.",
                next="Give a teacher of the same task, with the same names and shapes.",
            )
        for mine, other in self.pairs:
            a, b = ours[mine], theirs[other]
            if (mine, other) in self.attention:
                if a.ndim != 4 or b.ndim != 4:
                    raise errors.UsageError(
                        f"Attention maps need images, {mine!r} gives {list(a.shape)} and"
                        f" {other!r} {list(b.shape)}.",
                        next="Match them with features instead.",
                    )
                continue
            if a.ndim != b.ndim or (a.ndim == 3 and a.shape[1] != b.shape[1]):
                raise errors.UsageError(
                    f"{mine!r} gives {list(a.shape)}, the teacher's {other!r} {list(b.shape)};"
                    " they cannot be matched."
                )
            axis = 1 if a.ndim == 4 else -1
            made: nn.Module = nn.Linear(a.shape[axis], b.shape[axis])
            if axis == 1:
                made = nn.Conv2d(a.shape[1], b.shape[1], 1)
            self.projections[_key(mine, other)] = made

    def _pair(self, mine: str, other: str, a: Tensor, b: Tensor) -> Tensor:
        a, b = a.float(), b.float()
        if a.ndim == 4 and a.shape[2:] != b.shape[2:]:
            b = functional.adaptive_avg_pool2d(b, (a.shape[2], a.shape[3]))
        if (mine, other) in self.attention:
            maps = [functional.normalize(each.pow(2).mean(1).flatten(1), dim=1) for each in (a, b)]
            return (maps[0] - maps[1]).pow(2).sum(1).mean()
        projected = self.projections[_key(mine, other)](a)
        return functional.mse_loss(projected, b) / b.var().clamp_min(1e-6)


def _key(mine: str, other: str) -> str:
    return f"{mine}__{other}".replace(".", "_")


def _agreement(
    outputs: Mapping[str, Tensor], target: Mapping[str, Tensor], output: str | None
) -> Tensor:
    """The share of top answers in which both agree; 0 where there are no classes."""
    if output is None and len(outputs) > 1:
        return next(iter(outputs.values())).new_zeros(())
    mine, other = logits(chosen(outputs, output)), logits(chosen(target, output))
    return (mine.argmax(-1) == other.argmax(-1)).float().mean()


@contextmanager
def watched(module: nn.Module, names: Sequence[str]) -> Iterator[dict[str, Tensor]]:
    """The outputs of the submodules of those names, as they run."""
    known = dict(module.named_modules())
    seen: dict[str, Tensor] = {}
    handles = []
    for name in names:
        if name not in known:
            raise errors.unknown("module", name, known)

        def keep(_module: nn.Module, _inputs: Any, output: Any, name: str = name) -> None:
            seen[name] = (
                output if isinstance(output, Tensor) else next(iter(named(output).values()))
            )

        handles.append(known[name].register_forward_hook(keep))
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()
