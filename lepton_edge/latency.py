"""`benchmark` and `compare`: latency by one protocol, each run in a fresh process.

Load and first inference are timed apart. Warm-up takes at least 10 runs and 1 s, until the medians
of the last five slices lie within 5 %. Then `quick` is at least 100 runs and 10 s, `official` at
least 1,024 runs and 60 s. No run is deleted.
"""

from __future__ import annotations

import contextlib
import math
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from lepton_edge import context, errors, intervals, jobs, loading, remote
from lepton_edge.loading import Subject
from lepton_edge.measurement import Comparison, Energy, Histogram, Latency
from lepton_edge.model import Array
from lepton_edge.remote import Address
from lepton_edge.samples import Samples, fingerprint, limit, open_samples

WINDOWS = {"quick": (100, 10.0), "official": (1024, 60.0)}
DRIFT = 0.05
P90_FROM, P99_FROM = 64, 662
PAIRS = 5
BINS = 40
CONNECT_S = 120.0  # to reach a device and send it what it lacks, beside the job's own limit
# Differences under it are of no use in practice, and below what layout of code and memory can do
# to the same program (Mytkowicz et al., ASPLOS 2009): they are called a tie.
MARGIN = 0.02


@dataclass(frozen=True)
class Benchmark:
    """The latency, what the runtime really used, and the machine it was measured on.

    `energy` has one entry a power rail, where it was asked for.
    """

    latency: Latency
    facts: Mapping[str, Any]
    context: Mapping[str, Any]
    inputs: str
    energy: tuple[Energy, ...] = ()


def benchmark(
    subject: Subject,
    *,
    window: str = "quick",
    data: str | Path | Samples | None = None,
    device: str = "cpu",
    threads: int | None = None,
    options: Mapping[str, Any] | None = None,
    on: str | None = None,
    warmup_s: float = 1.0,
    time_limit_s: float = 1800.0,
    memory_limit_mb: int | None = None,
    with_energy: bool = False,
) -> Benchmark:
    """Single-stream latency of `subject`, in milliseconds.

    `window` is `quick`, `official`, or `RUNS,SECONDS` (both are least amounts). Inputs are the
    first of `data`, else the model's example, else random, all seeded. A run that drifted is not
    an error here: `latency.unstable` says why it should not be trusted. `on` measures an artefact
    on another machine (`ssh://user@host[:port]`), by the same code, in a fresh process there.
    `with_energy` reads its power rails meanwhile; `BackendMissing` where it has none.
    """
    job: dict[str, Any] = {
        "window": window,
        "data": data,
        "device": device,
        "threads": threads,
        "options": options,
        "on": on,
        "warmup_s": warmup_s,
        "time_limit_s": time_limit_s,
        "memory_limit_mb": memory_limit_mb,
        "with_energy": with_energy,
    }
    return _result(*_measured(subject, **job), job)


def _measured(
    subject: Subject,
    *,
    window: str,
    data: str | Path | Samples | None,
    options: Mapping[str, Any] | None,
    on: str | None,
    time_limit_s: float,
    memory_limit_mb: int | None,
    **job: Any,
) -> tuple[dict[str, Any], Array]:
    """What the job `benchmark` found, and the nanoseconds of every run."""
    runs, seconds, _ = parse_window(window)
    samples = None if data is None else loading.prepare(open_samples(data), subject).as_dict()
    here: dict[str, Any] = {"time_limit_s": time_limit_s, "memory_limit_mb": memory_limit_mb}
    if on is not None:  # the process here only waits for the one there, which has the limits
        there = {"limit_s": time_limit_s, "memory_mb": memory_limit_mb}
        patience = math.inf if Address.parse(on).wait else time_limit_s + CONNECT_S
        here = {"time_limit_s": patience, "there": there, "on": on}
    with tempfile.TemporaryDirectory(prefix="lepton-edge-") as folder:
        out = Path(folder, "times.npy")
        result = jobs.call(
            "benchmark",
            subject=loading.as_json(subject),
            runs=runs,
            seconds=seconds,
            out=str(out),
            data=samples,
            options=dict(options or {}),
            **here,
            **job,
        )
        return result, np.load(out)


def _result(result: Mapping[str, Any], times_ns: Array, job: Mapping[str, Any]) -> Benchmark:
    text = parse_window(job["window"])[2]
    if job["warmup_s"] != 1.0:
        text += f", warm-up {job['warmup_s']:g} s"
    if "blocks" in result:
        latency = summarise_blocks(result, text)
    else:
        latency = summarise(times_ns / 1e6, result, text)
    rails = tuple(Energy(**rail) for rail in result.get("energy", ()))
    return Benchmark(latency, result["facts"], result["context"], result["inputs"], rails)


def parse_window(text: str) -> tuple[int, float, str]:
    """Least runs, least seconds, and the window in words."""
    if text in WINDOWS:
        return (*WINDOWS[text], text)
    runs, comma, seconds = text.partition(",")
    try:
        least, duration = int(runs), float(seconds)
    except ValueError:
        comma = ""
    if not comma or least < 1 or not 0 <= duration < float("inf"):
        raise errors.UsageError(
            f"Cannot read the window {text!r}.",
            next="Give quick, official, or RUNS,SECONDS such as 200,5.",
        )
    return least, duration, f"{least} runs, {duration:g} s"


def summarise(times_ms: Array, result: Mapping[str, Any], window: str) -> Latency:
    """The figures of all runs in order (1-D, milliseconds), and what makes them unstable."""
    n = len(times_ms)
    fifth = max(1, n // 5)
    drift = float(np.median(times_ms[-fifth:]) / np.median(times_ms[:fifth]) - 1)
    unstable = []
    if not result["settled"]:
        unstable.append("latency did not settle within 5 % while warming up")
    if abs(drift) > DRIFT:
        unstable.append(f"latency drifted by {100 * drift:+.1f} % from the first to the last fifth")
    if abs(result["clock_drift"]) > DRIFT:
        unstable.append(f"the clock drifted by {100 * result['clock_drift']:+.1f} %")
    unstable += [f"before and after: {each}" for each in result.get("power_changes", ())]

    def quantile(share: float, least: int) -> float | None:
        return float(np.quantile(times_ms, share)) if n >= least else None

    return Latency(
        p50_ms=float(np.median(times_ms)),
        p90_ms=quantile(0.90, P90_FROM),
        p99_ms=quantile(0.99, P99_FROM),
        mean_ms=float(times_ms.mean()),
        std_ms=float(times_ms.std(ddof=1)) if n > 1 else 0.0,
        min_ms=float(times_ms.min()),
        max_ms=float(times_ms.max()),
        p50_interval_ms=intervals.bootstrap_median(times_ms),
        n=n,
        warmup_n=result["warmup_n"],
        load_ms=result["load_ms"],
        first_ms=result["first_ms"],
        peak_rss_mb=result["peak_rss_mb"],
        drift=drift,
        unstable=tuple(unstable),
        window=window,
        batch=result["batch"],
        histogram=histogram(times_ms),
        samples_ms=tuple(times_ms.tolist()),
    )


def summarise_blocks(result: Mapping[str, Any], window: str) -> Latency:
    """The figures of processes in turn that tell no single run (`remote.benchmark_model.Block`).

    p50 is the median of their medians and its interval is over the processes; mean, standard
    deviation and extremes are those of all runs. Of the percentiles there are no others.
    """
    names = result["blocks"][0]
    blocks = {name: np.array([block[name] for block in result["blocks"]]) for name in names}
    n, medians = blocks["n"], blocks["p50_ms"]
    mean = float(np.average(blocks["mean_ms"], weights=n))
    spread = blocks["std_ms"] ** 2 + (blocks["mean_ms"] - mean) ** 2
    fifth = max(1, len(medians) // 5)
    drift = float(np.median(medians[-fifth:]) / np.median(medians[:fifth]) - 1)
    unstable = []
    if abs(drift) > DRIFT:
        unstable.append(f"latency drifted by {100 * drift:+.1f} % from the first to the last fifth")
    unstable += [f"before and after: {each}" for each in result["power_changes"]]
    return Latency(
        p50_ms=float(np.median(medians)),
        p90_ms=None,
        p99_ms=None,
        mean_ms=mean,
        std_ms=float(np.sqrt(np.average(spread, weights=n))),
        min_ms=float(blocks["min_ms"].min()),
        max_ms=float(blocks["max_ms"].max()),
        p50_interval_ms=intervals.bootstrap_median(medians),
        n=int(n.sum()),
        warmup_n=int(blocks["warmup_n"].sum()),
        load_ms=float(np.median(blocks["init_ms"])),
        first_ms=float(np.median(blocks["first_ms"])),
        peak_rss_mb=result["peak_rss_mb"],
        drift=drift,
        unstable=tuple(unstable),
        window=f"{window}, in {len(medians)} processes of benchmark_model",
        batch=result["batch"],
    )


def histogram(times_ms: Array) -> Histogram:
    """All runs (1-D, milliseconds, at least one) over equal bins from the fastest on.

    One slow run in a thousand would squeeze all others into one bin: the bins end at the 99.5th
    percentile, or five times the spread of the middle 80 % above the median where that is less;
    what lies above is counted together.
    """
    first = float(times_ms.min())
    low, middle, high = np.quantile(times_ms, (0.1, 0.5, 0.9))
    last = float(np.quantile(times_ms, 0.995, method="higher"))
    if high > low:
        last = min(last, float(middle + 5 * (high - low)))
    if last <= first:  # every run took the same time: one bin around it
        first, last = first * 0.99, first * 1.01 or 1.0
    counts, edges = np.histogram(times_ms, BINS, (first, last))
    above = len(times_ms) - int(counts.sum())
    return Histogram(tuple(edges.tolist()), tuple(counts.tolist()), above)


def compare(
    a: Subject,
    b: Subject,
    *,
    pairs: int = PAIRS,
    margin: float = MARGIN,
    window: str = "quick",
    data: str | Path | Samples | None = None,
    device: str = "cpu",
    threads: int | None = None,
    a_options: Mapping[str, Any] | None = None,
    b_options: Mapping[str, Any] | None = None,
    on: str | None = None,
    warmup_s: float = 1.0,
    time_limit_s: float = 1800.0,
    memory_limit_mb: int | None = None,
) -> Comparison:
    """Whether `b` is faster or slower than `a`: fresh processes in pairs, a b, b a, a b, ...

    The verdict comes from the interval of the ratio of the medians over the pairs, with the
    practical `margin`. Each pair's order is the other way round, so that a machine that slowly
    warms up or slows down favours neither. The device `on` is held from the first run to the last;
    where it is lost, the pairs that were finished are kept for the next time.
    """
    if pairs < PAIRS:
        raise errors.UsageError(f"A comparison needs {PAIRS} pairs or more, not {pairs}.")
    job: dict[str, Any] = {
        "window": window,
        "data": data,
        "device": device,
        "threads": threads,
        "warmup_s": warmup_s,
        "time_limit_s": time_limit_s,
        "memory_limit_mb": memory_limit_mb,
    }
    sides = {"a": (a, a_options), "b": (b, b_options)}
    found: dict[str, list[Benchmark]] = {"a": [], "b": []}
    with _held(on, sides, job) as (device_held, kept):
        place = None if device_held is None else device_held.address.text()
        for index in range(pairs):
            order = ("a", "b") if index % 2 == 0 else ("b", "a")
            parts = {side: f"pair {index} {side}" for side in order}
            # A pair is kept or measured as a whole: its two halves belong to one moment.
            known = kept is not None and all(part in kept for part in parts.values())
            for side, part in parts.items():
                if kept is not None and known:
                    result, (times,) = kept.get(part)
                else:
                    subject, options = sides[side]
                    result, times = _measured(subject, options=options, on=place, **job)
                    if device_held is not None and kept is not None:
                        device_held.check()  # else another run may have been beside this one
                        kept.add(part, result, [times])
                found[side].append(_result(result, times, job))
    return decide(found["a"], found["b"], margin)


@contextlib.contextmanager
def _held(
    on: str | None, sides: Mapping[str, Any], job: Mapping[str, Any]
) -> Iterator[tuple[remote.Held | None, remote.Journal | None]]:
    """Holds the device; what was finished there is kept until the whole comparison is."""
    if on is None:
        yield None, None
        return
    data = None if job["data"] is None else open_samples(job["data"])
    run = {
        **{key: job[key] for key in ("window", "device", "threads", "warmup_s")},
        "on": str(Address.parse(on)),
        "data": data and [data.as_dict(), fingerprint(limit(data, 8, seed=None))],
        "sides": {
            side: [loading.as_artifact(subject).sha256, dict(options or {})]
            for side, (subject, options) in sides.items()
        },
    }
    with contextlib.closing(remote.Journal(run)) as kept:
        with remote.reserve(on, "a comparison") as connection:
            yield connection, kept
        kept.finish()


def decide(first: list[Benchmark], second: list[Benchmark], margin: float = MARGIN) -> Comparison:
    """The comparison of paired benchmarks, in their order."""
    a = np.array([each.latency.p50_ms for each in first])
    b = np.array([each.latency.p50_ms for each in second])
    ratio, interval = intervals.ratio_of_pairs(a, b)
    reasons = _not_comparable([*first, *second])
    verdict: Literal["faster", "slower", "tie", "NOT COMPARABLE"] = "tie"
    if reasons:
        verdict = "NOT COMPARABLE"
    elif interval[0] > 1 + margin:
        verdict = "slower"
    elif interval[1] < 1 / (1 + margin):
        verdict = "faster"
    return Comparison(
        verdict=verdict,
        ratio=ratio,
        interval=interval,
        margin=margin,
        conclusive=verdict in ("faster", "slower")
        or (1 / (1 + margin) <= interval[0] and interval[1] <= 1 + margin),
        a_p50_ms=tuple(a.tolist()),
        b_p50_ms=tuple(b.tolist()),
        a_spread=float(a.std(ddof=1) / a.mean()),
        b_spread=float(b.std(ddof=1) / b.mean()),
        window=first[0].latency.window,
        reasons=tuple(reasons),
        unstable=tuple(
            f"{side} run {index + 1}: {reason}"
            for side, results in (("a", first), ("b", second))
            for index, each in enumerate(results)
            for reason in each.latency.unstable
        ),
    )


def _not_comparable(results: list[Benchmark]) -> list[str]:
    found = []
    for other in results[1:]:
        found += context.differences(results[0].context, other.context)
        for name in ("threads", "device"):
            mine, theirs = results[0].facts.get(name), other.facts.get(name)
            if mine != theirs:
                found.append(f"{name}: {mine!r} and {theirs!r}")
        if results[0].latency.batch != other.latency.batch:
            found.append(f"batch: {results[0].latency.batch} and {other.latency.batch}")
    return sorted(set(found))
