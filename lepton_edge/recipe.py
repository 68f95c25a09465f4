"""`Recipe`: one TOML file with the model, the data, the passes, the targets and the goals.

Paths in it are relative to its folder. What it may hold is what the dataclasses here and those of
the passes hold: an unknown key is an error with the nearest spelling.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from lepton_edge import accuracy, compression, devices, errors, latency, plugins, sources
from lepton_edge import options as knobs
from lepton_edge.compress.prune import alignment
from lepton_edge.model import ModelSource, TensorSpec
from lepton_edge.preprocess import Preprocess
from lepton_edge.samples import fingerprint, open_samples
from lepton_edge.target import Target

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

KINDS = ("prune", "sparsify", "distil", "finetune")


@dataclass(frozen=True)
class ModelPart:
    """`path` as on the command line; `inputs` such as image=1x3x224x224:float32."""

    path: str
    weights: str | None = None
    inputs: tuple[str, ...] = ()

    @property
    def source(self) -> ModelSource:
        return ModelSource(self.path, self.weights, tuple(map(TensorSpec.parse, self.inputs)))


@dataclass(frozen=True)
class DataPart:
    """`train` for the passes, `calib` for int8, `data` for every evaluation: never shared."""

    data: str
    train: str | None = None
    calib: str | None = None
    preprocess: str | None = None

    @property
    def prepared(self) -> Preprocess | None:
        return None if self.preprocess is None else Preprocess.parse(self.preprocess)


@dataclass(frozen=True)
class PassPart:
    """`options` are those of the pass `kind`, `training` those of `compress.Training`.

    A finetune in `precision` int8 makes an artefact, and is the last pass. `device` is one that is
    not there: its latency in `device_precision` is estimated, and pruned for where cost is latency.
    """

    kind: str
    precision: str = "fp32"
    device: str | None = None
    device_precision: str = "int8"
    processes: int = 1
    training: Mapping[str, Any] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise errors.unknown("kind of pass", self.kind, KINDS)
        if self.precision not in ("fp32", "int8") or (
            self.precision == "int8" and self.kind != "finetune"
        ):
            raise errors.UsageError(
                f"{self.kind} has no precision {self.precision!r}: finetune has fp32 and int8."
            )

        if self.device is not None:
            if self.quantizes:
                raise errors.UsageError("What a finetune in int8 writes is not estimated.")
            devices.load(self.device)

    @property
    def quantizes(self) -> bool:
        return self.precision == "int8"


@dataclass(frozen=True)
class TargetPart:
    """A format, a precision, where its runtime computes, and the machine that it is measured on."""

    to: str
    precision: str = "fp32"
    device: str = "cpu"
    on: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        Target(self.to, self.precision, self.device)
        knobs.build(plugins.load("converters", self.to).Options, self.options)

    @property
    def name(self) -> str:
        elsewhere = [each for each in (self.device, self.on) if each not in ("cpu", None)]
        return " ".join([self.to, self.precision, *map(str, elsewhere)])


@dataclass(frozen=True)
class Goals:
    """`max_drop` is 1pt or 1% of `baseline` (default: the model as it was); `max_latency` in ms."""

    metric: str = "top1"
    output_name: str | None = None
    max_drop: str | None = None
    max_latency: float | None = None
    baseline: str | None = None
    baseline_weights: str | None = None
    window: str = "quick"
    threads: int = 1

    def __post_init__(self) -> None:
        latency.parse_window(self.window)
        if self.max_drop is not None:
            accuracy.budget(self.max_drop, 1.0, rate=True)


@dataclass(frozen=True)
class Recipe:
    """What is to be done, checked as far as it can be before anything is loaded."""

    model: ModelPart
    data: DataPart
    passes: tuple[PassPart, ...] = ()
    targets: tuple[TargetPart, ...] = ()
    goals: Goals = field(default_factory=Goals)

    def __post_init__(self) -> None:
        if not self.passes and not self.targets:
            raise errors.UsageError(
                "The recipe has nothing to do.", next="Give it [[passes]] or [[targets]]."
            )
        if any(each.quantizes for each in self.passes[:-1]):
            raise errors.UsageError("A finetune in int8 makes an artefact: it is the last pass.")
        if self.passes and self.data.train is None:
            raise errors.UsageError("Passes train.", next="Give [data] a train.")
        static = [each.name for each in self.targets if each.precision in ("int8", "int8-mixed")]
        if static and self.data.calib is None:
            raise errors.UsageError(
                f"{static[0]} needs calibration samples.", next="Give [data] a calib."
            )
        names = [each.name for each in self.targets]
        for name in names:
            if names.count(name) > 1:
                raise errors.UsageError(f"The target {name!r} is there twice.")
        for each in self.passes:
            name = "quantize" if each.quantizes else each.kind
            compression.check(name, self.model.source, each.options, each.training, each.processes)
        sources.framework_of(self.model.source)
        for source in self.others:
            source.sha256()  # `BadInput` where it is missing, before anything is trained

    @property
    def others(self) -> list[ModelSource]:
        """The teachers of the passes, and the baseline of the goals."""
        given = (each.options.get("teacher") for each in self.passes)
        found = [ModelSource.from_dict(each) for each in given if each is not None]
        if self.goals.baseline is not None:
            found.append(ModelSource(self.goals.baseline, self.goals.baseline_weights))
        return found

    @property
    def formats(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(each.to for each in self.targets))

    def key(self) -> str:
        """A digest of the recipe and of the content of every file that it names."""
        digest = hashlib.sha256(json.dumps(dataclasses.asdict(self), sort_keys=True).encode())
        for source in (self.model.source, *self.others):
            digest.update(source.sha256().encode())
        for each in (self.data.train, self.data.calib, self.data.data):
            if each is not None:
                digest.update(fingerprint(open_samples(each)).encode())
        return digest.hexdigest()


def read(path: Path, **data: str | None) -> Recipe:
    """The recipe in a TOML file; `data` (train, calib, data) replaces what it says of the data.

    Raises `UsageError` naming the file and what is wrong in it.
    """
    try:
        given = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise errors.UsageError(f"Cannot read {str(path)!r}: {error.strerror}.") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise errors.UsageError(f"{str(path)!r} is not valid TOML: {error}.") from None
    try:
        return _build(given, path.parent, {key: text for key, text in data.items() if text})
    except errors.UsageError as error:
        raise errors.UsageError(f"{str(path)!r}: {error.message}", next=error.next) from None


def _build(given: Mapping[str, Any], folder: Path, data: Mapping[str, str]) -> Recipe:
    known = [each.name for each in dataclasses.fields(Recipe)]
    for key in given:
        if key not in known:
            raise errors.unknown("table", key, known)
    model = _table(given, "model", folder, "path", "weights")
    inputs = model.get("inputs", ())
    model["inputs"] = [inputs] if isinstance(inputs, str) else inputs
    goals = _table(given, "goals", folder, "baseline", "baseline_weights")
    if ".py:" in str(goals.get("metric")):
        goals["metric"] = _at(folder, goals["metric"])
    found = {**_table(given, "data", folder, "train", "calib", "data"), **data}
    targets = [
        knobs.build(TargetPart, each, what="key of [[targets]]")
        for each in _tables(given, "targets")
    ]
    formats = [each.to for each in targets]
    return Recipe(
        knobs.build(ModelPart, model, what="key of [model]"),
        knobs.build(DataPart, found, what="key of [data]"),
        tuple(_pass(each, folder, formats) for each in _tables(given, "passes")),
        tuple(targets),
        knobs.build(Goals, goals, what="key of [goals]"),
    )


def _pass(given: Mapping[str, Any], folder: Path, formats: list[str]) -> PassPart:
    """Its own keys are those of `PassPart`; all others are options of the pass."""
    own = {each.name for each in dataclasses.fields(PassPart)} - {"options"}
    kept = {key: value for key, value in given.items() if key in own}
    options = {key: value for key, value in given.items() if key not in own}
    teacher, weights = options.pop("teacher", None), options.pop("teacher_weights", None)
    if teacher is not None:
        place = None if weights is None else _at(folder, str(weights))
        options["teacher"] = ModelSource(_at(folder, str(teacher)), place).as_dict()
    elif weights is not None:
        raise errors.UsageError("teacher_weights are those of a teacher.", next="Give teacher.")
    made = knobs.build(PassPart, kept, what="key of [[passes]]")
    if made.kind == "prune" and formats:
        options.setdefault("round_to", max(map(alignment, formats)))
    return replace(made, options=options)


def _table(given: Mapping[str, Any], name: str, folder: Path, *paths: str) -> dict[str, Any]:
    """The table of that name, with its paths from where the recipe is."""
    found = given.get(name, {})
    if not isinstance(found, Mapping):
        raise errors.UsageError(f"{name} is a table.", next=f"Write [{name}].")
    return {
        key: _at(folder, value) if key in paths and isinstance(value, str) else value
        for key, value in found.items()
    }


def _tables(given: Mapping[str, Any], name: str) -> list[Mapping[str, Any]]:
    found = given.get(name, [])
    if not isinstance(found, list) or not all(isinstance(each, Mapping) for each in found):
        raise errors.UsageError(f"{name} is a list of tables.", next=f"Write [[{name}]].")
    return found


def _at(folder: Path, path: str) -> str:
    return str(folder / path)
