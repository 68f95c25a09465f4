"""`lepton-edge report`: artefacts of one model side by side, in HTML, Markdown and JSON."""

from __future__ import annotations

import contextlib
import json as json_module
import shlex
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lepton_edge import errors
from lepton_edge.cli import _common as common
from lepton_edge.cli.benchmark import Window

if TYPE_CHECKING:
    from lepton_edge.measurement import Report


def command(
    subjects: Annotated[
        list[str],
        typer.Argument(help="Artefacts to measure, or one report.json to render again."),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="The report's folder.")],
    data: common.Data = None,
    baseline: Annotated[
        str | None, typer.Option(help="Model or artefact that drops are counted from.")
    ] = None,
    baseline_weights: Annotated[str | None, typer.Option(help="Weights of the baseline.")] = None,
    inputs: common.Inputs = None,
    preprocess: common.PreprocessText = None,
    metric: common.Metric = "top1",
    output_name: common.OutputName = None,
    max_drop: Annotated[str | None, typer.Option(help="Budget: 1pt or 1%.")] = None,
    window: Window = "quick",
    threads: common.Threads = 1,
    on: common.On = None,
    wait: common.Wait = False,
    title: Annotated[str, typer.Option(help="The report's heading.")] = "Accuracy and latency",
    json: common.Json = False,
    debug: common.Debug = False,
) -> int:
    """Evaluate and benchmark artefacts on the same data and write one report.

    Without --preprocess each artefact's own preprocessing is used, and the baseline takes that of
    the first artefact. With --on the artefacts run on a device, and the baseline, whose latency is
    then not measured, here.
    """
    from lepton_edge import remote, report
    from lepton_edge.report import text

    if len(subjects) == 1 and subjects[0].endswith(".json"):
        result = report.read(subjects[0])
    elif data is None:
        raise errors.UsageError("A report needs evaluation data.", next="Name it with --data.")
    else:
        if max_drop and not baseline:
            raise errors.UsageError("--max-drop needs a --baseline to compare with.")
        address = common.address(on, wait)
        with contextlib.ExitStack() as held:
            device = None
            if address is not None:
                remote.needs_outputs(address)
                device = held.enter_context(remote.reserve(address, "a report"))
                address = device.address.text()
            result = _measure(
                subjects, data, baseline, baseline_weights, inputs, preprocess,
                metric=metric, output=output_name, max_drop=max_drop, window=window,
                threads=threads or 1, title=title, on=address,
            )  # fmt: skip
            if device is not None:
                device.check()  # else another run may have been beside this one
    written = report.write(result, output)
    failed = [row for row in result.rows if row.status.startswith(("FAIL", "ERROR", "UNDECIDED"))]
    code = errors.GateFailed.exit_code if failed else 0
    document: dict[str, Any] = {
        "status": failed[0].status if failed else "PASS",
        "exit_code": code,
        "reports": {form: str(path) for form, path in written.items()},
        "report": json_module.loads(written["json"].read_text()) if json else None,
    }
    if json:
        return common.emit(document, True, str)
    text.show(result, sys.stdout)
    common.note(f"wrote {', '.join(map(str, written.values()))}")
    return code


def _measure(
    subjects: list[str],
    data: str,
    baseline: str | None,
    baseline_weights: str | None,
    inputs: list[str] | None,
    preprocess: str | None,
    *,
    metric: str,
    output: str | None,
    max_drop: str | None,
    window: str,
    threads: int,
    title: str,
    on: str | None,
) -> Report:
    from lepton_edge import loading, remote, study

    given = common.preprocess(preprocess)
    artifacts = [loading.as_artifact(common.subject(subject, None, None)) for subject in subjects]
    own = next((each.preprocess for each in artifacts if each.preprocess), None)
    measured = [
        study.of_artifact(replace(each, preprocess=given or each.preprocess), name, on=on)
        for each, name in zip(artifacts, subjects, strict=True)
    ]
    if baseline is not None:
        source = loading.as_artifact(common.subject(baseline, baseline_weights, inputs))
        prepared = replace(source, preprocess=given or source.preprocess or own)
        measured.insert(0, study.of_artifact(prepared, baseline, is_baseline=True))
    common.note("evaluating ...")
    measured = study.score_all(measured, data=data, metric=metric, output=output, say=common.note)
    common.note(f"benchmarking ({window}) ...")
    measured = study.time_all(measured, data=data, window=window, threads=threads, say=common.note)
    return study.report(
        measured,
        title=title,
        command=shlex.join(["lepton-edge", *sys.argv[1:]]),
        data=data,
        max_drop=max_drop,
        notes=(f"{threads} thread(s)", *([f"on {remote.Address.parse(on)}"] if on else [])),
    )
