"""What a pass does to a Keras model: takes a copy of it, trains it, writes it again."""

from __future__ import annotations

import json
import tempfile
import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lepton_edge import errors, sources
from lepton_edge.artifact import replacing
from lepton_edge.compress import _data, _keras_objectives, _keras_train
from lepton_edge.compress._form import RECORD, keras_file, refuse_to_overwrite, steps_before
from lepton_edge.compress._pass import refuse_no_smaller
from lepton_edge.compress._training import Training, refuse_on_keras, training_folder
from lepton_edge.model import Model, ModelSource
from lepton_edge.samples import Samples
from lepton_edge.sources.keras import made

if TYPE_CHECKING:
    from lepton_edge.compress._plan import Result


@dataclass
class KerasWork:
    """As `_pass.Work`, for a Keras model: `native` is a copy of it, read back from a file."""

    model: Model
    native: Any
    out: Path
    folder: Path
    resume: bool
    objectives: Any = _keras_objectives
    key: str = ""
    data: _data.Table | None = None

    @classmethod
    def begin(cls, model: Model, out: Path, work: Path | None, resume: bool) -> KerasWork:
        """Raises `CannotConvert` for a model that Keras cannot save and open again."""
        refuse_to_overwrite(out)
        native = _copied(model.source, model.native)
        return cls(model, native, out, training_folder(out, work), resume)

    def source(self, training: Samples | Iterable[Any]) -> _data.Table:
        """The training data as batches, read once."""
        if self.data is not None:
            return self.data
        if not isinstance(training, Samples):
            raise errors.UsageError(
                "A Keras model is trained on Samples, not on a loader of another framework.",
                next="Give them as open_samples(...).",
            )
        self.data = _data.table(training, self.model.signature)
        return self.data

    def scale(self, width: float) -> None:
        """Makes the model the factory's own smaller network, as it starts."""
        source = self.model.source
        if source.file.suffix != ".py":
            raise errors.UsageError(
                f"{source.path!r} is a file, whose width cannot be scaled.",
                next="Give a factory with a parameter width, or a student of its own with"
                " --teacher.",
            )
        smaller = made(source, {"width": width})
        before, after = (each.count_params() for each in (self.native, smaller))
        refuse_no_smaller(before, after, width, source.path)
        self.native, self.key = _copied(source, smaller), f"{self.key}:{width}"

    def distillation(self, teacher: Model | None, task: Any, **given: Any) -> Any:
        """The objective `Distillation`; without a teacher, that of the model itself."""
        source = (teacher or self.model).source
        self.key = f"{self.key}:{source.sha256()}:{given}"
        return self.objectives.Distillation((teacher or self.model).native, task, **given)

    def fit(self, objective: Any, training: Samples | Iterable[Any], how: Training) -> Result:
        refuse_on_keras(how)
        data = self.source(training)
        fixed = {spec.shape[0] for spec in self.model.signature.inputs} - {None, how.batch}
        if fixed:
            raise errors.UsageError(
                f"The model takes batches of {min(filter(None, fixed))} alone, not of {how.batch}.",
                next="Give the training this batch.",
            )
        if how.holdout and self.model.signature.inputs[0].shape[0]:
            raise errors.UsageError(
                "Samples cannot be held out for a model of a fixed batch.",
                next="Leave holdout out.",
            )
        return _keras_train.fit(
            self.native,
            objective,
            data,
            how,
            self.folder,
            key=f"{self.model.source.sha256()}:{self.key}",
            resume=self.resume,
        )

    def finish(self, record: dict[str, Any]) -> Model:
        """Writes the output's folder, opens it, and compares it with what was trained."""
        before = steps_before(self.model.source)
        steps = [*before, json.loads(json.dumps(record, default=str))]
        refuse_to_overwrite(self.out)
        file = keras_file(self.out)
        with replacing(self.out) as temporary:
            temporary.mkdir()
            self.native.save(temporary / file.name)
            (temporary / RECORD).write_text(json.dumps({"steps": steps}, indent=1) + "\n")
            again = sources.load(ModelSource(str(temporary / file.name))).native
            pairs = zip(self.native.get_weights(), again.get_weights(), strict=True)
            if not all(np.array_equal(a, b) for a, b in pairs):
                raise errors.EdgeError(f"The weights in {file.name!r} are not what was trained.")
        return sources.load(ModelSource(str(file), None, self.model.source.inputs))


def _copied(source: ModelSource, native: Any) -> Any:
    """The same model from a file, so that what trains is not what was passed in."""
    with tempfile.TemporaryDirectory(prefix="lepton-edge-") as folder:
        path = Path(folder, "copy.keras")
        native.save(path)
        with zipfile.ZipFile(path) as archive:
            own = next(_own_code(json.loads(archive.read("config.json"))), None)
        if own is not None:
            raise errors.CannotConvert(
                f"{source.path!r} has the layer or function {own!r}, whose code is not in Keras:"
                " what was trained could not be opened elsewhere.",
                next="Build it of layers that Keras has.",
            )
        return sources.load(ModelSource(str(path))).native


def _own_code(config: Any) -> Iterator[str]:
    """Classes and functions in a saved model's configuration that are not of Keras."""
    if isinstance(config, dict):
        module, name = config.get("module"), config.get("class_name")
        if name == "function":
            yield str(config.get("config"))
        elif isinstance(module, str) and module.partition(".")[0] != "keras":
            yield str(name)
        config = list(config.values())
    if isinstance(config, list):
        for each in config:
            yield from _own_code(each)
