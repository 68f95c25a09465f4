"""`lepton-edge doctor`: what is installed, what really runs, and how to get what is missing."""

from __future__ import annotations

import sys
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lepton_edge import errors
from lepton_edge.cli import _common as common

if TYPE_CHECKING:
    from lepton_edge.devices import Profile

# name -> (packages, extra, what for); `works` is asked of those that have a probe.
_PARTS: dict[str, tuple[tuple[str, ...], str, str]] = {
    "onnx": (("onnxruntime",), "onnx", "run ONNX"),
    "openvino": (("openvino",), "openvino", "run OpenVINO"),
    "tflite": (("ai-edge-litert", "tflite-runtime", "tensorflow"), "tflite", "run TFLite"),
    "torch": (("torch",), "torch", "PyTorch sources, the reference"),
    "tensorflow": (("tensorflow",), "tensorflow", "Keras and SavedModel sources"),
    "onnx-convert": (("onnx", "onnxslim"), "onnx", "export ONNX"),
    "tf2onnx": (("tf2onnx",), "tf2onnx", "Keras to ONNX"),
    "nncf": (("nncf",), "openvino", "int8 for OpenVINO"),
    "tflite-convert": (("litert-torch", "ai-edge-quantizer"), "tflite-convert", "export TFLite"),
    "onnx2tf": ((), "", "ONNX sources to TFLite"),
    "tensorrt": (
        ("tensorrt", "tensorrt-rtx-cu13-bindings"),
        "tensorrt",
        "build and run TensorRT engines",
    ),
    "edgetpu": ((), "", "run what edgetpu_compiler made"),
    "edgetpu_compiler": ((), "", "compile .tflite for the Edge TPU"),
    "ssh": ((), "", "reach boards, --on ssh://"),
    "adb": ((), "", "time on Android devices, --on adb://"),
    "report": (("jinja2", "bokeh"), "report", "HTML reports"),
    "data": (("pyarrow", "pillow"), "data", "parquet files and image folders"),
}
_ANY_OF = {"tflite", "tensorrt"}  # one of the packages is enough; elsewhere all are needed
_THERE = ("onnx", "openvino", "tflite", "tensorrt", "edgetpu")  # what a device can have
_PROBED = (
    "onnx", "openvino", "tflite", "torch", "tensorflow", "onnx2tf", "tensorrt", "edgetpu",
    "edgetpu_compiler", "ssh", "adb",
)  # fmt: skip


def command(
    parts: Annotated[
        list[str] | None,
        typer.Argument(
            help="Only these parts, or what a device's profile needs (raspberry-pi-4); where it is"
            " missing, the exit code is 4."
        ),
    ] = None,
    devices_folder: common.DevicesFolder = None,
    on: common.On = None,
    wait: common.Wait = False,
    json: common.Json = False,
    debug: common.Debug = False,
) -> int:
    """Show what is installed, prove each runtime with one inference, and say what to do next.

    With --on, of a device: which of its runtimes work, by one inference each on it.
    """
    from lepton_edge import devices

    profiles = [name for name in parts or () if name not in _PARTS]
    known = devices.names(devices_folder)
    for name in profiles:
        if name not in known:
            raise errors.unknown("part or device", name, [*_PARTS, *known])
    address = common.address(on, wait)
    if profiles:
        if len(parts or ()) > 1:
            raise errors.UsageError("Ask for one device at a time.")
        document = _of_profile(devices.load(profiles[0], devices_folder), address)
    elif address is None:
        found = [_examine(name) for name in (parts or _PARTS)]
        missing = [row["name"] for row in found if parts and not row["works"]]
        document = _document(sys.version.split()[0], found, missing)
    elif address.startswith("adb:"):
        document = _of_phone(address, parts)
    else:
        document = _of_device(address, parts)
    return common.emit(document, json, lambda: _text(document))


def _of_profile(profile: Profile, address: str | None) -> dict[str, Any]:
    """What is needed here to make files for the device and reach it, and what it needs itself.

    Exit code 4 where no file that it runs can be made here and run. With an address: the profile's
    runtimes, on the device.
    """
    from lepton_edge.cli import _needs

    if not profile.runtimes:
        raise errors.UsageError(
            f"The profile {profile.name!r} names no runtime, so there is nothing to prove.",
            next="Write [[runtimes]] with a name, a format, precisions and a source.",
        )
    if address is not None:
        if address.startswith("adb:"):
            return _of_phone(address, None)
        formats = [each.format for each in profile.runtimes if each.format in _THERE]
        if not formats:
            raise errors.UsageError(
                f"None of the runtimes of {profile.name!r} can be asked over ssh.",
                next=_needs.there(profile) or f"See lepton-edge devices {profile.name}.",
            )
        if profile.kind == "edgetpu":
            return _of_device(address, [*formats, "edgetpu"])
        return _of_device(address, formats, any_of=True)
    ways = _needs.ways(profile)
    rows = {part: _examine(part) for part in dict.fromkeys(part for way in ways for part in way)}
    lacking = [[part for part in way if not rows[part]["works"]] for way in ways]
    missing = min(lacking, key=len) if lacking else []
    document = _document(sys.version.split()[0], list(rows.values()), missing)
    return {**document, "profile": profile.name, "there": _needs.there(profile)}


def _of_phone(address: str, parts: list[str] | None) -> dict[str, Any]:
    from lepton_edge import remote

    if parts:
        raise errors.UsageError("An Android device has one part: benchmark_model.")
    with remote.reserve(address, "doctor") as device:
        row: dict[str, Any] = {"name": "benchmark_model", "purpose": "time .tflite"}
        row |= {"versions": {}, "reason": None, "next": None}
        found = [{**row, **_probe("benchmark_model", on=device.address.text())}]
        about = {**device.about, "python": None}
    missing = [each["name"] for each in found if not each["works"]]
    return {**_document("", found, missing), "device": about}


def _document(python: str, found: list[dict[str, Any]], missing: list[str]) -> dict[str, Any]:
    return {
        "status": f"SKIPPED({', '.join(missing)} missing)" if missing else "PASS",
        "exit_code": errors.BackendMissing.exit_code if missing else 0,
        "python": python,
        "parts": found,
    }


def _of_device(address: str, parts: list[str] | None, any_of: bool = False) -> dict[str, Any]:
    """Exit code 4 where a part that was asked for does not work there, or (`any_of`) none does."""
    from lepton_edge import remote

    for name in parts or ():
        if name not in _THERE:
            raise errors.UsageError(
                f"{name!r} is no part of a device.", next=f"Ask for {', '.join(_THERE)}."
            )
    with remote.reserve(address, "doctor") as device:
        versions = device.about["context"]["versions"]
        found = []
        for name in parts or _THERE:
            packages, _, purpose = _PARTS[name]
            there = {each: versions[each] for each in packages if each in versions}
            row = {"name": name, "purpose": purpose, "versions": there, "reason": None}
            found.append({**row, "next": None, **_probe(name, on=device.address.text())})
        missing = [row["name"] for row in found if parts and not any_of and not row["works"]]
        if not any(row["works"] for row in found):
            missing = [row["name"] for row in found]
        about = {**device.about, "machine": remote.machine(device.about)}
    return {**_document(versions["python"], found, missing), "device": about}


def _examine(name: str) -> dict[str, Any]:
    packages, extra, purpose = _PARTS[name]
    versions = {package: _version(package) for package in packages}
    there = [package for package, found in versions.items() if found]
    enough = bool(there) if name in _ANY_OF else len(there) == len(packages)
    row: dict[str, Any] = {
        "name": name,
        "purpose": purpose,
        "versions": {package: versions[package] for package in there},
        "works": enough,
        "reason": None,
        "next": None,
    }
    if not enough:
        absent = [package for package in packages if package not in there]
        row["reason"] = f"not installed: {', '.join(absent)}"
        row["next"] = f"pip install 'lepton-edge[{extra}]'"
        if name == "tensorrt":
            from lepton_edge._tensorrt import library

            row["next"] = library.INSTALL  # its packages name dependencies that do not exist
    elif name in _PROBED:
        row |= _probe(name)
    return row


def _probe(name: str, on: str | None = None) -> dict[str, Any]:
    """One real inference (or build) in a process of its own, so that a crash is only a finding."""
    from lepton_edge import jobs

    try:
        proof = jobs.call("probe", part=name, on=on, time_limit_s=120)["proof"]
        return {"works": True, "proof": proof}
    except errors.EdgeError as error:
        return {"works": False, "reason": error.message, "next": error.next}


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _text(document: dict[str, Any]) -> str:
    lines = [f"Python {document['python']}"]
    if "device" in document:
        device = document["device"]
        python = f"Python {document['python']} ({device['python']})"
        release = device["context"]["versions"].get("android", "of unknown release")
        what = python if device["python"] else f"Android {release}, {device['abi']}"
        free = "unknown" if device["free"] is None else f"{device['free'] >> 20:,}"
        lines = [f"{device['machine']}: {what}, {free} MB free in {device['folder']}"]
    width = max(len(row["name"]) for row in document["parts"])
    for row in document["parts"]:
        versions = ", ".join(f"{name} {number}" for name, number in row["versions"].items())
        state = "works" if row["works"] else "missing" if not row["versions"] else "fails"
        detail = row.get("proof") or row["reason"] or "installed"
        lines.append(f"{row['name']:<{width}}  {state:<7}  {row['purpose']}: {detail}")
        if versions:
            lines.append(f"{'':<{width}}           {versions}")
        if row["next"]:
            lines.append(f"{'':<{width}}           next: {row['next']}")
    if document.get("there"):
        lines.append(f"On the device: {document['there']}")
    return "\n".join(lines)
