"""Fine-tuning: more training of a model on labelled samples, from the weights that it has."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

from lepton_edge import errors
from lepton_edge.compress import _pass
from lepton_edge.compress._training import Training
from lepton_edge.model import Model
from lepton_edge.samples import Samples


@dataclass(frozen=True)
class Finetune:
    """Trains every weight on the labels of the task; of a Keras model, those that are trainable.

    `output` names the output that the labels belong to, where there are several. `loss` is
    cross-entropy for class indices and the mean squared error for arrays.
    """

    output: str | None = None
    loss: Literal["auto", "cross-entropy", "mse"] = "auto"
    training: Training = field(default_factory=Training)
    frameworks: ClassVar[tuple[str, ...]] = ("torch", "keras")

    def __call__(
        self,
        model: Model,
        training: Samples | Iterable[Any] | None,
        *,
        out: Path,
        work: Path | None = None,
        resume: bool = False,
    ) -> Model:
        """Writes the trained model to the folder `out` and opens it; see `_pass.Work`."""
        state = _pass.begin(model, out, work, resume)
        if training is None:
            raise errors.UsageError("Fine-tuning needs training samples.", next="Give --train.")
        task = state.objectives.Task(self.output, self.loss, self.training.label_smoothing)
        result = state.fit(task, training, self.training)
        return state.finish({"pass": "finetune", **asdict(self), "result": result.as_dict()})


PASS = Finetune
