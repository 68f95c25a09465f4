"""`lepton-edge verify`: does an artefact compute what its source computes?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from lepton_edge import errors
from lepton_edge.cli import _common as common


def command(
    model: common.Model,
    artifact: Annotated[Path, typer.Argument(help="The artefact to check.", metavar="ARTIFACT")],
    data: common.Data = None,
    samples: Annotated[int, typer.Option(min=1, help="Samples to compare on.")] = 64,
    weights: common.Weights = None,
    inputs: common.Inputs = None,
    on: common.On = None,
    wait: common.Wait = False,
    time_limit: common.TimeLimit = 1800.0,
    memory_limit: common.MemoryLimit = None,
    json: common.Json = False,
    debug: common.Debug = False,
) -> int:
    """Run the same inputs through MODEL and ARTIFACT and compare every output.

    Without --data the model's own example inputs are used, and the result says so.
    """
    from lepton_edge import parity
    from lepton_edge.artifact import open_artifact

    opened = open_artifact(artifact)
    result = parity.verify(
        common.source(model, weights, inputs),
        opened,
        data=common.samples(data, opened.preprocess),
        n=samples,
        on=common.address(on, wait),
        time_limit_s=time_limit,
        memory_limit_mb=memory_limit,
    )
    if result.status != "PASS" and data is None and opened.calibration is not None:
        common.note(
            "The inputs were the model's example inputs, which lie outside the ranges that this"
            " artefact was calibrated for if they are noise: give real ones with --data."
        )
    document = {
        "status": result.status,
        "exit_code": 0 if result.status == "PASS" else errors.GateFailed.exit_code,
        "artifact": opened.describe(),
        **{key: value for key, value in result.as_dict().items() if key != "status"},
    }
    return common.emit(document, json, lambda: _text(document))


def _text(document: dict[str, Any]) -> str:
    from lepton_edge.cli.convert import parity_lines

    reasons = [f"  {reason}" for reason in document["reasons"]]
    return "\n".join([document["status"], *reasons, *parity_lines(document)])
