"""The report as a table for the terminal: aligned, never wider than it is, coloured only there."""

from __future__ import annotations

import os
import shutil
import unicodedata
from collections.abc import Sequence
from typing import TextIO

from lepton_edge.measurement import Report, Row
from lepton_edge.report import _cells, _summary

SUFFIX = ".txt"

_COLUMNS = tuple(col for col in _cells.COLUMNS if col.title not in ("Placement", "Context"))
_GAP = "  "
_CODES = {"pass": "32", "fail": "31", "skipped": "2", "estimated": "36"}
_WARN = "33"


def render(report: Report, *, colour: bool = False, width: int | None = None) -> str:
    """The table and the reasons below it.

    With `width` (columns of the terminal), a table that is too wide is continued below itself,
    Target repeated; without it, every row is one line.
    """
    rows = list(report.rows)
    lines = [_safe(report.title), _safe(_summary.tested(report)), ""]
    for columns in _blocks(rows, width):
        lines += [*_table(rows, columns, colour), ""]
    counts = ", ".join(f"{n} {word}" for word, n in _summary.verdicts(rows))
    lines += [_safe(f"Verdicts: {counts or 'none'}."), _safe(_summary.best_sentence(rows))]
    lines += [f"Drop: {_cells.DROP_HINT}. {_cells.DASH} is not measured."]
    why = [(row, reason) for row in rows for reason in _cells.reasons(row)]
    if why:
        lines += ["", "Reasons:"]
        lines += [f"  {_safe(row.name)}: {_safe(row.status)}. {_safe(text)}" for row, text in why]
    if report.notes:
        lines += ["", "Notes:", *(f"  {_safe(note)}" for note in report.notes)]
    lines += ["", f"Reproduce: {_safe(report.command)}"]
    return "\n".join(line.rstrip() for line in lines) + "\n"


def show(report: Report, stream: TextIO) -> None:
    """Prints the report to `stream`; colour and width apply only where it is a terminal.

    The variables NO_COLOR and TERM=dumb turn colour off.
    """
    terminal = stream.isatty()
    plain = "NO_COLOR" in os.environ or os.environ.get("TERM") == "dumb"
    width = shutil.get_terminal_size().columns if terminal else None
    stream.write(render(report, colour=terminal and not plain, width=width))


def _text(row: Row, column: _cells.Column) -> str:
    return _safe(_cells.plain(column.cell(row)))


def _size(rows: Sequence[Row], column: _cells.Column) -> int:
    return max(columns_of(text) for text in [column.title, *(_text(row, column) for row in rows)])


def _blocks(rows: Sequence[Row], width: int | None) -> list[list[_cells.Column]]:
    """The columns in groups that each fit the width; Target begins each group."""
    target, *others = _COLUMNS
    blocks = [[target]]
    used = start = _size(rows, target)
    for column in others:
        size = len(_GAP) + _size(rows, column)
        if width is not None and used + size > width and len(blocks[-1]) > 1:
            blocks.append([target])
            used = start
        blocks[-1].append(column)
        used += size
    return blocks


def _table(rows: Sequence[Row], columns: Sequence[_cells.Column], colour: bool) -> list[str]:
    sizes = [_size(rows, column) for column in columns]
    head = _GAP.join(
        _pad(column.title, size, column.numeric)
        for column, size in zip(columns, sizes, strict=True)
    )
    lines = [head, _GAP.join("-" * size for size in sizes)]
    for row in rows:
        cells = []
        for column, size in zip(columns, sizes, strict=True):
            cell = _pad(_text(row, column), size, column.numeric)
            if colour and column.title == "Status":
                code = _CODES.get(_summary.kind(row.status), _WARN)
                cell = f"\033[{code}m{cell}\033[0m"
            cells.append(cell)
        lines.append(_GAP.join(cells))
    return lines


def _pad(text: str, size: int, right: bool) -> str:
    space = " " * (size - columns_of(text))
    return space + text if right else text + space


def columns_of(text: str) -> int:
    """How many columns of a terminal the text takes: wide characters two, combining ones none."""
    return sum(
        0 if unicodedata.combining(char) else 2 if unicodedata.east_asian_width(char) in "WF" else 1
        for char in text
    )


def _safe(text: str) -> str:
    """Names come from files: what could drive the terminal is shown as its escape."""
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode() for char in text
    )
