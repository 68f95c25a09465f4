"""Sparsity: single weights set to zero and held there, which changes no shape."""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from lepton_edge import errors
from lepton_edge.compress import _data, _pass
from lepton_edge.compress._training import Training
from lepton_edge.compress.prune import RECOVERY
from lepton_edge.model import Model
from lepton_edge.samples import Samples

if TYPE_CHECKING:
    from torch import Tensor, nn

BUYS = {
    "2:4": "Two of four weights along the input channels are zero: the pattern that TensorRT can"
    " run on sparse tensor cores (Ampere and later, fp16 and int8, where it measures a gain)."
    " ONNX Runtime, OpenVINO and TFLite run it no faster on a CPU.",
    "unstructured": "The file is smaller once compressed. No runtime here runs it faster.",
}


@dataclass(frozen=True)
class Sparsify:
    """`pattern` 2:4 keeps the two largest of four weights along the input channels.

    `unstructured` zeroes the share `ratio` of all weights of convolutions and linear layers, the
    smallest against their layer's mean. `recovery` trains what is left, where there are samples.
    """

    pattern: Literal["2:4", "unstructured"] = "2:4"
    ratio: float = 0.5
    output: str | None = None
    recovery: Training = field(default_factory=lambda: RECOVERY)
    frameworks: ClassVar[tuple[str, ...]] = ("torch",)

    def __post_init__(self) -> None:
        if not 0 < self.ratio < 1:
            raise errors.UsageError(
                f"Sparsity cannot be {self.ratio:g}.", next="Give a ratio between 0 and 1."
            )
        if self.pattern == "2:4" and self.ratio != 0.5:
            raise errors.UsageError("The pattern 2:4 is a ratio of 0.5 by its definition.")

    def __call__(
        self,
        model: Model,
        training: Samples | Iterable[Any] | None = None,
        *,
        out: Path,
        work: Path | None = None,
        resume: bool = False,
    ) -> Model:
        """Writes the sparse model to the folder `out` and opens it; see `_pass.Work`."""
        import copy

        state = _pass.Work.begin(model, out, work, resume)
        weights = _weights(state.module)
        if self.pattern == "2:4":
            masks = {name: two_of_four(value) for name, value in weights.items() if _fits(value)}
        else:
            masks = smallest(weights, self.ratio)
        if not masks:
            raise errors.CannotConvert(
                "No layer of this model has input channels in fours.",
                next="Use pattern=unstructured, or prune channels.",
            )
        before = _packed(weights)
        original = copy.deepcopy(state.module)

        def hold() -> None:
            for name, mask in masks.items():
                weights[name].data.mul_(mask.to(weights[name].device))

        hold()
        result = None
        if training is not None:
            data = state.source(training)
            labelled = not isinstance(data, _data.Table) or data.labels is not None
            task = state.objectives.Task(self.output, "auto", self.recovery.label_smoothing)
            objective = state.objectives.Distillation(
                original, task, temperature=2.0, weight=0.5 if labelled else 1.0
            )
            result = state.fit(objective, training, self.recovery, after_step=hold).as_dict()
            hold()
        total = sum(value.numel() for value in weights.values())
        zeros = sum(int((value == 0).sum()) for value in weights.values())
        return state.finish(
            {
                "pass": "sparsify",
                **asdict(self),
                "layers": sorted(masks),
                "left": sorted(set(weights) - set(masks)),
                "sparsity": zeros / total,
                "compressed_bytes": {"before": before, "after": _packed(weights)},
                "buys": BUYS[self.pattern],
                "result": result,
            }
        )


def _weights(module: nn.Module) -> dict[str, Tensor]:
    import torch

    kinds = (torch.nn.modules.conv._ConvNd, torch.nn.Linear)
    return {
        f"{name}.weight": each.weight
        for name, each in module.named_modules()
        if isinstance(each, kinds)
    }


def _fits(weight: Tensor) -> bool:
    return weight.ndim >= 2 and weight.shape[1] % 4 == 0


def two_of_four(weight: Tensor) -> Tensor:
    """The mask that keeps the two largest of each four along axis 1, ties by their place."""
    import torch

    moved = weight.detach().abs().movedim(1, -1)
    fours = moved.reshape(-1, 4)
    kept = torch.zeros_like(fours)
    kept.scatter_(1, fours.topk(2, dim=1).indices, 1.0)
    return kept.reshape(moved.shape).movedim(-1, 1).contiguous()


def smallest(weights: dict[str, Tensor], ratio: float) -> dict[str, Tensor]:
    """Masks without the share `ratio` of all weights that is least against its layer's mean."""
    import torch

    scores = {
        name: value.detach().abs() / value.detach().abs().mean().clamp_min(1e-12)
        for name, value in weights.items()
    }
    whole = torch.cat([score.flatten() for score in scores.values()])
    threshold = whole.kthvalue(max(1, round(ratio * whole.numel()))).values
    return {name: (score > threshold).to(score.dtype) for name, score in scores.items()}


def _packed(weights: dict[str, Tensor]) -> int:
    """Bytes of all weights as float16, compressed with zlib: what a download would carry."""
    return sum(len(zlib.compress(w.detach().half().numpy().tobytes(), 6)) for w in weights.values())


PASS = Sparsify
