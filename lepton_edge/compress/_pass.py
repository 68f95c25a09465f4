"""What every pass does: takes a model's module apart from its file, trains it, writes it again."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lepton_edge import errors, sources
from lepton_edge.compress import _data
from lepton_edge.compress._form import RECORD, Form, refuse_to_overwrite
from lepton_edge.compress._training import Training, training_folder
from lepton_edge.model import Model
from lepton_edge.samples import Samples

if TYPE_CHECKING:
    from torch import nn

    from lepton_edge.compress._train import Result


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

    @classmethod
    def begin(cls, model: Model, out: Path, work: Path | None, resume: bool) -> Work:
        """Raises `CannotConvert` for a model that is no PyTorch factory."""
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

    def finish(self, record: dict[str, Any]) -> Model:
        """Writes the output's folder, opens it, and compares it with what was trained."""
        steps = [*_steps(self.model), json.loads(json.dumps(record, default=str))]
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


def _steps(model: Model) -> list[Any]:
    """What was done to the model before, where its folder tells."""
    path = model.source.file.parent / RECORD
    if model.source.file.name != "model.py" or not path.is_file():
        return []
    try:
        found: list[Any] = json.loads(path.read_text())["steps"]
    except (OSError, ValueError, KeyError, TypeError):
        raise errors.BadInput(f"{str(path)!r} is damaged.", next="Compress again.") from None
    return found
