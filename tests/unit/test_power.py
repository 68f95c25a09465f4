"""Power modes, clock limits and throttling, read from files laid out as boards have them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lepton_edge import context, latency, power

CPU = "sys/devices/system/cpu/cpufreq/policy0"
GPU = "sys/class/devfreq/17000000.gpu"
THROTTLED = "sys/devices/platform/soc/soc:firmware/get_throttled"


def tree(root: Path, **changed: str) -> dict[str, Any]:
    """The context that a Jetson-like tree of files gives."""
    files = {
        "var/lib/nvpmodel/status": "pmode:0002 fmode:quiet\n",
        f"{CPU}/scaling_min_freq": "729600\n",
        f"{CPU}/scaling_max_freq": "1510400\n",
        f"{GPU}/min_freq": "306000000\n",
        f"{GPU}/max_freq": "624750000\n",
        "sys/class/thermal/cooling_device0/type": "pwm-fan\n",
        "sys/class/thermal/cooling_device0/cur_state": "0\n",
        "sys/class/thermal/cooling_device1/type": "cpu-throttle\n",
        "sys/class/thermal/cooling_device1/cur_state": "2\n",
        "proc/device-tree/model": "NVIDIA Jetson Orin Nano\0",
        "etc/nv_tegra_release": "# R36 (release), REVISION: 4.3\nmore\n",
        **changed,
    }
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return {"power": power.capture(root), "board": power.board(root)}


def test_a_jetsons_mode_and_limits(tmp_path: Path) -> None:
    found = tree(tmp_path)
    assert found["board"]["model"] == "NVIDIA Jetson Orin Nano"
    assert found["board"]["l4t"] == "# R36 (release), REVISION: 4.3"
    assert found["power"] == {
        "mode": "pmode:0002 fmode:quiet",
        "cpu_mhz": {"policy0": [729.6, 1510.4]},
        "clocks_mhz": {"17000000.gpu": [306.0, 624.75]},
        "throttled": None,
        "cooling": {"cooling_device1 cpu-throttle": 2},
    }


def test_a_machine_that_tells_nothing(tmp_path: Path) -> None:
    assert set(power.capture(tmp_path).values()) == {None}
    assert power.board(tmp_path) == {"model": None, "l4t": None}


@pytest.mark.parametrize(
    ("word", "names"),
    [
        ("0", []),
        ("50000", []),  # under-voltage and throttling were once, and are not now
        ("50005", ["under-voltage", "throttled"]),
        ("8", ["soft temperature limit"]),
    ],
)
def test_a_raspberry_pi_says_what_slows_it_now(tmp_path: Path, word: str, names: list[str]) -> None:
    assert tree(tmp_path, **{THROTTLED: word})["power"]["throttled"] == names


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"var/lib/nvpmodel/status": "pmode:0000"}, "power mode"),
        ({f"{CPU}/scaling_min_freq": "1510400"}, "power cpu_mhz"),  # as jetson_clocks does
        ({f"{GPU}/max_freq": "918000000"}, "power clocks_mhz"),
        ({THROTTLED: "4"}, "power throttled"),
    ],
)
def test_another_mode_clock_or_throttling_is_not_comparable(
    tmp_path: Path, change: dict[str, str], says: str
) -> None:
    before = tree(tmp_path / "a")
    assert context.differences(before, tree(tmp_path / "b")) == []
    (difference,) = context.differences(before, tree(tmp_path / "c", **change))
    assert difference.startswith(f"{says}: ")


def test_a_board_that_throttles_in_the_middle_is_unstable() -> None:
    result = {
        "settled": True, "clock_drift": 0.0, "warmup_n": 10, "load_ms": 1.0, "first_ms": 1.0,
        "peak_rss_mb": 1.0, "batch": 1,
        "power_changes": ["power throttled: [] and ['throttled']"],
    }  # fmt: skip
    found = latency.summarise(np.ones(700), result, "quick")
    assert found.unstable == ("before and after: power throttled: [] and ['throttled']",)
