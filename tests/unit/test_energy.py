"""Energy from power rails, in files laid out as the kernel's documents have them."""

from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np
import pytest

from lepton_edge import energy, errors, loading, timing
from lepton_edge.energy import Sensor
from lepton_edge.measurement import Energy
from lepton_edge.model import Signature, TensorSpec
from lepton_edge.runtimes import null

INA3221 = "sys/class/hwmon/hwmon3"
RAPL = "sys/class/powercap/intel-rapl:0"
OLD = "sys/bus/i2c/drivers/ina3221x/6-0040/iio:device0"


def tree(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


# Jetson Orin: an INA3221 of which two channels are used, in millivolts and milliamperes.
ORIN = {
    f"{INA3221}/name": "ina3221\n",
    f"{INA3221}/in1_label": "VDD_IN\n",
    f"{INA3221}/in1_input": "5000\n",
    f"{INA3221}/curr1_input": "1200\n",
    f"{INA3221}/in2_label": "VDD_CPU_GPU_CV\n",
    f"{INA3221}/in2_input": "5000\n",
    f"{INA3221}/curr2_input": "400\n",
    f"{INA3221}/in3_label": "NC\n",
    f"{INA3221}/in3_enable": "0\n",
    f"{INA3221}/in3_input": "0\n",
    f"{INA3221}/curr3_input": "0\n",
    f"{INA3221}/in7_label": "sum of shunt voltages\n",
    "sys/class/hwmon/hwmon0/name": "thermal_fan\n",
}


def test_the_rails_of_a_jetson(tmp_path: Path) -> None:
    found = energy.sensors(tree(tmp_path, ORIN))
    assert [(each.rail, each.chip) for each in found] == [
        ("VDD_IN", "ina3221"),
        ("VDD_CPU_GPU_CV", "ina3221"),
    ]


def test_the_rails_of_jetpack_4_and_of_a_chip_that_multiplies(tmp_path: Path) -> None:
    files = {
        f"{OLD}/rail_name_0": "POM_5V_IN\n",
        f"{OLD}/in_power0_input": "2500\n",  # in milliwatts
        "sys/class/hwmon/hwmon1/name": "ina226\n",
        "sys/class/hwmon/hwmon1/power1_input": "3000000\n",  # in microwatts
    }
    chip, old = energy.sensors(tree(tmp_path, files))
    assert (old.rail, old.scale) == ("POM_5V_IN", 1e-3)
    assert (chip.rail, chip.chip, chip.scale) == ("hwmon1 channel 1", "ina226", 1e-6)


def test_rapl_and_its_parts(tmp_path: Path) -> None:
    files = {
        f"{RAPL}/name": "package-0\n",
        f"{RAPL}/energy_uj": "5\n",
        f"{RAPL}/max_energy_range_uj": "262143328850\n",
        "sys/class/powercap/intel-rapl:0:0/name": "core\n",
        "sys/class/powercap/intel-rapl:0:0/energy_uj": "5\n",
        "sys/class/powercap/intel-rapl:0:0/max_energy_range_uj": "262143328850\n",
    }
    package, core = energy.sensors(tree(tmp_path, files))
    assert (package.rail, core.rail) == ("package-0", "package-0 core")
    assert package.counts
    assert package.wraps == pytest.approx(262143.32885)


def test_energy_of_a_rail_above_idle() -> None:
    """2 W idle; 5 W while 30 runs took 3 s: 9 J, 300 mJ each."""
    times = np.arange(0, 10, 0.05)
    rail = Sensor("VDD_IN", "ina3221", (), 1e-6)
    values = np.where(times < 5, 2.0, 5.0)
    found = energy.energy_of(rail, times, values, (0.0, 4.0), (6.0, 9.0), 30)
    assert found is not None
    assert (found["rail"], found["chip"], found["seconds"]) == ("VDD_IN", "ina3221", 3.0)
    assert (found["mj_per_run"], found["busy_w"]) == pytest.approx((300.0, 5.0))
    assert (found["idle_w"], found["hz"]) == pytest.approx((2.0, 20.0), rel=0.02)


def test_energy_of_a_counter_that_begins_again() -> None:
    """The same, as joules that are counted up to 12."""
    times = np.arange(0, 10, 0.05)
    joules = np.where(times < 5, 2 * times, 10 + 5 * (times - 5)) % 12.0
    rail = Sensor("package-0", "RAPL", (), 1e-6, counts=True, wraps=12.0)
    found = energy.energy_of(rail, times, joules, (0.0, 4.0), (6.0, 9.0), 30)
    assert found is not None
    assert (found["mj_per_run"], found["idle_w"]) == pytest.approx((300.0, 2.0))


def test_a_rail_that_told_too_little_gives_nothing() -> None:
    rail = Sensor("VDD_IN", "ina3221", (), 1e-6)
    few = np.array([0.0, 1.0, 2.0])
    assert energy.energy_of(rail, few, few, (0.0, 2.0), (2.5, 3.0), 1) is None


def test_a_meter_reads_the_files_meanwhile(tmp_path: Path) -> None:
    """The files say 6 W and 2 W, then 9 W on the first rail: 3 W above idle."""
    root = tree(tmp_path, ORIN)
    meter = energy.Meter(root, idle_s=0.5, hz=50)
    (root / INA3221 / "curr1_input").write_text("1800\n")
    time.sleep(0.2)
    begin = time.monotonic()
    time.sleep(0.6)
    whole, part = meter.stop((begin, time.monotonic()), n=10)
    assert (whole["rail"], part["rail"]) == ("VDD_IN", "VDD_CPU_GPU_CV")
    assert whole["busy_w"] == pytest.approx(9.0)
    assert whole["idle_w"] == pytest.approx(6.0, rel=0.1)  # the change lies between two readings
    above = whole["busy_w"] - whole["idle_w"]
    assert whole["mj_per_run"] == pytest.approx(above * whole["seconds"] / 10 * 1e3)
    assert part["mj_per_run"] == pytest.approx(0.0, abs=1e-9)
    assert meter._reader.poll() is not None
    Energy(**whole)


def test_without_a_sensor_there_is_no_figure(tmp_path: Path) -> None:
    with pytest.raises(errors.BackendMissing, match="No sensor of power") as caught:
        energy.Meter(tmp_path)
    assert "nothing is estimated" in str(caught.value)


def test_rapl_that_only_root_may_read(tmp_path: Path) -> None:
    if os.geteuid() == 0:
        closed = (
            tmp_path / RAPL / "energy_uj"
        )  # a folder of that name cannot be read by root either
        closed.mkdir(parents=True)
    else:
        tree(tmp_path, {f"{RAPL}/energy_uj": "5\n"})
        (tmp_path / RAPL / "energy_uj").chmod(0)
    tree(tmp_path, {f"{RAPL}/name": "package-0", f"{RAPL}/max_energy_range_uj": "10"})
    with pytest.raises(errors.BackendMissing, match="sudo chmod a\\+r"):
        energy.Meter(tmp_path)


def test_a_benchmark_with_and_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tree(tmp_path / "root", ORIN)
    monkeypatch.setattr(energy.Meter.__init__, "__defaults__", (root, 0.2, 50.0))
    spec = TensorSpec("x", (1, 4), "float32")
    artifact = null.write(tmp_path, Signature((spec,), (spec,)))

    def run(with_energy: bool) -> dict:
        return timing.timed(
            lambda: loading.load(artifact),
            lambda _: [{"x": np.zeros((1, 4), np.float32)}],
            runs=20, seconds=0.3, warmup_s=0.1, with_energy=with_energy,
        )[0]  # fmt: skip

    assert [rail["rail"] for rail in run(True)["energy"]] == ["VDD_IN", "VDD_CPU_GPU_CV"]
    assert run(False)["energy"] == []
