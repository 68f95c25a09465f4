"""What is wrong with a device is one sentence and its exit code; what was there before stays."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from lepton_edge import jobs
from tests.conftest import MODEL, Done
from tests.e2e.test_bad_input import place, refused, untouched

__all__ = ["place"]  # a fixture of the tests of bad input

Cli = Callable[..., Done]
PROBE = Path(jobs.__file__).parent / "probe.tflite"
PROFILE = """
name = "my-board"
title = "A board of mine"
kind = "cpu"
architecture = "aarch64"
[facts]
clock = { value = 1500, unit = "MHz", source = "its data sheet" }
"""


@pytest.mark.parametrize(
    "words",
    [
        ("devices", "coral-usd"),
        ("devices", "predict", PROBE, "--device", "coral-usd"),
        ("inspect", PROBE, "--device", "coral-usd"),
        ("inspect", *MODEL, "--device", "coral-usd"),
        ("doctor", "coral-usd"),
    ],
    ids=lambda words: " ".join(map(str, words[:2])),
)
def test_an_unknown_device_gets_the_nearest_name(cli: Cli, words: tuple[object, ...]) -> None:
    refused(cli(*words), 2, "coral-usd", "Did you mean 'coral-usb'?")


@pytest.mark.parametrize("to", ["onnx", "tflite", "openvino", "tensorrt"])
@pytest.mark.parametrize("dry", [(), ("--dry-run",)])
def test_nothing_is_converted_for_an_unknown_device(
    cli: Cli, place: Path, to: str, dry: tuple[str, ...]
) -> None:
    done = cli("convert", *MODEL, "--to", to, "--device", "coral-usd", "-o", place, *dry)
    refused(done, 2, "Unknown device 'coral-usd'. Did you mean 'coral-usb'?")
    untouched(place)


@pytest.mark.parametrize("target", [("onnx", "int8"), ("tflite", "fp32")])
def test_an_accelerator_is_given_what_it_takes(
    cli: Cli, place: Path, target: tuple[str, str]
) -> None:
    words = ("--to", target[0], "--precision", target[1], "--device", "coral-usb", "-o", place)
    refused(cli("convert", *MODEL, *words), 2, f"takes tflite int8, not {' '.join(target)}")
    untouched(place)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (('"MHz"', '"GHz"'), "'clock' is in 'GHz', and takes 'MHz'"),
        (("1500", '"fast"'), "takes positive numbers, got 'fast'"),
        (('"cpu"', "7"), "value of kind '7'"),
    ],
)
@pytest.mark.parametrize(
    "words",
    [("devices",), ("doctor", "my-board"), ("inspect", PROBE, "--device", "my-board")],
    ids=lambda words: str(words[0]),
)
def test_a_profile_with_a_wrong_unit_or_type(
    cli: Cli, tmp_path: Path, words: tuple[object, ...], change: tuple[str, str], says: str
) -> None:
    (tmp_path / "my-board.toml").write_text(PROFILE.replace(*change))
    refused(cli(*words, "--devices-folder", tmp_path), 2, "my-board.toml", says)


def test_a_profile_without_a_runtime_has_nothing_to_prove(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "my-board.toml").write_text(PROFILE)
    done = cli("doctor", "my-board", "--devices-folder", tmp_path)
    refused(done, 2, "names no runtime", "[[runtimes]]")


def test_a_device_that_a_runtime_does_not_have(cli: Cli) -> None:
    done = cli("benchmark", PROBE, "--device", "coral-usb")
    refused(done, 2, "not on 'coral-usb'", "edgetpu", "--on")


def test_a_delegate_that_crashes(cli: Cli, tmp_path: Path) -> None:
    pytest.importorskip("ai_edge_litert", reason="needs lepton-edge[tflite]")
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler here")
    code = "#include <stdlib.h>\n__attribute__((constructor)) void start(void) { abort(); }\n"
    (tmp_path / "crash.c").write_text(code)
    library, model = tmp_path / "libcrash.so", tmp_path / "m_edgetpu.tflite"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, tmp_path / "crash.c"], check=True)
    model.write_bytes(PROBE.read_bytes() + b"edgetpu-custom-op")  # the compiler's mark
    done = cli("benchmark", model, "--device", "edgetpu", "--option", f"delegate={library}")
    refused(done, 4, "crashes with", "SIGABRT")


def test_a_report_of_a_device_that_is_not_there_leaves_the_last_one(
    cli: Cli, place: Path, tmp_path: Path
) -> None:
    data = tmp_path / "data.npz"
    np.savez(data, x=np.zeros((8, 4), np.float32), label=np.arange(8) % 4)
    on = "ssh://nobody@127.0.0.1:1"
    refused(cli("report", PROBE, "--data", data, "-o", place, "--on", on), 4, "nothing listens")
    untouched(place)
