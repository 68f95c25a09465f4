"""What the report says first, in words: what was tested, the verdicts, the best that passes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from lepton_edge.measurement import Latency, Report, Row
from lepton_edge.report import _cells

# A point on the Pareto line is one that may be shipped: its gates passed and its clock was steady.
_USABLE = ("PASS", "SLOWER")

GLOSSARY = {
    "PASS": "agrees with its source, and its accuracy drop is inside the budget",
    "FAIL(accuracy)": "even the better end of the drop's interval is outside the budget",
    "FAIL(parity)": "gives other outputs than its source on the same inputs",
    "FAIL(convert)": "could not be exported",
    "UNDECIDED(needs n=...)": "the drop's interval straddles the budget; n samples would decide",
    "SLOWER": "passes, but is slower than what it should replace",
    "FALLBACK": "less ran on the accelerator than was asked for",
    "UNSTABLE": "clock or latency drifted by more than 5 % while measuring",
    "ESTIMATED": "comes from a model of the device, not from a measurement",
    "SKIPPED(reason)": "was not run",
    "ERROR": "the job failed: it crashed, hung, ran out of memory or met input that it cannot take",
}


def kind(status: str) -> str:
    """The status word without what stands in brackets, in lower case: `FAIL(parity)` -> `fail`."""
    return status.partition("(")[0].strip().lower()


def measured(row: Row) -> Latency | None:
    """The row's latency where it was really measured and steady."""
    latency = row.latency
    if latency is None or _cells.is_estimate(latency) or latency.unstable:
        return None
    return None if _cells.finite(latency.p50_ms) is None else latency


def verdicts(rows: Sequence[Row]) -> list[tuple[str, int]]:
    """How many rows have which status; baselines are not counted."""
    counts = Counter(row.status for row in rows if not row.is_baseline)
    order = [kind(word) for word in GLOSSARY]
    rank = {word: order.index(kind(word)) if kind(word) in order else 99 for word in counts}
    return sorted(counts.items(), key=lambda item: (rank[item[0]], item[0]))


def tested(report: Report) -> str:
    """One sentence: how many artefacts, of what, against which baseline, on which data."""
    artefacts = [row for row in report.rows if not row.is_baseline]
    baselines = [row.name for row in report.rows if row.is_baseline]
    formats = sorted({row.format for row in artefacts})
    text = f"{_count(len(artefacts), 'artefact')} in {_count(len(formats), 'format')}"
    if formats:
        text += f" ({', '.join(formats)})"
    if baselines:
        text += f", compared with {' and '.join(baselines)}"
    path, n = report.data.get("path"), report.data.get("n")
    if path is not None and n is not None:
        text += f" on {n:,} samples of {path}" if isinstance(n, int) else f" on {n} of {path}"
    elif path is not None:
        text += f" on {path}"
    return text + "."


def _count(n: int, what: str) -> str:
    return f"{n} {what}{'' if n == 1 else 's'}"


def best(rows: Sequence[Row]) -> Row | None:
    """The fastest artefact with PASS and a steady, measured latency, by median time a sample."""
    passing = [(row, found) for row in rows if (found := _passes(row)) is not None]
    return min(passing, key=lambda pair: pair[1].p50_ms / pair[1].batch)[0] if passing else None


def _passes(row: Row) -> Latency | None:
    return measured(row) if row.status == "PASS" and not row.is_baseline else None


def best_sentence(rows: Sequence[Row]) -> str:
    """The fastest PASS in one sentence; nothing in it that the rows do not hold."""
    winner = best(rows)
    latency = None if winner is None else measured(winner)
    if winner is None or latency is None:
        return "No artefact with a measured latency has the status PASS."
    low, high = latency.p50_interval_ms
    ends = " to ".join(_cells.both(low, high))
    batch = "" if latency.batch == 1 else f" for a batch of {latency.batch}"
    text = (
        f"The fastest artefact that passes is {winner.name}: {_cells.number(latency.p50_ms)} ms"
        f" at the median{batch} (95 % interval {ends})"
    )
    if (accuracy := winner.accuracy) is not None:
        text += f", {accuracy.metric} {_cells.value_text(accuracy)} on {accuracy.n:,} samples"
        if _cells.finite(accuracy.drop) is not None:
            text += f" (drop {_cells.drop_text(accuracy)}; + is worse)"
    text += _against_baseline(rows, winner, latency)
    rivals = [
        row.name
        for row in rows
        if row is not winner
        and (other := _passes(row)) is not None
        and other.p50_interval_ms[0] / other.batch <= high / latency.batch
    ]
    if rivals:
        text += f"; its interval overlaps that of {' and '.join(rivals)}"
    return text + "."


def _against_baseline(rows: Sequence[Row], winner: Row, latency: Latency) -> str:
    """A clause on the speed-up, only where the intervals do not overlap."""
    sources = [row for row in rows if row.is_baseline and row.framework == winner.framework]
    for row in sources or [row for row in rows if row.is_baseline]:
        base = measured(row)
        if base is None or base.batch != latency.batch or row.device != winner.device:
            continue
        if latency.p50_interval_ms[1] < base.p50_interval_ms[0]:
            return f", {base.p50_ms / latency.p50_ms:.1f} times as fast as {row.name}"
        return ""
    return ""


def plotted_metric(rows: Sequence[Row]) -> str | None:
    """The metric of the chart: the one that most rows have."""
    counts = Counter(row.accuracy.metric for row in rows if row.accuracy is not None)
    return counts.most_common(1)[0][0] if counts else None


def pareto(rows: Sequence[Row]) -> list[Row]:
    """Usable rows that no other usable row beats in both accuracy and time a sample, by time.

    Usable: the baseline, or status PASS or SLOWER, with a measured and steady latency.
    """
    metric = plotted_metric(rows)
    found: list[tuple[float, float, Row]] = []
    for row in rows:
        latency, accuracy = measured(row), row.accuracy
        if latency is None or accuracy is None or accuracy.metric != metric:
            continue
        if row.is_baseline or row.status in _USABLE:
            gain = accuracy.value if accuracy.higher_is_better else -accuracy.value
            if _cells.finite(gain) is not None:
                found.append((latency.p50_ms / latency.batch, -gain, row))
    line: list[Row] = []
    reached = float("inf")
    for _, loss, row in sorted(found, key=lambda item: item[:2]):
        if loss < reached:
            line.append(row)
            reached = loss
    return line
