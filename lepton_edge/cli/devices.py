"""`lepton-edge devices`: what is known of each device, with the source of every fact."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import typer

from lepton_edge import errors
from lepton_edge.cli import _common as common

_TRUST = {"memory": "from memory", "derived": "derived", "detected": "detected here"}


def command(
    name: Annotated[
        str | None,
        typer.Argument(help="A device, or 'predict'; without it, all devices are listed."),
    ] = None,
    model: Annotated[
        str | None, typer.Argument(help="With 'predict': the .tflite or .onnx to estimate.")
    ] = None,
    device: Annotated[str | None, typer.Option(help="With 'predict': the device.")] = None,
    precision: Annotated[
        str | None,
        typer.Option(help="With 'predict': the precision that it runs in there; int8 if not said."),
    ] = None,
    measured: Annotated[
        str | None,
        typer.Option("--from", help="With 'predict': what benchmark --json printed on a sibling."),
    ] = None,
    measured_on: Annotated[
        str | None, typer.Option(help="The device of --from, where the file does not say it.")
    ] = None,
    devices_folder: common.DevicesFolder = None,
    json: common.Json = False,
    debug: common.Debug = False,
) -> int:
    """Show the devices, or all that is known of one; or predict a model's latency on one.

    `devices predict MODEL --device D --precision P` estimates from published measurements: its
    number always comes with an interval, and is never a measurement. With --from it transfers a
    measurement on a sibling device; MODEL, the .onnx or .tflite of what was measured, then makes
    the errors smaller.
    """
    from lepton_edge import devices

    if name == "predict":
        if measured is not None:
            return _transfer(measured, measured_on, model, device, precision, devices_folder, json)
        return _predict(model, device, precision or "int8", devices_folder, json)
    if any(value is not None for value in (model, device, measured)):
        raise errors.UsageError(
            f"{name!r} takes neither a model nor --device.",
            next="To estimate: lepton-edge devices predict MODEL --device NAME --precision P.",
        )
    if name is None:
        profiles = [devices.load(known, devices_folder) for known in devices.names(devices_folder)]
        rows = [
            {"name": p.name, "title": p.title, "kind": p.kind, "architecture": p.architecture}
            for p in profiles
        ]
        listed: dict[str, Any] = {"status": "PASS", "exit_code": 0, "devices": rows}
        return common.emit(listed, json, lambda: _list_text(rows))
    found = devices.load(name, devices_folder).as_dict()
    return common.emit(
        {"status": "PASS", "exit_code": 0, "device": found}, json, lambda: _text(found)
    )


def _predict(
    model: str | None, device: str | None, precision: str, folder: str | None, json: bool
) -> int:
    from lepton_edge import devices

    if model is None or device is None:
        raise errors.UsageError(
            "An estimate needs a model and a device.",
            next="Write: lepton-edge devices predict MODEL --device NAME --precision P.",
        )
    found = devices.predict(model, devices.load(device, folder), precision).as_dict()
    document: dict[str, Any] = {"status": "ESTIMATED", "exit_code": 0, "model": model, **found}
    return common.emit(document, json, lambda: _predict_text(document))


def _transfer(
    measured: str, measured_on: str | None, model: str | None, device: str | None,
    precision: str | None, folder: str | None, json: bool,
) -> int:  # fmt: skip
    from lepton_edge import devices
    from lepton_edge.devices import transfer

    if device is None:
        raise errors.UsageError(
            "A measurement is transferred to a device.",
            next="Write: lepton-edge devices predict [MODEL] --from FILE --device NAME.",
        )
    found = transfer.read(measured)
    sibling = measured_on or transfer.board_name(found, devices.names(folder))
    estimate = transfer.predict(
        found, devices.load(sibling, folder), devices.load(device, folder), precision, model
    )
    document: dict[str, Any] = {
        "status": "ESTIMATED", "exit_code": 0, "model": found.model, **estimate.as_dict(),
    }  # fmt: skip
    return common.emit(document, json, lambda: _predict_text(document))


def _predict_text(found: dict[str, Any]) -> str:
    low, high = found["interval_ms"]
    basis = found["basis"]
    read_from = basis.get("read_from", found["model"])
    return common.aligned(
        [
            *(
                [("read from", f"{read_from}, for want of cycles in the compiled file")]
                if read_from != found["model"]
                else []
            ),
            ("status", found["status"]),
            ("device", f"{found['device']}, {found['precision']}, batch 1"),
            (
                "latency",
                f"{found['latency_ms']:.3g} ms, {found['level']:.0%} interval"
                f" {low:.3g} to {high:.3g} ms (tier: {found['tier']})",
            ),
            ("basis", _basis(found["tier"], basis)),
            ("source", basis["source"]),
        ]
    )


def _basis(tier: str, basis: Mapping[str, Any]) -> str:
    rows, error = basis["rows"], f"{basis['median_error_left_out']:.0%}"
    families = ", ".join(basis["families"])
    if tier == "prior":  # no published row went into it
        return f"judged by {rows} published measurements ({families}): median error {error}"
    return (
        f"{rows} published measurements of {len(basis['families'])} families"
        f" ({families}); median error on a family left out {error}"
    )


def _list_text(rows: list[dict[str, Any]]) -> str:
    return common.aligned(
        (row["name"], f"{row['title']} ({row['kind']}, {row['architecture']})") for row in rows
    )


class _Sources:
    """Numbers the sources in the order in which they are first cited."""

    def __init__(self) -> None:
        self.found: list[str] = []

    def cite(self, row: dict[str, Any]) -> str:
        if row["source"] not in self.found:
            self.found.append(row["source"])
        trust = f", {_TRUST[row['mark']]}" if row["mark"] in _TRUST else ""
        return f"[{self.found.index(row['source']) + 1}{trust}]"


def _text(device: dict[str, Any]) -> str:
    sources = _Sources()
    lines = [f"{device['name']}: {device['title']} ({device['kind']}, {device['architecture']})"]
    lines += [device["note"]] if device["note"] else []
    lines += [f"features: {', '.join(device['isa'])}"] if device["isa"] else []
    parts = {
        "facts (peaks are dense, of the main processor alone)": [
            _fact_row(name, fact, sources) for name, fact in device["facts"].items()
        ],
        "runtimes": [_runtime_row(row, sources) for row in device["runtimes"]],
        "JetPack": [_stack_row(row, sources) for row in device["stacks"]],
    }
    for heading, rows in parts.items():
        if rows:
            lines += ["", heading, _indent(common.aligned(rows))]
    if device["constraints"]:
        lines += ["", "constraints"]
        lines += [f"  {row['text']} {sources.cite(row)}" for row in device["constraints"]]
    lines += ["", "sources"]
    lines += [f"  [{number}] {source}" for number, source in enumerate(sources.found, 1)]
    return "\n".join(lines)


def _fact_row(name: str, fact: dict[str, Any], sources: _Sources) -> tuple[str, str]:
    from lepton_edge.devices import Fact

    note = f" ({fact['note']})" if fact["note"] else ""
    return name.replace("_", " "), f"{Fact(**fact)}{note} {sources.cite(fact)}"


def _runtime_row(row: dict[str, Any], sources: _Sources) -> tuple[str, str]:
    version = f" {row['version']}" if row["version"] else ""
    what = f"{row['format']}: {', '.join(row['precisions'])}"
    return f"{row['name']}{version}", f"{what} {sources.cite(row)}"


def _stack_row(row: dict[str, Any], sources: _Sources) -> tuple[str, str]:
    parts = [f"TensorRT {row['tensorrt']}"]
    parts += [
        f"{label} {row[key]}"
        for key, label in (("cuda", "CUDA"), ("python", "Python"), ("ubuntu", "Ubuntu"))
        if row[key]
    ]
    return row["jetpack"], f"{', '.join(parts)} {sources.cite(row)}"


def _indent(text: str) -> str:
    return "\n".join(f"  {line}" for line in text.splitlines())
