"""Context and facts as rows of text: whatever is nested becomes one line a value."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lepton_edge.report import _cells


def text(value: Any) -> str:
    """A value as a reader wants it: None is a dash, a list is joined by commas."""
    if value is None:
        return _cells.DASH
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return _cells.DASH if _cells.finite(value) is None else f"{value:.6g}"
    if isinstance(value, (list, tuple)):
        return ", ".join(text(item) for item in value) or "none"
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {text(item)}" for key, item in value.items()) or "none"
    return str(value)


def groups(given: Mapping[str, Any]) -> list[tuple[str, list[tuple[str, str]]]]:
    """(group, [(key, value)]); values that stand in no group come first, under an empty name."""
    alone = [(key, text(value)) for key, value in given.items() if not isinstance(value, Mapping)]
    grouped = [
        (name, [(str(key), text(value)) for key, value in members.items()])
        for name, members in given.items()
        if isinstance(members, Mapping)
    ]
    return [*([("", alone)] if alone else []), *grouped]
