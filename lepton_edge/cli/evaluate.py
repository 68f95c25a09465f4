"""`lepton-edge evaluate`: accuracy with its interval, and the drop against a baseline."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from lepton_edge import errors
from lepton_edge.cli import _common as common


def command(
    model: common.Model,
    data: Annotated[str, typer.Option(help="Evaluation data, as for convert.")],
    metric: common.Metric = "top1",
    output_name: common.OutputName = None,
    baseline: Annotated[
        str | None, typer.Option(help="Model or artefact to compare with, on the same samples.")
    ] = None,
    baseline_weights: Annotated[str | None, typer.Option(help="Weights of the baseline.")] = None,
    max_drop: Annotated[
        str | None, typer.Option(help="Budget: 1pt (points) or 1% (of the baseline's value).")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only so many samples, seeded.")] = None,
    weights: common.Weights = None,
    inputs: common.Inputs = None,
    preprocess: common.PreprocessText = None,
    device: common.Device = "cpu",
    threads: common.Threads = None,
    option: common.OptionTexts = None,
    seed: common.Seed = 0,
    on: common.On = None,
    wait: common.Wait = False,
    time_limit: common.TimeLimit = 3600.0,
    memory_limit: common.MemoryLimit = None,
    json: common.Json = False,
    debug: common.Debug = False,
) -> int:
    """Measure MODEL on real data; with --baseline and --max-drop, gate on the paired drop.

    The gate passes only when the interval's worse end is inside the budget (else exit code 3).
    """
    from lepton_edge import accuracy

    if max_drop and not baseline:
        raise errors.UsageError("--max-drop needs a --baseline to compare with.")
    subject = common.subject(model, weights, inputs)
    result = accuracy.evaluate(
        subject,
        data,
        metric=metric,
        output=output_name,
        baseline=common.subject(baseline, baseline_weights, None) if baseline else None,
        max_drop=max_drop,
        preprocess=common.preprocess(preprocess),
        limit=limit,
        device=device,
        threads=threads,
        options=common.pairs(option),
        seed=seed,
        on=common.address(on, wait),
        time_limit_s=time_limit,
        memory_limit_mb=memory_limit,
    )
    status = result.status or "PASS"
    document = {
        **result.as_dict(),
        "status": status,
        "exit_code": 0 if status == "PASS" else errors.GateFailed.exit_code,
        "artifact": common.describe(subject),
    }
    return common.emit(document, json, lambda: _text(document))


def _text(document: dict[str, Any]) -> str:
    rate = document["metric"] in ("top1", "top5")

    def shown(value: float, unit: str = " %") -> str:
        return f"{100 * value:.2f}{unit}" if rate else f"{value:.4g}"

    low, high = document["interval"]
    lines = [
        f"{document['status']}: {document['metric']} {shown(document['value'])}"
        f" [{shown(low)}, {shown(high)}], n={document['n']:,}"
    ]
    if document["drop"] is not None:
        low, high = document["drop_interval"]
        drop = f"drop {shown(document['drop'], ' pt')} [{shown(low, '')}, {shown(high, '')}]"
        p = document["p_value"]
        lines.append(drop + ", paired" + (f", McNemar p={p:.3g}" if p is not None else ""))
    for each in document["per_class"][:5]:
        drop = "" if each["drop"] is None else f", drop {each['drop']:+.2f} pt"
        lines.append(f"  {each['name']}: {shown(each['value'])}{drop}, n={each['n']:,}")
    return "\n".join(lines)
