"""Distillation: a student learns the answers of a teacher, with labels or without."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from lepton_edge import errors, sources
from lepton_edge.compress import _pass
from lepton_edge.compress._data import Table
from lepton_edge.compress._training import Training
from lepton_edge.model import Model, ModelSource
from lepton_edge.samples import Samples

_LIBRARY = {"torch": "PyTorch module", "keras": "Keras model"}


@dataclass(frozen=True)
class Distil:
    """The model that is passed in is the student; `teacher` is another source of the same task.

    With `width` the student is made by the model's own factory, called with width=, from new
    weights; the teacher is then the model itself where none is given. The loss is `weight` parts of
    the teacher's answers (KL divergence at `temperature`; mean squared error where the model has
    several outputs and `output` names none) and the rest the labels', where the samples have them.
    `features` and `attention` are pairs student:teacher of names of modules (in Keras, of layers)
    whose outputs are matched too, with the weight `feature_weight`.
    """

    teacher: ModelSource | None = None
    width: float | None = None
    temperature: float = 4.0
    weight: float = 0.9
    features: tuple[str, ...] = ()
    attention: tuple[str, ...] = ()
    feature_weight: float = 1.0
    output: str | None = None
    training: Training = field(default_factory=Training)
    frameworks: ClassVar[tuple[str, ...]] = ("torch", "keras")

    def __post_init__(self) -> None:
        if self.width is not None and not 0 < self.width < 1:
            raise errors.UsageError(f"A width of {self.width:g} is not between 0 and 1.")
        if not self.temperature > 0 or not 0 < self.weight <= 1 or self.feature_weight < 0:
            raise errors.UsageError(
                "The temperature is above 0, the weight between 0 and 1, the feature weight 0 or"
                " more."
            )

    def __call__(
        self,
        model: Model,
        training: Samples | Iterable[Any] | None,
        *,
        out: Path,
        work: Path | None = None,
        resume: bool = False,
    ) -> Model:
        """Writes the trained student to the folder `out` and opens it; see `_pass.Work`.

        Raises `UsageError` where the teacher's outputs have other names or shapes.
        """
        if self.teacher is None and self.width is None:
            raise errors.UsageError(
                "Distillation needs a teacher, or a width for the student.",
                next="Give --teacher file.py:factory with its weights, or --width 0.5.",
            )
        if training is None:
            raise errors.UsageError("Distillation needs samples.", next="Give --train.")
        self.check_teacher(model.framework)
        state = _pass.begin(model, out, work, resume)
        if self.width is not None:
            state.scale(self.width)
        data = state.source(training)
        labelled = not isinstance(data, Table) or data.labels is not None
        objective = state.distillation(
            None if self.teacher is None else sources.load(self.teacher),
            state.objectives.Task(self.output, "auto", self.training.label_smoothing),
            temperature=self.temperature,
            weight=self.weight if labelled else 1.0,
            features=list(map(_pair, self.features)),
            attention=list(map(_pair, self.attention)),
            feature_weight=self.feature_weight,
        )
        result = state.fit(objective, training, self.training)
        return state.finish(
            {"pass": "distil", **asdict(self), "labels": labelled, "result": result.as_dict()}
        )

    def check_teacher(self, framework: str) -> None:
        """`UsageError` for a teacher of another framework than the student's; loads nothing."""
        if self.teacher is not None and sources.framework_of(self.teacher) != framework:
            wanted = _LIBRARY[framework]
            raise errors.UsageError(
                f"The teacher {self.teacher.path!r} is no {wanted}, as the student is.",
                next="Give it as file.py:factory with its weights."
                if framework == "torch"
                else "Give a .keras file, or file.py:factory of a keras.Model.",
            )


def _pair(text: str) -> tuple[str, str]:
    mine, colon, other = text.partition(":")
    if not colon:
        raise errors.UsageError(
            f"Cannot read the pair {text!r}.", next="Write student.module:teacher.module."
        )
    return mine, other


PASS = Distil
