"""`Measurement`: what was measured on one artefact, how, on how much, with what interval.

These objects are the report's schema: `as_dict` of each is what the JSON documents hold. A field
that was not measured is None, never a guess.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

from lepton_edge import errors

REPORT_SCHEMA = 2
Interval = tuple[float, float]
Tier = Literal["measured", "transferred", "compiled", "calibrated", "prior"]
T = TypeVar("T")


def from_dict(cls: type[T], given: Mapping[str, Any]) -> T:
    """A dataclass of this module from its `as_dict` form (JSON turns tuples into lists)."""
    names = {item.name for item in dataclasses.fields(cls)}  # type: ignore[arg-type]
    values = {key: _tuples(value) for key, value in given.items() if key in names}
    return cls(**values)


def _tuples(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(map(_tuples, value))
    return value


@dataclass(frozen=True)
class Output:
    """Parity of one output over n samples. `sqnr_db` is 10 log10(sum ref^2 / sum (ref - got)^2).

    `relative` is max_abs over the range (max - min) of the source's output; `top1_agreement` is
    None where the output is no row of scores. An exact match has no finite SQNR: None.
    """

    name: str
    max_abs: float
    relative: float
    sqnr_db: float | None
    cosine: float | None
    top1_agreement: float | None
    n: int


@dataclass(frozen=True)
class Parity:
    """`status` is PASS or FAIL(parity); `inputs` where they came from."""

    status: str
    outputs: tuple[Output, ...]
    tolerance: str
    inputs: str
    reasons: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, given: Mapping[str, Any]) -> Parity:
        parity = from_dict(cls, given)
        outputs = tuple(from_dict(Output, item) for item in given["outputs"])
        return dataclasses.replace(parity, outputs=outputs)


@dataclass(frozen=True)
class ClassResult:
    """One class: its share of hits, and the paired drop against the baseline (points, 0 to 100)."""

    name: str
    n: int
    value: float
    drop: float | None = None
    drop_interval: Interval | None = None


@dataclass(frozen=True)
class Roc:
    """One class against the rest: at most 200 points of the curve, and the area under it."""

    name: str
    auc: float
    false_positive_rate: tuple[float, ...]
    true_positive_rate: tuple[float, ...]


@dataclass(frozen=True)
class Accuracy:
    """A metric on n samples. Rates are 0 to 1; `drop` is baseline minus value, positive is worse.

    `interval` and `drop_interval` are 95 %; `drop` is paired over the same samples. `p_value` is
    McNemar's exact test, for top-1 only. `status` is PASS, FAIL(accuracy), UNDECIDED(needs n=...),
    or None where no budget was given.
    """

    metric: str
    value: float
    interval: Interval
    n: int
    higher_is_better: bool = True
    drop: float | None = None
    drop_interval: Interval | None = None
    p_value: float | None = None
    status: str | None = None
    max_drop: str | None = None
    per_class: tuple[ClassResult, ...] = ()
    confusion: tuple[tuple[int, ...], ...] = ()  # rows: true class, columns: predicted
    roc: tuple[Roc, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, given: Mapping[str, Any]) -> Accuracy:
        return dataclasses.replace(
            from_dict(cls, given),
            per_class=tuple(from_dict(ClassResult, item) for item in given["per_class"]),
            roc=tuple(from_dict(Roc, item) for item in given["roc"]),
        )


@dataclass(frozen=True)
class Histogram:
    """`counts[i]` runs took `edges_ms[i]` to `edges_ms[i + 1]`, `above` more than the last edge."""

    edges_ms: tuple[float, ...]
    counts: tuple[int, ...]
    above: int


@dataclass(frozen=True)
class Energy:
    """Of one run on one power rail, by its name: what it took above the idle machine.

    `mj_per_run` in millijoules is (`busy_w` - `idle_w`) over `seconds`, shared by the runs in them.
    `chip` is the sensor, read `hz` times a second. A rail has what else runs on it too.
    """

    rail: str
    chip: str
    mj_per_run: float
    busy_w: float
    idle_w: float
    hz: float
    seconds: float


@dataclass(frozen=True)
class Latency:
    """Single-stream latency in one fresh process, milliseconds; no sample is deleted.

    p90 needs 64 samples and p99 662, else None. `window` is `quick`, `official`, or the seconds
    and runs that were asked for. `drift` is the relative change of the median from the first to
    the last fifth; more than 5 % of it, or of the clock, makes the run UNSTABLE. `samples_ms` are
    all samples, in order; a report keeps them in a file of their own (report/_samples.py), and
    what it draws in `histogram`.
    """

    p50_ms: float
    p90_ms: float | None
    p99_ms: float | None
    mean_ms: float
    std_ms: float
    min_ms: float
    max_ms: float
    p50_interval_ms: Interval
    n: int
    warmup_n: int
    load_ms: float
    first_ms: float
    peak_rss_mb: float
    drift: float
    unstable: tuple[str, ...]  # reasons; empty where the run was stable
    window: str
    batch: int
    histogram: Histogram | None = None
    samples_ms: tuple[float, ...] = field(repr=False, default=())
    tier: Tier = "measured"

    def as_dict(self, *, samples: bool = True) -> dict[str, Any]:
        if samples:
            return dataclasses.asdict(self)
        given = dataclasses.asdict(dataclasses.replace(self, samples_ms=()))
        del given["samples_ms"]
        return given

    @classmethod
    def from_dict(cls, given: Mapping[str, Any]) -> Latency:
        bins = given["histogram"]
        histogram = None if bins is None else from_dict(Histogram, bins)
        return dataclasses.replace(from_dict(cls, given), histogram=histogram)


@dataclass(frozen=True)
class Row:
    """One artefact in the report. `status` is a status word of the design, never a bare tick.

    `reason` says in one sentence why, for anything but PASS. `placement` is what ran where, for
    example `CPUExecutionProvider 41/41` or None where the runtime does not tell.
    """

    name: str
    framework: str
    format: str
    precision: str
    device: str
    status: str
    reason: str | None = None
    artifact: Mapping[str, Any] | None = None  # path, sha256, format, precision, size_bytes
    parity: Parity | None = None
    accuracy: Accuracy | None = None
    latency: Latency | None = None
    placement: str | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)
    is_baseline: bool = False

    def as_dict(self) -> dict[str, Any]:
        """What report.json holds: all but the single runs."""
        given = dataclasses.asdict(dataclasses.replace(self, latency=None))
        return {**given, "latency": self.latency and self.latency.as_dict(samples=False)}

    @classmethod
    def from_dict(cls, given: Mapping[str, Any]) -> Row:
        parts = (("parity", Parity), ("accuracy", Accuracy), ("latency", Latency))
        values = dict(given)
        for name, part in parts:
            if values.get(name) is not None:
                values[name] = part.from_dict(values[name])
        return cls(**values)


@dataclass(frozen=True)
class Report:
    """All rows of one run with their context; `schema` is the version of this document.

    `command` reproduces it. `context` holds the machine's facts, by group, as text or numbers.
    `samples` names the file beside report.json that holds every timed run: `file` and `sha256`.
    """

    title: str
    command: str
    created: str  # ISO 8601, UTC
    data: Mapping[str, Any]  # path, n, fingerprint
    context: Mapping[str, Any]
    rows: Sequence[Row]
    classes: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    samples: Mapping[str, str] | None = None
    schema: int = REPORT_SCHEMA

    def as_dict(self) -> dict[str, Any]:
        given = {
            item.name: getattr(self, item.name)
            for item in dataclasses.fields(self)
            if item.name != "rows"
        }
        return {**given, "rows": [row.as_dict() for row in self.rows]}

    @classmethod
    def from_dict(cls, given: Mapping[str, Any]) -> Report:
        """Raises `BadInput` for another schema than this version's."""
        if given["schema"] != REPORT_SCHEMA:
            raise errors.BadInput(
                f"The report has schema {given['schema']!r}, this version reads {REPORT_SCHEMA}.",
                next="Make the report again.",
            )
        values = {key: _tuples(value) for key, value in given.items() if key != "rows"}
        return cls(rows=tuple(map(Row.from_dict, given["rows"])), **values)


@dataclass(frozen=True)
class Comparison:
    """Latency of `b` against `a` in interleaved fresh processes.

    `ratio` is the geometric mean of p50(b) / p50(a) over the pairs, `interval` its 95 % interval.
    `verdict` says of b: `faster` or `slower` where the whole interval is beyond the practical
    `margin`, else `tie`; `NOT COMPARABLE` where the contexts differ. `conclusive` is
    False for a tie whose interval is wider than the margin. `spread` is the relative standard
    deviation of p50 between an artefact's own processes.
    """

    verdict: Literal["faster", "slower", "tie", "NOT COMPARABLE"]
    ratio: float
    interval: Interval
    margin: float
    conclusive: bool
    a_p50_ms: tuple[float, ...]
    b_p50_ms: tuple[float, ...]
    a_spread: float
    b_spread: float
    window: str
    reasons: tuple[str, ...] = ()
    unstable: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, given: Mapping[str, Any]) -> Comparison:
        return from_dict(cls, given)
