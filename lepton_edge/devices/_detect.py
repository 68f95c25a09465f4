"""What this machine's CPU is: the features that decide speed, cores and caches. Linux only."""

from __future__ import annotations

import os
import platform
from pathlib import Path

from lepton_edge.devices._profile import Fact

_CPUINFO = Path("/proc/cpuinfo")
_CACHES = Path("/sys/devices/system/cpu/cpu0/cache")
# Flags of /proc/cpuinfo -> the names that people use. VNNI multiplies int8, AMX by whole tiles.
_FEATURES = {
    "avx2": "AVX2",
    "fma": "FMA",
    "f16c": "F16C",
    "avx512f": "AVX-512",
    "avx512_vnni": "AVX-512 VNNI",
    "avx_vnni": "AVX-VNNI",
    "avx512_bf16": "AVX-512 BF16",
    "avx512_fp16": "AVX-512 FP16",
    "amx_int8": "AMX int8",
    "amx_bf16": "AMX bf16",
    "asimddp": "dot product",
    "i8mm": "int8 matrix multiply",
    "sve": "SVE",
}


def is_here(architecture: str) -> bool:
    """Whether this machine is of that architecture and can be asked."""
    machine = {"AMD64": "x86_64", "arm64": "aarch64"}.get(platform.machine(), platform.machine())
    return machine == architecture and _CPUINFO.exists()


def isa() -> tuple[str, ...]:
    """The CPU features of this machine, in the order of the table above."""
    for line in _CPUINFO.read_text().splitlines():
        key, _, value = line.partition(":")
        if key.strip() in ("flags", "Features"):
            flags = set(value.split())
            return tuple(name for flag, name in _FEATURES.items() if flag in flags)
    return ()


def title() -> str | None:
    """The CPU's own name."""
    for line in _CPUINFO.read_text().splitlines():
        key, _, value = line.partition(":")
        if key.strip() == "model name":
            return value.strip()
    return None


def facts() -> dict[str, Fact]:
    """Cores that this process may use, caches and memory."""
    found = {
        "cores": Fact(float(len(os.sched_getaffinity(0))), "sched_getaffinity", mark="detected"),
        "memory": Fact(
            round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1e9, 1),
            "sysconf",
            "GB",
            mark="detected",
        ),
    }
    for folder in sorted(_CACHES.glob("index*")):
        name = f"l{(folder / 'level').read_text().strip()}_cache"
        size = (folder / "size").read_text().strip()
        if name in ("l2_cache", "l3_cache") and size.endswith("K"):
            found[name] = Fact(float(size[:-1]), str(folder), "KiB", mark="detected")
    return found
