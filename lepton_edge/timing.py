"""The measuring protocol on an open session: load, first inference, warm-up, single stream.

The same code runs in a worker here and on a device; durations come from the monotonic clock alone.
"""

from __future__ import annotations

import gc
import hashlib
import itertools
import time
from typing import Any, Callable, Sequence

import numpy as np

from lepton_edge import context, energy
from lepton_edge.model import Array, Feeds
from lepton_edge.session import Session

WARMUP_RUNS = 10
SETTLED = 0.05  # the last five medians lie within it
SLICE_S = 0.1  # of warm-up, whose median is taken
PATIENCE_S = 10.0  # beyond the least warm-up
_BLOCK = bytes(16384)


def timed(
    load: Callable[[], Session],
    inputs: Callable[[Session], Sequence[Feeds]],
    *,
    runs: int,
    seconds: float,
    warmup_s: float = 1.0,
    with_energy: bool = False,
) -> tuple[dict[str, Any], Array]:
    """What was found, and the nanoseconds of at least `runs` runs and `seconds`, in order.

    `load` is timed and its session closed at the end; `inputs` gives the feeds that take turns,
    before anything else is timed. Python's garbage collector is off while runs are timed, as in
    timeit. `with_energy` reads power rails meanwhile; `BackendMissing` where there are none.
    """
    before = context.capture()
    meter = energy.Meter() if with_energy else None
    start = time.perf_counter_ns()
    with load() as session:
        load_ns = time.perf_counter_ns() - start
        feeds = inputs(session)
        start = time.perf_counter_ns()
        session.run(feeds[0])
        first_ns = time.perf_counter_ns() - start
        gc.collect()
        gc.disable()
        warmup_n, settled = _warm_up(session, feeds, warmup_s)
        clock = _clock_ns()
        begin = time.monotonic()
        taken = _measure(session, feeds, runs, seconds)
        rails = [] if meter is None else meter.stop((begin, time.monotonic()), len(taken))
        clock_drift = _clock_ns() / clock - 1
        gc.enable()
        facts = session.facts
    after = context.capture(())
    found = {
        "load_ms": load_ns / 1e6,
        "first_ms": first_ns / 1e6,
        "warmup_n": warmup_n,
        "settled": settled,
        "clock_drift": clock_drift,
        "batch": len(next(iter(feeds[0].values()))),
        "peak_rss_mb": context.peak_rss_mb(),
        "energy": rails,
        "facts": facts,
        "context": before,
        "frequency_after_mhz": after["cpu"]["frequency_mhz"],
        "power_changes": context.differences({"power": before["power"]}, {"power": after["power"]}),
    }
    return found, taken


def _warm_up(session: Session, feeds: Sequence[Feeds], least_s: float) -> tuple[int, bool]:
    """Runs until the medians of the last five slices lie within 5 %; whether they came to."""
    count = 0
    medians: list[float] = []
    begin = time.perf_counter()
    while True:
        taken: list[int] = []
        slice_end = time.perf_counter() + min(SLICE_S, least_s / 5)
        while time.perf_counter() < slice_end or len(taken) < 2:
            start = time.perf_counter_ns()
            session.run(feeds[count % len(feeds)])
            taken.append(time.perf_counter_ns() - start)
            count += 1
        medians.append(float(np.median(taken)))
        last, spent = medians[-5:], time.perf_counter() - begin
        if count >= WARMUP_RUNS and spent >= least_s and len(last) == 5:
            if max(last) <= min(last) * (1 + SETTLED):
                return count, True
            if spent > least_s + PATIENCE_S:
                return count, False


def _measure(session: Session, feeds: Sequence[Feeds], runs: int, seconds: float) -> Array:
    """Nanoseconds of every run, in order; the buffer grows between runs, never within one."""
    clock = time.perf_counter_ns
    times = np.zeros(max(runs, 1 << 16), np.int64)
    count = 0
    end = clock() + round(seconds * 1e9)
    for given in itertools.cycle(feeds):
        start = clock()
        session.run(given)
        stop = clock()
        times[count] = stop - start
        count += 1
        if stop >= end and count >= runs:
            break
        if count == len(times):
            times = np.concatenate([times, np.zeros(len(times), np.int64)])
    return times[:count]


def _clock_ns() -> float:
    """The least time of a fixed computation: how fast the clock is now, whatever else runs.

    A hash of 16 KB, whose time varies by 0.1 % on an undisturbed clock; a Python loop varies by
    20 %, with the interpreter's own adapting.
    """
    best = 1 << 62
    for _ in range(1000):
        start = time.perf_counter_ns()
        hashlib.sha256(_BLOCK).digest()
        best = min(best, time.perf_counter_ns() - start)
    return float(best)
