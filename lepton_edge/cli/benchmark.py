"""`lepton-edge benchmark`: latency of one artefact, by the protocol, in a process of its own."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any

import typer

from lepton_edge import errors
from lepton_edge.cli import _common as common

Window = Annotated[
    str,
    typer.Option(help="quick (100 runs, 10 s), official (1,024 runs, 60 s), or RUNS,SECONDS."),
]


def command(
    model: common.Model,
    window: Window = "quick",
    data: common.Data = None,
    weights: common.Weights = None,
    inputs: common.Inputs = None,
    preprocess: common.PreprocessText = None,
    device: common.Device = "cpu",
    threads: common.Threads = 1,
    option: common.OptionTexts = None,
    max_latency: Annotated[
        float | None, typer.Option(help="Fail (exit 3) where p50 is not surely below, in ms.")
    ] = None,
    energy: Annotated[
        bool, typer.Option(help="Read power rails meanwhile: energy a run, above idle.")
    ] = False,
    on: common.On = None,
    wait: common.Wait = False,
    time_limit: common.TimeLimit = 1800.0,
    memory_limit: common.MemoryLimit = None,
    json: common.Json = False,
    debug: common.Debug = False,
) -> int:
    """Measure load time, first inference and latency, with the context that they belong to."""
    from lepton_edge import latency

    subject = common.subject(model, weights, inputs)
    result = latency.benchmark(
        subject,
        window=window,
        data=common.samples(data, common.preprocess(preprocess)),
        device=device,
        threads=threads,
        options=common.pairs(option),
        on=common.address(on, wait),
        time_limit_s=time_limit,
        memory_limit_mb=memory_limit,
        with_energy=energy,
    )
    found = result.latency
    status, code = "PASS", 0
    if found.unstable:
        status, code = "UNSTABLE", errors.UnstableMeasurement.exit_code
    elif max_latency is not None and found.p50_interval_ms[1] > max_latency:
        status, code = "FAIL(latency)", errors.GateFailed.exit_code
    document = {
        "status": status,
        "exit_code": code,
        "artifact": common.describe(subject),
        "latency": found.as_dict(),
        "load_ms": found.load_ms,
        "first_ms": found.first_ms,
        "peak_rss_mb": found.peak_rss_mb,
        "energy": [dataclasses.asdict(rail) for rail in result.energy],
        "facts": result.facts,
        "context": result.context,
    }
    return common.emit(document, json, lambda: _text(document))


def _rail(rail: dict[str, Any]) -> str:
    return (
        f"{rail['mj_per_run']:.3f} mJ a run ({rail['busy_w']:.2f} W, idle {rail['idle_w']:.2f} W;"
        f" {rail['chip']} at {rail['hz']:.0f} Hz)"
    )


def _text(document: dict[str, Any]) -> str:
    found = document["latency"]
    told = document["facts"]["runtime"] != "benchmark_model"
    absent = "too few samples" if told else "not told by benchmark_model"

    def ms(value: float | None) -> str:
        return absent if value is None else f"{value:.3f} ms"

    low, high = found["p50_interval_ms"]
    rows = [
        ("p50", f"{ms(found['p50_ms'])} [{low:.3f}, {high:.3f}]"),
        ("p90", ms(found["p90_ms"])),
        ("p99", ms(found["p99_ms"])),
        ("mean, std", f"{ms(found['mean_ms'])}, {ms(found['std_ms'])}"),
        ("runs", f"{found['n']:,} after {found['warmup_n']:,} to warm up ({found['window']})"),
        ("load, first", f"{ms(found['load_ms'])}, {ms(found['first_ms'])}"),
        ("peak memory", f"{found['peak_rss_mb']:.0f} MB"),
        *((f"energy, {rail['rail']}", _rail(rail)) for rail in document["energy"]),
        *((name, fact) for name, fact in document["facts"].items() if fact is not None),
    ]
    lines = [document["status"], *(f"  {reason}" for reason in found["unstable"])]
    return "\n".join(lines) + "\n" + common.aligned(rows)
