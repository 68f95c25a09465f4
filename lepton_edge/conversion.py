"""`convert`: one source to one artefact, verified against its source before it appears."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from lepton_edge import devices, errors, jobs, parity, plugins, sources
from lepton_edge import options as knobs
from lepton_edge.artifact import NAME, Artifact, replacing
from lepton_edge.measurement import Parity
from lepton_edge.model import ModelSource
from lepton_edge.preprocess import Preprocess
from lepton_edge.samples import Samples, open_samples, refuse_shared
from lepton_edge.target import Target


def convert(
    source: ModelSource | str,
    *,
    to: str,
    output: str | Path,
    precision: str = "fp32",
    calib: Samples | str | Path | None = None,
    data: Samples | str | Path | None = None,
    preprocess: Preprocess | None = None,
    options: Mapping[str, Any] | None = None,
    device: str = "cpu",
    on: str | None = None,
    classes: Sequence[str] = (),
    verify: bool = True,
    time_limit_s: float = 1800.0,
    memory_limit_mb: int | None = None,
) -> Artifact:
    """Exports `source` to the format `to` and writes the artefact's folder `output`.

    `calib` are training samples for int8; `data` are real inputs for the verification. Without
    them the calibration samples are used, else the source's seeded example inputs; the record says
    which. Noise would lie outside the ranges that int8 was calibrated for. What is suspicious in
    the calibration data is in the artefact's `calibration["warnings"]`. `preprocess` applies
    to both and is stored. `on` (`ssh://user@host`) builds what holds for one machine alone on that
    machine, and verifies it there. Raises `GateFailed` where the artefact does not compute what its
    source computes, `CannotConvert` where the format cannot express it. On any error nothing is
    written, and what stood at `output` stays as it was.
    """
    source = ModelSource(source) if isinstance(source, str) else source
    target, output = Target(to, precision, device), Path(output)
    chosen = dict(options or {})
    converter = plugins.load("converters", to)
    knobs.build(converter.Options, chosen)  # a wrong option is known before anything starts
    check_device(target)
    if on is not None and not hasattr(converter, "prepare"):
        raise errors.UsageError(
            f"The format {to} is the same on every machine, so nothing is built on {on!r}.",
            next="Convert it here, and run it there with --on.",
        )
    refuse_to_overwrite(output, source)
    if verify and not plugins.exists("runtimes", to):
        raise errors.UsageError(
            f"There is no runtime for {to}, so the artefact cannot be verified.",
            next="Pass verify=False to have it unverified.",
        )
    reason = converter.refuses(sources.framework_of(source), precision)
    if reason is not None:
        raise errors.CannotConvert(
            f"Cannot convert {source.path!r} to {target}: {reason}.",
            next="`lepton-edge inspect` lists the targets that can take it.",
        )
    ranges = None if calib is None else open_samples(calib, preprocess=preprocess)
    inputs = None if data is None else open_samples(data, preprocess=preprocess)
    if ranges is not None and inputs is not None:
        refuse_shared(ranges, inputs, "Calibration", next="Calibrate on training samples only.")
    limits: dict[str, Any] = {"time_limit_s": time_limit_s, "memory_limit_mb": memory_limit_mb}
    with replacing(output) as temporary:
        temporary.mkdir()
        jobs.call(
            "convert",
            source=source.as_dict(),
            target={"format": to, "precision": precision, "device": device},
            out=str(temporary),
            options=chosen,
            calib=None if ranges is None else ranges.as_dict(),
            data=None if inputs is None else inputs.as_dict(),
            preprocess=None if preprocess is None else preprocess.as_dict(),
            classes=list(classes),
            command=shlex.join(
                _command(source, target, output, chosen, ranges, data, preprocess, classes)
                + ([] if verify else ["--no-verify"])
            ),
            on=on,
            limit_s=time_limit_s,
            **limits,
        )
        if verify:
            artifact = Artifact.load(temporary)
            runtime = plugins.load("runtimes", artifact.format)
            place = {"device": getattr(runtime, "DEVICE", "cpu"), "on": on}
            try:
                result = _verified(source, artifact, inputs, ranges, **place, **limits)
            except errors.BackendMissing as error:
                if artifact.engine is not None and not isinstance(error, errors.DeviceError):
                    error.next = (
                        "Build it where it runs with --on, or pass --no-verify to have it"
                        " unverified."
                    )
                raise
            if result.status != "PASS":
                raise errors.GateFailed(
                    f"The {target} artefact of {source.path!r} does not compute what its source"
                    f" computes: {'; '.join(result.reasons)} ({result.inputs}).",
                    next="Nothing was written; try another option, precision or format.",
                )
            replace(artifact, parity=result.as_dict()).save()
    return Artifact.load(output)


def check_device(target: Target) -> None:
    """Raises `UsageError` for a device that is not known, or an accelerator without the target."""
    if target.device in getattr(plugins.load("converters", target.format), "HERE", ("cpu",)):
        return
    profile = devices.load(target.device)
    takes = [(each.format, p) for each in profile.runtimes for p in each.precisions]
    if profile.kind in ("edgetpu", "mcu") and (target.format, target.precision) not in takes:
        raise errors.UsageError(
            f"{target.device} takes {', '.join(map(' '.join, takes))}, not {target}.",
            next="Leave --device out for a file that runs elsewhere.",
        )


def _verified(
    source: ModelSource,
    artifact: Artifact,
    data: Samples | None,
    calib: Samples | None,
    **limits: Any,
) -> Parity:
    """On the evaluation data, else on the calibration samples, else on example inputs."""
    if data is not None or calib is None:
        return parity.verify(source, artifact, data=data, **limits)
    result = parity.verify(source, artifact, data=calib, **limits)
    return replace(result, inputs=f"calibration samples of {result.inputs}")


def _command(
    source: ModelSource,
    target: Target,
    output: Path,
    options: Mapping[str, Any],
    calib: Samples | None,
    data: Samples | str | Path | None,
    preprocess: Preprocess | None,
    classes: Sequence[str],
) -> list[str]:
    """The command that does the same here; an artefact that holds for one machine keeps it."""
    words = ["lepton-edge", "convert", source.path, "--to", target.format]
    words += ["--precision", target.precision]
    words += ["--weights", source.weights] if source.weights else []
    for spec in source.inputs:
        shape = "x".join("?" if size is None else str(size) for size in spec.shape)
        words += ["--input", f"{spec.name}={shape}:{spec.dtype}"]
    for option, samples in (("--calib", calib), ("--data", data)):
        if samples is not None:
            path = samples.as_dict()["path"] if isinstance(samples, Samples) else samples
            words += [option, str(path)]
    if preprocess is not None:
        told = [
            f"{key}={','.join(map(str, value)) if isinstance(value, tuple) else value}"
            for key, value in preprocess.as_dict().items()
            if value != getattr(Preprocess(), key)
        ]
        words += ["--preprocess", " ".join(told)]
    words += ["--classes", ",".join(classes)] if classes else []
    words += ["--device", target.device] if target.device != "cpu" else []
    for key, value in options.items():
        words += ["--option", f"{key}={value}"]
    return [*words, "--output", str(output)]


def refuse_to_overwrite(output: Path, source: ModelSource) -> None:
    """Only an artefact, with nothing else in its folder, may be replaced."""
    own = [source.file, *([Path(source.weights)] if source.weights else [])]
    if any(path.resolve().is_relative_to(output.resolve()) for path in own):
        raise errors.UsageError(
            f"The output {str(output)!r} holds the source itself.", next="Choose another folder."
        )
    if not output.is_dir():
        if output.exists() or output.is_symlink():
            raise errors.UsageError(
                f"The output {str(output)!r} is no folder.", next="Choose another place."
            )
        return
    found = {str(path.relative_to(output)) for path in output.rglob("*") if not path.is_dir()}
    if not found:
        return
    try:
        known = {*json.loads((output / NAME).read_text())["files"], NAME}
    except (OSError, ValueError, KeyError, TypeError):
        known = set()
    if found - known:
        raise errors.UsageError(
            f"The folder {str(output)!r} holds {min(found - known)!r}, which is of no artefact.",
            next="Choose another folder, or move that file.",
        )
