"""What the verbs `prune`, `distil` and `finetune` share: options, the run, and its text."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from lepton_edge.cli import _common as common

Output = Annotated[Path, typer.Option("--output", "-o", help="The compressed model's folder.")]
Train = Annotated[
    str | None,
    typer.Option(help="Training data, in the same forms as --data; never the same samples."),
]
TrainingTexts = Annotated[
    list[str] | None,
    typer.Option(
        "--training",
        help="key=value of the training: epochs, steps, batch, optimizer (sgd, adam, adamw), lr,"
        " momentum, weight_decay, schedule (cosine, constant), warmup, label_smoothing, clip,"
        " augment (flip,crop), holdout, patience, precision (fp32, bf16), channels_last, seed,"
        " checkpoint_steps, log_steps. Repeatable.",
    ),
]
MaxDrop = Annotated[
    str | None, typer.Option(help="Budget: 1pt (points) or 1% (of the value before).")
]
To = Annotated[
    str | None,
    typer.Option(
        help="Formats in which the model is timed before and after: onnx,openvino,tflite."
    ),
]
Device = Annotated[
    str | None,
    typer.Option(help="A device that is not here: its latency is estimated (devices predict)."),
]
DevicePrecision = Annotated[
    str, typer.Option(help="With --device: the precision that it runs in there.")
]
Window = Annotated[str, typer.Option(help="quick, official, or RUNS,SECONDS, for --to.")]
Work = Annotated[
    Path | None,
    typer.Option(help="Where checkpoint and TensorBoard events go (default: OUTPUT.training)."),
]
Resume = Annotated[bool, typer.Option("--resume", help="Go on with a training that was killed.")]
Processes = Annotated[int, typer.Option(min=1, help="Processes that share each batch.")]
Keys = Annotated[
    list[str] | None, typer.Option("--option", help="key=value of the pass. Repeatable.")
]


@dataclass(frozen=True)
class Request:
    """The command line of one verb; see `compression.compress`."""

    name: str
    model: str
    output: Path
    options: dict[str, Any]
    train: str | None
    training: list[str] | None
    data: str | None
    metric: str
    max_drop: str | None
    weights: str | None
    inputs: list[str] | None
    preprocess: str | None
    to: str | None
    window: str
    threads: int | None
    on: str | None
    work: Path | None
    resume: bool
    processes: int
    time_limit: float
    memory_limit: int | None
    seed: int
    device: str | None = None
    device_precision: str = "int8"

    def run(self, json: bool) -> int:
        """Runs the pass and prints what it did; the exit code is the document's."""
        from lepton_edge import compression

        done = compression.compress(
            self.name,
            common.source(self.model, self.weights, self.inputs),
            self.output,
            train=self.train,
            options={key: value for key, value in self.options.items() if value is not None},
            training={"seed": self.seed, **common.pairs(self.training)},
            data=self.data,
            metric=self.metric,
            max_drop=self.max_drop,
            preprocess=common.preprocess(self.preprocess),
            to=tuple(common.split(self.to or "")),
            window=self.window,
            threads=self.threads,
            on=self.on,
            device=self.device,
            device_precision=self.device_precision,
            work=self.work,
            resume=self.resume,
            processes=self.processes,
            time_limit_s=self.time_limit,
            memory_limit_mb=self.memory_limit,
        )
        document = done.as_dict()
        return common.emit(document, json, lambda: compressed_text(document))


TIME_LIMIT = 7 * 86400.0


def compressed_text(document: dict[str, Any]) -> str:
    """What the verbs print of a model that a pass wrote."""
    source, before, after = (document[key] for key in ("source", "before", "after"))
    weights = f" --weights {source['weights']}" if source["weights"] else ""
    lines = [f"{document['status']}: {source['path']}{weights}"]
    for key, name in (("parameters", "parameters"), ("macs", "MACs"), ("size_bytes", "bytes")):
        if before[key] and after[key]:
            lines.append(
                f"  {name}: {before[key]:,.0f} -> {after[key]:,.0f}"
                f" (x{after[key] / before[key]:.3f})"
            )
    lines += _what_was_done(document["pass"])
    lines += [*_accuracy(document["accuracy"]), *_latency(document["latency"], "fp32")]
    if document["estimate"]:
        before, after = (document["estimate"][side] for side in ("before", "after"))
        lines.append(
            f"  {before['device']} {before['precision']}, estimated (tier {before['tier']}):"
            f" {_interval(before)} -> {_interval(after)} ms, {before['level']:.0%} intervals"
        )
    return "\n".join(lines)


def _interval(estimate: dict[str, Any]) -> str:
    low, high = estimate["interval_ms"]
    return f"{estimate['latency_ms']:.3g} [{low:.3g}, {high:.3g}]"


def _latency(found: dict[str, Any], precision: str) -> list[str]:
    """One line a format: faster, slower or no gain, with the medians of all runs."""
    lines = []
    for format, each in found.items():
        low, high = each["interval"]
        verdict = "no gain" if each["verdict"] == "tie" else each["verdict"]
        before, after = (statistics.median(each[f"{side}_p50_ms"]) for side in "ab")
        lines.append(
            f"  {format} {precision}: {verdict}, p50 {before:.3g} -> {after:.3g} ms,"
            f" after / before = {each['ratio']:.3f} [{low:.3f}, {high:.3f}]"
        )
    return lines


def _accuracy(found: dict[str, Any] | None) -> list[str]:
    """The metric before and after, and the paired drop."""
    if found is None:
        return []
    low, high = found["drop_interval"]
    worst, best = found["interval"]
    rate = 100 if found["metric"] in ("top1", "top5") else 1
    before = found["value"] + (found["drop"] if found["higher_is_better"] else -found["drop"])
    unit = " points" if rate == 100 else ""
    return [
        f"  {found['metric']}: {rate * before:.4g} -> {rate * found['value']:.4g}"
        f" [{rate * worst:.4g}, {rate * best:.4g}],"
        f" drop {rate * found['drop']:.3g}{unit} [{rate * low:.3g}, {rate * high:.3g}],"
        f" n={found['n']:,}, paired"
    ]


def quantized_text(document: dict[str, Any]) -> str:
    """What `finetune --precision int8` prints."""
    artifact, record = document["artifact"], document["pass"]
    equal, before = record["equal"], document["before"]["size_bytes"]
    return "\n".join(
        [
            f"{document['status']}: {artifact['path']} ({artifact['size_bytes']:,} bytes,"
            f" x{artifact['size_bytes'] / before:.3f})"
            if before
            else f"{document['status']}: {artifact['path']} ({artifact['size_bytes']:,} bytes)",
            f"  integers written are those trained: {equal['weights']} weights and"
            f" {equal['biases']} biases equal; {100 * equal['activations_equal']:.3f} % of the"
            f" activations of {len(equal['activations'])} tensors",
            *_what_was_done(record),
            *_accuracy(document["accuracy"]),
            *_latency(document["latency"], "int8 against fp32"),
        ]
    )


def _what_was_done(record: dict[str, Any]) -> list[str]:
    """Layers with what they kept, layers that were left and why, and how the loss went."""
    lines = []
    budget = record.get("latency_budget")
    if budget is not None:
        trials = ", ".join(
            f"{100 * each['removed']:.0f} % {each['p50_ms']:.3g} ms" for each in budget["trials"]
        )
        where = budget.get("format") or f"{budget['device']} {budget['precision']}, estimated"
        layers = sorted(budget["layers_ms"].items(), key=lambda each: -each[1])
        lines += [
            f"  {where}: {budget['before_p50_ms']:.3g} ms before, of which "
            + ", ".join(f"{name} {ms:.3g}" for name, ms in layers[:5])
            + f"; {len(budget['layers_ms'])} layers",
            f"  with a share of the layers' time removed: {trials}",
        ]
    for number, each in enumerate(record.get("rounds", ()), 1):
        title = f"  round {number}: " if len(record["rounds"]) > 1 else "  channels: "
        changed = [
            f"{row['layer']} {row['channels']}->{row['kept']}"
            for row in each["layers"]
            if row["kept"] != row["channels"]
        ]
        lines.append(title + ", ".join(changed))
        refitted = [
            f"{row['layer']} {100 * row['before']:.1f} -> {100 * row['after']:.1f} %"
            for row in each["reconstructed"]
        ]
        if refitted:
            lines.append(f"  squared error of the layers' outputs, refitted: {', '.join(refitted)}")
        if number == 1:
            lines += [f"  not pruned: {name}: {why}" for name, why in each["not_pruned"].items()]
    if "sparsity" in record:
        packed = record["compressed_bytes"]
        lines.append(
            f"  zeros: {100 * record['sparsity']:.1f} % of the weights; compressed"
            f" {packed['before']:,} -> {packed['after']:,} bytes"
        )
        lines.append(f"  {record['buys']}")
    results = [record.get("result"), *(each.get("recovery") for each in record.get("rounds", ()))]
    for result in filter(None, results):
        early = ", stopped early" if result["stopped_early"] else ""
        lines.append(
            f"  training: {result['steps']:,} steps, loss {result['first_loss']:.4f} ->"
            f" {result['last_loss']:.4f}{early}"
        )
    return lines
