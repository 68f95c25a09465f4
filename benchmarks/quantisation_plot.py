"""Peak memory over calibration samples, as an SVG of its own: both axes logarithmic."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from fit_plot import COLOURS, _mark

WIDE, HIGH, LEFT, TOP, LEGEND = 420, 260, 56, 16, 330
MEMORY = (0.1, 0.3, 1.0, 3.0, 10.0)  # GB, the lines of the grid
GOAL = 0.6


def curves(shown: Mapping[str, Sequence[tuple[int, float]]]) -> str:
    """`shown` maps a tool to its (samples, GB) points."""
    counts = sorted({count for points in shown.values() for count, _ in points})
    first, last = math.log(counts[0]) - 0.1, math.log(counts[-1]) + 0.1
    top = math.log(MEMORY[-1] / MEMORY[0])

    def across(count: float) -> float:
        return LEFT + (math.log(count) - first) / (last - first) * WIDE

    def down(memory: float) -> float:
        return TOP + HIGH - math.log(memory / MEMORY[0]) / top * HIGH

    width, height = LEFT + WIDE + LEGEND, TOP + HIGH + 44
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        'font-family="sans-serif" font-size="12">',
        f'<rect width="{width}" height="{height}" fill="white"/>',
    ]
    for memory in MEMORY:
        y = down(memory)
        parts += [
            f'<path d="M{LEFT} {y:.1f}H{LEFT + WIDE}" stroke="#ddd" fill="none"/>',
            f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{memory:g}</text>',
        ]
    parts += [
        f'<text x="{across(count):.1f}" y="{TOP + HIGH + 16}" text-anchor="middle">{count:,}</text>'
        for count in counts
    ]
    parts.append(
        f'<path d="M{LEFT} {down(GOAL):.1f}H{LEFT + WIDE}" stroke="#666" stroke-dasharray="4 3"/>'
    )
    for number, (tool, points) in enumerate(shown.items()):
        colour, y = COLOURS[number % len(COLOURS)], TOP + 10 + 20 * number
        line = "L".join(f"{across(count):.1f} {down(gb):.1f}" for count, gb in sorted(points))
        parts.append(f'<path d="M{line}" stroke="{colour}" fill="none"/>')
        parts += [
            _mark(number, across(count), down(gb), colour, f"{tool}: {gb:.2f} GB at {count:,}")
            for count, gb in points
        ]
        parts.append(_mark(number, LEFT + WIDE + 18, y, colour, tool))
        parts.append(f'<text x="{LEFT + WIDE + 30}" y="{y + 4}">{tool}</text>')
    parts += [
        f'<text x="{LEFT + WIDE / 2}" y="{TOP + HIGH + 36}" text-anchor="middle">'
        "calibration samples</text>",
        f'<text transform="translate(14 {TOP + HIGH / 2}) rotate(-90)" text-anchor="middle">'
        "peak memory of the process, GB</text>",
        "</svg>",
    ]
    return "\n".join(parts) + "\n"
