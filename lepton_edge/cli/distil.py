"""`lepton-edge distil`: a student trained on a teacher's answers."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from lepton_edge.cli import _common as common
from lepton_edge.cli import _passes as passes


def command(
    model: common.Model,
    output: passes.Output,
    teacher: Annotated[
        str | None,
        typer.Option(
            help="The teacher, as file.py:factory or .keras, as MODEL is (default: MODEL itself)."
        ),
    ] = None,
    teacher_weights: Annotated[str | None, typer.Option(help="Weights of the teacher.")] = None,
    width: Annotated[
        float | None,
        typer.Option(help="The student is what MODEL's factory makes with this width=."),
    ] = None,
    temperature: Annotated[float | None, typer.Option(help="Of the softmax (default 4).")] = None,
    weight: Annotated[
        float | None, typer.Option(help="Share of the teacher's answers in the loss (default 0.9).")
    ] = None,
    features: Annotated[
        str | None,
        typer.Option(
            help="student.module:teacher.module pairs (Keras: of layers), comma-separated."
        ),
    ] = None,
    attention: Annotated[
        str | None, typer.Option(help="Such pairs, matched by their attention maps.")
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
    work: passes.Work = None,
    resume: passes.Resume = False,
    processes: passes.Processes = 1,
    seed: common.Seed = 0,
    time_limit: common.TimeLimit = passes.TIME_LIMIT,
    memory_limit: common.MemoryLimit = None,
    json: common.Json = False,
    debug: common.Debug = False,
) -> int:
    """Train a student (MODEL, or its factory at another width) on a teacher's answers.

    Samples without labels will do. Both must have the same outputs.
    """
    chosen: dict[str, Any] = {
        "width": width, "temperature": temperature, "weight": weight,
        "features": common.split(features) if features else None,
        "attention": common.split(attention) if attention else None,
        **common.pairs(option),
    }  # fmt: skip
    if teacher is not None:
        chosen["teacher"] = common.source(teacher, teacher_weights, None).as_dict()
    return passes.Request(
        "distil",
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
