"""Devices: profiles with the source of every fact, and where a model's operators would run.

A profile is one TOML file here, named like the device; a user's own folder adds to them. What runs
on a device needs numpy and one runtime, so nothing here imports a framework.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lepton_edge import errors
from lepton_edge.devices import _detect
from lepton_edge.devices._profile import Constraint, Fact, Facts, Profile, Runtime, Stack
from lepton_edge.devices._profile import read_profile as _read

if TYPE_CHECKING:
    from lepton_edge.devices.estimate import Estimate

__all__ = [
    "Constraint",
    "Fact",
    "Facts",
    "Profile",
    "Runtime",
    "Stack",
    "load",
    "names",
    "placement",
    "predict",
]

_OURS = Path(__file__).parent


def _files(folder: str | Path | None) -> dict[str, Path]:
    found = {path.stem: path for path in _OURS.glob("*.toml")}
    if folder is not None:
        theirs = sorted(Path(folder).glob("*.toml")) if Path(folder).is_dir() else []
        if not theirs:
            raise errors.UsageError(
                f"There is no device profile in {str(folder)!r}.",
                next="Give a folder with TOML files, one a device.",
            )
        for path in theirs:
            if path.stem in found:
                raise errors.UsageError(
                    f"{str(path)!r} has the name of a device that lepton-edge has.",
                    next="Give your device a name of its own.",
                )
            found[path.stem] = path
    return found


def names(folder: str | Path | None = None) -> list[str]:
    """Every device that `load` knows, sorted; `folder` holds the user's own profiles."""
    return sorted(_files(folder))


def load(name: str, folder: str | Path | None = None) -> Profile:
    """The profile of that name. Raises `UsageError` with the nearest spelling.

    `x86` is this machine where it is one: its features, cores and caches are detected.
    """
    files = _files(folder)
    if name not in files:
        raise errors.unknown("device", name, files)
    profile = _read(files[name])
    if name == "x86" and _detect.is_here("x86_64"):
        detected = _detect.facts()
        return dataclasses.replace(
            profile,
            title=_detect.title() or profile.title,
            isa=_detect.isa(),
            facts=dataclasses.replace(profile.facts, **detected),
        )
    return profile


def predict(path: str | Path, profile: Profile, precision: str) -> Estimate:
    """The latency to expect of a .tflite or .onnx on a device that is not there, batch 1.

    An estimate, never a measurement: see `lepton_edge.devices.estimate`. Raises `UsageError`
    where nothing was fitted for that device and precision.
    """
    from lepton_edge.devices import estimate

    return estimate.predict(path, profile, precision)


def placement(path: str | Path, profile: Profile) -> dict[str, Any]:
    """Where each operator of the .tflite runs on that device, and why.

    `operators` is a list of {index, op, placement, reason}: `accelerator`, `cpu` (the host runs
    it), or `unsupported` (nothing there can). `summary` counts them, `limits` says what is not
    about one operator. A compiled Edge TPU file is told from a raw one: for it the placement is
    observed, else predicted by the rules.
    """
    if profile.kind != "edgetpu":
        raise errors.UsageError(
            f"There are no rules for the operators of {profile.name}.",
            next="Placement is known for the Edge TPU: coral-usb, coral-dev-board, coral-m2.",
        )
    from lepton_edge.devices._tflite import read
    from lepton_edge.devices.edgetpu.placement import place
    from lepton_edge.devices.edgetpu.rules import runtime_of
    from lepton_edge.devices.limits import of_placement

    found = place(read(path), runtime_of(profile.facts.runtime_version))
    return {
        "device": profile.name,
        "model": str(path),
        **found,
        "limits": of_placement(found["summary"], profile),
    }
