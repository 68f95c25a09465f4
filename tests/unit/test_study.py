"""The verdict of a row that needs its neighbours: is a smaller precision slower than float?"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lepton_edge import study
from lepton_edge.artifact import Artifact
from lepton_edge.latency import Benchmark
from lepton_edge.measurement import Latency


def timed(p50_ms: float) -> Benchmark:
    latency = Latency(
        p50_ms=p50_ms,
        p90_ms=p50_ms,
        p99_ms=None,
        mean_ms=p50_ms,
        std_ms=0.0,
        min_ms=p50_ms,
        max_ms=p50_ms,
        p50_interval_ms=(0.99 * p50_ms, 1.01 * p50_ms),
        n=100,
        warmup_n=10,
        load_ms=1.0,
        first_ms=1.0,
        peak_rss_mb=1.0,
        drift=0.0,
        unstable=(),
        window="quick",
        batch=1,
    )
    return Benchmark(latency, {}, {}, "random")


def subject(precision: str, p50_ms: float, *steps: dict[str, Any], format: str = "onnx") -> Any:
    artifact = Artifact(Path("out"), "m.onnx", format, precision, steps=steps)
    return study.Measured(
        f"{format} {precision}", "torch", format, precision, artifact, benchmark=timed(p50_ms)
    )


def verdict(subjects: list[Any]) -> tuple[str, str | None]:
    row = study.rows(subjects, max_drop=None)[-1]
    return row.status, row.reason


@pytest.fixture(autouse=True)
def files(monkeypatch: pytest.MonkeyPatch) -> None:
    """The rows describe files; here there are none."""
    monkeypatch.setattr(Artifact, "describe", lambda self: {"path": self.file})


def test_slower_than_float_in_the_same_runtime_says_by_how_much_and_why() -> None:
    step = {"step": "int8-dynamic", "slow_because": "there is no fast kernel"}
    status, reason = verdict([subject("fp32", 1.0), subject("int8-dynamic", 7.0, step)])
    assert status == "SLOWER"
    assert reason == (
        "p50 7.000 ms, where fp32 in the same runtime takes 1.000 ms (one run each; `compare`"
        " decides); there is no fast kernel"
    )


def test_within_the_intervals_and_the_margin_nothing_is_slower() -> None:
    assert verdict([subject("fp32", 1.0), subject("int8", 1.03)])[0] == "PASS"
    assert verdict([subject("fp32", 1.0), subject("int8", 0.5)])[0] == "PASS"


def test_float_of_another_runtime_is_no_measure() -> None:
    fast = subject("fp32", 1.0, format="openvino")
    assert verdict([fast, subject("int8", 7.0)])[0] == "PASS"
