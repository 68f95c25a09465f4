"""`convert` end to end, each job in its own process: what is written, and what never is."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from lepton_edge import errors, sources, study
from lepton_edge.artifact import open_artifact
from lepton_edge.conversion import convert
from lepton_edge.model import ModelSource
from lepton_edge.parity import verify

pytest.importorskip("torch", reason="needs lepton-edge[torch]")
pytest.importorskip("onnxruntime", reason="needs lepton-edge[onnx]")

ZOO = Path(__file__).parents[1] / "zoo.py"
WRONG = '''
import torch


class Branch(torch.nn.Module):
    """A trace keeps the side of its example: the export is wrong for negative inputs."""

    def forward(self, x):
        if x.sum() > 0:
            return x * 2
        return x - 10


def factory():
    module = Branch()
    module.example_inputs = {"x": torch.ones(1, 8)}
    return module
'''


@pytest.fixture
def data(tmp_path: Path) -> dict[str, str]:
    """Calibration and evaluation inputs for the zoo's plain CNN; and one of each shared."""
    rng = np.random.default_rng(0)
    paths = {}
    for name in ("calib", "data"):
        paths[name] = str(tmp_path / f"{name}.npz")
        np.savez(paths[name], image=rng.standard_normal((24, 3, 32, 32)).astype(np.float32))
    return paths


def test_without_data_int8_is_verified_on_calibration_samples(
    data: dict[str, str], tmp_path: Path
) -> None:
    """Inputs much smaller than the seeded noise: ranges calibrated for them clip the noise."""
    with np.load(data["calib"]) as given:
        np.savez(data["calib"], image=0.02 * given["image"])
    source, place = ModelSource(f"{ZOO}:plain_cnn"), tmp_path / "out"
    artifact = convert(source, to="onnx", precision="int8", output=place, calib=data["calib"])
    assert artifact.parity is not None
    assert artifact.parity["status"] == "PASS"
    assert artifact.parity["inputs"] == f"calibration samples of {data['calib']}, n=24"
    noise = verify(source, place)
    assert noise.inputs == "example inputs (seeded random), n=64"
    assert noise.status == "FAIL(parity)"


def test_int8_from_data_to_a_verified_artefact(data: dict[str, str], tmp_path: Path) -> None:
    source = ModelSource(f"{ZOO}:plain_cnn")
    artifact = convert(
        source, to="onnx", precision="int8", output=tmp_path / "out", classes=tuple("abcdefghij"),
        **data,
    )  # fmt: skip
    assert open_artifact(tmp_path / "out") == artifact
    assert {path.name for path in artifact.folder.iterdir()} == {
        "plain_cnn_int8.onnx",
        "artifact.json",
    }
    assert artifact.parity is not None
    assert artifact.parity["status"] == "PASS"
    assert artifact.parity["inputs"] == f"{data['data']}, n=24"
    assert artifact.calibration is not None
    assert artifact.calibration["n"] == 24
    assert artifact.source["framework"] == "torch"
    assert artifact.source["sha256"] == source.sha256()
    assert [step["step"] for step in artifact.steps] == ["export", "clean", "int8"]
    assert {"torch", "onnx", "onnxruntime", "lepton-edge"} <= set(artifact.versions)
    again = convert(source, to="onnx", precision="int8", output=tmp_path / "again", **data)
    assert again.files == artifact.files  # the same inputs give the same bytes
    # An artefact may be replaced, whole.
    replaced = convert(source, to="onnx", output=tmp_path / "out")
    assert set(replaced.files) == {"plain_cnn_fp32.onnx"}
    assert replaced.parity is not None
    assert replaced.parity["inputs"].startswith("example inputs (seeded random)")


def test_a_wrong_export_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "wrong.py").write_text(WRONG)
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "data.npz", x=-rng.random((16, 8)).astype(np.float32))
    before = sorted(tmp_path.iterdir())
    with pytest.raises(errors.GateFailed, match=r"max abs is \S+ of the range, above 0.0001") as it:
        convert(
            f"{tmp_path / 'wrong.py'}:factory",
            to="onnx",
            output=tmp_path / "out",
            data=tmp_path / "data.npz",
        )
    assert it.value.exit_code == 3
    assert [path for path in sorted(tmp_path.iterdir()) if path.name != "__pycache__"] == before


def test_only_an_artefact_is_replaced(tmp_path: Path) -> None:
    source = f"{ZOO}:plain_cnn"
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "thesis.txt").write_text("years of work")
    with pytest.raises(errors.UsageError, match=r"thesis\.txt"):
        convert(source, to="onnx", output=folder)
    (folder / "artifact.json").write_text(json.dumps({"files": {}}))
    with pytest.raises(errors.UsageError, match=r"thesis\.txt"):
        convert(source, to="onnx", output=folder)
    with pytest.raises(errors.UsageError, match="is no folder"):
        convert(source, to="onnx", output=folder / "thesis.txt")
    with pytest.raises(errors.UsageError, match="holds the source itself"):
        convert(source, to="onnx", output=ZOO.parent)
    assert (folder / "thesis.txt").read_text() == "years of work"
    assert not list(tmp_path.glob(".*"))


def test_shared_samples_are_refused_by_content(data: dict[str, str], tmp_path: Path) -> None:
    with np.load(data["calib"]) as calib, np.load(data["data"]) as other:
        mixed = np.concatenate([other["image"], calib["image"][3:5]])
    np.savez(tmp_path / "mixed.npz", image=mixed)
    with pytest.raises(errors.UsageError, match="share 2 samples"):
        convert(
            f"{ZOO}:plain_cnn",
            to="onnx",
            precision="int8",
            output=tmp_path / "out",
            calib=data["calib"],
            data=tmp_path / "mixed.npz",
        )
    assert not (tmp_path / "out").exists()


def test_requests_are_refused_before_any_work(tmp_path: Path) -> None:
    source, output = f"{ZOO}:plain_cnn", tmp_path / "out"
    with pytest.raises(errors.UsageError, match="Did you mean 'onnx'"):
        convert(source, to="onxx", output=output)
    with pytest.raises(errors.UsageError, match="Did you mean 'simplify'"):
        convert(source, to="onnx", output=output, options={"simplfy": "none"})
    with pytest.raises(errors.CannotConvert, match="bf16"):
        convert(source, to="onnx", precision="bf16", output=output)
    with pytest.raises(errors.UsageError, match="is the same on every machine"):
        convert(source, to="onnx", output=output, on="ssh://board")
    with pytest.raises(errors.UsageError, match="needs real inputs"):
        convert(source, to="onnx", precision="int8", output=output)
    with pytest.raises(errors.UsageError, match="Cannot write"):
        convert(source, to="onnx", output="/proc/place")
    assert not list(tmp_path.iterdir())


def test_ctrl_c_leaves_what_stood_there(tmp_path: Path) -> None:
    source = f"{ZOO}:plain_cnn"
    old = convert(source, to="onnx", output=tmp_path / "out")
    code = f"from lepton_edge import convert; convert({source!r}, to='onnx', output='out')"
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        stderr=subprocess.DEVNULL,
        # A shell starts background jobs, such as this test run may be, deaf to Ctrl-C.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob(".out.*")) and time.monotonic() < deadline:
        time.sleep(0.02)
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    assert process.wait(60) != 0
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert open_artifact(tmp_path / "out") == old


@pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="needs a tmpfs to fill")
def test_a_full_disk_is_said_and_leaves_nothing(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", str(disk)], capture_output=True
    )
    if mounted.returncode:
        pytest.skip("needs the right to mount a small tmpfs")
    try:
        with pytest.raises(errors.UsageError, match=r"full|No space"):
            convert(f"{ZOO}:plain_cnn", to="onnx", output=disk / "out")
        assert os.listdir(disk) == []
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_where_a_runtime_computes_is_no_device_to_convert_for(tmp_path: Path) -> None:
    """A recipe's target may name `gpu`, which no profile has; int8 is then for this CPU."""
    source, places = (
        ModelSource(f"{ZOO}:plain_cnn"),
        [tmp_path / "calib.npz", tmp_path / "data.npz"],
    )
    feeds = sources.load(source).example(80)
    for place, rows in zip(places, (slice(40), slice(40, None)), strict=True):
        np.savez(place, **{name: array[rows] for name, array in feeds.items()})
    case = study.Case("int8", source, "torch", "onnx", "int8", device="cuda")
    calib, data = map(str, places)
    (made,) = study.convert_all([case], tmp_path / "out", calib=calib, data=data, say=print)
    assert made.error is None, str(made.error)
    assert made.device == "cuda"
