"""The report as GitHub-flavoured Markdown: the table, the reasons, the context, the command."""

from __future__ import annotations

import re
from collections.abc import Iterable

from lepton_edge.measurement import Report, Row
from lepton_edge.report import _cells, _facts, _summary

SUFFIX = ".md"

_SPECIAL = re.compile(r"([\\`*_{}\[\]|$~!#])")


def render(report: Report) -> str:
    """The report in short; text that came from files is escaped, so that it stays text."""
    rows = list(report.rows)
    counts = ", ".join(f"{n} {escape(word)}" for word, n in _summary.verdicts(rows))
    parts = [
        f"# {escape(report.title)}",
        f"{escape(_summary.tested(report))} {escape(report.created)}",
        f"Verdicts: {counts or 'none'}. {escape(_summary.best_sentence(rows))}",
        "\n".join(_table(rows)),
        f"Drop: {_cells.DROP_HINT}. {_cells.DASH} is not measured. Size, peak memory: 1 MB ="
        " 1,000,000 bytes.",
    ]
    why = [f"- {escape(row.name)}: {escape(text)}" for row in rows for text in _cells.reasons(row)]
    if why:
        parts += ["## Reasons", "\n".join(why)]
    if report.notes:
        parts += ["## Notes", "\n".join(f"- {escape(note)}" for note in report.notes)]
    parts += ["## Context", "\n".join(_context(report))]
    parts += ["## Reproduce", _fenced(report.command)]
    return "\n\n".join(parts) + "\n"


def escape(text: str) -> str:
    """Text that Markdown shows as it is, on one line: no markup, no HTML, no new table cell."""
    line = "".join(char if char.isprintable() else " " for char in text)
    line = line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return _SPECIAL.sub(r"\\\1", line)


def _table(rows: Iterable[Row]) -> Iterable[str]:
    columns = _cells.COLUMNS
    yield _line(column.title for column in columns)
    yield _line("---:" if column.numeric else ":---" for column in columns)
    for row in rows:
        yield _line(_cell(column, row) for column in columns)


def _cell(column: _cells.Column, row: Row) -> str:
    text = _cells.plain(column.cell(row))
    # Only these hold text that is not ours; elsewhere brackets may stay readable.
    return escape(text) if not column.numeric or column.title == "Metric" else text


def _line(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _context(report: Report) -> Iterable[str]:
    groups = _facts.groups({"data": dict(report.data), **report.context})
    for name, pairs in groups:
        facts = "; ".join(f"{key}: {value}" for key, value in pairs)
        yield f"- {f'**{escape(name)}** ' if name else ''}{escape(facts)}"


def _fenced(command: str) -> str:
    longest = max((len(run) for run in re.findall("`+", command)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}sh\n{command}\n{fence}"
