"""`prune`, `distil` and `finetune`: a smaller model as a source, with what it costs and gains."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from lepton_edge import accuracy, errors, inspection, jobs, latency, loading, sources
from lepton_edge._latency_budget import Estimated, Measured, ratio_for
from lepton_edge._progress import followed
from lepton_edge.artifact import Artifact, replacing
from lepton_edge.calibration import dialects
from lepton_edge.compress._form import MODEL, RECORD, keras_file
from lepton_edge.compress._pass import refuse
from lepton_edge.compress._training import refuse_on_keras, training_folder
from lepton_edge.compress.distil import Distil
from lepton_edge.compress.quantize import QuantizedTraining
from lepton_edge.conversion import convert, refuse_to_overwrite
from lepton_edge.jobs import compress as job
from lepton_edge.measurement import Accuracy, Comparison
from lepton_edge.model import ModelSource
from lepton_edge.preprocess import Preprocess
from lepton_edge.samples import Samples, open_samples, refuse_shared

Data = Samples | str | Path
PROGRESS = "progress.jsonl"
SIZES = ("parameters", "macs", "size_bytes")
ON_WITHOUT_TO = "On a device, only what was exported to a format can be timed."


@dataclass(frozen=True)
class Compressed:
    """What a pass made: `source` opens it; `before` and `after` have parameters, MACs and bytes.

    `accuracy` is of the result, its drop paired with the model before; `latency` compares both,
    by format, where they were timed; `estimate` has both on a device that is not there. `status` is
    PASS, the accuracy's verdict where a budget was given, or SLOWER where a format that was asked
    for did not get faster.
    """

    source: ModelSource
    status: str
    record: Mapping[str, Any]
    before: Mapping[str, Any]
    after: Mapping[str, Any]
    accuracy: Accuracy | None
    latency: Mapping[str, Comparison]
    estimate: Mapping[str, Any] | None = None

    @property
    def exit_code(self) -> int:
        return 0 if self.status == "PASS" else errors.GateFailed.exit_code

    def as_dict(self) -> dict[str, Any]:
        """The JSON document of the verbs."""
        return {
            "status": self.status,
            "exit_code": self.exit_code,
            "source": self.source.as_dict(),
            "before": dict(self.before),
            "after": dict(self.after),
            "accuracy": self.accuracy.as_dict() if self.accuracy else None,
            "latency": {name: each.as_dict() for name, each in self.latency.items()},
            "estimate": self.estimate,
            "pass": dict(self.record),
        }


def prune(source: ModelSource | str, output: str | Path, **given: Any) -> Compressed:
    """Removes channels of a PyTorch model; `options` are those of `compress.Prune`.

    With the option cost=latency, `ratio` is the share of the median latency in the first format of
    `to`, on the device `on` or this machine, or of the one estimated for `device` in
    `device_precision`: what layers take there is found first, and decides which give up channels.
    """
    return compress("prune", source, output, **given)


def distil(source: ModelSource | str, output: str | Path, **given: Any) -> Compressed:
    """Trains a student on a teacher's answers; `options` are those of `compress.Distil`."""
    return compress("distil", source, output, **given)


def finetune(source: ModelSource | str, output: str | Path, **given: Any) -> Compressed:
    """Trains a model further on labelled samples; `options` are those of `compress.Finetune`."""
    return compress("finetune", source, output, **given)


@dataclass(frozen=True)
class Quantized:
    """An int8 artefact whose integers were trained; `record` has the layer-by-layer check.

    `before` has the source's parameters, MACs and bytes. `latency` compares the artefact with the
    source in float32 in the same format, where it was asked for; `status` is as in `Compressed`.
    """

    artifact: Artifact
    status: str
    record: Mapping[str, Any]
    before: Mapping[str, Any]
    accuracy: Accuracy | None
    latency: Mapping[str, Comparison]

    @property
    def exit_code(self) -> int:
        return 0 if self.status == "PASS" else errors.GateFailed.exit_code

    def as_dict(self) -> dict[str, Any]:
        """The JSON document of `finetune --precision int8`."""
        return {
            "status": self.status,
            "exit_code": self.exit_code,
            "artifact": self.artifact.describe(),
            "before": dict(self.before),
            "accuracy": self.accuracy.as_dict() if self.accuracy else None,
            "latency": {name: each.as_dict() for name, each in self.latency.items()},
            "pass": dict(self.record),
        }


def finetune_int8(
    source: ModelSource | str,
    output: str | Path,
    *,
    train: Data,
    calib: Data | None = None,
    options: Mapping[str, Any] | None = None,
    training: Mapping[str, Any] | None = None,
    data: Data | None = None,
    metric: str = "top1",
    max_drop: str | None = None,
    preprocess: Preprocess | None = None,
    batch: int | None = 1,
    to: tuple[str, ...] = (),
    window: str = "quick",
    threads: int | None = None,
    on: str | None = None,
    work: str | Path | None = None,
    resume: bool = False,
    time_limit_s: float = 7 * 86400.0,
    memory_limit_mb: int | None = None,
) -> Quantized:
    """Trains `source` in the integers of a dialect and writes the artefact `output`.

    `options` are those of `compress.quantize.QuantizedTraining`. Ranges of activations come from
    `calib`, else from some of the training samples. The source may be of any framework that
    converts to the dialect's format, ONNX or TFLite. `batch` is fixed in the file, None leaves it
    free (ONNX). `to` names that format, to time the artefact beside its source. The rest as for
    `compress`.
    """
    source = ModelSource(source) if isinstance(source, str) else source
    output = Path(output)
    work = training_folder(output, work)
    check("quantize", source, options or {}, training or {})
    form = trained_format(options or {})
    if set(to) - {form}:
        raise errors.UsageError(
            f"These trained integers are in {form}.", next=f"Time them with --to {form}."
        )
    if on is not None and not to:
        raise errors.UsageError(ON_WITHOUT_TO, next=f"Give --to {form}.")
    if max_drop is not None and data is None:
        raise errors.UsageError("A budget for the drop needs evaluation data.")
    samples = open_samples(train, preprocess=preprocess)
    held = None if data is None else open_samples(data, preprocess=preprocess)
    ranges = None if calib is None else open_samples(calib, preprocess=preprocess)
    for each in (samples, ranges):
        if held is not None and each is not None:
            refuse_trained(each, held)
    refuse_to_overwrite(output, source)
    with replacing(output) as temporary:
        temporary.mkdir()
        with followed(work, PROGRESS):
            done = jobs.call(
                "quantize",
                source=source.as_dict(),
                options=dict(options or {}),
                training=dict(training or {}),
                samples=samples.as_dict(),
                calib=None if ranges is None else ranges.as_dict(),
                preprocess=None if preprocess is None else preprocess.as_dict(),
                batch=batch,
                out=str(temporary),
                work=str(work),
                resume=resume,
                time_limit_s=time_limit_s,
                memory_limit_mb=memory_limit_mb,
            )
    artifact = Artifact.load(output)
    found = None
    if held is not None:
        found = accuracy.evaluate(artifact, held, metric=metric, baseline=source, max_drop=max_drop)
    times: dict[str, Comparison] = {}
    if to:
        with tempfile.TemporaryDirectory(prefix="lepton-edge-") as folder:
            plain = convert(source, to=form, output=Path(folder, "p"), preprocess=preprocess)
            times[form] = latency.compare(
                plain.folder, output, window=window, threads=threads, on=on
            )
    before = _sizes(inspection.inspect(source))
    return Quantized(artifact, _status(found, times), done["record"], before, found, times)


def trained_format(options: Mapping[str, Any]) -> str:
    """The format of what `finetune_int8` writes with these options."""
    default = next(each.default for each in fields(QuantizedTraining) if each.name == "dialect")
    return dialects.load(str(options.get("dialect", default))).container


def compress(
    name: str,
    source: ModelSource | str,
    output: str | Path,
    *,
    train: Data | None = None,
    options: Mapping[str, Any] | None = None,
    training: Mapping[str, Any] | None = None,
    data: Data | None = None,
    metric: str = "top1",
    max_drop: str | None = None,
    preprocess: Preprocess | None = None,
    to: tuple[str, ...] = (),
    window: str = "quick",
    threads: int | None = None,
    on: str | None = None,
    device: str | None = None,
    device_precision: str = "int8",
    work: str | Path | None = None,
    resume: bool = False,
    processes: int = 1,
    time_limit_s: float = 7 * 86400.0,
    memory_limit_mb: int | None = None,
) -> Compressed:
    """Runs the pass `name` on `source`, writes the folder `output` and measures both.

    `train` are training samples, which must share none with `data`, the evaluation samples;
    `training` are options of `compress.Training`. `to` names formats in which both models are
    timed (in `window`, see `benchmark`), on the device at the address `on` or here; `device` is the
    name of one that is not there, for which both are estimated in `device_precision`. `work` keeps
    the checkpoint and the TensorBoard events (default: OUTPUT.training); `resume` goes on after a
    run that was killed. Raises `UsageError` for shared samples; on any error nothing stands at
    `output` that was not there before.
    """
    source = ModelSource(source) if isinstance(source, str) else source
    output = Path(output)
    work = training_folder(output, work)
    chosen = dict(options or {})
    timed = name == "prune" and chosen.get("cost") == "latency"
    if timed and not to and device is None:
        raise errors.UsageError(
            "A latency is that of a format, or estimated for a device.",
            next="Give --to onnx, openvino or tflite, or --device.",
        )
    if timed and "ratio" not in chosen:
        raise errors.UsageError(
            "To prune for a latency, say how much of it goes.", next="Give --ratio 0.5."
        )
    if on is not None and device is not None:
        raise errors.UsageError("A device is reached (--on) or estimated (--device), not both.")
    check(name, source, chosen, training or {}, processes)
    if max_drop is not None and data is None:
        raise errors.UsageError("A budget for the drop needs evaluation data.")
    if on is not None and not to:
        raise errors.UsageError(ON_WITHOUT_TO, next="Give --to onnx, openvino or tflite.")
    if processes < 1:
        raise errors.UsageError(f"Training cannot run in {processes} processes.")
    samples = None if train is None else open_samples(train, preprocess=preprocess)
    held = None if data is None else open_samples(data, preprocess=preprocess)
    if samples is not None and held is not None:
        refuse_trained(samples, held)
    limits: dict[str, Any] = {"time_limit_s": time_limit_s, "memory_limit_mb": memory_limit_mb}
    named = None if device is None else Estimated(device, device_precision, samples)
    if named is not None and not timed:
        named.estimate(source)  # what there is no estimate for is said before anything is trained
    budget = None
    if timed:
        clock = named or Measured(to[0], window, threads, on)
        budget = ratio_for(source, chosen, float(chosen["ratio"]), clock, samples)
        chosen.update(budget.pop("options"))
    with followed(work, PROGRESS):
        done = jobs.call(
            "compress",
            name=name,
            source=source.as_dict(),
            options=chosen,
            training=dict(training or {}),
            samples=None if samples is None else samples.as_dict(),
            out=str(output),
            work=str(work),
            resume=resume,
            processes=processes,
            **limits,
        )
    record = done["record"]
    if budget is not None:
        record = {**record, "latency_budget": budget}
        _record_again(Path(output) / RECORD, record)
    made = made_by(source, ModelSource.from_dict(done["source"]), record)
    return measured(
        made, source, data=held, metric=metric, max_drop=max_drop, preprocess=preprocess,
        to=to, window=window, threads=threads, on=on, device=named,
    )  # fmt: skip


def _record_again(path: Path, record: Mapping[str, Any]) -> None:
    """Writes the last step's record with what was found outside its job."""
    whole = json.loads(path.read_text())
    whole["steps"][-1] = dict(record)
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(whole, indent=1) + "\n")


def made_by(before: ModelSource, made: ModelSource, record: Mapping[str, Any]) -> Compressed:
    """What a pass wrote, with the sizes of both and nothing measured."""
    sizes, smaller = (_sizes(inspection.inspect(each)) for each in (before, made))
    return Compressed(made, "PASS", record, sizes, smaller, None, {})


def written_at(folder: Path, before: ModelSource) -> Compressed | None:
    """As `made_by`, of a pass on `before` that wrote `folder` in a run that was killed later."""
    record = folder / RECORD
    if not record.exists():
        return None
    if keras_file(folder).exists():
        made = ModelSource(str(keras_file(folder)), None, before.inputs)
    else:
        weights = str(folder / f"{folder.name}.safetensors")
        made = ModelSource(f"{folder / MODEL}:factory", weights, before.inputs)
    return made_by(before, made, json.loads(record.read_text())["steps"][-1])


def measured(
    done: Compressed,
    before: ModelSource,
    *,
    data: Samples | None,
    metric: str = "top1",
    max_drop: str | None = None,
    preprocess: Preprocess | None = None,
    to: tuple[str, ...] = (),
    window: str = "quick",
    threads: int | None = None,
    on: str | None = None,
    device: Estimated | None = None,
) -> Compressed:
    """`done` with its accuracy and its latency beside those of `before`; see `compress`."""
    found = None
    if data is not None:
        found = accuracy.evaluate(
            done.source, data, metric=metric, baseline=before, max_drop=max_drop, threads=threads
        )
    times = {
        format: _times(
            before, done.source, format, window=window, threads=threads, on=on,
            preprocess=preprocess,
        )
        for format in to
    }  # fmt: skip
    estimate = done.estimate
    if device is not None:
        both = {"before": before, "after": done.source}
        estimate = {key: device.estimate(each).as_dict() for key, each in both.items()}
    return replace(
        done, status=_status(found, times), accuracy=found, latency=times, estimate=estimate
    )


def _sizes(found: Mapping[str, Any]) -> dict[str, Any]:
    return {key: found[key] for key in SIZES}


def _status(found: Accuracy | None, times: Mapping[str, Comparison]) -> str:
    status = found.status if found is not None and found.status else "PASS"
    if status == "PASS" and any(each.verdict != "faster" for each in times.values()):
        return "SLOWER"
    return status


def check(
    name: str,
    source: ModelSource,
    options: Mapping[str, Any],
    training: Mapping[str, Any],
    processes: int = 1,
) -> None:
    """What is wrong with the request is said before anything is loaded.

    `name` is a pass of `lepton_edge.compress`; `quantize` takes a source of any framework.
    """
    plain = {**options, "cost": "macs"} if options.get("cost") == "latency" else options
    made = job.build(name, plain, training)
    framework = sources.framework_of(source)
    if name != "quantize":
        refuse(made.frameworks, source.path, framework)
        if isinstance(made, Distil):
            made.check_teacher(framework)
        if framework == "keras":
            refuse_on_keras(made.training, processes)


def refuse_trained(train: Samples, data: Samples) -> None:
    """`UsageError` where evaluation data hold a sample that is trained on, by content."""
    refuse_shared(train, data, "Training", next="Train on samples that no evaluation sees.")


def _times(
    before: ModelSource,
    after: ModelSource,
    format: str,
    *,
    window: str,
    threads: int | None,
    on: str | None,
    preprocess: Preprocess | None,
) -> Comparison:
    """Both models in that format, float32, timed in turns."""
    with tempfile.TemporaryDirectory(prefix="lepton-edge-") as folder:
        pair: list[loading.Subject] = []
        for name, each in (("before", before), ("after", after)):
            pair.append(
                convert(each, to=format, output=Path(folder, name), preprocess=preprocess).folder
            )
        return latency.compare(*pair, window=window, threads=threads, on=on)
