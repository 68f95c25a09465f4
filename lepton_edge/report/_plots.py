"""The page's charts as Bokeh figures. The scatter is complete; the page fills the others."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from bokeh.models import (
    BasicTickFormatter,
    ColumnDataSource,
    FactorRange,
    FixedTicker,
    HoverTool,
    NumeralTickFormatter,
    Range1d,
)
from bokeh.plotting import figure

from lepton_edge.measurement import Accuracy, Latency, Row
from lepton_edge.report import _cells, _details, _summary

# Told apart by most colour-blind readers, and visible on white and on near-black.
_COLOURS = {
    "torch": "#d1495b",
    "tensorflow": "#c77dba",
    "onnx": "#2f7fd1",
    "openvino": "#8a63d2",
    "tflite": "#d98e04",
    "tensorrt": "#4f9d4f",
}
_MORE_COLOURS = ("#1a9e96", "#a0705a", "#7d8597")
_MARKERS = {
    "fp32": "circle",
    "fp16": "square",
    "bf16": "hex",
    "int8": "triangle",
    "int8-dynamic": "inverted_triangle",
    "int8-weights": "diamond",
    "int4-weights": "star",
    "int8-mixed": "plus",
}
ACCENT = "#2f7fd1"


def colours(rows: Sequence[Row]) -> dict[str, str]:
    """Format -> colour, for the formats that are there."""
    formats = sorted({row.format for row in rows})
    strange = [name for name in formats if name not in _COLOURS]
    more = {name: _MORE_COLOURS[i % len(_MORE_COLOURS)] for i, name in enumerate(strange)}
    return {name: _COLOURS.get(name) or more[name] for name in formats}


def markers(rows: Sequence[Row]) -> dict[str, str]:
    """Precision -> marker, for the precisions that are there; `x` for one that we do not know."""
    order = list(_MARKERS)
    found = sorted(
        {row.precision for row in rows},
        key=lambda name: (order.index(name) if name in order else len(order), name),
    )
    return {name: _MARKERS.get(name, "x") for name in found}


def drawn(rows: Sequence[Row]) -> list[tuple[Row, Accuracy, Latency]]:
    """The rows that have a point: with the chart's metric and a latency, measured or not."""
    metric = _summary.plotted_metric(rows)
    found = []
    for row in rows:
        if row.accuracy is None or row.latency is None or row.accuracy.metric != metric:
            continue
        numbers = (row.accuracy.value, row.latency.p50_ms)
        if None not in map(_cells.finite, numbers) and row.latency.p50_ms > 0:
            found.append((row, row.accuracy, row.latency))
    return found


def scatter(rows: Sequence[Row]) -> Any:
    """Accuracy against p50 latency with both 95 % intervals and the Pareto line; or None."""
    points = drawn(rows)
    if not points:
        return None
    percent = all(_cells.is_rate(accuracy) for _, accuracy, _ in points)
    scale = 100.0 if percent else 1.0
    colour, marker = colours(rows), markers(rows)
    line = _summary.pareto(rows)
    data: dict[str, list[Any]] = {
        "x": [latency.p50_ms / latency.batch for _, _, latency in points],
        "y": [scale * accuracy.value for _, accuracy, _ in points],
        "x0": [latency.p50_interval_ms[0] / latency.batch for _, _, latency in points],
        "x1": [latency.p50_interval_ms[1] / latency.batch for _, _, latency in points],
        "y0": [scale * accuracy.interval[0] for _, accuracy, _ in points],
        "y1": [scale * accuracy.interval[1] for _, accuracy, _ in points],
        "colour": [colour[row.format] for row, _, _ in points],
        "marker": [marker[row.precision] for row, _, _ in points],
        # Hollow: it may not be shipped as it is, and the line passes it by.
        "fill": [0.9 if _solid(row) else 0.0 for row, _, _ in points],
        "name": [row.name for row, _, _ in points],
        "status": [row.status for row, _, _ in points],
        "latency": [_latency_text(latency) for _, _, latency in points],
        "metric": [
            f"{_cells.value_text(accuracy)} {_cells.interval_text(accuracy)}, n = {accuracy.n:,}"
            for _, accuracy, _ in points
        ],
        "drop": [_cells.drop_text(accuracy) for _, accuracy, _ in points],
    }
    fastest, slowest = min(data["x"]), max(data["x"])
    wide = slowest / fastest > 8
    metric = _details.labels([points[0][1].metric])[0]
    batches = {latency.batch for _, _, latency in points}
    per = "latency" if batches == {1} else "latency per sample"
    plot = _figure(
        x_axis_type="log" if wide else "linear",
        x_axis_label=f"p50 {per}, ms{' (logarithmic)' if wide else ''}",
        y_axis_label=f"{metric}, %" if percent else metric,
        height=400,
        tools="box_zoom,reset,save",
        name="scatter",
    )
    plot.xaxis.formatter = BasicTickFormatter(use_scientific=False)
    if wide:
        plot.xaxis.ticker = FixedTicker(ticks=_log_ticks(fastest, slowest))
        plot.xgrid.ticker = plot.xaxis.ticker
    else:
        plot.x_range = _around([*data["x"], *data["x0"], *data["x1"]])
    source = ColumnDataSource(data)
    if line:
        plot.step(
            [_per_sample(row) for row in line],
            [scale * row.accuracy.value for row in line if row.accuracy is not None],
            mode="after",
            line_color="#8b95a1",
            line_dash="dashed",
            line_width=1.5,
        )
    bars = {"source": source, "line_color": "colour", "line_alpha": 0.55, "line_width": 1.5}
    plot.segment(x0="x0", x1="x1", y0="y", y1="y", **bars)
    plot.segment(x0="x", x1="x", y0="y0", y1="y1", **bars)
    dots = plot.scatter(
        "x",
        "y",
        source=source,
        size=13,
        marker="marker",
        line_color="colour",
        line_width=2,
        fill_color="colour",
        fill_alpha="fill",
        hover_line_color="colour",
        hover_fill_color="colour",
        hover_fill_alpha=1.0,
    )
    tips = [
        ("target", "@name"),
        ("status", "@status"),
        ("p50", "@latency"),
        (metric, "@metric"),
        ("drop", "@drop"),
    ]
    plot.add_tools(HoverTool(visible=False, renderers=[dots], tooltips=tips))
    return plot


def _around(values: Sequence[float]) -> Range1d:
    """At least 20 % wide, so that a bar of a thousandth does not look like the whole axis."""
    finite = [value for value in values if math.isfinite(value)]
    low, high = min(finite), max(finite)
    half = max(0.55 * (high - low), 0.1 * (low + high) / 2)
    return Range1d(start=(low + high) / 2 - half, end=(low + high) / 2 + half)


def _log_ticks(low: float, high: float) -> list[float]:
    """Round numbers from one below `low` to one above `high`; fewer of them over many decades."""
    decades = range(math.floor(math.log10(low)) - 1, math.ceil(math.log10(high)) + 2)
    steps = (1, 2, 3, 5, 7) if high / low < 50 else (1, 2, 5) if high / low < 500 else (1,)
    # 3 / 10 rather than 3 * 0.1, so that the label has no stray digits.
    ticks = [step * 10**power if power >= 0 else step / 10**-power
             for power in decades for step in steps]  # fmt: skip
    return [tick for tick in ticks if low / 3 <= tick <= high * 3]


def _solid(row: Row) -> bool:
    return row.is_baseline or row.status in ("PASS", "SLOWER")


def _per_sample(row: Row) -> float:
    assert row.latency is not None  # the Pareto line holds only rows with a latency
    return row.latency.p50_ms / row.latency.batch


def _latency_text(latency: Latency) -> str:
    low, high = map(_cells.number, latency.p50_interval_ms)
    text = f"{_cells.number(latency.p50_ms)} ms [{low}, {high}], n = {latency.n:,}"
    if _cells.is_estimate(latency):
        return f"{text}, {_cells.ESTIMATED} ({latency.tier})"
    return text


def histogram() -> Any:
    """Latency samples of the selected row: an empty frame with sources `bars` and `marks`."""
    plot = _figure(
        x_range=Range1d(start=0, end=1),
        y_range=Range1d(start=0, end=1),
        x_axis_label="latency, ms",
        y_axis_label="runs",
        height=300,
        name="histogram",
    )
    bars = ColumnDataSource({"left": [], "right": [], "top": [], "share": []}, name="bars")
    quads = plot.quad(
        left="left", right="right", top="top", bottom=0, source=bars, fill_color=ACCENT
    )
    quads.glyph.line_color = None
    marks = ColumnDataSource({"x": [], "top": [], "label": []}, name="marks")
    plot.segment(x0="x", x1="x", y0=0, y1="top", source=marks, line_dash="dashed", name="ink")
    plot.text(
        "x", "top", "label", source=marks, text_font_size="11px", x_offset=3, name="ink",
        text_baseline="top",
    )  # fmt: skip
    plot.yaxis.formatter = NumeralTickFormatter(format="0,0")
    tips = [
        ("ms", "@left{0.0000} to @right{0.0000}"),
        ("runs", "@top{0,0}"),
        ("share", "@share{0.0 %}"),
    ]
    plot.add_tools(HoverTool(visible=False, renderers=[quads], tooltips=tips))
    return plot


def heatmap() -> Any:
    """Confusion of the selected row: an empty grid with the source `cells`."""
    plot = _figure(
        x_range=FactorRange(),
        y_range=FactorRange(),
        x_axis_label="predicted",
        y_axis_label="true",
        height=430,
        name="heatmap",
    )
    names = ("predicted", "true", "count", "share", "alpha", "label", "ink")
    cells = ColumnDataSource({name: [] for name in names}, name="cells")
    squares = plot.rect(
        "predicted", "true", 0.96, 0.96, source=cells, fill_alpha="alpha", fill_color=ACCENT
    )
    squares.glyph.line_color = None
    plot.text(
        "predicted", "true", "label", source=cells, text_align="center", text_baseline="middle",
        text_font_size="11px", text_color="ink",
    )  # fmt: skip
    tips = [
        ("true", "@true"),
        ("predicted", "@predicted"),
        ("samples", "@count{0,0}"),
        ("share of the true class", "@share{0.0 %}"),
    ]
    plot.add_tools(HoverTool(visible=False, renderers=[squares], tooltips=tips))
    plot.xaxis.major_label_orientation = 0.9
    plot.grid.visible = False
    return plot


def roc() -> Any:
    """ROC curves of the selected row: an empty frame with the source `curves`."""
    plot = _figure(
        x_range=Range1d(start=-0.02, end=1.02),
        y_range=Range1d(start=-0.02, end=1.02),
        x_axis_label="false positive rate",
        y_axis_label="true positive rate",
        height=430,
        name="roc",
    )
    plot.line([0, 1], [0, 1], line_color="#8b95a1", line_dash="dashed")
    names = ("x", "y", "name", "auc", "colour", "alpha", "width")
    curves = ColumnDataSource({name: [] for name in names}, name="curves")
    lines = plot.multi_line(
        "x", "y", source=curves, line_color="colour", line_alpha="alpha", line_width="width"
    )
    tips = [("class", "@name"), ("area under the curve", "@auc{0.0000}")]
    plot.add_tools(HoverTool(visible=False, renderers=[lines], tooltips=tips, line_policy="interp"))
    return plot


def _figure(*, tools: str = "", height: int, **settings: Any) -> Any:
    """No logo (it links away), nothing that catches a finger that scrolls the page."""
    plot = figure(
        sizing_mode="stretch_width",
        height=height,
        tools=tools,
        toolbar_location="above" if tools else None,
        active_drag=None,
        active_scroll=None,
        background_fill_color=None,
        border_fill_color=None,
        outline_line_color=None,
        min_border_right=12,
        **settings,
    )
    plot.toolbar.logo = None
    plot.axis.minor_tick_line_color = None
    plot.axis.axis_label_text_font_style = "normal"
    plot.axis.axis_label_text_font_size = "13px"
    plot.axis.major_label_text_font_size = "12px"
    return plot
