"""`lepton-edge inspect`: what a model is made of, and which targets can take it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lepton_edge import errors
from lepton_edge.cli import _common as common

if TYPE_CHECKING:
    from lepton_edge.devices import Profile


def command(
    model: common.Model,
    weights: common.Weights = None,
    inputs: common.Inputs = None,
    device: Annotated[
        str | None,
        typer.Option(help="What will not run on this device, and where each operator would."),
    ] = None,
    devices_folder: common.DevicesFolder = None,
    sensitivity: Annotated[
        bool, typer.Option("--sensitivity", help="What int8 does to each layer; needs --calib.")
    ] = False,
    calib: common.Calib = None,
    preprocess: common.PreprocessText = None,
    dialect: Annotated[
        str | None,
        typer.Option(help="The int8 dialect of --sensitivity, by default this CPU's."),
    ] = None,
    time_limit: common.TimeLimit = 600.0,
    memory_limit: common.MemoryLimit = None,
    json: common.Json = False,
    debug: common.Debug = False,
) -> int:
    """Show a model's signature, operators, parameters, MACs, size, and the targets it can go to.

    With --device, show instead which operators the device's accelerator takes, why not the others,
    and what else stands in the way there: nothing is converted, and what is not known is said. Of a
    .tflite, raw or compiled, on an Edge TPU it is what the compiler does: fewer operators mapped
    than there are is exit code 5, as are operators of any .tflite that the device cannot run. With
    --sensitivity, show how much of int8's noise comes from each layer, and what the layer costs in
    float.
    """
    from lepton_edge import devices, inspection

    if sensitivity:
        if calib is None:
            raise errors.UsageError("--sensitivity needs real inputs.", next="Give --calib.")
        ranked = inspection.sensitivity(
            common.source(model, weights, inputs),
            calib=calib,
            preprocess=common.preprocess(preprocess),
            device=device or "cpu",
            dialect=dialect,
            time_limit_s=time_limit,
            memory_limit_mb=memory_limit,
        )
        document = {"status": "PASS", "exit_code": 0, **ranked}
        return common.emit(document, json, lambda: _sensitivity_text(ranked))
    if device is not None:
        profile = devices.load(device, devices_folder)
        if profile.kind == "edgetpu" and Path(model).suffix.lower() == ".tflite":
            return _placement(model, profile, json)
        listed = inspection.limits(
            common.source(model, weights, inputs),
            device,
            devices_folder=devices_folder,
            time_limit_s=time_limit,
            memory_limit_mb=memory_limit,
        )
        return _limits(listed, json)
    found = inspection.inspect(
        common.source(model, weights, inputs),
        time_limit_s=time_limit,
        memory_limit_mb=memory_limit,
    )
    return common.emit({"status": "PASS", "exit_code": 0, **found}, json, lambda: _text(found))


def _placement(model: str, profile: Profile, json: bool) -> int:
    from lepton_edge import devices

    if not Path(model).is_file():
        raise errors.BadInput(f"There is no file {model!r}.")
    found = devices.placement(model, profile)
    document = {"status": "PASS", "exit_code": 0, **found}
    if found["summary"]["accelerator"] < found["summary"]["total"]:
        document |= {"status": "FALLBACK", "exit_code": errors.PlacementError.exit_code}
    return common.emit(document, json, lambda: _placement_text(document))


def _limits(found: dict[str, Any], json: bool) -> int:
    document = {"status": "PASS", "exit_code": 0, **found}
    if found["framework"] == "tflite" and found["summary"]["unsupported"]:
        document |= {"status": "FALLBACK", "exit_code": errors.PlacementError.exit_code}
    return common.emit(document, json, lambda: _limits_text(document))


def _placement_text(document: dict[str, Any]) -> str:
    summary = document["summary"]
    first = (
        f"{document['status']}: {summary['accelerator']} of {summary['total']} operators on the"
        f" accelerator of {document['device']}"
    )
    sizes = {"on the chip": "cached_bytes", "sent for every inference": "streamed_bytes"}
    if summary["source"] == "compiled":
        sizes |= {"of instructions": "instruction_bytes"}
    told = ", ".join(f"{summary[key]:,} bytes {where}" for where, key in sizes.items())
    if summary.get("cycles"):
        told += f", {summary['cycles']:,} cycles by the compiler"
    return "\n".join([first, f"  parameters, {summary['source']}: {told}", *_rows(document)])


def _limits_text(document: dict[str, Any]) -> str:
    summary = document["summary"]
    places = ("accelerator", "cpu", "unsupported", "unknown")
    first = (
        f"{document['device']}, told from the {document['framework']} model, nothing converted:"
        f" {summary['total']} operators,"
        f" {', '.join(f'{summary[place]} {place}' for place in places)}"
    )
    return "\n".join([first, *_rows(document)])


def _rows(document: dict[str, Any]) -> list[str]:
    lines = []
    for each in document["operators"]:
        reason = f": {each['reason']}" if each["reason"] else ""
        name = f"{each['op']} x{each['count']}" if each.get("count", 1) > 1 else each["op"]
        lines.append(f"  {each['index']:>4}  {name:<24} {each['placement']}{reason}")
    for each in document["limits"]:
        after = f" {each['next']}" if each["next"] else ""
        lines.append(f"  {each['what']}: {each['reason']}{after}")
    return lines


def _sensitivity_text(found: dict[str, Any]) -> str:
    layers = found["layers"]
    width = max(len(layer["node"]) for layer in layers)
    lines = [
        f"{len(layers)} layers in the dialect {found['dialect']}, each alone in int8,"
        f" {found['samples']} samples",
        f"{'layer':<{width}}  {'op':<14} {'SQNR dB':>8} {'noise':>7}  float us  int8 us",
    ]
    for layer in layers:
        floating, integer = (
            "-" if layer[key] is None else f"{layer[key]:.0f}" for key in ("float_us", "int8_us")
        )
        lines.append(
            f"{layer['node']:<{width}}  {layer['op']:<14} {layer['sqnr_db']:>8.1f}"
            f" {100 * layer['share']:>5.1f} % {floating:>9} {integer:>8}"
        )
    return "\n".join(lines)


def _text(found: dict[str, Any]) -> str:
    from lepton_edge.model import Signature

    signature = Signature.from_dict(found["signature"])
    operators = sorted(found["operators"].items(), key=lambda item: (-item[1], item[0]))
    macs = found["macs"]
    lines = [
        common.aligned(
            [
                ("model", found["source"]["path"]),
                ("framework", found["framework"]),
                *(("input", spec) for spec in signature.inputs),
                *(("output", spec) for spec in signature.outputs),
                ("parameters", f"{found['parameters']:,}"),
                ("MACs", "not known" if macs is None else f"{macs:,} a sample"),
                ("size", f"{found['size_bytes'] / 1e6:.2f} MB"),
                ("operators", ", ".join(f"{name} {count}" for name, count in operators)),
            ]
        ),
        "",
        "targets",
    ]
    width = max(len(f"{row['format']} {row['precision']}") for row in found["targets"])
    for row in found["targets"]:
        name = f"{row['format']} {row['precision']}"
        lines.append(f"  {name:<{width}}  {'yes' if row['ok'] else 'no: ' + row['reason']}")
    return "\n".join(lines)
