"""`run`: a recipe's passes in their order, its targets, and one report of all.

Everything that was finished stands in the output's folder under its own name, written whole or not
at all; a run that was killed goes on from there, and from the checkpoint of its training. Latency
is measured anew, so that all of a report's belongs to one hour.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lepton_edge import compression, errors, inspection, loading, report, sources, study
from lepton_edge._latency_budget import Estimated
from lepton_edge.artifact import NAME, Artifact, replacing
from lepton_edge.measurement import Report, Row
from lepton_edge.model import ModelSource
from lepton_edge.recipe import PassPart, Recipe, TargetPart
from lepton_edge.samples import open_samples
from lepton_edge.scores import SUFFIX, Scores
from lepton_edge.study import Case, Measured, Say

STATE = "recipe.json"
ORIGINAL = "original"


@dataclass(frozen=True)
class Outcome:
    """`passes` are their documents (see `compression`), `written` the report's files by form.

    With a goal for the latency, a target whose latency is UNSTABLE has not met it.
    """

    passes: Sequence[Mapping[str, Any]]
    report: Report
    written: Mapping[str, Path]
    max_latency: float | None = None

    @property
    def status(self) -> str:
        """The first target's that is no PASS; the original's own rows are no target's."""
        bad = ["FAIL", "ERROR", "UNDECIDED", "SLOWER"]
        if self.max_latency is not None:
            bad.append("UNSTABLE")
        rows = [row for row in self.report.rows if not row.name.startswith(ORIGINAL)]
        return next((row.status for row in rows if row.status.startswith(tuple(bad))), "PASS")

    def as_dict(self) -> dict[str, Any]:
        """The JSON document of the verb."""
        failed: type[errors.EdgeError] = errors.GateFailed
        if self.status == "UNSTABLE":
            failed = errors.UnstableMeasurement
        return {
            "status": self.status,
            "exit_code": 0 if self.status == "PASS" else failed.exit_code,
            "passes": [dict(each) for each in self.passes],
            "reports": {form: str(path) for form, path in self.written.items()},
        }


def plan(recipe: Recipe, output: Path) -> list[str]:
    """What `run` would do, a line a step; the data is opened and nothing is written."""
    data, goals = recipe.data, recipe.goals
    lines = [f"model: {recipe.model.path} ({sources.framework_of(recipe.model.source)})"]
    for name in ("train", "calib", "data"):
        path = getattr(data, name)
        if path is not None:
            lines.append(f"{name}: {path}, {len(open_samples(path)):,} samples")
    for number, each in enumerate(recipe.passes, 1):
        settings = {**each.options, **{f"training.{k}": v for k, v in each.training.items()}}
        teacher = settings.get("teacher")
        if isinstance(teacher, Mapping):
            settings["teacher"] = teacher["path"]
        precision = " int8" if each.quantizes else ""
        text = " ".join(f"{key}={value}" for key, value in settings.items())
        lines.append(f"pass {number}: {each.kind}{precision} {text}".rstrip())
    lines += [f"target: {each.name}" for each in recipe.targets]
    wanted = {key: value for key, value in dataclasses.asdict(goals).items() if value is not None}
    lines.append("goals: " + " ".join(f"{key}={value}" for key, value in wanted.items()))
    return [*lines, f"output: {output}"]


def run(recipe: Recipe, output: Path, *, resume: bool, command: str, say: Say) -> Outcome:
    """Does what the recipe says in the folder `output`; `command` reproduces it.

    Raises `UsageError` where `output` holds a run and `resume` is False, or another recipe's run.
    """
    _begin(recipe, output, resume)
    source, artifact, documents = _passes(recipe, output, say)
    subjects = [_reference(recipe)]
    subjects += _converted(_cases(recipe, source), recipe, output, say)
    if artifact is not None:
        subjects.append(study.of_artifact(artifact, f"trained {artifact.format} int8"))
    subjects = _scored(subjects, recipe, output, say)
    goals = recipe.goals
    say(f"benchmarking ({goals.window}) ...")
    subjects = study.time_all(
        subjects, data=recipe.data.data, window=goals.window, threads=goals.threads, say=say
    )
    found = study.report(
        subjects,
        title=f"{Path(recipe.model.path).name}: {len(documents)} passes, {len(subjects)} rows",
        command=command,
        data=recipe.data.data,
        max_drop=goals.max_drop,
        notes=(f"{goals.threads} thread(s)", *map(_note, documents)),
    )
    found = replace(found, rows=[_within(row, goals.max_latency) for row in found.rows])
    return Outcome(documents, found, report.write(found, output), goals.max_latency)


def _begin(recipe: Recipe, output: Path, resume: bool) -> None:
    """Claims the folder, or finds that it is of this very recipe and data."""
    state = output / STATE
    key = recipe.key()
    if state.exists():
        if not resume:
            raise errors.UsageError(
                f"{str(output)!r} holds a run.", next="Pass --resume to go on, or choose another."
            )
        try:
            found = json.loads(state.read_text())["key"]
        except (OSError, ValueError, KeyError, TypeError):
            raise errors.BadInput(
                f"{str(state)!r} is damaged.", next="Remove the folder."
            ) from None
        if found != key:
            raise errors.UsageError(
                f"The run in {str(output)!r} is of another recipe, model or data.",
                next="Choose another folder.",
            )
        return
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise errors.UsageError(
            f"{str(output)!r} is there and is no run of a recipe.", next="Choose another folder."
        )
    inspection.inspect(recipe.model.source)  # a model that does not open is no row's failure
    data = open_samples(recipe.data.data)
    for other in (recipe.data.train, recipe.data.calib):
        if other is not None:
            compression.refuse_trained(open_samples(other), data)
    _write(state, {"key": key, "recipe": dataclasses.asdict(recipe)})


def _write(path: Path, document: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(document, indent=1))


def _passes(
    recipe: Recipe, output: Path, say: Say
) -> tuple[ModelSource, Artifact | None, list[dict[str, Any]]]:
    """The float model after all passes, the artefact of a last pass in int8, the documents."""
    source, documents = recipe.model.source, []
    for number, each in enumerate(recipe.passes, 1):
        folder = output / "passes" / f"{number}-{each.kind}"
        kept = folder.with_name(f"{folder.name}.json")
        if not kept.exists():
            say(f"pass {number}: {each.kind} ...")
            make = _quantized if each.quantizes else _compressed
            _write(kept, make(recipe, each, source, folder))
        documents.append(json.loads(kept.read_text()))
        say(_note(documents[-1]))
        if each.quantizes:
            return source, Artifact.load(folder), documents
        source = ModelSource.from_dict(documents[-1]["source"])
    return source, None, documents


def _compressed(
    recipe: Recipe, each: PassPart, source: ModelSource, folder: Path
) -> dict[str, Any]:
    """Trains where that is not done, then measures. A graph that stayed the same is not timed."""
    data, goals = recipe.data, recipe.goals
    on = next((target.on for target in recipe.targets if target.on), None)
    timed = each.device is None and each.options.get("cost") == "latency"
    done = compression.written_at(folder, source)
    if done is None:
        done = compression.compress(
            each.kind, source, folder, train=data.train, options=each.options,
            training=each.training, processes=each.processes, preprocess=data.prepared,
            to=recipe.formats if timed else (), window=goals.window, threads=goals.threads,
            on=on if timed else None, device=each.device, device_precision=each.device_precision,
            resume=True,
        )  # fmt: skip
    named = None
    if each.device is not None and done.estimate is None:  # of a run that was killed after training
        assert data.train is not None
        train = open_samples(data.train, preprocess=data.prepared)
        named = Estimated(each.device, each.device_precision, train)
    changed = any(done.before[key] != done.after[key] for key in ("parameters", "macs"))
    found = compression.measured(
        done, source, data=open_samples(data.data, preprocess=data.prepared), metric=goals.metric,
        preprocess=data.prepared, to=recipe.formats if changed else (), window=goals.window,
        threads=goals.threads, on=on, device=named,
    )  # fmt: skip
    return found.as_dict()


def _quantized(recipe: Recipe, each: PassPart, source: ModelSource, folder: Path) -> dict[str, Any]:
    data, goals = recipe.data, recipe.goals
    assert data.train is not None
    return compression.finetune_int8(
        source, folder, train=data.train, calib=data.calib, options=each.options,
        training=each.training, data=data.data, metric=goals.metric, preprocess=data.prepared,
        to=(compression.trained_format(each.options),), window=goals.window,
        threads=goals.threads, resume=True,
    ).as_dict()  # fmt: skip


def _note(document: Mapping[str, Any]) -> str:
    """A pass in one line: what it did to the size and to the metric, and whether it is faster."""
    before, found = document["before"], document["accuracy"]
    after = document.get("after") or document["artifact"]
    parts = [
        f"{name} x{after[key] / before[key]:.3f}"
        for key, name in (("parameters", "parameters"), ("macs", "MACs"), ("size_bytes", "bytes"))
        if before.get(key) and after.get(key)
    ]
    if found is not None:
        low, high = found["drop_interval"]
        parts.append(
            f"{found['metric']} {found['value']:.4f}, drop {found['drop']:.4f}"
            f" [{low:.4f}, {high:.4f}]"
        )
    for format, each in document["latency"].items():
        verdict = "no gain" if each["verdict"] == "tie" else each["verdict"]
        parts.append(f"{format} {verdict}, p50 x{each['ratio']:.3f}")
    if not document["latency"]:
        parts.append("not timed")
    if document.get("estimate"):
        old, new = (document["estimate"][side] for side in ("before", "after"))
        parts.append(
            f"{old['device']} {old['precision']} estimated {old['latency_ms']:.3g} ->"
            f" {new['latency_ms']:.3g} ms"
        )
    return f"{document['pass']['pass']}: {'; '.join(parts)}"


def _reference(recipe: Recipe) -> Measured:
    """What drops are counted from: the goals' baseline, or the model as it was."""
    goals = recipe.goals
    source: ModelSource = recipe.model.source
    if goals.baseline is not None:
        source = ModelSource(goals.baseline, goals.baseline_weights)
    artifact = replace(loading.as_artifact(source), preprocess=recipe.data.prepared)
    return study.of_artifact(artifact, f"{ORIGINAL} {artifact.format}", is_baseline=True)


def _cases(recipe: Recipe, source: ModelSource) -> list[Case]:
    """The original in float32 for each format, which the targets are to beat, then the targets."""
    framework = sources.framework_of(recipe.model.source)

    def case(name: str, model: ModelSource, each: TargetPart) -> Case:
        return Case(
            name, model, framework, each.to, each.precision, recipe.data.prepared, each.options,
            each.device, each.on,
        )  # fmt: skip

    unchanged = source == recipe.model.source
    floats: dict[tuple[str, str | None], Case] = {}
    for each in recipe.targets:
        plain = TargetPart(each.to, on=each.on)
        if not (unchanged and any(other.name == plain.name for other in recipe.targets)):
            name = f"{ORIGINAL} {plain.name}"
            floats.setdefault((each.to, each.on), case(name, recipe.model.source, plain))
    return [*floats.values(), *(case(each.name, source, each) for each in recipe.targets)]


def _converted(cases: list[Case], recipe: Recipe, output: Path, say: Say) -> list[Measured]:
    """Those that were converted before are taken as they are."""
    folder = output / "targets"

    def place(case: Case) -> Path:
        return folder / _file(case.name)

    todo = [case for case in cases if not (place(case) / NAME).exists()]
    if todo:
        say(f"converting to {len(todo)} targets, each verified ...")
    named = [replace(case, name=place(case).name) for case in todo]
    made = study.convert_all(named, folder, calib=recipe.data.calib, data=recipe.data.data, say=say)
    fresh = dict(zip((case.name for case in todo), made, strict=True))
    found = []
    for case in cases:
        one = fresh.get(case.name)
        if one is None:
            one = Measured(
                case.name, case.framework, case.format, case.precision,
                Artifact.load(place(case)), on=case.on, device=case.device,
            )  # fmt: skip
        found.append(replace(one, name=case.name))
    return found


def _scored(subjects: list[Measured], recipe: Recipe, output: Path, say: Say) -> list[Measured]:
    """Scores are kept, since they do not depend on the hour."""
    goals = recipe.goals
    say(f"evaluating on {recipe.data.data} ...")
    found = []
    for each in subjects:
        kept = output / "scores" / f"{_file(each.name)}{SUFFIX}"
        if kept.exists():
            found.append(replace(each, scores=Scores.load(kept)))
            continue
        (one,) = study.score_all(
            [each], data=recipe.data.data, metric=goals.metric, output=goals.output_name,
            threads=goals.threads, say=say,
        )  # fmt: skip
        if one.scores is not None:
            kept.parent.mkdir(exist_ok=True)
            one.scores.save(kept)
        found.append(one)
    return found


def _file(name: str) -> str:
    """A row's name as that of a file."""
    return "".join(c if c.isalnum() or c in "-." else "-" for c in name)


def _within(row: Row, max_latency: float | None) -> Row:
    """FAIL(latency) where the median is not surely below the goal; the original is no target."""
    timed = row.latency
    if max_latency is None or timed is None or row.name.startswith(ORIGINAL):
        return row
    if row.status.startswith(("FAIL", "ERROR", "UNDEC")) or timed.p50_interval_ms[1] <= max_latency:
        return row
    reason = f"p50 {timed.p50_ms:.3f} ms, allowed {max_latency:g} ms"
    return replace(row, status="FAIL(latency)", reason=reason)
