"""`lepton-edge prune`: fewer channels, or sparse weights, with recovery training."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from lepton_edge import errors
from lepton_edge.cli import _common as common
from lepton_edge.cli import _passes as passes


def command(
    model: common.Model,
    output: passes.Output,
    ratio: Annotated[
        float | None, typer.Option(help="Share of --cost to remove (or of weights to zero).")
    ] = None,
    cost: Annotated[
        str | None,
        typer.Option(
            help="macs (default), parameters, or latency: in the first format of --to, or on"
            " --device."
        ),
    ] = None,
    channels: Annotated[
        str | None,
        typer.Option(help="In place of --ratio: what stays, as conv1:16,conv2:48."),
    ] = None,
    scope: Annotated[
        str | None,
        typer.Option(help="global (default): all layers weighed, or layer: the same share."),
    ] = None,
    importance: Annotated[
        str | None, typer.Option(help="magnitude (default), taylor or bn-scale.")
    ] = None,
    rounds: Annotated[int | None, typer.Option(help="Rounds of pruning and recovery.")] = None,
    recover: Annotated[
        bool,
        typer.Option(help="Train after each round, where there are --train samples."),
    ] = True,
    reconstruct: Annotated[
        bool,
        typer.Option(help="Refit layers that lost inputs, where there are --train samples."),
    ] = True,
    keep: Annotated[
        str | None, typer.Option(help="Module names to leave alone, comma-separated; * and ?.")
    ] = None,
    round_to: Annotated[
        int | None,
        typer.Option(help="Multiple of channels that stays (default: 16 for tensorrt, else 8)."),
    ] = None,
    sparsity: Annotated[
        str | None,
        typer.Option(help="2:4 or unstructured: zero single weights instead of removing channels."),
    ] = None,
    train: passes.Train = None,
    training: passes.TrainingTexts = None,
    option: passes.Keys = None,
    data: common.Data = None,
    metric: common.Metric = "top1",
    max_drop: passes.MaxDrop = None,
    weights: common.Weights = None,
    inputs: common.Inputs = None,
    preprocess: common.PreprocessText = None,
    to: passes.To = None,
    window: passes.Window = "quick",
    threads: common.Threads = None,
    on: common.On = None,
    wait: common.Wait = False,
    device: passes.Device = None,
    device_precision: passes.DevicePrecision = "int8",
    work: passes.Work = None,
    resume: passes.Resume = False,
    processes: passes.Processes = 1,
    seed: common.Seed = 0,
    time_limit: common.TimeLimit = passes.TIME_LIMIT,
    memory_limit: common.MemoryLimit = None,
    json: common.Json = False,
    debug: common.Debug = False,
) -> int:
    """Remove channels of a PyTorch model, recover by training, and measure both models.

    What is written is a folder whose model.py:factory, with the weights beside it, every verb
    opens. Layers that cannot be pruned are listed with the reason.
    """
    from lepton_edge.compress.prune import alignment

    options = common.pairs(option)
    if sparsity is not None:
        wrong = {"--cost": cost, "--channels": channels, "--scope": scope,
                 "--importance": importance, "--keep": keep, "--round-to": round_to,
                 "--rounds": rounds}  # fmt: skip
        given = [name for name, value in wrong.items() if value is not None]
        if given:
            raise errors.UsageError(f"{given[0]} is for channels, not for --sparsity.")
        chosen: dict[str, Any] = {"pattern": sparsity, "ratio": ratio, **options}
    else:
        if round_to is None:
            formats = common.split(to or "") or [""]
            round_to = max(alignment(format) for format in formats)
        chosen = {
            "ratio": ratio, "channels": common.split(channels) if channels else None,
            "cost": cost, "scope": scope, "importance": importance, "rounds": rounds,
            "keep": common.split(keep) if keep else None, "round_to": round_to,
            "recover": recover, "reconstruct": reconstruct, **options,
        }  # fmt: skip
    return passes.Request(
        "sparsify" if sparsity is not None else "prune",
        model,
        output,
        chosen,
        train,
        training,
        data,
        metric,
        max_drop,
        weights,
        inputs,
        preprocess,
        to,
        window,
        threads,
        common.address(on, wait),
        work,
        resume,
        processes,
        time_limit,
        memory_limit,
        seed,
        device,
        device_precision,
    ).run(json)
