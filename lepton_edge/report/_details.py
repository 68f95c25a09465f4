"""What the page draws for one row: bins, curves and counts, small enough to be embedded."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from lepton_edge.measurement import Accuracy, ClassResult, Latency, Report, Roc, Row
from lepton_edge.report import _cells


@dataclass(frozen=True)
class Limits:
    """How many classes a row may show: in the heatmap, as ROC curves, in the per-class table."""

    heatmap: int = 24
    roc: int = 12
    table: int = 50

    def times(self, share: float) -> Limits:
        return Limits(*(int(size * share) for size in (self.heatmap, self.roc, self.table)))


def drawing(row: Row, report: Report, limits: Limits) -> dict[str, Any]:
    """The data behind the row's charts; None where nothing was measured."""
    accuracy = row.accuracy
    return {
        "histogram": None if row.latency is None else _histogram(row.latency),
        "confusion": None if accuracy is None else _confusion(accuracy, report, limits.heatmap),
        "roc": None if accuracy is None else _roc(accuracy, limits.roc),
    }


def _histogram(latency: Latency) -> dict[str, Any] | None:
    """Counts over equal bins; what lies above the last is told, not drawn."""
    if (bins := latency.histogram) is None:
        return None
    first, last = bins.edges_ms[0], bins.edges_ms[-1]
    marks = (("p50", latency.p50_ms), ("p90", latency.p90_ms), ("p99", latency.p99_ms))
    note = f"{latency.n:,} runs."
    if bins.above:
        note += f" {bins.above:,} above {_cells.number(last)} ms are not drawn"
        far = [f"{name} {_cells.number(value)}" for name, value in marks if value and value > last]
        note += f" ({', '.join([*far, f'slowest {_cells.number(latency.max_ms)}'])} ms)."
    return {
        "edges": [_short(edge) for edge in bins.edges_ms],
        "counts": list(bins.counts),
        "marks": [
            {"label": label, "x": _short(value)}
            for label, value in marks
            if value is not None and first <= value <= last
        ],
        "note": note,
    }


def _confusion(accuracy: Accuracy, report: Report, most: int) -> dict[str, Any] | None:
    counts = np.asarray(accuracy.confusion, np.int64)
    if counts.ndim != 2 or not counts.size or counts.shape[0] != counts.shape[1] or most < 2:
        return None
    size = counts.shape[0]
    # Not the names of per_class: those stand in another order, the worst first.
    names = report.classes if len(report.classes) == size else tuple(map(str, range(size)))
    wrong = counts.sum(axis=1) - counts.diagonal()
    shown = np.arange(size)
    note = "Rows are the true class; shares are of the row."
    if size > most:
        shown = np.sort(np.argsort(-wrong, kind="stable")[:most])
        note += f" The {most} of {size:,} classes with the most errors."
    return {
        "names": labels([names[index] for index in shown]),
        "counts": counts[np.ix_(shown, shown)].tolist(),
        "totals": counts.sum(axis=1)[shown].tolist(),
        "note": note,
    }


def _roc(accuracy: Accuracy, most: int) -> dict[str, Any] | None:
    curves = sorted(accuracy.roc, key=lambda item: (_cells.finite(item.auc) is None, item.auc))
    if not curves or not most:
        return None
    note = "Each class against the rest."
    if len(curves) > most:
        note += f" The {most} of {len(curves):,} classes with the smallest area."
    return {"curves": [_curve(item) for item in curves[:most]], "note": note}


def _curve(item: Roc) -> dict[str, Any]:
    return {
        "name": labels([item.name])[0],
        "auc": _short(item.auc),
        "x": [_short(value) for value in item.false_positive_rate],
        "y": [_short(value) for value in item.true_positive_rate],
    }


def worst_first(accuracy: Accuracy) -> list[ClassResult]:
    """The classes by drop, the largest first; without a baseline by hits, the fewest first."""

    def key(item: ClassResult) -> tuple[float, float]:
        drop = _cells.finite(item.drop)
        return math.inf if drop is None else -drop, item.value

    return sorted(accuracy.per_class, key=key)


def labels(names: list[str], most: int = 22) -> list[str]:
    """Names that a chart can use: short, unique, and never taken for a formula.

    Text between `$$` and the like would be drawn as mathematics, and Bokeh can fetch a script for
    it; the page's policy forbids that too.
    """
    found: list[str] = []
    for name in names:
        text = "".join(char if char.isprintable() else " " for char in name)
        for mark in ("$$", r"\[", r"\("):
            text = text.replace(mark, "\u2060".join(mark))
        text = text if len(text) <= most else text[: most - 1] + "…"
        tries = itertools.chain([text], (f"{text} ({count})" for count in itertools.count(2)))
        found.append(next(each for each in tries if each not in found))
    return found


def _short(value: float) -> float | None:
    return None if not math.isfinite(value) else float(f"{value:.5g}")
