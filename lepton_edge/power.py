"""How fast a machine may run: power mode, clock limits, throttling, from files that anyone reads.

`nvpmodel` and `jetson_clocks` show in two places: the mode that nvpmodel wrote down, and the limits
of CPU, GPU and memory clocks that both of them set.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

# Bits of the Raspberry Pi firmware's word; the same shifted by 16 is "has been since it started".
_THROTTLED = ("under-voltage", "frequency capped", "throttled", "soft temperature limit")


def capture(root: Path = Path("/")) -> dict[str, Any]:
    """Group `power`: what is set (`mode`, `cpu_mhz`, `clocks_mhz`) and what happens (the rest).

    Limits are [least, most] in MHz. `cooling` has the cooling devices that are at work, with their
    state. `root` is where the file system begins.
    """
    sys = root / "sys"
    profile = text_of(sys / "firmware/acpi/platform_profile")
    nvpmodel = text_of(root / "var/lib/nvpmodel/status")
    return {
        "mode": _first(nvpmodel) or profile,
        "cpu_mhz": {
            policy.name: _limits(policy, "scaling_min_freq", "scaling_max_freq", 1e3)
            for policy in sorted((sys / "devices/system/cpu/cpufreq").glob("policy*"))
        }
        or None,
        "clocks_mhz": {
            place.name: _limits(place, "min_freq", "max_freq", 1e6)
            for place in sorted((sys / "class/devfreq").glob("*"))
        }
        or None,
        "throttled": _throttled(sys / "devices/platform/soc/soc:firmware/get_throttled"),
        "cooling": {
            f"{place.name} {text_of(place / 'type') or ''}".strip(): int(state)
            for place in sorted((sys / "class/thermal").glob("cooling_device*"))
            if (state := text_of(place / "cur_state") or "").isdigit() and int(state)
        }
        or None,
    }


def board(root: Path = Path("/")) -> dict[str, Any]:
    """Group `board`: its model as its device tree tells, and the release of NVIDIA's system."""
    model = text_of(root / "proc/device-tree/model")
    return {
        "model": model.strip("\0 ") if model else None,
        "l4t": _first(text_of(root / "etc/nv_tegra_release")),
    }


def text_of(path: Path) -> str | None:
    """The file's text, without spaces around it; None where it cannot be read."""
    try:
        return path.read_text().strip()
    except (OSError, UnicodeDecodeError):
        return None


def _first(text: str | None) -> str | None:
    return text.splitlines()[0] if text else None


def _limits(place: Path, low: str, high: str, scale: float) -> list[float | None]:
    texts = [text_of(place / name) or "" for name in (low, high)]
    return [int(text) / scale if text.isdigit() else None for text in texts]


def _throttled(path: Path) -> list[str] | None:
    text = text_of(path)
    if text is None:
        return None
    try:
        word = int(text, 16)
    except ValueError:
        return None
    return [name for bit, name in enumerate(_THROTTLED) if word >> bit & 1]
