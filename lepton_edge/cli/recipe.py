"""`lepton-edge run`: a recipe's passes, targets and report."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from lepton_edge.cli import _common as common
from lepton_edge.cli import _passes as passes


def command(
    recipe: Annotated[Path, typer.Argument(help="A recipe, in TOML.", metavar="RECIPE")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The run's folder.")],
    train: Annotated[
        str | None, typer.Option(help="In place of the recipe's [data] train.")
    ] = None,
    calib: Annotated[
        str | None, typer.Option(help="In place of the recipe's [data] calib.")
    ] = None,
    data: Annotated[str | None, typer.Option(help="In place of the recipe's [data] data.")] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print what would be done, and do nothing.")
    ] = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with a run that was killed.")
    ] = False,
    json: common.Json = False,
    debug: common.Debug = False,
) -> int:
    """Run the passes of a recipe, convert to its targets, measure all and write one report.

    Paths in the recipe are relative to its folder. The exit code is 3 where a target misses a goal
    or is slower than the original in float32.
    """
    from lepton_edge import pipeline
    from lepton_edge import recipe as recipes
    from lepton_edge.report import text

    found = recipes.read(recipe, train=train, calib=calib, data=data)
    if dry_run:
        steps = pipeline.plan(found, output)
        return common.emit(
            {"status": "PASS", "exit_code": 0, "plan": steps}, json, "\n".join(steps).strip
        )
    done = pipeline.run(
        found,
        output,
        resume=resume,
        command=shlex.join(["lepton-edge", *sys.argv[1:]]),
        say=common.note,
    )
    document = done.as_dict()
    if json:
        return common.emit(document, True, str)
    for each in document["passes"]:
        print(passes.quantized_text(each) if "artifact" in each else passes.compressed_text(each))
    text.show(done.report, sys.stdout)
    common.note(f"wrote {', '.join(map(str, done.written.values()))}")
    return int(document["exit_code"])
