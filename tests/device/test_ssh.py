"""An artefact on a device, over a real sshd, by Pythons that have numpy and one runtime only."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from lepton_edge import accuracy, energy, errors, latency, loading, parity
from lepton_edge.artifact import Artifact
from lepton_edge.model import ModelSource, random_feeds
from lepton_edge.samples import open_samples
from tests.boards import Board
from tests.conftest import DEMO, Done
from tests.device.conftest import LITERT

SOURCE = ModelSource(f"{DEMO / 'cnn.py'}:factory", str(DEMO / "cnn.safetensors"))
ENVIRONMENTS = [
    ("tflite", "int8", LITERT),
    ("tflite", "int8", ("3.10", "numpy", "ai-edge-litert")),
    ("tflite", "int8", ("3.11", "numpy==1.26.4", "tflite-runtime==2.14.0")),
    ("tflite", "int8", ("3.8", "numpy", "tflite-runtime==2.14.0")),
    ("onnx", "int8", ("3.8", "numpy", "onnxruntime")),
    ("openvino", "fp32", ("3.8", "numpy", "openvino")),
]
Python = Callable[..., Path]
Convert = Callable[[str, str], Artifact]


@pytest.mark.parametrize(("format", "precision", "packages"), ENVIRONMENTS)
def test_every_supported_python_computes_what_this_one_does(
    board: Board,
    python: Python,
    convert: Convert,
    few_images: Path,
    format: str,
    precision: str,
    packages: tuple,
) -> None:
    artifact = convert(format, precision)
    address = board.address(python=python(*packages), wait="yes")
    images = loading.prepare(open_samples(few_images), artifact)
    here = accuracy.score(artifact, images, threads=1)
    there = accuracy.score(artifact, images, threads=1, on=address)
    assert there.fingerprint == here.fingerprint
    assert (there.predicted == here.predicted).mean() >= 0.99
    noise = np.square(there.class_scores - here.class_scores).sum()
    assert np.square(here.class_scores).sum() > 1000 * noise  # 30 dB: rounding of int8 kernels
    assert there.facts["on"] == f"ssh://{board.user}@127.0.0.1:{board.port}"


def test_the_same_runtime_gives_the_same_bits(
    board: Board, python: Python, convert: Convert, few_images: Path
) -> None:
    artifact = convert("tflite", "int8")
    address = board.address(python=python(*LITERT), wait="yes")
    images = loading.prepare(open_samples(few_images), artifact)
    here = accuracy.score(artifact, images, threads=1)
    there = accuracy.score(artifact, images, threads=1, on=address)
    if here.facts["version"] != there.facts["version"]:
        pytest.skip(f"ai-edge-litert {here.facts['version']} here, {there.facts['version']} there")
    np.testing.assert_array_equal(here.class_scores, there.class_scores)
    assert parity.verify(SOURCE, artifact, data=images, n=32, on=address).status == "PASS"


def test_a_session_there_is_a_session(board: Board, python: Python, convert: Convert) -> None:
    artifact = convert("tflite", "fp32")
    address = board.address(python=python(*LITERT), wait="yes")
    with loading.load(artifact) as here, loading.load(artifact, on=address) as there:
        assert there.signature == here.signature
        for seed in range(3):
            feeds = random_feeds(here.signature.inputs, 1, seed)
            np.testing.assert_allclose(*(one.run(feeds)["output"] for one in (here, there)), 1e-4)
        image = np.full((28, 28), 128, np.uint8)
        assert there.predict(image)["output"].shape == (1, 10)


def test_a_benchmark_there_has_the_devices_own_context(
    cli: Callable[..., Done], board: Board, python: Python, convert: Convert, few_images: Path
) -> None:
    interpreter = python(*LITERT)
    done = cli(
        "benchmark", convert("tflite", "int8").folder, "--window", "150,0.5", "--data", few_images,
        "--json", "--wait", "--on", board.address(python=interpreter),
    )  # fmt: skip
    assert done.code in (0, 6), done.err  # 6: a busy machine is unstable, and it is said
    document = done.document
    assert document["latency"]["n"] >= 150
    assert len(document["latency"]["samples_ms"]) == document["latency"]["n"]
    assert document["facts"]["threads"] == 1
    assert document["facts"]["runtime"] == "tflite"
    device = document["context"]["device"]
    assert device["python"] == str(interpreter)
    assert abs(device["clock_offset_s"]) < 60
    assert "torch" not in document["context"]["versions"]
    assert "ai-edge-litert" in document["context"]["versions"]


def test_nothing_is_sent_twice(board: Board, python: Python, convert: Convert) -> None:
    artifact = convert("tflite", "fp32")
    address = board.address(python=python(*LITERT), wait="yes", folder=board.home / "once")
    times = []
    for _ in range(2):
        with loading.load(artifact, on=address) as session:
            session.run(random_feeds(session.signature.inputs, 1))
        files = [path for path in (board.home / "once").rglob("*") if path.is_file()]
        assert sorted(path.suffix for path in files) == [".pyz", ".tflite"]
        times.append({path: path.stat().st_mtime_ns for path in files})
    assert times[0] == times[1]


def test_compare_holds_the_device_and_resumes_by_pairs(
    board: Board, python: Python, convert: Convert, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The third benchmark is cut off: the pair before it is not measured again."""
    a, b = convert("tflite", "fp32"), convert("tflite", "int8")
    address = board.address(python=python(*LITERT), wait="yes")
    asked: list[Path] = []
    real = latency._measured

    def measured(subject: Artifact, **job: object) -> object:
        asked.append(subject.folder)
        if len(asked) == 3:
            board.kill_connections()
        return real(subject, **job)

    monkeypatch.setattr(latency, "_measured", measured)
    options = {"window": "100,0.2", "warmup_s": 0.2, "threads": 1, "on": address}
    with pytest.raises(errors.DeviceError, match="was lost in the middle"):
        latency.compare(a, b, **options)
    asked.extend([a.folder] * 10)  # no cut this time
    before = len(asked)
    result = latency.compare(a, b, **options)
    assert len(result.a_p50_ms) == 5
    assert len(asked) - before == 8


def test_doctor_proves_what_a_device_has(
    cli: Callable[..., Done], board: Board, python: Python
) -> None:
    address = board.address(python=python("3.8", "numpy", "onnxruntime"))
    done = cli("doctor", "--json", "--wait", "--on", address)
    assert done.code == 0, done.err
    rows = {row["name"]: row for row in done.document["parts"]}
    assert rows["onnx"]["works"]
    assert "one inference right" in rows["onnx"]["proof"]
    assert not rows["tflite"]["works"]
    assert "pip install tflite-runtime 'numpy<2'" in rows["tflite"]["next"]
    assert done.document["python"].startswith("3.8.")
    missing = cli("doctor", "tflite", "--wait", "--on", address)
    assert missing.code == 4
    assert cli("doctor", "torch", "--on", address).code == 2


def test_doctor_asks_a_board_for_its_edge_tpu(
    cli: Callable[..., Done], board: Board, python: Python
) -> None:
    """The interpreter is proved; libedgetpu, which no board here has, is what is missing."""
    address = board.address(python=python("3.11", "numpy", "ai-edge-litert"))
    done = cli("doctor", "coral-dev-board", "--json", "--wait", "--on", address)
    assert done.code == 4, done.err
    rows = {row["name"]: row for row in done.document["parts"]}
    assert list(rows) == ["tflite", "edgetpu"]
    assert rows["tflite"]["works"]
    assert "libedgetpu.so.1 is not installed" in rows["edgetpu"]["reason"]
    assert "libedgetpu1-std" in rows["edgetpu"]["next"]


def test_a_report_of_a_device(
    cli: Callable[..., Done],
    board: Board,
    python: Python,
    convert: Convert,
    few_images: Path,
    tmp_path: Path,
) -> None:
    interpreter = python(*LITERT)
    done = cli(
        "report", convert("tflite", "int8").folder, "--data", few_images, "-o", tmp_path / "report",
        "--baseline", convert("onnx", "int8").folder, "--window", "100,0.2", "--json", "--wait",
        "--on", board.address(python=interpreter),
    )  # fmt: skip
    assert done.code == 0, done.err
    report = done.document["report"]
    baseline, row = report["rows"]
    assert baseline["latency"] is None  # of another machine
    assert row["latency"]["n"] >= 100
    assert row["accuracy"]["drop"] is not None
    assert report["context"]["device"]["python"] == str(interpreter)


def test_energy_where_no_rail_can_be_read(
    cli: Callable[..., Done], board: Board, python: Python, convert: Convert
) -> None:
    if energy.sensors():
        pytest.skip("this machine has power rails")
    done = cli(
        "benchmark", convert("tflite", "int8").folder, "--window", "100,0.1", "--energy", "--wait",
        "--on", board.address(python=python("3.8", "numpy", "tflite-runtime==2.14.0")),
    )  # fmt: skip
    assert done.code == 4, done.err
    assert f"On 'ssh://{board.user}@" in done.err
    assert "No sensor of power can be read here" in done.err
