"""LiteRT's `benchmark_model`: the words that start it, and what it prints, as numbers.

Format: google-ai-edge/LiteRT, tflite/tools/benchmark/benchmark_model.cc, benchmark_tflite_model.cc
and stats_calculator.h (of 2026). It tells no single run: after the warm-up and after the timed runs
it prints their number, mean, standard deviation, extremes, 5th and 95th percentile and median. Both
programs of that name (for the Interpreter and for CompiledModel) print these lines.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lepton_edge import errors

DOWNLOAD = (
    "https://storage.googleapis.com/tensorflow-nightly-public/prod/tensorflow/release/lite/tools"
    "/nightly/latest/android_aarch64_benchmark_model"
)
# device -> (flag, the delegate's name in the log)
DELEGATES = {
    "cpu": ("use_xnnpack", "XNNPACK"),
    "gpu": ("use_gpu", "GPU"),
    "nnapi": ("use_nnapi", "NNAPI"),
}
NEVER_S = 1e6  # the program's own end of a run is 150 s, which cuts slow models short
_REPLACED = re.compile(
    r"Replacing (\d+) out of (\d+) node\(s\) with delegate \((\S+)\) node, yielding (\d+) partition"
)


@dataclass(frozen=True)
class Block:
    """One process: times in milliseconds over `n` timed runs after `warmup_n`."""

    init_ms: float
    first_ms: float
    warmup_n: int
    n: int
    mean_ms: float
    std_ms: float
    min_ms: float
    max_ms: float
    p50_ms: float


def flags(
    graph: str, *, device: str, threads: int, xnnpack: bool, runs: int, seconds: float,
    warmup_runs: int, warmup_s: float,
) -> list[str]:  # fmt: skip
    """The words after the program's name. Raises `UsageError` for an unknown `device`."""
    if device not in DELEGATES:
        raise errors.unknown("device of benchmark_model", device, DELEGATES)
    flag = DELEGATES[device][0]
    given: dict[str, Any] = {
        "graph": graph,
        "num_threads": threads,
        flag: "true" if device != "cpu" or xnnpack else "false",
        "num_runs": runs,
        "min_secs": f"{seconds:g}",
        "max_secs": f"{NEVER_S:g}",
        "warmup_runs": warmup_runs,
        "warmup_min_secs": f"{warmup_s:g}",
    }
    return [f"--{key}={value}" for key, value in given.items()]


def parse(log: str) -> Block:
    """The figures of one process. Raises `BackendMissing` where the program is too old for them."""
    init = re.search(r"Initialized session in (\S+)ms", log)
    rows = [_row(line) for line in log.splitlines() if re.search(r"\bcount=\d+", line)]
    if init is None or len(rows) != 2:
        raise errors.WorkerFailed(
            "benchmark_model ended well and printed no times that are known.",
            next=f"Use the one of LiteRT: {DOWNLOAD}.",
        )
    warmup, timed = rows
    if "median" not in timed:
        raise errors.BackendMissing(
            "This benchmark_model prints no median: it is too old.",
            next=f"Take a newer one: {DOWNLOAD}.",
        )
    return Block(
        init_ms=float(init.group(1)),
        first_ms=warmup["first"] / 1e3,
        warmup_n=int(warmup["count"]),
        n=int(timed["count"]),
        mean_ms=timed["avg"] / 1e3,
        std_ms=timed["std"] / 1e3,
        min_ms=timed["min"] / 1e3,
        max_ms=timed["max"] / 1e3,
        p50_ms=timed["median"] / 1e3,
    )


def _row(line: str) -> dict[str, float]:
    """`count=51 first=9 curr=8 min=7 max=9 avg=8.1 std=1 p5=7 median=8 p95=9`, in microseconds."""
    found = {key: float(value) for key, value in re.findall(r"(\w+)=([-+.\de]+)", line)}
    if "first" not in found and "curr" in found:  # all runs took the same time, or there was one
        found |= dict.fromkeys(("first", "min", "max", "avg"), found["curr"]) | {"std": 0.0}
    return found


def placement(log: str, device: str) -> tuple[str | None, bool]:
    """What the delegate of `device` took, in words, and whether that is everything.

    (None, False) where the log tells nothing.
    """
    name = DELEGATES[device][1]
    replaced = [
        (int(taken), int(total), int(parts))
        for taken, total, kernel, parts in _REPLACED.findall(log)
        if name.lower() in kernel.lower()
    ]
    if replaced:
        taken, total, parts = replaced[0]
        text = f"{name} {taken}/{total}"
        return (text if parts == 1 else f"{text} in {parts} partitions"), taken == total
    said = re.search(rf"(?:Explicitly applied|Though) {name} delegate\b.*", log)
    if said is None:
        return None, False
    if "completely executed" in said.group():
        return f"{name} all", True
    kernels = re.search(r"w/ (\d+) delegate kernels", said.group())
    return (f"{name} in {kernels.group(1)} parts, CPU the rest" if kernels else "CPU all"), False


def memory_mb(log: str) -> dict[str, float]:
    """What the program says of its own memory: its growth by the model, in MB."""
    found = re.search(r"Memory footprint delta .*: init=(\S+) overall=(\S+)", log)
    return {"init": float(found.group(1)), "overall": float(found.group(2))} if found else {}


def failure(code: int, log: str, facts: Mapping[str, str | None]) -> errors.EdgeError:
    """Why the program ended with `code`. `facts`: `graph`, `program`, `on`, the device's `abi`."""
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    told = [line for line in lines if line.startswith(("ERROR", "FATAL")) and "failed." not in line]
    last = (told or lines or ["nothing"])[-1].rstrip(".")
    text = f"benchmark_model on {facts['on']!r}"
    if code in (126, 127) or "not executable" in log or "xec format error" in log:
        return errors.DeviceError(
            f"{facts['program']!r} does not run on {facts['on']!r}: {last}.",
            next=f"Take the one for its processor ({facts['abi'] or 'unknown'}): {DOWNLOAD}.",
        )
    if code in (124, 137):
        return errors.WorkerFailed(f"{text} took too long, or was killed for its memory.")
    if "nconsumed cmdline flags" in log:
        return errors.BackendMissing(
            f"{text} is too old: {last}.", next=f"Take a newer one: {DOWNLOAD}."
        )
    if "edgetpu-custom-op" in log:
        return errors.PlacementError(
            f"{facts['graph']!r} is compiled for the Edge TPU and runs nowhere else.",
            next="Give the file that was compiled.",
        )
    if "unresolved custom op" in log or "Didn't find op" in log:
        return errors.CannotConvert(f"{text} lacks an operator of {facts['graph']!r}: {last}.")
    if "Failed to load model" in log or "model loader" in log:
        return errors.BadInput(
            f"{facts['graph']!r} is no valid TFLite file: {last}.", next="Convert the model again."
        )
    applied = re.search(r"Failed to apply (\S+) delegate", log)
    if applied:
        return errors.PlacementError(
            f"{text} cannot apply its {applied.group(1)} delegate to {facts['graph']!r}.",
            next="Use --device cpu.",
        )
    return errors.WorkerFailed(f"{text} ended with code {code}: {last}.")
