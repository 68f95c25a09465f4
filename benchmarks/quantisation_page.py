"""The tables of benchmarks/quantisation.py, and the marked parts of its page."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import quantisation_plot as plot

from lepton_edge import errors
from lepton_edge.artifact import replacing

Row = dict[str, Any]
BACKENDS = {
    "onnx": "ONNX Runtime",
    "openvino": "OpenVINO",
    "tflite": "TFLite",
    "tensorrt": "TensorRT dialect, run by ONNX Runtime",
}


def key(row: Row) -> tuple[Any, ...]:
    """What makes two rows the same one, measured twice."""
    return tuple(row.get(each) for each in ("subject", "backend", "contender", "samples"))


def machine() -> str:
    """The CPU and its cores, as the page names them."""
    text = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    found = re.search(r"model name\s*: (.+)", text)
    name = found[1] if found else "unknown CPU"
    vnni = ", AVX512-VNNI" if "avx512_vnni" in text else ""
    return f"{name}{vnni}, {len(os.sched_getaffinity(0))} cores"


def line(row: Row) -> str:
    """One line while the benchmark runs."""
    if "skipped" in row:
        return f"{row['subject']}: skipped: {row['skipped']}"
    place = " ".join(
        str(row[k]) for k in ("subject", "backend", "contender", "samples") if k in row
    )
    if "failed" in row:
        return f"{place}: FAILED: {row['failed']}"
    return f"{place}: {' | '.join(_cells(row))}"


def table(section: str, found: dict[str, Any]) -> str:
    """The section's rows as Markdown, under the command that made them."""
    rows = _sorted([row for row in found["rows"] if "skipped" not in row])
    commands = dict.fromkeys(row["command"] for row in found["rows"])
    text = ", ".join(f"`{each}`" for each in commands)
    lines = [f"{text} on {found['machine']}:", ""]
    if rows:
        head = _heads(section)
        lines += [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
        lines += [f"| {' | '.join([*_places(section, row), *_shown(row, head)])} |" for row in rows]
    for row in rows[:1]:
        if "undecided" in row:
            lines += ["", "The float network's first two classes are within 5 points of probability"
                      " for {:.0f} % of the photographs' crops and {:.0f} % of the enlarged images."
                      .format(*(100 * each for each in row["undecided"]))]  # fmt: skip
    for row in found["rows"]:
        if "skipped" in row:
            lines += ["", f"{row['subject']}: skipped. {row['skipped']}"]
    return "\n".join([*lines, ""])


def _sorted(rows: list[Row]) -> list[Row]:
    """By network as they came, by backend, ours first: rows may come from several runs."""
    subjects = list(dict.fromkeys(row.get("subject") for row in rows))
    backends = [*BACKENDS, None]

    def place(row: Row) -> tuple[int, int, bool]:
        ours = str(row["contender"]).startswith("lepton-edge")
        return subjects.index(row.get("subject")), backends.index(row.get("backend")), not ours

    return sorted(rows, key=place)


def _heads(section: str) -> list[str]:
    if section == "cost":
        return ["tool", "samples", "seconds", "peak GB"]
    if section == "latency":
        return ["network", "backend", "ours", "ratio", "95 % interval", "ours ms", "verdict"]
    if section == "efficientnet":
        return ["backend", "quantiser", "agreement % [n]", "photographs", "the decided of them",
                "enlarged CIFAR-10", "SQNR dB"]  # fmt: skip
    return ["network", "backend", "quantiser", "float %", "drop, points", "95 % interval", "n",
            "SQNR dB", "agreement %"]  # fmt: skip


def _places(section: str, row: Row) -> list[str]:
    if section == "cost":
        return [row["contender"], f"{row['samples']:,}"]
    place = [BACKENDS[row["backend"]], row["contender"]]
    return place if section == "efficientnet" else [row["title"], *place]


def _shown(row: Row, head: Sequence[str]) -> list[str]:
    if "failed" not in row:
        return _cells(row)
    missing = len(head) - len(_places("cost" if "samples" in row else "zoo", row))
    if "photographs" in head:
        missing = len(head) - 2
    return [row["failed"].replace("|", "/"), *["-"] * (missing - 1)]


def _cells(row: Row) -> list[str]:
    if "peak_bytes" in row:
        return [f"{row['seconds']:.1f}", f"{row['peak_bytes'] / 1e9:.2f}"]
    if "compared" in row:
        found = row["compared"]
        low, high = found["interval"]
        ours = sorted(found["b_p50_ms"])[len(found["b_p50_ms"]) // 2]
        return [f"{found['ratio']:.3f}", f"{low:.3f} to {high:.3f}", f"{ours:.3g}",
                found["verdict"]]  # fmt: skip
    if "photographs" in row:
        return [f"{100 * row['agreement']:.2f} [{row['n']:,}]",
                *(f"{100 * row[part]['agreement']:.2f} %, {row[part]['sqnr_db']:.1f} dB"
                  for part in ("photographs", "decided", "enlarged")),
                f"{row['sqnr_db']:.1f}"]  # fmt: skip
    low, high = row["interval_pt"]
    return [
        f"{100 * row['float_accuracy']:.2f}",
        f"{row['drop_pt']:+.2f}",
        f"{low:+.2f} to {high:+.2f}",
        f"{row['n']:,}",
        f"{row['sqnr_db']:.1f}",
        f"{100 * row['agreement']:.2f}",
    ]


def check(path: Path, sections: Sequence[str]) -> None:
    """Raises `UsageError` where the page has no place for one of the sections."""
    text = path.read_text() if path.exists() else ""
    for section in sections:
        begin, end = _marks(section)
        if begin not in text or end not in text:
            raise errors.UsageError(
                f"{str(path)!r} has no place for the section {section}.",
                next=f"Write {begin} and {end} where its table belongs.",
            )


def _marks(section: str) -> tuple[str, str]:
    return f"<!-- benchmark: {section} -->", f"<!-- /benchmark: {section} -->"


def replace(path: Path, shown: dict[str, dict[str, Any]]) -> None:
    """Puts each section's table between its markers in the page; the memory plot goes beside it."""
    check(path, list(shown))
    text = path.read_text()
    plotted = path.with_name(f"{path.stem}-memory.svg")
    for section, found in shown.items():
        begin, end = _marks(section)
        before, rest = text.split(begin, 1)
        plot_line = f"\n![Peak memory]({plotted.name})\n" if section == "cost" else ""
        text = f"{before}{begin}\n{table(section, found)}{plot_line}{end}{rest.split(end, 1)[1]}"
    with replacing(path) as temporary:
        temporary.write_text(text)
    if "cost" in shown:
        points: dict[str, list[tuple[int, float]]] = {}
        for row in shown["cost"]["rows"]:
            if "failed" not in row:
                point = row["samples"], row["peak_bytes"] / 1e9
                points.setdefault(row["contender"], []).append(point)
        with replacing(plotted) as temporary:
            temporary.write_text(plot.curves(points))
