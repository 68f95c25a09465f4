"""Profiles: every one of ours reads, and a wrong one is refused in one sentence."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lepton_edge import devices, errors
from lepton_edge.cli import devices as verb

NAMES = {
    "android-arm64",
    "coral-dev-board",
    "coral-m2",
    "coral-usb",
    "intel-n100",
    "jetson-agx-orin",
    "jetson-agx-xavier",
    "jetson-nano",
    "jetson-orin-nano",
    "jetson-orin-nano-super",
    "jetson-orin-nx",
    "jetson-thor",
    "jetson-tx2",
    "jetson-xavier-nx",
    "mcu-tflm",
    "raspberry-pi-4",
    "raspberry-pi-5",
    "x86",
}

GOOD = """
name = "my-board"
title = "A board of mine"
kind = "cpu"
architecture = "aarch64"

[facts]
clock = { value = 1500, unit = "MHz", source = "its data sheet" }
memory = { value = [2, 4], unit = "GB", source = "its data sheet", mark = "memory" }
"""


def write(folder: Path, text: str, name: str = "my-board") -> Path:
    (folder / f"{name}.toml").write_text(text)
    return folder


def test_every_device_of_ours_reads() -> None:
    assert set(devices.names()) == NAMES
    for name in NAMES:
        profile = devices.load(name)
        assert profile.name == name
        assert profile.runtimes
        for fact in profile.facts.known().values():
            assert fact.source
        json.dumps(profile.as_dict(), allow_nan=False)


def test_peaks_are_dense_and_of_the_gpu_alone() -> None:
    peak = devices.load("jetson-orin-nx").facts.peak_int8
    assert peak is not None
    assert peak.value == (30.0, 39.0)  # advertised as 100


def test_a_users_folder_adds_to_ours(tmp_path: Path) -> None:
    folder = write(tmp_path, GOOD)
    assert set(devices.names(folder)) == {*NAMES, "my-board"}
    facts = devices.load("my-board", folder).facts
    assert facts.clock is not None
    assert str(facts.clock) == "1500 MHz"
    assert facts.memory is not None
    assert (facts.memory.value, facts.memory.mark) == ((2.0, 4.0), "memory")


def test_an_unknown_device_gets_the_nearest_name() -> None:
    with pytest.raises(errors.UsageError, match=r"Did you mean 'coral-usb'\?"):
        devices.load("coral-usbb")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (('"MHz"', '"GHz"'), "'clock' is in 'GHz', and takes 'MHz'"),
        (('unit = "MHz", ', ""), "'clock' is in 'no unit', and takes 'MHz'"),
        (("1500", '"1500"'), "takes positive numbers, got '1500'"),
        (("1500", "-1500"), "takes positive numbers, got -1500"),
        (("1500", "nan"), "takes positive numbers, got nan"),
        (("1500", "true"), "takes positive numbers, got True"),
        ((', source = "its data sheet" }', " }"), "Incomplete key of the fact 'clock'"),
        (('mark = "memory"', 'mark = "remembered"'), "Unknown value of mark 'remembered'"),
        (("clock =", "clok ="), "Unknown fact 'clok'. Did you mean 'clock'?"),
        (("[facts]", "[fact]"), "Unknown key 'fact'. Did you mean 'facts'?"),
        (('kind = "cpu"', 'kind = "cpuu"'), "Did you mean 'cpu'?"),
        (('title = "A board of mine"', "title = 7"), "'title' takes text, got 7"),
        (('title = "A board of mine"\n', ""), "missing 1 required positional argument: 'title'"),
        (("[facts]", "[facts"), "is not valid TOML"),
        (("clock = {", "clock = 1500 #"), "'clock' is a bare value"),
        (("[facts]", "facts = 3\n[other]"), "facts must be a table"),
        (("[facts]", "runtimes = 3\n[facts]"), "runtimes must be tables"),
        (
            (
                "[facts]",
                '[[runtimes]]\nname = "r"\nformat = "onnx"\nprecisions = ["int9"]\nsource = "s"\n'
                "[facts]",
            ),
            "Unknown precision 'int9'",
        ),
        (('name = "my-board"', 'name = "board"'), "describes a device named 'board'"),
    ],
)
def test_a_wrong_profile_is_refused(tmp_path: Path, change: tuple[str, str], said: str) -> None:
    folder = write(tmp_path, GOOD.replace(*change))
    with pytest.raises(errors.UsageError) as caught:
        devices.load("my-board", folder)
    assert said in str(caught.value)
    assert "my-board.toml" in str(caught.value)


def test_a_profile_may_not_take_the_name_of_ours(tmp_path: Path) -> None:
    write(tmp_path, GOOD.replace("my-board", "coral-usb"), "coral-usb")
    with pytest.raises(errors.UsageError, match="has the name of a device"):
        devices.names(tmp_path)


def test_a_folder_without_profiles_is_refused(tmp_path: Path) -> None:
    with pytest.raises(errors.UsageError, match="no device profile"):
        devices.names(tmp_path)


def test_placement_is_not_invented_for_other_devices(tmp_path: Path) -> None:
    with pytest.raises(errors.UsageError, match="no rules for the operators of jetson-nano"):
        devices.placement(tmp_path / "m.tflite", devices.load("jetson-nano"))


def test_the_list_and_one_device_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert verb.command(json=True) == 0
    assert {row["name"] for row in json.loads(capsys.readouterr().out)["devices"]} == NAMES
    assert verb.command("jetson-nano", json=True) == 0
    device = json.loads(capsys.readouterr().out)["device"]
    assert device["facts"]["memory_bandwidth"]["value"] == 25.6
    assert device["facts"]["peak_fp32"]["mark"] == "memory"


def test_one_device_as_text_cites_its_sources(capsys: pytest.CaptureFixture[str]) -> None:
    assert verb.command("jetson-nano") == 0
    shown = capsys.readouterr().out
    assert "peak fp16         0.472 TFLOPS [2, from memory]" in shown
    assert "[1] docs.ultralytics.com" in shown
    assert verb.command() == 0
    assert "raspberry-pi-5" in capsys.readouterr().out
