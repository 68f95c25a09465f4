"""What benchmark_model and an Android device print, read as numbers.

LOG was printed by LiteRT's own classes (tflite/tools/benchmark/benchmark_model.cc of 2026-08,
compiled as it is) around a computation that stood in for the interpreter; the lines on delegates
and the device's words follow the formats in LiteRT's and Android's sources.
"""

from __future__ import annotations

import re

import pytest

from lepton_edge import context, errors, latency
from lepton_edge.remote import _android_context, benchmark_model

LOG = """INFO: STARTING!
INFO: Log parameter values verbosely: [0]
INFO: Min num runs: [20]
INFO: Num threads: [1]
INFO: The input model file size (MB): 0.088256
INFO: Initialized session in 0.033ms.
INFO: Running benchmark for at least 10 iterations and at least 0.1 seconds but terminate if\
 exceeding 1e+06 seconds.
INFO: count=177 first=203 curr=8258 min=178 max=13016 avg=609.164 std=1902 p5=178 median=179\
 p95=5127

INFO: Running benchmark for at least 20 iterations and at least 0.2 seconds but terminate if\
 exceeding 1e+06 seconds.
INFO: count=406 first=180 curr=16229 min=178 max=16229 avg=531.722 std=1733 p5=178 median=179\
 p95=238

INFO: Inference timings in us: Init: 33, First inference: 203, Warmup (avg): 609.164, Inference\
 (avg): 531.722
INFO: Memory footprint delta from the start of the tool (MB): init=0 overall=0.296875
"""
REPLACED = "VERBOSE: Replacing {} out of {} node(s) with delegate ({}) node, yielding {} partitions"
FACTS = {"on": "adb://phone", "graph": "net.tflite", "program": "/tmp/x", "abi": "arm64-v8a"}


def test_the_times_of_one_process() -> None:
    assert benchmark_model.parse(LOG) == benchmark_model.Block(
        init_ms=0.033, first_ms=0.203, warmup_n=177, n=406, mean_ms=0.531722, std_ms=1.733,
        min_ms=0.178, max_ms=16.229, p50_ms=0.179,
    )  # fmt: skip
    assert benchmark_model.memory_mb(LOG) == {"init": 0.0, "overall": 0.296875}


def test_one_run_and_runs_that_take_the_same_time() -> None:
    warmup = "INFO: count=1 curr=3 p5=3 median=3 p95=3"
    timed = "INFO: count=5 curr=1.25e+06(all same) p5=1250000 median=1250000 p95=1250000"
    found = benchmark_model.parse(f"INFO: Initialized session in 4ms.\n{warmup}\n{timed}\n")
    assert (found.first_ms, found.warmup_n, found.n) == (0.003, 1, 5)
    assert (found.min_ms, found.mean_ms, found.max_ms, found.std_ms) == (1250, 1250, 1250, 0)


def test_a_program_that_is_too_old_to_tell_a_median() -> None:
    with pytest.raises(errors.BackendMissing, match="too old"):
        benchmark_model.parse(re.sub(r" p5=.*", "", LOG.replace("\\\n", "")))


@pytest.mark.parametrize("text", ["", "INFO: STARTING!\n", LOG.replace("count=406", "n=406")])
def test_what_is_no_log(text: str) -> None:
    with pytest.raises(errors.WorkerFailed, match="no times that are known"):
        benchmark_model.parse(text)


@pytest.mark.parametrize(
    ("said", "device", "found"),
    [
        ("", "gpu", (None, False)),
        (REPLACED.format(31, 31, "TfLiteXNNPackDelegate", 1), "cpu", ("XNNPACK 31/31", True)),
        (
            REPLACED.format(60, 64, "TfLiteGpuDelegateV2", 3),
            "gpu",
            ("GPU 60/64 in 3 partitions", False),
        ),
        (REPLACED.format(31, 31, "TfLiteXNNPackDelegate", 1), "gpu", (None, False)),
        (
            "INFO: Explicitly applied GPU delegate, and the model graph will be completely executed"
            " by the delegate.",
            "gpu",
            ("GPU all", True),
        ),
        (
            "INFO: Explicitly applied NNAPI delegate, and the model graph will be partially"
            " executed by the delegate w/ 2 delegate kernels.",
            "nnapi",
            ("NNAPI in 2 parts, CPU the rest", False),
        ),
        (
            "INFO: Though GPU delegate is explicitly applied, the model graph will not be executed"
            " by the delegate.",
            "gpu",
            ("CPU all", False),
        ),
    ],
)
def test_what_ran_where(said: str, device: str, found: tuple[str | None, bool]) -> None:
    assert benchmark_model.placement(f"{LOG}{said}\n", device) == found


@pytest.mark.parametrize(
    ("code", "said", "kind", "text"),
    [
        (126, "sh: /tmp/x: not executable: 64-bit ELF file", errors.DeviceError, "arm64-v8a"),
        (137, "", errors.WorkerFailed, "took too long"),
        (1, "ERROR: Failed to load model net", errors.BadInput, "no valid TFLite"),
        (1, "ERROR: Encountered unresolved custom op: X.", errors.CannotConvert, "custom op: X"),
        (
            1,
            "ERROR: Encountered unresolved custom op: edgetpu-custom-op.",
            errors.PlacementError,
            "Edge TPU",
        ),
        (1, "ERROR: Failed to apply GPU delegate.", errors.PlacementError, "--device cpu"),
        (1, "WARN: Unconsumed cmdline flags: --use_gpu", errors.BackendMissing, "too old"),
        (1, "ERROR: something else", errors.WorkerFailed, "something else"),
    ],
)
def test_how_it_fails(code: int, said: str, kind: type, text: str) -> None:
    log = f"INFO: STARTING!\n{said}\nERROR: Benchmarking failed.\n"
    error = benchmark_model.failure(code, log, FACTS)
    assert type(error) is kind
    assert text in str(error)


def test_the_words_that_start_it() -> None:
    words = benchmark_model.flags(
        "m.tflite", device="cpu", threads=4, xnnpack=False, runs=10, seconds=1.0, warmup_runs=10,
        warmup_s=0.5,
    )  # fmt: skip
    assert words == [
        "--graph=m.tflite", "--num_threads=4", "--use_xnnpack=false", "--num_runs=10",
        "--min_secs=1", "--max_secs=1e+06", "--warmup_runs=10", "--warmup_min_secs=0.5",
    ]  # fmt: skip
    with pytest.raises(errors.UsageError, match="Did you mean 'gpu'"):
        benchmark_model.flags(
            "m", device="gpus", threads=1, xnnpack=True, runs=1, seconds=1, warmup_runs=1,
            warmup_s=1,
        )  # fmt: skip


def block(**changed: float) -> dict[str, float]:
    usual = {"init_ms": 5.0, "first_ms": 3.0, "warmup_n": 10, "n": 100}
    times = {"mean_ms": 2.0, "std_ms": 0.0, "min_ms": 2.0, "max_ms": 2.0, "p50_ms": 2.0}
    return {**usual, **times, **changed}


def test_processes_in_turn_are_one_latency() -> None:
    blocks = [block(), block(n=300, mean_ms=4.0, p50_ms=2.02, max_ms=9.0), block(std_ms=1.0)]
    result = {"blocks": blocks, "power_changes": [], "peak_rss_mb": 30.0, "batch": 1}
    found = latency.summarise_blocks(result, "quick")
    assert (found.p50_ms, found.n, found.warmup_n) == (2.0, 500, 30)
    assert found.mean_ms == pytest.approx((2 * 100 + 4 * 300 + 2 * 100) / 500)
    # The variance of all runs: that inside the processes, and that between them.
    assert found.std_ms**2 == pytest.approx((100 * 1.0 + 200 * 1.2**2 + 300 * 0.8**2) / 500)
    assert (found.min_ms, found.max_ms, found.p90_ms, found.p99_ms) == (2.0, 9.0, None, None)
    assert found.p50_interval_ms[0] <= 2.0 <= found.p50_interval_ms[1]
    assert found.unstable == ()
    assert "3 processes of benchmark_model" in found.window


def test_a_phone_that_gets_slower_is_unstable() -> None:
    blocks = [block(p50_ms=2.0 + 0.1 * index) for index in range(10)]
    changes = ["power throttled: [] and ['thermal status moderate']"]
    result = {"blocks": blocks, "power_changes": changes, "peak_rss_mb": 30.0, "batch": 1}
    drifted, throttled = latency.summarise_blocks(result, "quick").unstable
    assert "drifted by +39.0 %" in drifted
    assert "thermal status moderate" in throttled


TOLD = """
@file /proc/cpuinfo
processor	: 0
Features	: fp asimd asimddp i8mm bf16

@file /proc/meminfo
MemTotal:        7654321 kB
MemAvailable:    3654321 kB

@file /proc/loadavg
1.50 1.2 1.1 1/2 3

@file /sys/devices/system/cpu/cpu0/cpufreq/scaling_governor
schedutil

@file /sys/devices/system/cpu/cpufreq/policy0/scaling_min_freq
300000

@file /sys/devices/system/cpu/cpufreq/policy0/scaling_max_freq
1800000

@command getprop
[ro.build.fingerprint]: [google/shiba/shiba:14/UD1A/1:user/release-keys]
[ro.build.version.release]: [14]
[ro.product.cpu.abi]: [arm64-v8a]
[ro.product.manufacturer]: [Google]
[ro.product.model]: [Pixel 8]
[ro.soc.model]: [Tensor G3]
@command uname -r
5.15.110-android14
@command uname -m
aarch64
@command nproc
9
@command date +%s
631152000
@command dumpsys battery
Current Battery Service state:
  AC powered: false
  USB powered: true
  level: 81
  scale: 100
  temperature: 298
  technology: Li-ion
@command dumpsys thermalservice
IsStatusOverride: false
Thermal Status: 0
Cached temperatures:
@command settings get global low_power
0
@command df
Filesystem     1K-blocks     Used Available Use% Mounted on
/dev/block/dm  110000000 50000000  60000000  46% /data
"""


def test_what_an_android_device_says_of_itself() -> None:
    about = _android_context.read(TOLD, "/data/local/tmp/lepton-edge")
    found = about["context"]
    assert about["machine"] == "Google Pixel 8 (aarch64)"
    assert about["abi"] == "arm64-v8a"
    assert about["free"] == 60000000 * 1024
    assert about["clock_offset_s"] < -30 * 365 * 24 * 3600  # it believes that it is 1990
    assert found["cpu"]["model"] == "Tensor G3"
    assert found["cpu"]["features"] == ["asimd", "asimddp", "i8mm", "bf16"]
    assert (found["cpu"]["cores"], found["cpu"]["governor"]) == (9, "schedutil")
    assert found["power"]["cpu_mhz"] == {"policy0": [300.0, 1800.0]}
    assert (found["power"]["mode"], found["power"]["throttled"]) == ("normal", [])
    assert found["battery"] == {"level": 81, "temperature_c": 29.8, "charged_by": ["USB"]}
    assert found["load"]["average_1_min"] == 1.5
    assert found["memory"]["total_mb"] == 7474
    assert found["system"] == {"os": "Android", "kernel": "5.15.110-android14"}
    assert found["versions"]["android"] == "14"


@pytest.mark.parametrize(
    ("before", "after", "says"),
    [
        ("Thermal Status: 0", "Thermal Status: 2", "thermal status moderate"),
        ("low_power\n0", "low_power\n1", "battery saver"),
        ("schedutil", "performance", "cpu governor"),
        ("1800000", "1200000", "power cpu_mhz"),
        ("UD1A", "UD2A", None),  # another build of the system is told, and no reason by itself
    ],
)
def test_a_phone_in_another_state_is_not_comparable(
    before: str, after: str, says: str | None
) -> None:
    states = [_android_context.read(text, "/x") for text in (TOLD, TOLD.replace(before, after))]
    found = context.differences(*(state["context"] for state in states))
    assert (found == []) if says is None else says in found[0]


def test_a_device_that_says_nothing() -> None:
    about = _android_context.read("", "/x")
    assert about["machine"] == "unknown (unknown)"
    assert (about["abi"], about["free"], about["clock_offset_s"]) == (None, None, None)
    assert about["context"]["battery"] is None
