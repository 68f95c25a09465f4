"""The machine's facts that a measurement belongs to, by group. What cannot be read is None."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Iterable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from lepton_edge import power
from lepton_edge.power import text_of as _read

# Instruction sets that decide which kernels a runtime takes (x86, then Arm).
FEATURES = (
    "avx2", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_int8", "amx_bf16",
    "asimd", "asimddp", "i8mm", "bf16", "sve",
)  # fmt: skip
LIBRARIES = (
    "lepton-edge", "numpy", "onnxruntime", "openvino", "ai-edge-litert", "tflite-runtime",
    "tensorflow", "torch", "keras", "onnx", "nncf", "litert-torch", "ai-edge-quantizer", "tf2onnx",
    "tensorrt", "tensorrt-rtx-cu13-bindings",
)  # fmt: skip
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OMP_WAIT_POLICY", "KMP_AFFINITY")
CPU = "sys/devices/system/cpu"


def capture(libraries: Iterable[str] = LIBRARIES) -> dict[str, Any]:
    """Facts now: groups `board cpu power load memory system process versions`.

    Frequencies in MHz, temperatures in degrees Celsius, memory in MB. Versions are read from the
    packages' metadata, without importing them.
    """
    found = of_files()
    found["cpu"]["model"] = found["cpu"]["model"] or platform.processor() or None
    found["cpu"]["architecture"] = platform.machine()
    found["cpu"]["cores"] = os.cpu_count()
    found["load"]["average_1_min"] = _load_average()
    return {
        **found,
        "system": {
            "os": platform.system(),
            "kernel": platform.release(),
            "libc": " ".join(platform.libc_ver()).strip() or None,
        },
        "process": {
            "affinity": sorted(os.sched_getaffinity(0))
            if hasattr(os, "sched_getaffinity")
            else None,
            "cpu_quota": _read(Path("/sys/fs/cgroup/cpu.max")),
            **{name: os.environ.get(name) for name in THREAD_VARIABLES},
        },
        "versions": {
            "python": sys.version.split()[0],
            **{name: known for name in libraries if (known := _version(name)) is not None},
        },
    }


def of_files(root: Path = Path("/")) -> dict[str, Any]:
    """What Linux tells in files under `root`: groups `board power cpu load memory`."""
    fields = _cpuinfo(root)
    meminfo = _meminfo(root)
    cpus = root / CPU
    flags = (fields.get("flags") or fields.get("Features") or "").split()
    frequencies = [
        int(text) / 1000
        for cpu in sorted(cpus.glob("cpu[0-9]*"))
        if (text := _read(cpu / "cpufreq/scaling_cur_freq")) is not None and text.isdigit()
    ]
    return {
        "board": power.board(root),
        "power": power.capture(root),
        "cpu": {
            "model": fields.get("model name") or fields.get("Model"),
            "architecture": None,
            "cores": None,
            "physical_cores": _physical_cores(cpus),
            "features": [name for name in FEATURES if name in flags] if flags else None,
            "virtual": "hypervisor" in flags if flags else None,
            "governor": _each(cpus, "cpufreq/scaling_governor"),
            "boost": _read(cpus / "cpufreq/boost"),
            "frequency_mhz": frequencies or _cpuinfo_mhz(root),
            "max_frequency_mhz": _mhz(_read(cpus / "cpu0/cpufreq/cpuinfo_max_freq")),
        },
        "load": {"average_1_min": None, "temperature_c": _temperatures(root)},
        "memory": {
            "total_mb": meminfo.get("MemTotal"),
            "available_mb": meminfo.get("MemAvailable"),
            "swap_total_mb": meminfo.get("SwapTotal"),
        },
    }


# What two measurements must share to be compared; the rest (load, temperature) varies by nature.
COMPARABLE = (
    ("cpu", "model"),
    ("cpu", "features"),
    ("cpu", "governor"),
    ("cpu", "boost"),
    ("power", "mode"),
    ("power", "cpu_mhz"),
    ("power", "clocks_mhz"),
    ("power", "throttled"),
    ("system", "kernel"),
    ("process", "affinity"),
    ("process", "cpu_quota"),
    ("process", "OMP_NUM_THREADS"),
)


def differences(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[str]:
    """In what the contexts differ so that their latencies must not be compared."""
    return [
        f"{group} {name}: {a.get(group, {}).get(name)!r} and {b.get(group, {}).get(name)!r}"
        for group, name in COMPARABLE
        if a.get(group, {}).get(name) != b.get(group, {}).get(name)
    ]


def peak_rss_mb() -> float:
    """The largest resident set of this process so far.

    On Linux not by getrusage: a new process inherits in its ru_maxrss the peak of its parent.
    """
    text = _read(Path("/proc/self/status")) or ""
    for line in text.splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    import resource

    unit = 2**20 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def _cpuinfo(root: Path) -> dict[str, str]:
    pairs = (line.partition(":") for line in (_read(root / "proc/cpuinfo") or "").splitlines())
    fields: dict[str, str] = {}
    for key, _, value in pairs:
        fields.setdefault(key.strip(), value.strip())
    return fields


def _cpuinfo_mhz(root: Path) -> list[float] | None:
    lines = (_read(root / "proc/cpuinfo") or "").splitlines()
    found = [float(line.partition(":")[2]) for line in lines if line.startswith("cpu MHz")]
    return found or None


def _meminfo(root: Path) -> dict[str, int]:
    fields = {}
    for line in (_read(root / "proc/meminfo") or "").splitlines():
        key, _, rest = line.partition(":")
        if rest.strip().endswith("kB"):
            fields[key] = int(rest.split()[0]) // 1024
    return fields


def _physical_cores(cpus: Path) -> int | None:
    pattern = "cpu[0-9]*/topology/thread_siblings_list"
    siblings = {_read(path) for path in cpus.glob(pattern)} - {None}
    return len(siblings) or None


def _each(cpus: Path, name: str) -> str | None:
    """The value that all CPUs have, or all that occur."""
    found = sorted({text for path in cpus.glob(f"cpu[0-9]*/{name}") if (text := _read(path))})
    return ", ".join(found) or None


def _mhz(khz: str | None) -> float | None:
    return int(khz) / 1000 if khz and khz.isdigit() else None


def _load_average() -> float | None:
    try:
        return os.getloadavg()[0]
    except (OSError, AttributeError):
        return None


def _temperatures(root: Path) -> dict[str, float] | None:
    found = {}
    for zone in sorted((root / "sys/class/thermal").glob("thermal_zone*")):
        text = _read(zone / "temp")
        if text is not None and text.lstrip("-").isdigit():
            found[f"{zone.name} {_read(zone / 'type') or ''}".strip()] = int(text) / 1000
    return found or None


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
