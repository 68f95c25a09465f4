"""`lepton-edge finetune`: more training on labelled samples."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from lepton_edge import errors
from lepton_edge.cli import _common as common
from lepton_edge.cli import _passes as passes


def command(
    model: common.Model,
    output: passes.Output,
    precision: Annotated[
        str, typer.Option(help="fp32, or int8: train the integers of an artefact.")
    ] = "fp32",
    calib: Annotated[
        str | None,
        typer.Option(help="int8: data for the ranges (default: some of the training samples)."),
    ] = None,
    dialect: Annotated[
        str | None,
        typer.Option(
            help="int8: ort_x86_vnni (default), ort_x86, ort_arm, openvino, tensorrt; tflite or"
            " edgetpu for a .tflite."
        ),
    ] = None,
    weight_bits: Annotated[int | None, typer.Option(help="int8: bits of weights, 8 or 4.")] = None,
    learned_step: Annotated[
        bool, typer.Option("--learned-step", help="int8: train the grids' steps too.")
    ] = False,
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
    work: passes.Work = None,
    resume: passes.Resume = False,
    processes: passes.Processes = 1,
    seed: common.Seed = 0,
    time_limit: common.TimeLimit = passes.TIME_LIMIT,
    memory_limit: common.MemoryLimit = None,
    json: common.Json = False,
    debug: common.Debug = False,
) -> int:
    """Train MODEL further on labelled samples, from the weights that it has.

    With --precision int8, quantisation is in the loop: the output is an artefact, ONNX or TFLite
    by the dialect, whose integers are those that were trained, checked layer by layer.
    """
    chosen: dict[str, Any] = common.pairs(option)
    if precision not in ("fp32", "int8"):
        raise errors.UsageError(f"Fine-tuning is in fp32 or int8, not in {precision!r}.")
    if precision == "fp32":
        given = {"--calib": calib, "--dialect": dialect, "--weight-bits": weight_bits,
                 "--learned-step": learned_step or None}  # fmt: skip
        wrong = [name for name, value in given.items() if value is not None]
        if wrong:
            raise errors.UsageError(f"{wrong[0]} is for --precision int8.")
    else:
        if train is None:
            raise errors.UsageError("Fine-tuning needs training samples.", next="Give --train.")
        if processes > 1:
            raise errors.UsageError("--processes are for --precision fp32.")
        from lepton_edge import compression

        chosen |= {
            key: value
            for key, value in (("dialect", dialect), ("weight_bits", weight_bits))
            if value is not None
        }
        done = compression.finetune_int8(
            common.source(model, weights, inputs),
            output,
            train=train,
            calib=calib,
            options={**chosen, "learned_step": learned_step},
            training={"seed": seed, **common.pairs(training)},
            data=data,
            metric=metric,
            max_drop=max_drop,
            preprocess=common.preprocess(preprocess),
            to=tuple(common.split(to or "")),
            window=window,
            threads=threads,
            on=common.address(on, wait),
            work=work,
            resume=resume,
            time_limit_s=time_limit,
            memory_limit_mb=memory_limit,
        )
        document = done.as_dict()
        return common.emit(document, json, lambda: passes.quantized_text(document))
    return passes.Request(
        "finetune",
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
    ).run(json)
