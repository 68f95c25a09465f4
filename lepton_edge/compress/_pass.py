"""What every pass does: takes a model's module apart from its file, trains it, writes it again."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lepton_edge import errors, sources
from lepton_edge.compress import _data
from lepton_edge.compress._form import Form, refuse_to_overwrite, steps_before
from lepton_edge.compress._training import Training, training_folder
from lepton_edge.model import Model
from lepton_edge.samples import Samples

if TYPE_CHECKING:
    from torch import nn

    from lepton_edge.compress._keras_pass import KerasWork
    from lepton_edge.compress._plan import Result


def refuse(frameworks: Sequence[str], path: str, framework: str) -> None:
    """`CannotConvert` for a model of a framework that is none of a pass's `frameworks`."""
    if framework in frameworks:
        return
    if framework == "keras":
        raise errors.CannotConvert(
            f"{path!r} is a Keras model, and channels or weights are removed from a PyTorch module"
            " alone.",
            next="Distil it into a Keras model with fewer channels: distil SMALL --teacher MODEL.",
        )
    keras = "keras" in frameworks
    raise errors.CannotConvert(
        f"{path!r} ({framework}) cannot be compressed: pruning and training change a PyTorch"
        f" module{' or a Keras model' if keras else ''}, and this is an exported graph.",
        next=f"Give the model as file.py:factory with --weights{', or .keras' if keras else ''}.",
    )


def begin(model: Model, out: Path, work: Path | None, resume: bool) -> Work | KerasWork:
    """The work of a pass that takes models of both frameworks; only the model's own is loaded."""
    if model.framework == "keras":
        from lepton_edge.compress._keras_pass import KerasWork

        return KerasWork.begin(model, out, work, resume)
    return Work.begin(model, out, work, resume)


def refuse_no_smaller(before: int, after: int, width: float, factory: str) -> None:
    """`UsageError` for a width that leaves the parameters `before` as many as they were."""
    if after >= before:
        raise errors.UsageError(f"With width={width:g} the network of {factory!r} is no smaller.")


@dataclass
class Work:
    """A copy of the model's module with its form, and where its training keeps what it needs.

    `folder` (default: beside the output, OUT.training) holds the checkpoint of an unfinished
    training and the TensorBoard events; `resume` goes on with a training that was killed.
    """

    model: Model
    form: Form
    module: nn.Module
    out: Path
    folder: Path
    resume: bool
    sources: dict[int, _data.Source] = field(default_factory=dict)
    fits: int = 0

    @property
    def objectives(self) -> Any:
        """The losses of this framework: `Task` and `Distillation`."""
        from lepton_edge.compress import _objectives

        return _objectives

    @classmethod
    def begin(cls, model: Model, out: Path, work: Path | None, resume: bool) -> Work:
        """Raises `CannotConvert` for a model that is no PyTorch factory."""
        refuse(("torch",), model.source.path, model.framework)
        form = Form.of(model.source)
        refuse_to_overwrite(out)
        folder = training_folder(out, work)
        return cls(model, form, copy.deepcopy(model.native), out, folder, resume)

    def source(self, training: Samples | Iterable[Any]) -> _data.Source:
        """The training data as batches, read once."""
        key = id(training)
        if key not in self.sources:
            self.sources[key] = _data.source(training, self.model.signature)
        return self.sources[key]

    def fit(
        self,
        objective: nn.Module,
        training: Samples | Iterable[Any],
        how: Training,
        *,
        after_step: Callable[[], None] | None = None,
        module: nn.Module | None = None,
    ) -> Result:
        """One training; a pass with several keeps each in a folder of its own."""
        from lepton_edge.compress import _train

        folder = self.folder / str(self.fits) if self.fits else self.folder
        self.fits += 1
        return _train.fit(
            self.module if module is None else module,
            objective,
            self.source(training),
            how,
            folder,
            key=f"{self.form.key()}:{self.fits}",
            resume=self.resume,
            after_step=after_step,
        )

    def scale(self, width: float) -> None:
        """Makes the module the factory's own smaller network, as it starts."""
        form = self.form
        if form.attributes or form.shapes:
            raise errors.UsageError(
                "The width of a pruned model cannot be scaled: its layers have their own.",
                next="Scale the model that it was pruned from.",
            )
        self.form = replace(form, arguments={**form.arguments, "width": width})
        self.module = self.form.plain()
        before, after = (
            sum(each.numel() for each in module.parameters())
            for module in (form.plain(), self.module)
        )
        refuse_no_smaller(before, after, width, form.factory)

    def distillation(self, teacher: Model | None, task: Any, **given: Any) -> Any:
        """The objective `Distillation`, checked; without a teacher, that of the model itself."""
        from lepton_edge.compress._layers import example

        native = copy.deepcopy(self.model.native) if teacher is None else teacher.native
        objective = self.objectives.Distillation(native, task, **given)
        objective.prepare(self.module.eval(), example(self.model))
        return objective

    def finish(self, record: dict[str, Any]) -> Model:
        """Writes the output's folder, opens it, and compares it with what was trained."""
        steps = [*steps_before(self.model.source), json.loads(json.dumps(record, default=str))]
        form = self.form.changed_to(self.module)
        source = form.write(
            self.module.eval(),
            self.out,
            inputs=self.model.source.inputs,
            record={"steps": steps},
        )
        model = sources.load(source)
        if model.signature.outputs != self.model.signature.outputs:
            raise errors.EdgeError(
                f"The outputs changed: {list(map(str, model.signature.outputs))}, they were"
                f" {list(map(str, self.model.signature.outputs))}."
            )
        return model
