"""Many artefacts of one model, measured on the same samples and put into one report.

Conversions and evaluations run two at a time, since they are not timed; latency is measured one
process after the other, with nothing of ours beside it.
"""

from __future__ import annotations

import datetime
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from lepton_edge import accuracy, context, conversion, devices, errors, latency
from lepton_edge.artifact import Artifact
from lepton_edge.measurement import Accuracy, Parity, Report, Row
from lepton_edge.model import ModelSource
from lepton_edge.preprocess import Preprocess
from lepton_edge.samples import Samples, fingerprint, open_samples
from lepton_edge.scores import Scores
from lepton_edge.target import CALIBRATED

T = TypeVar("T")
R = TypeVar("R")
Say = Callable[[str], None]
Data = str | Path

# A precision must beat float32 of the same runtime; within this it is no slower (as in `compare`).
MARGIN = latency.MARGIN


@dataclass(frozen=True)
class Case:
    """One row to be: what to convert and how. `preprocess` is in the layout of `source`."""

    name: str
    source: ModelSource
    framework: str
    format: str
    precision: str
    preprocess: Preprocess | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    device: str = "cpu"
    on: str | None = None


@dataclass(frozen=True)
class Measured:
    """A subject with what was found; `error` where it could not be converted or run."""

    name: str
    framework: str
    format: str
    precision: str
    artifact: Artifact | None = None
    error: errors.EdgeError | None = None
    scores: Scores | None = None
    benchmark: latency.Benchmark | None = None
    is_baseline: bool = False
    on: str | None = None  # the device's address, where it runs on one
    device: str = "cpu"  # where the runtime computes

    def samples(self, data: Data) -> Samples:
        """The data as this subject's own preprocessing gives it."""
        return open_samples(data, preprocess=self.artifact.preprocess if self.artifact else None)


def of_artifact(
    artifact: Artifact, name: str, *, is_baseline: bool = False, on: str | None = None
) -> Measured:
    """An artefact that exists, or a model's source as the reference, as a row to be."""
    framework = str(artifact.source.get("framework") or artifact.format)
    return Measured(
        name, framework, artifact.format, artifact.precision, artifact,
        is_baseline=is_baseline, on=on,
    )  # fmt: skip


def convert_all(
    cases: Sequence[Case],
    folder: Path,
    *,
    calib: Data | None,
    data: Data,
    classes: Sequence[str] = (),
    say: Say,
) -> list[Measured]:
    """Converts each case into a folder of its own; a failure is a row, never a failed run."""
    profiles = devices.names()

    def one(case: Case) -> Measured:
        found = Measured(
            case.name, case.framework, case.format, case.precision, on=case.on, device=case.device
        )
        try:
            artifact = conversion.convert(
                case.source,
                to=case.format,
                precision=case.precision,
                output=folder / case.name.replace(" ", "-"),
                calib=calib if case.precision in CALIBRATED else None,
                data=data,
                preprocess=case.preprocess,
                options=case.options,
                # `gpu` or `cuda` is where a runtime here computes, and no device to convert for.
                device=case.device if case.device in profiles else "cpu",
                classes=classes,
            )
        except errors.EdgeError as error:
            return _failed(found, error, say)
        for warning in (artifact.calibration or {}).get("warnings", ()):
            say(f"  {case.name}: warning: {warning}")
        say(f"  {case.name}: converted and verified")
        return replace(found, artifact=artifact)

    return _two_at_a_time(one, cases)


def score_all(
    subjects: Sequence[Measured],
    *,
    data: Data,
    metric: str,
    output: str | None = None,
    threads: int = 1,
    say: Say,
) -> list[Measured]:
    """Evaluates each subject that has an artefact, on its output `output` where it has several."""

    def one(found: Measured) -> Measured:
        if found.artifact is None or found.error is not None:
            return found
        try:
            scores = accuracy.score(
                found.artifact,
                found.samples(data),
                metric=metric,
                output=output,
                device=found.device,
                threads=threads,
                on=found.on,
            )
        except errors.DeviceError:
            raise  # no row's own failure: the others cannot be measured either
        except errors.EdgeError as error:
            return _failed(found, error, say)
        say(f"  {found.name}: {metric} {scores.score.mean():.4f}, n={scores.n:,}")
        return replace(found, scores=scores)

    if any(found.on for found in subjects):  # which one run at a time has
        return [one(found) for found in subjects]
    return _two_at_a_time(one, subjects)


def time_all(
    subjects: Sequence[Measured], *, data: Data, window: str, threads: int = 1, say: Say
) -> list[Measured]:
    """Benchmarks each subject in a fresh process, one after the other.

    Where subjects run on a device, those that do not are not timed: no latency of another machine
    stands beside theirs.
    """
    places = {found.on for found in subjects if found.on}

    def one(found: Measured) -> Measured:
        if found.artifact is None or found.error is not None or (places and not found.on):
            return found
        try:
            result = latency.benchmark(
                found.artifact,
                window=window,
                data=found.samples(data),
                device=found.device,
                threads=threads,
                on=found.on,
            )
        except errors.DeviceError:
            raise
        except errors.EdgeError as error:
            return _failed(found, error, say)
        say(f"  {found.name}: p50 {result.latency.p50_ms:.3f} ms, n={result.latency.n:,}")
        return replace(found, benchmark=result)

    return [one(found) for found in subjects]


def _failed(found: Measured, error: errors.EdgeError, say: Say) -> Measured:
    say(f"  {found.name}: {error.status}: {error}")
    return replace(found, error=error)


def _two_at_a_time(one: Callable[[T], R], items: Sequence[T]) -> list[R]:
    workers = min(2, os.cpu_count() or 1)
    with ThreadPoolExecutor(workers) as pool:
        futures = [pool.submit(one, item) for item in items]
        try:
            return [future.result() for future in futures]
        except BaseException:
            for future in futures:
                future.cancel()
            raise


def rows(subjects: Sequence[Measured], *, max_drop: str | None) -> list[Row]:
    """A row a subject, with the verdicts that need the others: drop and SLOWER."""
    baseline = next((found.scores for found in subjects if found.is_baseline), None)
    floats: dict[tuple[str, str], latency.Benchmark] = {}
    for found in subjects:  # the first is the original, where there are several
        if found.precision == "fp32" and found.benchmark is not None:
            floats.setdefault((found.framework, found.format), found.benchmark)
    classes = _classes(subjects)
    named = [
        replace(found, scores=replace(found.scores, classes=classes)) if found.scores else found
        for found in subjects
    ]
    return [
        _row(found, baseline, floats.get((found.framework, found.format)), max_drop)
        for found in named
    ]


def _classes(subjects: Sequence[Measured]) -> tuple[str, ...]:
    """The names of the classes, from the first that knows them: a bare source does not."""
    return next(
        (each.scores.classes for each in subjects if each.scores and each.scores.classes), ()
    )


def _row(
    found: Measured,
    baseline: Scores | None,
    in_float: latency.Benchmark | None,
    max_drop: str | None,
) -> Row:
    judged = None
    if found.scores is not None:
        against = None if found.is_baseline else baseline
        budget = max_drop if against is not None else None
        judged = accuracy.judge(found.scores, against, max_drop=budget)
    status, reason = _verdict(found, judged, in_float)
    artifact, timed = found.artifact, found.benchmark
    facts = dict(timed.facts) if timed is not None else {}
    calibration = artifact.calibration if artifact is not None else None
    if calibration is not None and calibration.get("warnings"):
        facts["calibration_warnings"] = list(calibration["warnings"])
    for step in artifact.steps if artifact is not None else ():
        if "sensitivity" in step:
            kept = set(step["kept_in_float"])
            facts["sensitivity"] = [
                {**layer, "kept_in_float": layer["node"] in kept} for layer in step["sensitivity"]
            ]
    return Row(
        name=found.name,
        framework=found.framework,
        format=found.format,
        precision=found.precision,
        device=str(facts.get("machine") or facts.get("device") or "cpu"),
        status=status,
        reason=reason,
        artifact=artifact.describe() if artifact is not None else None,
        parity=Parity.from_dict(artifact.parity) if artifact and artifact.parity else None,
        accuracy=judged,
        latency=timed.latency if timed is not None else None,
        placement=facts.get("placement"),
        facts=facts,
        is_baseline=found.is_baseline,
    )


def _verdict(
    found: Measured, judged: Accuracy | None, in_float: latency.Benchmark | None
) -> tuple[str, str | None]:
    """The gravest status word that applies, and why."""
    if found.error is not None:
        missing = isinstance(found.error, errors.BackendMissing)
        status = "SKIPPED(backend missing)" if missing else found.error.status
        return status, str(found.error)
    if judged is not None and judged.status not in (None, "PASS"):
        assert judged.status is not None
        assert judged.drop_interval is not None
        low, high = (100 * side for side in judged.drop_interval)
        return judged.status, f"drop [{low:.2f}, {high:.2f}] pt, allowed {judged.max_drop}"
    timed = found.benchmark.latency if found.benchmark is not None else None
    if timed is not None and timed.unstable:
        return "UNSTABLE", "; ".join(timed.unstable)
    if timed is not None and in_float is not None and found.benchmark is not in_float:
        limit = in_float.latency.p50_interval_ms[1] * (1 + MARGIN)
        if timed.p50_interval_ms[0] > limit:
            steps = found.artifact.steps if found.artifact is not None else ()
            why = "".join(f"; {step['slow_because']}" for step in steps if "slow_because" in step)
            return "SLOWER", (
                f"p50 {timed.p50_ms:.3f} ms, where fp32 in the same runtime takes"
                f" {in_float.latency.p50_ms:.3f} ms (one run each; `compare` decides){why}"
            )
    return "PASS", None


def report(
    subjects: Sequence[Measured],
    *,
    title: str,
    command: str,
    data: Data,
    max_drop: str | None = None,
    notes: Sequence[str] = (),
) -> Report:
    """The report of subjects that were scored and timed; its context is that of the timing."""
    samples = open_samples(data)
    there = next((each.benchmark.context for each in subjects if each.on and each.benchmark), None)
    classes = _classes(subjects)
    return Report(
        title=title,
        command=command,
        created=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        data={
            "path": samples.as_dict()["path"],
            "n": len(samples),
            "fingerprint": fingerprint(samples),
        },
        context=context.capture() if there is None else there,
        rows=rows(subjects, max_drop=max_drop),
        classes=tuple(classes),
        notes=tuple(notes),
    )
