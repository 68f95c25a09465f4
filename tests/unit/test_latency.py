"""The measuring protocol on the null runtime, and the verdicts on made-up times."""

from __future__ import annotations

import json

import numpy as np
import pytest

from lepton_edge import context, errors, latency
from lepton_edge.measurement import Comparison, Latency
from lepton_edge.model import Signature, TensorSpec
from lepton_edge.runtimes import null

RESULT = {
    "load_ms": 1.0,
    "first_ms": 1.0,
    "warmup_n": 10,
    "settled": True,
    "clock_drift": 0.0,
    "batch": 1,
    "peak_rss_mb": 30.0,
}


@pytest.fixture
def artifact(tmp_path):
    inputs = (TensorSpec("x", (None, 4), "float32"),)
    return null.write(tmp_path, Signature(inputs, (TensorSpec("y", (None, 3), "float32"),)))


def test_windows():
    assert latency.parse_window("quick")[:2] == (100, 10.0)
    assert latency.parse_window("official")[:2] == (1024, 60.0)
    assert latency.parse_window("200,5") == (200, 5.0, "200 runs, 5 s")
    for text in ("fast", "100", "0,1", "10,-1", "10,inf", "a,b"):
        with pytest.raises(errors.UsageError, match="Cannot read the window"):
            latency.parse_window(text)


def test_percentiles_need_their_samples():
    few = latency.summarise(np.ones(63), RESULT, "w")
    assert (few.p90_ms, few.p99_ms) == (None, None)
    some = latency.summarise(np.ones(661), RESULT, "w")
    assert (some.p90_ms, some.p99_ms) == (1.0, None)
    times = np.random.default_rng(0).permutation(np.arange(1.0, 1001))
    many = latency.summarise(times, RESULT, "w")
    assert (many.p50_ms, many.min_ms, many.max_ms) == (500.5, 1, 1000)
    assert (many.p90_ms, many.p99_ms) == pytest.approx((900.1, 990.01))
    assert many.mean_ms == pytest.approx(500.5)
    assert many.std_ms == pytest.approx(288.819, abs=1e-3)
    assert many.samples_ms == tuple(times)  # all of them, in order
    assert latency.summarise(np.ones(1), RESULT, "w").std_ms == 0


def test_outliers_stay():
    times = np.ones(100)
    times[50] = 1000.0
    found = latency.summarise(times, RESULT, "w")
    assert (found.n, found.max_ms, found.p50_ms) == (100, 1000, 1)
    assert found.mean_ms > 10


def test_drift_is_unstable():
    steady = latency.summarise(np.linspace(1, 1.04, 500), RESULT, "w")
    assert steady.unstable == ()
    drifting = latency.summarise(np.linspace(1, 1.2, 500), RESULT, "w")
    assert drifting.drift == pytest.approx(0.158, abs=2e-3)
    assert "latency drifted by +15" in drifting.unstable[0]
    slow_clock = latency.summarise(np.ones(50), {**RESULT, "clock_drift": -0.06}, "w")
    assert slow_clock.unstable == ("the clock drifted by -6.0 %",)
    unsettled = latency.summarise(np.ones(50), {**RESULT, "settled": False}, "w")
    assert "did not settle" in unsettled.unstable[0]


def made(p50: float, **facts) -> latency.Benchmark:
    found = latency.summarise(np.full(20, p50), RESULT, "w")
    return latency.Benchmark(found, facts, {"cpu": {"model": "m"}}, "random")


@pytest.mark.parametrize(
    ("ratios", "verdict", "conclusive"),
    [
        ([1.0, 1.001, 0.999, 1.002, 0.998], "tie", True),
        ([1.1, 1.11, 1.09, 1.1, 1.1], "slower", True),
        ([0.9, 0.91, 0.89, 0.9, 0.9], "faster", True),
        ([1.01, 1.011, 1.009, 1.01, 1.01], "tie", True),  # surely slower, and of no use to know
        ([1.0, 1.3, 0.8, 1.4, 1.0], "tie", False),
    ],
)
def test_verdict_from_the_interval_of_the_ratio(ratios, verdict, conclusive):
    levels = [1.0, 2.0, 1.5, 1.0, 3.0]  # what all pairs share cancels
    first = [made(level) for level in levels]
    second = [made(level * ratio) for level, ratio in zip(levels, ratios, strict=True)]
    found = latency.decide(first, second)
    assert (found.verdict, found.conclusive) == (verdict, conclusive)
    assert found.interval[0] <= found.ratio <= found.interval[1]
    assert found.ratio == pytest.approx(float(np.exp(np.log(ratios).mean())))
    assert Comparison.from_dict(json.loads(json.dumps(found.as_dict()))) == found


def test_other_contexts_are_not_compared():
    first = [made(1.0, threads=1)] * 5
    found = latency.decide(first, [made(2.0, threads=2)] * 5)
    assert found.verdict == "NOT COMPARABLE"
    assert found.reasons == ("threads: 1 and 2",)
    with pytest.raises(errors.UsageError, match="5 pairs"):
        latency.compare("a", "b", pairs=4)


def test_context_reads_or_says_none():
    facts = context.capture()
    assert json.loads(json.dumps(facts)) == facts
    assert facts["versions"]["numpy"] == np.__version__
    assert context.differences(facts, context.capture()) == []
    other = {**facts, "cpu": {**facts["cpu"], "model": "another"}}
    assert context.differences(facts, other)[0].startswith("cpu model: ")
    assert 5 < context.peak_rss_mb() < 100_000


def test_context_imports_nothing_heavy():
    import subprocess
    import sys

    code = (
        "import sys; from lepton_edge import context; context.capture();"
        "assert not {'torch', 'tensorflow', 'onnxruntime', 'openvino'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_benchmark_in_a_fresh_process(artifact):
    found = latency.benchmark(
        artifact, window="50,0.05", warmup_s=0.05, threads=1, options={"busy_us": 200}
    )
    result = found.latency
    assert isinstance(result, Latency)
    assert result.n >= 50
    assert len(result.samples_ms) == result.n
    assert sum(result.samples_ms) >= 0.04 * 1000  # at least the window, less what lies between
    assert result.warmup_n >= 10
    assert result.min_ms >= 0.2  # the runtime spins that long, whatever else runs
    assert result.p50_interval_ms[0] <= result.p50_ms <= result.p50_interval_ms[1]
    assert 5 < result.peak_rss_mb < 200  # the worker's own, not that of the parent
    assert result.window == "50 runs, 0.05 s, warm-up 0.05 s"
    assert found.facts["threads"] == 1
    assert found.context["cpu"]["cores"]
    assert found.inputs == "random input (seeded)"
    assert Latency.from_dict(json.loads(json.dumps(result.as_dict()))) == result


def test_benchmark_on_data(artifact, tmp_path):
    np.savez(tmp_path / "a.npz", rows=np.ones((3, 4), np.float32))
    data = tmp_path / "a.npz"
    found = latency.benchmark(artifact, window="10,0", warmup_s=0.01, data=data)
    assert found.inputs == f"{data}, 3 batches in rotation"
    np.savez(data, rows=np.ones((3, 5), np.float32))
    with pytest.raises(errors.UsageError, match="the model takes"):
        latency.benchmark(artifact, window="10,0", warmup_s=0.01, data=data)


def test_compare_interleaves_fresh_processes(artifact):
    found = latency.compare(
        artifact,
        artifact,
        window="10,0.02",
        warmup_s=0.02,
        threads=1,
        a_options={"busy_us": 300},
        b_options={"busy_us": 900},
    )
    assert found.verdict in ("slower", "tie")  # a tie only where the machine is in uproar
    assert min(found.b_p50_ms) >= 0.9 > 0.3 <= min(found.a_p50_ms)
    assert (len(found.a_p50_ms), len(found.b_p50_ms)) == (5, 5)
