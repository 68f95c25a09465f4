"""`lepton-edge convert`: one model to one or more targets, each verified against its source."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from lepton_edge import errors
from lepton_edge.cli import _common as common


def command(
    model: common.Model,
    to: Annotated[str, typer.Option(help="Format: onnx, openvino, tflite, tensorrt; or a list.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The artefact's folder.")],
    precision: Annotated[
        str,
        typer.Option(
            help="fp32, fp16, int8, int8-mixed, int8-dynamic, int8-weights, int4-weights; a list."
        ),
    ] = "fp32",
    calib: common.Calib = None,
    data: common.Data = None,
    weights: common.Weights = None,
    inputs: common.Inputs = None,
    preprocess: common.PreprocessText = None,
    classes: Annotated[str | None, typer.Option(help="Class names, comma-separated.")] = None,
    device: Annotated[
        str, typer.Option(help="The device that it is for, such as jetson-orin-nano.")
    ] = "cpu",
    on: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS",
            help="Build a TensorRT engine on the machine that runs it: ssh://user@host[:port].",
        ),
    ] = None,
    wait: common.Wait = False,
    option: common.OptionTexts = None,
    time_limit: common.TimeLimit = 1800.0,
    memory_limit: common.MemoryLimit = None,
    no_verify: Annotated[
        bool,
        typer.Option("--no-verify", help="Do not compare with the source; the record says so."),
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done.")] = False,
    json: common.Json = False,
    debug: common.Debug = False,
) -> int:
    """Convert a model and verify every artefact against it; nothing wrong is ever written.

    With one target, --output is the artefact's folder; with several, each has a folder in it,
    named FORMAT-PRECISION. --data are real inputs for the verification; --calib is for int8.
    """
    from lepton_edge import conversion, target

    targets = [
        target.Target(format, each, device)
        for format in common.split(to)
        for each in common.split(precision)
    ]
    if not targets:
        raise errors.UsageError("--to and --precision name no target.")
    places = {
        each: output if len(targets) == 1 else output / f"{each.format}-{each.precision}"
        for each in targets
    }
    source = common.source(model, weights, inputs)
    address = common.address(on, wait)
    if dry_run:
        source.sha256()  # a missing file is as wrong in a dry run, and so is the device
        for each in targets:
            conversion.check_device(each)
        plan = [{"target": str(each), "output": str(place)} for each, place in places.items()]
        lines = [f"would convert {model} to {row['target']} in {row['output']}" for row in plan]
        return common.emit({"status": "SKIPPED(dry run)", "exit_code": 0, "plan": plan}, json,
                           lambda: "\n".join(lines))  # fmt: skip
    documents = []
    for each, place in places.items():
        common.note(f"converting {model} to {each} ...")
        try:
            artifact = conversion.convert(
                source,
                to=each.format,
                precision=each.precision,
                output=place,
                calib=calib,
                data=data,
                preprocess=common.preprocess(preprocess),
                options=common.pairs(option),
                device=device,
                on=address,
                classes=tuple(common.split(classes or "")),
                verify=not no_verify,
                time_limit_s=time_limit,
                memory_limit_mb=memory_limit,
            )
        except errors.EdgeError as error:
            if len(targets) == 1:
                raise
            documents.append(
                {
                    "status": error.status,
                    "exit_code": error.exit_code,
                    "target": str(each),
                    "error": error.as_dict(),
                }
            )
            continue
        warnings = list((artifact.calibration or {}).get("warnings", ()))
        for warning in warnings:
            common.note(f"lepton-edge: warning: {warning}")
        documents.append(
            {
                "status": "SKIPPED(not verified)" if no_verify else "PASS",
                "exit_code": 0,
                "target": str(each),
                "artifact": artifact.describe(),
                "parity": artifact.parity,
                "steps": [dict(step) for step in artifact.steps],
                "warnings": warnings,
            }
        )
    if len(documents) == 1:
        return common.emit(documents[0], json, lambda: _text(documents[0]))
    worst = next((each for each in documents if each["exit_code"]), documents[0])
    document = {
        "status": worst["status"],
        "exit_code": worst["exit_code"],
        "targets": documents,
    }
    return common.emit(document, json, lambda: "\n".join(map(_text, documents)))


def _text(document: dict[str, Any]) -> str:
    if "error" in document:
        error = document["error"]
        return f"{document['target']}: {document['status']}: {error['message']} {error['next']}"
    artifact, parity = document["artifact"], document["parity"]
    lines = [
        f"{document['target']}: {document['status']}: {artifact['path']}"
        f" ({artifact['size_bytes']:,} bytes)"
    ]
    if parity:
        lines += [f"  {line}" for line in parity_lines(parity)]
    if document["steps"] and document["steps"][-1]["step"] == "plan":
        lines.append(
            f"  a graph and a build plan; the engine: lepton-edge convert {artifact['path']}"
            f" --to tensorrt --precision {artifact['precision']} -o ENGINE --on ssh://USER@HOST"
        )
    return "\n".join(lines)


def parity_lines(parity: dict[str, Any]) -> list[str]:
    """One line an output of a parity result, and its tolerance."""
    lines = []
    for each in parity["outputs"]:
        figures = [f"max abs {each['max_abs']:.3g} ({100 * each['relative']:.3g} % of the range)"]
        if each["sqnr_db"] is not None:
            figures.append(f"SQNR {each['sqnr_db']:.1f} dB")
        if each["cosine"] is not None:
            figures.append(f"cosine {each['cosine']:.6f}")
        if each["top1_agreement"] is not None:
            figures.append(f"top-1 agreement {100 * each['top1_agreement']:.2f} %")
        lines.append(f"{each['name']}: {', '.join(figures)}, n={each['n']}")
    return [*lines, f"tolerance: {parity['tolerance']}; inputs: {parity['inputs']}"]
