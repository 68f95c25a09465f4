"""The report as JSON, schema 2 (docs/report-schema.md, report.schema.json)."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np

from lepton_edge import errors
from lepton_edge.measurement import Report

SUFFIX = ".json"


def render(report: Report) -> str:
    """One JSON document that `Report.from_dict` reads back; NaN and infinity become null.

    Raises `EdgeError` for a value that JSON has no form for, naming where it stands.
    """
    document = _plain(report.as_dict(), "report")
    text = _lines(document, 0) + "\n"
    again = _plain(Report.from_dict(json.loads(text)).as_dict(), "report")
    if again != document:
        changed = sorted(key for key in document if document[key] != again.get(key))
        raise errors.EdgeError(f"The report does not read back as it was written: {changed}.")
    return text


def _plain(value: Any, where: str) -> Any:
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, dict):
        for key in value:
            if not isinstance(key, str):
                raise errors.EdgeError(f"{where} has a key that is no text: {key!r}.")
        return {key: _plain(item, f"{where}.{key}") for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item, f"{where}[{index}]") for index, item in enumerate(value)]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, (str, int)):
        return value
    raise errors.EdgeError(f"{where} is of type {type(value).__name__}, which JSON cannot hold.")


def _lines(value: Any, depth: int) -> str:
    """Indented, with a list of plain values on one line: readable, and small for all samples."""
    inner, outer = "\n" + " " * (depth + 1), "\n" + " " * depth
    if isinstance(value, dict) and value:
        items = [f"{json.dumps(key)}: {_lines(item, depth + 1)}" for key, item in value.items()]
        return "{" + inner + ("," + inner).join(items) + outer + "}"
    if isinstance(value, list) and any(isinstance(item, (dict, list)) for item in value):
        return "[" + inner + ("," + inner).join(_lines(v, depth + 1) for v in value) + outer + "]"
    return json.dumps(value, allow_nan=False)
