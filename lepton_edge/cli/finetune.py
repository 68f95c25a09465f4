"""`lepton-edge finetune`: more training on labelled samples."""

from __future__ import annotations

from lepton_edge.cli import _common as common
from lepton_edge.cli import _passes as passes


def command(
    model: common.Model,
    output: passes.Output,
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
    work: passes.Work = None,
    resume: passes.Resume = False,
    processes: passes.Processes = 1,
    seed: common.Seed = 0,
    time_limit: common.TimeLimit = passes.TIME_LIMIT,
    memory_limit: common.MemoryLimit = None,
    json: common.Json = False,
    debug: common.Debug = False,
) -> int:
    """Train MODEL further on labelled samples, from the weights that it has."""
    chosen = common.pairs(option)
    return passes.Request(
        "finetune",
        model,
        output,
        dict(chosen),
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
        work,
        resume,
        processes,
        time_limit,
        memory_limit,
        seed,
    ).run(json)
