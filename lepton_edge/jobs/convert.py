"""The job `convert`: one source to one target, as a complete artefact in the folder `out`."""

from __future__ import annotations

import os
import shutil
import statistics
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import lepton_edge
from lepton_edge import errors, plugins, remote, sources
from lepton_edge import options as knobs
from lepton_edge.artifact import Artifact
from lepton_edge.calibration import data_checks
from lepton_edge.model import Model, ModelSource
from lepton_edge.preprocess import Preprocess
from lepton_edge.samples import Samples, batch_size, batches, limit, open_samples
from lepton_edge.target import Target

FEW = 16  # calibration samples that the reference runs on, for their scale
NEARLY_FULL = 64 << 10  # bytes left on the disk: whatever failed then, failed for want of space


def run(
    *,
    source: Mapping[str, Any],
    target: Mapping[str, Any],
    out: str,
    options: Mapping[str, Any] | None = None,
    calib: Mapping[str, Any] | None = None,
    data: Mapping[str, Any] | None = None,
    preprocess: Mapping[str, Any] | None = None,
    classes: Sequence[str] = (),
    command: str | None = None,
    on: str | None = None,
    limit_s: float = 1800.0,
) -> dict[str, Any]:
    """Converts into the empty folder `out` and writes artifact.json; returns what it describes.

    `data` are evaluation samples, only to compare the calibration samples with. `on` is a device
    that builds what the converter prepares, in `limit_s` at most; `command` builds it again.
    Temporary files of the libraries go into `out` too: a job that is killed leaves nothing else.
    """
    folder = Path(out)
    with tempfile.TemporaryDirectory(prefix=".scratch-", dir=folder) as scratch:
        before, tempfile.tempdir = tempfile.tempdir, scratch
        outer, os.environ["TMPDIR"] = os.environ.get("TMPDIR"), scratch
        try:
            artifact = _convert(
                ModelSource.from_dict(source),
                Target(**target),
                folder,
                options=options or {},
                calib=calib,
                data=data,
                on=on,
                limit_s=limit_s,
            )
        except Exception as error:
            if shutil.disk_usage(folder).free < NEARLY_FULL:
                raise errors.UsageError(
                    f"The disk of {out!r} is full.",
                    next="Free some space, or choose another place for the output.",
                ) from error
            raise
        finally:
            tempfile.tempdir = before
            if outer is None:
                del os.environ["TMPDIR"]
            else:
                os.environ["TMPDIR"] = outer
    if artifact.engine is not None:
        artifact = replace(artifact, engine={**artifact.engine, "rebuild": command})
    spec = Preprocess.from_dict(preprocess) if preprocess is not None else artifact.preprocess
    known = tuple(classes) or artifact.classes
    saved = replace(artifact, preprocess=spec, classes=known).save()
    return saved.describe()


def _convert(
    source: ModelSource,
    target: Target,
    folder: Path,
    *,
    options: Mapping[str, Any],
    calib: Mapping[str, Any] | None,
    data: Mapping[str, Any] | None,
    on: str | None,
    limit_s: float,
) -> Artifact:
    converter = plugins.load("converters", target.format)
    chosen = knobs.build(converter.Options, options)
    checksum = source.sha256()
    model = sources.load(source)
    samples = open_samples(dict(calib)) if calib is not None else None
    make = converter.convert if on is None else converter.prepare
    artifact: Artifact = make(model, target, folder, calibration=samples, options=chosen)
    if on is not None:
        plan = converter.remote_build(artifact)
        built, record = remote.build(artifact, on, target.format, plan, limit_s=limit_s)
        artifact = converter.finish(artifact, built, record)
    if samples is not None and artifact.calibration is not None:
        evaluation = open_samples(dict(data)) if data is not None else None
        warnings = _look_at(samples, evaluation, model)
        artifact = replace(artifact, calibration={**artifact.calibration, "warnings": warnings})
    if source.sha256() != checksum:
        raise errors.BadInput(
            f"{source.path!r} changed while it was converted.", next="Convert it again."
        )
    record = {**source.as_dict(), "framework": model.framework, "sha256": checksum}
    return replace(
        artifact,
        source=record,
        versions={"lepton-edge": lepton_edge.__version__, **artifact.versions},
    )


def _look_at(calib: Samples, data: Samples | None, model: Model) -> list[str]:
    """What is suspicious in the calibration data; the reference runs on a few of them."""
    few = batches(limit(calib, FEW), model.signature, batch_size(model.signature, FEW))
    spreads = [sources.input_spread(model, batch.feeds) for batch in few]
    known = [spread for spread in spreads if spread is not None]
    given = calib.as_dict().get("preprocess")
    return list(
        data_checks.check(
            calib,
            data=data,
            preprocess=Preprocess.from_dict(given) if given is not None else None,
            spread=statistics.median(known) if known else None,
        )
    )
