"""Energy of inferences, from a sensor that has a name; where there is none, there is no figure.

Power rails that the kernel shows: INA3221 and INA2xx chips (Documentation/hwmon/ina3221.rst and
ina2xx.rst), the same under JetPack 4 (rail_name_N of NVIDIA's ina3221x driver), and the energy
counters of Intel's RAPL (Documentation/power/powercap/powercap.rst), which AMD has too. A process
of its own reads them beside the one that is measured; the power of the idle machine, measured
before, is taken off.
"""

from __future__ import annotations

import math
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from lepton_edge import errors
from lepton_edge.model import Array
from lepton_edge.power import text_of

HZ = 20.0
IDLE_S = 3.0
# Reads the files again and again: a line is the time and every value, nan for what failed.
_READER = """
import os, sys, time
period = float(sys.argv[1])
files = [open(name, "rb", buffering=0) for name in sys.argv[2:]]
def value(file):
    try:
        file.seek(0)
        return str(int(file.read()))
    except (OSError, ValueError):
        return "nan"
due, parent = time.monotonic(), os.getppid()
while os.getppid() == parent:  # it ends with the one that is measured, however that ends
    print(time.monotonic(), *map(value, files), flush=True)
    due = max(due + period, time.monotonic())
    time.sleep(max(0.0, due - time.monotonic()))
"""


@dataclass(frozen=True)
class Sensor:
    """A rail. The product of its files times `scale` is watts, or joules where it `counts`.

    A counter begins again at `wraps` (in joules).
    """

    rail: str
    chip: str
    files: tuple[Path, ...] = field(repr=False)
    scale: float
    counts: bool = False
    wraps: float = math.inf


def sensors(root: Path = Path("/")) -> list[Sensor]:
    """The rails whose files can be read, under `root`."""
    found = []
    for place in sorted((root / "sys/class/hwmon").glob("hwmon*")):
        chip = text_of(place / "name") or ""
        if chip.startswith("ina"):
            found += _of_chip(place, chip)
    for name in sorted((root / "sys/bus/i2c/drivers/ina3221x").glob("*/iio:device*/rail_name_*")):
        files = (name.parent / f"in_power{name.name[len('rail_name_') :]}_input",)
        found.append(Sensor(text_of(name) or name.name, "ina3221x", files, 1e-3))
    for place in sorted((root / "sys/class/powercap").glob("intel-rapl*:*")):
        zone, top = text_of(place / "name"), text_of(place / "max_energy_range_uj")
        if zone and top and top.isdigit():
            # A part of a package has its own name only inside it (intel-rapl:0:0 is its cores).
            within = text_of(place.parent / place.name.rpartition(":")[0] / "name")
            rail = f"{within} {zone}" if place.name.count(":") > 1 and within else zone
            files = (place / "energy_uj",)
            found.append(Sensor(rail, "RAPL", files, 1e-6, counts=True, wraps=int(top) * 1e-6))
    return [each for each in found if all(text_of(file) is not None for file in each.files)]


def _of_chip(place: Path, chip: str) -> list[Sensor]:
    found = []
    for number in range(1, 4):
        label = text_of(place / f"in{number}_label") or f"{place.name} channel {number}"
        whole = place / f"power{number}_input"  # in microwatts; an INA3221 has none
        parts = (place / f"in{number}_input", place / f"curr{number}_input")  # in mV and mA
        if whole.exists():
            found.append(Sensor(label, chip, (whole,), 1e-6))
        elif all(part.exists() for part in parts) and text_of(place / f"in{number}_enable") != "0":
            found.append(Sensor(label, chip, parts, 1e-6))
    return found


class Meter:
    """Reads the rails from its making on, `idle_s` of them before anything else is done.

    Raises `BackendMissing` where no rail can be read.
    """

    def __init__(self, root: Path = Path("/"), idle_s: float = IDLE_S, hz: float = HZ) -> None:
        self.sensors = sensors(root)
        if not self.sensors:
            raise _missing(root)
        files = [str(file) for sensor in self.sensors for file in sensor.files]
        self._rows = tempfile.TemporaryFile()  # noqa: SIM115 - stop() closes it
        self._reader = subprocess.Popen(
            [sys.executable, "-c", _READER, str(1 / hz), *files],
            stdin=subprocess.DEVNULL,
            stdout=self._rows,
        )
        while not os.fstat(self._rows.fileno()).st_size and self._reader.poll() is None:
            time.sleep(0.01)  # until it has begun
        begin = time.monotonic()
        time.sleep(idle_s)
        self._idle = (begin, time.monotonic())

    def stop(self, window: tuple[float, float], n: int) -> list[dict[str, Any]]:
        """What the `n` runs in `window` (of the monotonic clock) took, rail by rail, and the end.

        The keys are those of `measurement.Energy`.
        """
        self._reader.kill()
        self._reader.wait()
        self._rows.seek(0)
        lines = self._rows.read().decode().splitlines()
        self._rows.close()
        width = 1 + sum(len(sensor.files) for sensor in self.sensors)
        rows = np.array([line.split() for line in lines if len(line.split()) == width], float)
        found, column = [], 1
        for sensor in self.sensors:
            taken = rows[:, column : column + len(sensor.files)].prod(axis=1) * sensor.scale
            column += len(sensor.files)
            there = np.isfinite(taken)
            each = energy_of(sensor, rows[there, 0], taken[there], self._idle, window, n)
            if each is not None:
                found.append(each)
        return found


def energy_of(
    sensor: Sensor,
    times: Array,
    values: Array,
    idle: tuple[float, float],
    busy: tuple[float, float],
    n: int,
) -> dict[str, Any] | None:
    """What `n` runs in `busy` took above `idle`; None where the rail told too little of either.

    `times` in seconds, `values` in watts or, of a counter, joules. Power is integrated by
    trapezoids.
    """
    if sensor.counts:
        steps = np.diff(values)
        steps[steps < 0] += sensor.wraps
    else:
        steps = (values[1:] + values[:-1]) / 2 * np.diff(times)
    total = np.concatenate([[0.0], np.cumsum(steps)])

    counts = [int(((times >= low) & (times <= high)).sum()) for low, high in (idle, busy)]
    if min(counts) < 2:
        return None

    def watts(window: tuple[float, float]) -> float:
        begin, end = max(window[0], times[0]), min(window[1], times[-1])
        joules = np.interp(end, times, total) - np.interp(begin, times, total)
        return float(joules / (end - begin))

    seconds = busy[1] - busy[0]
    idle_w, busy_w = watts(idle), watts(busy)
    return {
        "rail": sensor.rail,
        "chip": sensor.chip,
        "mj_per_run": (busy_w - idle_w) * seconds / n * 1e3,
        "busy_w": busy_w,
        "idle_w": idle_w,
        "hz": counts[1] / seconds,
        "seconds": seconds,
    }


def _missing(root: Path) -> errors.BackendMissing:
    closed = list((root / "sys/class/powercap").glob("intel-rapl*/energy_uj"))
    return errors.BackendMissing(
        "No sensor of power can be read here.",
        next="Let this user read RAPL: sudo chmod a+r /sys/class/powercap/intel-rapl*/energy_uj."
        if closed
        else "Leave out --energy: INA power rails or RAPL tell it, and nothing is estimated.",
    )
