"""The report as one HTML page that needs no network: Bokeh's script and all data are inside.

The page forbids itself every request and every script but its own two, by their hashes.
"""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lepton_edge import errors
from lepton_edge.measurement import Accuracy, Report, Row
from lepton_edge.report import _cells, _details, _facts, _summary

SUFFIX = ".html"
MOST_BYTES = 5_000_000

_HERE = Path(__file__).parent
_KINDS = frozenset(map(_summary.kind, _summary.GLOSSARY))


@dataclass(frozen=True)
class _Shown:
    """One cell of the page: the value, and in small its interval."""

    main: str
    note: str
    sort: float | str | None
    estimated: bool
    numeric: bool
    title: str


def render(report: Report) -> str:
    """The whole page, under 5 MB: with very many rows, fewer classes of each are drawn.

    The captions say what is left out; all of it is in the JSON form. Raises `BackendMissing`
    without the extra `report`.
    """
    page = ""
    for share in (1.0, 0.5, 0.25, 0.1, 0.0):
        page = _page(report, _details.Limits().times(share))
        if len(page.encode("utf-8", "backslashreplace")) < MOST_BYTES:
            break
    return page


def _page(report: Report, limits: _details.Limits) -> str:
    try:
        import jinja2
        import markupsafe
        from bokeh.embed import json_item
        from bokeh.resources import Resources

        from lepton_edge.report import _plots
    except ImportError as error:
        raise errors.BackendMissing(
            f"The HTML report needs jinja2 and bokeh ({error}).",
            next="pip install 'lepton-edge[report]'.",
        ) from None

    rows = list(report.rows)
    scatter = _plots.scatter(rows)
    figures = {"histogram": _plots.histogram, "heatmap": _plots.heatmap, "roc": _plots.roc}
    plots = {name: json_item(make()) for name, make in figures.items()} if rows else {}
    if scatter is not None:
        plots["scatter"] = json_item(scatter)
    bokeh = "".join(Resources(mode="inline", components=["bokeh"], log_level="warn").js_raw)
    scripts = [bokeh, (_HERE / "page.js").read_text()]
    loader = jinja2.FileSystemLoader(_HERE)
    environment = jinja2.Environment(
        loader=loader,
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    # Bokeh refers to an object by the id that was given before it: the order must stay.
    environment.policies["json.dumps_kwargs"] = {"sort_keys": False, "allow_nan": False}
    environment.filters["number"] = _cells.number
    environment.filters["kind"] = _kind
    environment.filters["breakable"] = lambda word: markupsafe.Markup("<wbr>(").join(
        word.split("(")
    )
    return environment.get_template("page.html").render(
        report=report,
        rows=rows,
        columns=_cells.COLUMNS,
        cells=[_shown(row) for row in rows],
        reasons=[_cells.reasons(row) for row in rows],
        facts=[_row_facts(row) for row in rows],
        classes=[_classes(row, limits) for row in rows],
        layers=[_layers(row, limits) for row in rows],
        drop_hint=_cells.DROP_HINT,
        dash=_cells.DASH,
        tested=_summary.tested(report),
        best=_summary.best_sentence(rows),
        verdicts=_summary.verdicts(rows),
        glossary=_summary.GLOSSARY,
        context=_facts.groups({"data": dict(report.data), **report.context}),
        undrawn=[row.name for row in rows if row not in [p[0] for p in _plots.drawn(rows)]],
        colours=_plots.colours([point[0] for point in _plots.drawn(rows)]),
        markers=_plots.markers([point[0] for point in _plots.drawn(rows)]),
        first=rows.index(best) if (best := _summary.best(rows)) is not None else 0,
        scripts=scripts,
        hashes=[_hash(script) for script in scripts],
        style=(_HERE / "page.css").read_text(),
        plots=plots,
        drawings=[_details.drawing(row, report, limits) for row in rows],
    )


def _hash(script: str) -> str:
    digest = hashlib.sha256(script.encode()).digest()
    return f"sha256-{base64.b64encode(digest).decode()}"


def _kind(status: str) -> str:
    """The status's word as a class of the style sheet."""
    kind = _summary.kind(status)
    return kind if kind in _KINDS else "other"


def _shown(row: Row) -> list[_Shown]:
    found = []
    for column in _cells.COLUMNS:
        cell = column.cell(row)
        main, bracket, rest = cell.text.partition(" [") if column.numeric else (cell.text, "", "")
        note = f"[{rest}" if bracket else cell.note
        found.append(
            _Shown(main, note, cell.sort, cell.estimated, column.numeric, column.title)
        )  # fmt: skip
    return found


def _row_facts(row: Row) -> list[tuple[str, str]]:
    """All single values of a row that the table has no room for; only what is there."""
    found: list[tuple[str, str | None]] = [
        ("framework", row.framework),
        ("device", row.device),
        ("placement", row.placement),
    ]
    if row.artifact is not None:
        found += [(key, _facts.text(row.artifact.get(key))) for key in ("path", "sha256")]
    if row.accuracy is not None:
        found += _accuracy_facts(row.accuracy)
    if (latency := row.latency) is not None:
        found += [
            ("latency tier", latency.tier),
            ("runs", f"{latency.n:,} after {latency.warmup_n:,} for warming up"),
            (
                "mean ± std",
                f"{_cells.number(latency.mean_ms)} ± {_cells.number(latency.std_ms)} ms",
            ),
            ("min, max", f"{_cells.number(latency.min_ms)}, {_cells.number(latency.max_ms)} ms"),
            ("first inference", f"{_cells.number(latency.first_ms)} ms"),
            ("drift of the median", f"{100 * latency.drift:+.1f} %"),
        ]
    apart = ("calibration_warnings", "sensitivity")  # which have places of their own
    given = {key: value for key, value in row.facts.items() if key not in apart}
    found += [(key, _facts.text(value)) for key, value in given.items()]
    return list(dict.fromkeys((key, text) for key, text in found if text))


def _accuracy_facts(accuracy: Accuracy) -> list[tuple[str, str | None]]:
    value = f"{_cells.value_text(accuracy)} {_cells.interval_text(accuracy)}"
    p_value = _cells.finite(accuracy.p_value)
    return [
        (accuracy.metric, f"{value}, n = {accuracy.n:,}"),
        ("drop (+ is worse)", _cells.drop_text(accuracy)),
        ("drop allowed", accuracy.max_drop),
        ("accuracy verdict", accuracy.status),
        ("McNemar's exact p", None if p_value is None else f"{p_value:.3g}"),
    ]


def _layers(row: Row, limits: _details.Limits) -> dict[str, Any] | None:
    """What int8 does to each layer, where the artefact tells; bars scaled to the worst layer."""
    given = row.facts.get("sensitivity")
    if not given:
        return None
    largest = max(layer["share"] for layer in given) or 1.0
    return {
        "total": len(given),
        "kept": sum(layer["kept_in_float"] for layer in given),
        "items": [
            {**layer, "bar": round(100 * layer["share"] / largest, 1)}
            for layer in given[: limits.table]
        ],
    }


def _classes(row: Row, limits: _details.Limits) -> dict[str, Any] | None:
    """The per-class table: the classes that lost most, their bars scaled to the largest drop."""
    if row.accuracy is None or not row.accuracy.per_class:
        return None
    items = _details.worst_first(row.accuracy)
    largest = max((abs(_cells.finite(item.drop) or 0.0) for item in items), default=0.0)
    areas = {item.name: item.auc for item in row.accuracy.roc}
    return {
        "total": len(items),
        "items": [
            {
                "name": item.name,
                "n": item.n,
                "value": f"{100 * item.value:.2f} %",
                "drop": _cells.points(item.drop, None),
                "interval": _cells.points(item.drop, item.drop_interval).partition(" [")[2],
                "worse": (item.drop or 0.0) > 0,
                "bar": round(100 * abs(_cells.finite(item.drop) or 0.0) / (largest or 1.0), 1),
                "auc": "—" if areas.get(item.name) is None else f"{areas[item.name]:.4f}",
            }
            for item in items[: limits.table]
        ],
    }
