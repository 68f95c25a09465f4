"""The results table, once for all forms: its columns, and how a value of each is written."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from lepton_edge.measurement import Accuracy, Interval, Latency, Row

DASH = "—"  # not measured
ESTIMATED = "ESTIMATED"
DROP_HINT = (
    "baseline minus artefact on the same samples, with its 95 % interval:"
    " + is worse than the baseline, - is better"
)


@dataclass(frozen=True)
class Cell:
    """`sort` orders the column (None comes last both ways); `note` is a second, smaller line."""

    text: str = DASH
    sort: float | str | None = None
    note: str = ""
    estimated: bool = False


@dataclass(frozen=True)
class Column:
    title: str
    hint: str
    cell: Callable[[Row], Cell]
    numeric: bool = True


def number(value: float | None, *, sign: bool = False) -> str:
    """Three significant digits, or whole numbers from 100 on; a dash for None, NaN and infinity."""
    if value is None or not math.isfinite(value):
        return DASH
    plus = "+" if sign else ""
    size = abs(value)
    if size >= 99.95:
        return f"{value:{plus},.0f}"
    if size < 0.0009995:
        return f"{value:{plus}.3g}"
    decimals = 2 - math.floor(math.log10(size * 1.0005))  # the factor: 0.9996 is written 1.00
    return f"{value:{plus}.{decimals}f}"


def both(low: float, high: float) -> tuple[str, str]:
    """Two ends of an interval, with up to two digits more where they would look the same."""
    texts = number(low), number(high)
    if low == high or texts[0] != texts[1] or not any(map(str.isdigit, texts[0])):
        return texts
    decimals = len(texts[0].partition(".")[2])
    for more in () if "e" in texts[0] else (1, 2):
        texts = f"{low:,.{decimals + more}f}", f"{high:,.{decimals + more}f}"
        if texts[0] != texts[1]:
            break
    return texts


def finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def is_rate(accuracy: Accuracy) -> bool:
    """Rates are 0 to 1 and shown in percent; an error or a loss is shown as it is."""
    low, high = accuracy.interval
    return accuracy.higher_is_better and low >= 0 and high <= 1


def value_text(accuracy: Accuracy, value: float | None = None) -> str:
    """`value` (default: the metric's) in the metric's unit: `90.80 %` or `0.412`."""
    value = accuracy.value if value is None else value
    if not math.isfinite(value):
        return DASH
    return f"{100 * value:.2f} %" if is_rate(accuracy) else number(value)


def interval_text(accuracy: Accuracy) -> str:
    low, high = accuracy.interval
    if not (math.isfinite(low) and math.isfinite(high)):
        return ""
    if is_rate(accuracy):
        return f"[{100 * low:.2f}, {100 * high:.2f}]"
    return "[{}, {}]".format(*both(low, high))


def points(drop: float | None, interval: Interval | None) -> str:
    """A drop in points (0 to 100): `+0.12 pt [-0.06, +0.30]`."""
    if drop is None or not math.isfinite(drop):
        return DASH
    around = "" if interval is None else f" [{_point(interval[0])}, {_point(interval[1])}]"
    return f"{_point(drop)} pt{around}"


def _point(value: float) -> str:
    if not math.isfinite(value):
        return DASH
    return f"{round(value, 2) + 0.0:+.2f}" if round(value, 2) else "0.00"


def drop_text(accuracy: Accuracy) -> str:
    """The drop with its interval, positive is worse: points for a rate, else the metric's unit."""
    drop, interval = accuracy.drop, accuracy.drop_interval
    if drop is None or not math.isfinite(drop):
        return DASH
    if is_rate(accuracy):
        scaled = None if interval is None else (100 * interval[0], 100 * interval[1])
        return points(100 * drop, scaled)
    around = (
        "" if interval is None else " [{}, {}]".format(*(number(v, sign=True) for v in interval))
    )
    return f"{number(drop, sign=True)}{around}"


def is_estimate(latency: Latency) -> bool:
    return latency.tier != "measured"


def fps(latency: Latency) -> float | None:
    """Samples a second of one stream, from the median."""
    if not latency.p50_ms > 0 or not math.isfinite(latency.p50_ms):
        return None
    return 1000.0 * latency.batch / latency.p50_ms


def _size(row: Row) -> Cell:
    size = (row.artifact or {}).get("size_bytes")
    if size is None:
        return Cell()
    return Cell(number(size / 1e6), size)


def _metric(row: Row) -> Cell:
    if row.accuracy is None or not math.isfinite(row.accuracy.value):
        return Cell()
    text = f"{row.accuracy.metric} {value_text(row.accuracy)}"
    return Cell(text, row.accuracy.value, interval_text(row.accuracy))


def _drop(row: Row) -> Cell:
    if row.accuracy is None or finite(row.accuracy.drop) is None:
        return Cell("baseline", 0.0) if row.is_baseline and row.accuracy is not None else Cell()
    return Cell(drop_text(row.accuracy), row.accuracy.drop)


def _count(row: Row) -> Cell:
    return Cell() if row.accuracy is None else Cell(f"{row.accuracy.n:,}", row.accuracy.n)


def _timing(pick: Callable[[Latency], float | None]) -> Callable[[Row], Cell]:
    def cell(row: Row) -> Cell:
        value = None if row.latency is None else finite(pick(row.latency))
        if row.latency is None or value is None:
            return Cell()
        return Cell(number(value), value, estimated=is_estimate(row.latency))

    return cell


def _median(row: Row) -> Cell:
    plain = _timing(lambda latency: latency.p50_ms)(row)
    if row.latency is None or plain.sort is None:
        return plain
    low, high = both(*row.latency.p50_interval_ms)
    return Cell(plain.text, plain.sort, f"[{low}, {high}]", plain.estimated)


def _text(pick: Callable[[Row], str | None]) -> Callable[[Row], Cell]:
    def cell(row: Row) -> Cell:
        text = pick(row)
        return Cell(text, text.casefold()) if text else Cell()

    return cell


def _context(row: Row) -> str | None:
    parts = [row.device]
    if (threads := row.facts.get("threads")) is not None:
        parts.append(f"{threads} thread{'' if threads == 1 else 's'}")
    if row.latency is not None:
        parts += [f"batch {row.latency.batch}", f"{row.latency.window}, {row.latency.n:,} runs"]
    return ", ".join(part for part in parts if part)


COLUMNS = (
    Column("Target", "what was measured", _text(lambda row: row.name), numeric=False),
    Column("Format", "the exported file's format", _text(lambda row: row.format), numeric=False),
    Column("Precision", "of weights and activations", _text(lambda r: r.precision), numeric=False),
    Column("Status", "the verdict", _text(lambda row: row.status), numeric=False),
    Column("Size MB", "of the exported files, 1 MB = 1,000,000 bytes", _size),
    Column("Metric", "on the evaluation data, with its 95 % interval", _metric),
    Column("Drop", DROP_HINT, _drop),
    Column("n", "samples that the metric was measured on", _count),
    Column("p50 ms", "median latency, with its 95 % interval", _median),
    Column("p90 ms", "nine of ten runs were faster", _timing(lambda latency: latency.p90_ms)),
    Column("p99 ms", "99 of 100 runs were faster", _timing(lambda latency: latency.p99_ms)),
    Column("FPS", "samples a second, one after the other: batch / p50", _timing(fps)),
    Column("Peak MB", "most memory that the process held", _timing(lambda lat: lat.peak_rss_mb)),
    Column("Load ms", "from the file to a session that is ready", _timing(lambda lat: lat.load_ms)),
    Column("Placement", "what ran where", _text(lambda row: row.placement), numeric=False),
    Column("Context", "how the latency was measured", _text(_context), numeric=False),
)


def plain(cell: Cell) -> str:
    """The cell as text; an estimate says so."""
    return f"{cell.text} {ESTIMATED}" if cell.estimated else cell.text


def reasons(row: Row) -> list[str]:
    """Why the row is not a plain PASS, and what is unsure or suspicious about it; each once."""
    more: list[str] = []
    if row.parity is not None and row.parity.status != "PASS":
        more += row.parity.reasons
    if row.latency is not None:
        more += row.latency.unstable
        if is_estimate(row.latency):
            more.append(f"Its latency is {ESTIMATED} (tier: {row.latency.tier}), not measured.")
    more += [f"Calibration: {text}" for text in row.facts.get("calibration_warnings", ())]
    told = row.reason or ""
    return [*([told] if told else []), *dict.fromkeys(text for text in more if text not in told)]
