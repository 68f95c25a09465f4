"""Finds a backend by its name: our module, else an entry point of the same group.

`load("converters", "tflite")` imports `lepton_edge.converters.tflite`, or else the entry point
`tflite` of the group `lepton_edge.converters`. Modules that begin with `_` are private.
"""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType

from lepton_edge import errors

_ROOT = Path(__file__).parent


def _ours(group: str) -> list[str]:
    return [
        module.name
        for module in pkgutil.iter_modules([str(_ROOT / group)])
        if not module.name.startswith("_")
    ]


def names(group: str) -> list[str]:
    """Every name that `load(group, name)` can find, sorted; nothing is imported."""
    theirs = [point.name for point in entry_points(group=f"lepton_edge.{group}")]
    return sorted({*_ours(group), *theirs})


def exists(group: str, name: str) -> bool:
    return name in _ours(group) or name in names(group)


def load(group: str, name: str) -> ModuleType:
    """The module of that name. Raises `UsageError` with the nearest spelling."""
    if name in _ours(group):
        return importlib.import_module(f"lepton_edge.{group}.{name}")
    for point in entry_points(group=f"lepton_edge.{group}", name=name):
        module = point.load()
        if not isinstance(module, ModuleType):
            raise errors.UsageError(
                f"Entry point {point.value!r} of lepton_edge.{group} is not a module."
            )
        return module
    raise errors.unknown(group.removesuffix("s"), name, names(group))


def absent(*modules: str) -> list[str]:
    """Those of the top-level modules that are not installed, not importing any; `a|b` is either."""
    return [
        " or ".join(either)
        for either in (module.split("|") for module in modules)
        if all(importlib.util.find_spec(name) is None for name in either)
    ]
