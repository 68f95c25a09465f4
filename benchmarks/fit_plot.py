"""Predicted against published latency as an SVG of its own: both axes logarithmic, in ms."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

SIDE, LEFT, TOP, LEGEND = 420, 56, 16, 190
# Okabe and Ito's colours, told apart by colour-blind readers too; shapes tell them apart in print.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#999999")


def scatter(shown: Mapping[str, Sequence[tuple[Any, float]]]) -> str:
    """`shown` maps a device to its (row, predicted) pairs; a row has `ms` and `name`."""
    values = [v for pairs in shown.values() for row, p in pairs for v in (row.ms, p)]
    low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))

    def across(value: float) -> float:
        return LEFT + (math.log10(value) - low) / (high - low) * SIDE

    def down(value: float) -> float:
        return TOP + SIDE - (math.log10(value) - low) / (high - low) * SIDE

    width, height = LEFT + SIDE + LEGEND, TOP + SIDE + 44
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        'font-family="sans-serif" font-size="12">',
        f'<rect width="{width}" height="{height}" fill="white"/>',
    ]
    for power in range(low, high + 1):
        x, y, text = across(10**power), down(10**power), f"{10.0**power:g}"
        parts += [
            f'<path d="M{x:.1f} {TOP}V{TOP + SIDE}M{LEFT} {y:.1f}H{LEFT + SIDE}" '
            'stroke="#ddd" fill="none"/>',
            f'<text x="{x:.1f}" y="{TOP + SIDE + 16}" text-anchor="middle">{text}</text>',
            f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{text}</text>',
        ]
    ends = (10**low, 10**high)
    for factor, dash in ((1.0, ""), (2.0, "4 3"), (0.5, "4 3")):
        a, b = ends[0] * max(1, 1 / factor), ends[1] * min(1, 1 / factor)
        parts.append(
            f'<path d="M{across(a):.1f} {down(a * factor):.1f}L{across(b):.1f} '
            f'{down(b * factor):.1f}" stroke="#666" stroke-dasharray="{dash}"/>'
        )
    for number, (device, pairs) in enumerate(shown.items()):
        colour, y = COLOURS[number % len(COLOURS)], TOP + 10 + 20 * number
        for row, value in pairs:
            parts.append(
                _mark(number, across(row.ms), down(value), colour, f"{row.name} on {device}")
            )
        parts.append(_mark(number, LEFT + SIDE + 18, y, colour, device))
        parts.append(f'<text x="{LEFT + SIDE + 30}" y="{y + 4}">{device}</text>')
    middle = LEFT + SIDE / 2
    parts += [
        f'<text x="{middle}" y="{TOP + SIDE + 36}" text-anchor="middle">published, ms</text>',
        f'<text transform="translate(14 {TOP + SIDE / 2}) rotate(-90)" text-anchor="middle">'
        "predicted with the family left out, ms</text>",
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def _mark(number: int, x: float, y: float, colour: str, title: str) -> str:
    tag, place = (
        ("circle", f'cx="{x:.1f}" cy="{y:.1f}" r="3.5"'),
        ("rect", f'x="{x - 3:.1f}" y="{y - 3:.1f}" width="6" height="6"'),
        ("path", f'd="M{x:.1f} {y - 4:.1f}l4 7h-8z"'),
    )[number % 3]
    return f'<{tag} {place} fill="{colour}" fill-opacity="0.7"><title>{title}</title></{tag}>'
