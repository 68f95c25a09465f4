"""`prune`, `distil` and `finetune`: a smaller model as a source, with what it costs and gains."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lepton_edge import accuracy, errors, inspection, jobs, latency, loading, sources
from lepton_edge._latency_budget import ratio_for
from lepton_edge._progress import followed
from lepton_edge.artifact import Artifact, replacing
from lepton_edge.compress._training import training_folder
from lepton_edge.conversion import convert, refuse_to_overwrite
from lepton_edge.jobs import compress as job
from lepton_edge.measurement import Accuracy, Comparison
from lepton_edge.model import ModelSource
from lepton_edge.preprocess import Preprocess
from lepton_edge.samples import Samples, open_samples, refuse_shared

Data = Samples | str | Path
PROGRESS = "progress.jsonl"
SIZES = ("parameters", "macs", "size_bytes")


@dataclass(frozen=True)
class Compressed:
    """What a pass made: `source` opens it; `before` and `after` have parameters, MACs and bytes.

    `accuracy` is of the result, its drop paired with the model before; `latency` compares both,
    by format, on this machine. `status` is PASS, the accuracy's verdict where a budget was given,
    or SLOWER where a format that was asked for did not get faster.
    """

    source: ModelSource
    status: str
    record: Mapping[str, Any]
    before: Mapping[str, Any]
    after: Mapping[str, Any]
    accuracy: Accuracy | None
    latency: Mapping[str, Comparison]

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
            "pass": dict(self.record),
        }


def prune(source: ModelSource | str, output: str | Path, **given: Any) -> Compressed:
    """Removes channels of a PyTorch model; `options` are those of `compress.Prune`.

    With the option cost=latency, `ratio` is the share of the median latency in the first format of
    `to`, on this machine: the share of MACs is then found by measuring.
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
    """An int8 artefact whose integers were trained; `record` has the layer-by-layer check."""

    artifact: Artifact
    status: str
    record: Mapping[str, Any]
    accuracy: Accuracy | None

    @property
    def exit_code(self) -> int:
        return 0 if self.status == "PASS" else errors.GateFailed.exit_code

    def as_dict(self) -> dict[str, Any]:
        """The JSON document of `finetune --precision int8`."""
        return {
            "status": self.status,
            "exit_code": self.exit_code,
            "artifact": self.artifact.describe(),
            "accuracy": self.accuracy.as_dict() if self.accuracy else None,
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
    work: str | Path | None = None,
    resume: bool = False,
    time_limit_s: float = 7 * 86400.0,
    memory_limit_mb: int | None = None,
) -> Quantized:
    """Trains `source` in the integers of a dialect and writes the ONNX artefact `output`.

    `options` are those of `compress.quantize.QuantizedTraining`. Ranges of activations come from
    `calib`, else from some of the training samples. The source may be of any framework that
    converts to ONNX. `batch` is fixed in the file, None leaves it free. The rest as for `compress`.
    """
    source = ModelSource(source) if isinstance(source, str) else source
    output = Path(output)
    work = training_folder(output, work)
    job.build("quantize", options or {}, training or {})
    sources.framework_of(source)
    if max_drop is not None and data is None:
        raise errors.UsageError("A budget for the drop needs evaluation data.")
    samples = open_samples(train, preprocess=preprocess)
    held = None if data is None else open_samples(data, preprocess=preprocess)
    ranges = None if calib is None else open_samples(calib, preprocess=preprocess)
    for each in (samples, ranges):
        if held is not None and each is not None:
            _refuse_shared(each, held)
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
    status = found.status if found is not None and found.status else "PASS"
    return Quantized(artifact, status, done["record"], found)


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
    work: str | Path | None = None,
    resume: bool = False,
    processes: int = 1,
    time_limit_s: float = 7 * 86400.0,
    memory_limit_mb: int | None = None,
) -> Compressed:
    """Runs the pass `name` on `source`, writes the folder `output` and measures both.

    `train` are training samples, which must share none with `data`, the evaluation samples;
    `training` are options of `compress.Training`. `to` names formats in which both models are
    timed (in `window`, see `benchmark`). `work` keeps the checkpoint and the TensorBoard events
    (default: OUTPUT.training); `resume` goes on after a run that was killed. Raises `UsageError`
    for shared samples; on any error nothing stands at `output` that was not there before.
    """
    source = ModelSource(source) if isinstance(source, str) else source
    output = Path(output)
    work = training_folder(output, work)
    chosen = dict(options or {})
    timed = name == "prune" and chosen.get("cost") == "latency"
    if timed:
        chosen["cost"] = "macs"
        if not to:
            raise errors.UsageError(
                "A latency is that of a format.", next="Give --to onnx, openvino or tflite."
            )
    _check(name, source, chosen, training or {})
    if max_drop is not None and data is None:
        raise errors.UsageError("A budget for the drop needs evaluation data.")
    if processes < 1:
        raise errors.UsageError(f"Training cannot run in {processes} processes.")
    samples = None if train is None else open_samples(train, preprocess=preprocess)
    held = None if data is None else open_samples(data, preprocess=preprocess)
    if samples is not None and held is not None:
        _refuse_shared(samples, held)
    limits: dict[str, Any] = {"time_limit_s": time_limit_s, "memory_limit_mb": memory_limit_mb}
    before = inspection.inspect(source)
    budget = None
    if timed:
        share = float(chosen["ratio"])
        budget = ratio_for(source, chosen, share, to[0], window=window, threads=threads)
        chosen["ratio"] = budget["ratio"]
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
    made = ModelSource.from_dict(done["source"])
    after = inspection.inspect(made)
    found = None
    if held is not None:
        found = accuracy.evaluate(
            made, held, metric=metric, baseline=source, max_drop=max_drop, threads=threads
        )
    times = {
        format: _times(source, made, format, window=window, threads=threads, preprocess=preprocess)
        for format in to
    }
    status = found.status if found is not None and found.status else "PASS"
    if status == "PASS" and any(each.verdict != "faster" for each in times.values()):
        status = "SLOWER"
    return Compressed(
        made,
        status,
        done["record"] if budget is None else {**done["record"], "latency_budget": budget},
        {key: before[key] for key in SIZES},
        {key: after[key] for key in SIZES},
        found,
        times,
    )


def _check(
    name: str, source: ModelSource, options: Mapping[str, Any], training: Mapping[str, Any]
) -> None:
    """What is wrong with the request is said before anything is loaded."""
    job.build(name, options, training)
    framework = sources.framework_of(source)
    if framework != "torch":
        raise errors.CannotConvert(
            f"{source.path!r} ({framework}) cannot be compressed: pruning and training change a"
            " PyTorch module.",
            next="Give the model as file.py:factory with --weights.",
        )


def _refuse_shared(train: Samples, data: Samples) -> None:
    refuse_shared(train, data, "Training", next="Train on samples that no evaluation sees.")


def _times(
    before: ModelSource,
    after: ModelSource,
    format: str,
    *,
    window: str,
    threads: int | None,
    preprocess: Preprocess | None,
) -> Comparison:
    """Both models in that format, float32, timed in turns."""
    with tempfile.TemporaryDirectory(prefix="lepton-edge-") as folder:
        pair: list[loading.Subject] = []
        for name, each in (("before", before), ("after", after)):
            pair.append(
                convert(each, to=format, output=Path(folder, name), preprocess=preprocess).folder
            )
        return latency.compare(*pair, window=window, threads=threads)
