"""Engines built on a device: a real sshd whose Python has numpy and tensorrt_rtx, and no GPU.

tensorrt_rtx builds without a GPU, so all but the inference is proved here.
"""

from __future__ import annotations

import dataclasses
import json
import shlex
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from lepton_edge import errors, remote, sources
from lepton_edge._tensorrt import library
from lepton_edge._tensorrt.plan import Plan
from lepton_edge.artifact import Artifact
from lepton_edge.model import ModelSource
from lepton_edge.preprocess import Preprocess
from lepton_edge.target import Target
from tests.boards import Board
from tests.conftest import DEMO, Done

pytest.importorskip("torch", reason="needs lepton-edge[torch]")
pytest.importorskip("onnxruntime", reason="needs lepton-edge[onnx]")

from lepton_edge.converters import tensorrt as converter

# Without dependencies: those that NVIDIA's packages name do not exist, and numpy has none.
RTX = ("--no-deps", "numpy", *library.INSTALL.split("--no-deps ")[1].split())
CNN = (f"{DEMO / 'cnn.py'}:factory", "--weights", DEMO / "cnn.safetensors")
Python = Callable[..., Path]
Cli = Callable[..., Done]


@pytest.fixture(scope="module")
def interpreter(python: Python) -> Path:
    """JetPack 5's Python, the oldest that a board may have."""
    return python("3.8", *RTX)


def convert(cli: Cli, out: Path, address: str, *more: object, precision: str = "fp16") -> Done:
    return cli(
        "convert", *CNN, "--to", "tensorrt", "--precision", precision, "-o", out, "--on", address,
        "--wait", "--json", *more,
    )  # fmt: skip


def test_an_engine_is_built_there_and_its_artefact_written_here(
    cli: Cli, board: Board, interpreter: Path, images: tuple[Path, Path], tmp_path: Path
) -> None:
    address = board.address(python=interpreter)
    done = convert(
        cli, tmp_path / "out", address, "--no-verify", "--calib", images[0], "--preprocess",
        "scale=1/255 layout=NCHW", "--option", "batch=dynamic", "--option",
        "compute_capability=8.6", precision="int8",
    )  # fmt: skip
    assert done.code == 0, done.err
    artifact = Artifact.load(tmp_path / "out")
    assert sorted(artifact.files) == ["cnn_int8.engine"]
    assert artifact.format == "tensorrt"
    assert artifact.engine is not None
    assert artifact.engine["library"] == "tensorrt_rtx"
    assert artifact.engine["compute_capability"] == "8.6"
    (profile,) = artifact.engine["profiles"].values()
    assert profile == [[1, 1, 28, 28], [8, 1, 28, 28], [32, 1, 28, 28]]
    wrote, version = library.header(artifact.path)
    assert wrote == "tensorrt_rtx"
    assert version == library.number(artifact.engine["version"])[:3]
    # The graph went there under its sha256, and nothing else of it.
    assert [path.name for path in (board.home / "cache").rglob("*.onnx")] == ["cnn_int8.onnx"]

    opened = cli("benchmark", tmp_path / "out", "--device", "cuda", "--wait", "--on", address)
    assert opened.code == 4
    assert "There is no CUDA device here" in opened.err

    # The command in the record builds the same again.
    words = shlex.split(artifact.engine["rebuild"])
    assert words[:2] == ["lepton-edge", "convert"]
    words[words.index("--output") + 1] = str(tmp_path / "again")
    again = cli(*words[1:], "--wait", "--on", address)
    assert again.code == 0, again.err
    other = Artifact.load(tmp_path / "again")
    assert other.preprocess == artifact.preprocess
    assert other.calibration == artifact.calibration
    rebuilds = [dict(each.engine or {}).pop("rebuild") for each in (artifact, other)]
    assert rebuilds[0].replace(str(tmp_path / "out"), str(tmp_path / "again")) == rebuilds[1]


def test_what_was_prepared_for_later_is_built_there(
    cli: Cli, board: Board, interpreter: Path, tmp_path: Path
) -> None:
    model = sources.load(ModelSource(f"{DEMO / 'cnn.py'}:factory", str(DEMO / "cnn.safetensors")))
    (tmp_path / "later").mkdir()
    subject = (model, Target("tensorrt", "fp16"), tmp_path / "later")
    prepared = converter.prepare(*subject, options=converter.Options())
    scale = Preprocess.parse("scale=1/255 layout=NCHW")
    prepared = dataclasses.replace(prepared, preprocess=scale).save()
    common = (
        "convert", prepared.path, "--to", "tensorrt", "-o", tmp_path / "out", "--no-verify", "--on",
        board.address(python=interpreter), "--wait",
    )  # fmt: skip
    wrong = cli(*common, "--precision", "fp32")
    assert wrong.code == 2
    assert "has a build plan, for fp16" in wrong.err
    done = cli(*common, "--precision", "fp16")
    assert done.code == 0, done.err
    artifact = Artifact.load(tmp_path / "out")
    assert sorted(artifact.files) == ["cnn_fp16.engine"]
    assert artifact.preprocess == scale
    assert artifact.signature == prepared.signature
    assert str(prepared.path) in (artifact.engine or {})["rebuild"]


def test_an_engine_from_another_version_is_refused_there_with_the_command(
    cli: Cli, board: Board, interpreter: Path, tmp_path: Path
) -> None:
    address = board.address(python=interpreter)
    assert convert(cli, tmp_path / "out", address, "--no-verify").code == 0
    path = tmp_path / "out" / "artifact.json"
    record = json.loads(path.read_text())
    record["engine"]["version"] = "1.4.0.76"
    path.write_text(json.dumps(record))
    done = cli("benchmark", tmp_path / "out", "--device", "cuda", "--wait", "--on", address)
    assert done.code == 8, done.err
    assert "TensorRT-RTX 1.4.0.76" in done.err
    assert f"--output {tmp_path / 'out'} --no-verify --on" in done.err


def test_without_a_gpu_the_verification_says_so_and_nothing_is_written(
    cli: Cli, board: Board, interpreter: Path, tmp_path: Path
) -> None:
    done = convert(cli, tmp_path / "out", board.address(python=interpreter))
    assert done.code == 4
    assert "There is no CUDA device here" in done.document["error"]["message"]
    assert "--no-verify" in done.document["error"]["next"]
    assert not (tmp_path / "out").exists()


def test_a_plan_for_a_jetson_is_not_built_by_another_library(
    cli: Cli, board: Board, interpreter: Path, tmp_path: Path
) -> None:
    address = board.address(python=interpreter)
    done = convert(cli, tmp_path / "out", address, "--no-verify", "--device", "jetson-orin-nano")
    assert done.code == 4
    assert "TensorRT is not installed" in done.document["error"]["message"]
    assert "JetPack" in done.document["error"]["next"]
    assert not (tmp_path / "out").exists()


def test_what_the_parser_there_refuses_is_named(
    board: Board, interpreter: Path, tmp_path: Path
) -> None:
    (tmp_path / "broken.onnx").write_bytes(b"no graph")
    broken = Artifact(tmp_path, "broken.onnx", "onnx")
    address = board.address(python=interpreter, wait="yes")
    with pytest.raises(errors.BadInput, match=r"broken\.onnx"):
        remote.build(broken, address, "tensorrt", {}, limit_s=60)
    onnx = pytest.importorskip("onnx")
    make = onnx.helper
    value = [make.make_tensor_value_info(name, 1, [1, 3, 3]) for name in "xy"]
    node = make.make_node("Det", ["x"], ["d"], name="the_determinant")
    wide = make.make_node("Unsqueeze", ["d", "axes"], ["y"])
    axes = onnx.numpy_helper.from_array(np.array([1, 2]), "axes")
    graph = make.make_graph([node, wide], "g", value[:1], value[1:], [axes])
    model = make.make_model(graph, opset_imports=[make.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, tmp_path / "det.onnx")
    plan = Plan("fp32").as_dict()
    with pytest.raises(errors.CannotConvert, match=r"'Det' \(the_determinant"):
        remote.build(Artifact(tmp_path, "det.onnx", "onnx"), address, "tensorrt", plan, limit_s=60)


def test_a_plan_that_is_damaged_is_refused_there(
    board: Board, interpreter: Path, tmp_path: Path
) -> None:
    (tmp_path / "x.tflite").write_bytes(b"x")
    address = board.address(python=interpreter, wait="yes")
    subject = Artifact(tmp_path, "x.tflite", "tflite")
    with pytest.raises(errors.BadInput, match="The build plan is damaged"):
        remote.build(subject, address, "tensorrt", {"precision": "fp32"}, limit_s=60)


def test_doctor_tells_what_is_proved_there(cli: Cli, board: Board, interpreter: Path) -> None:
    done = cli("doctor", "tensorrt", "--json", "--wait", "--on", board.address(python=interpreter))
    assert done.code == 0, done.err
    (row,) = done.document["parts"]
    assert row["proof"].startswith("one engine built by tensorrt_rtx ")
    assert "not run: " in row["proof"]
    assert "There is no CUDA device here" in row["proof"]
    assert list(row["versions"]) == ["tensorrt-rtx-cu13-bindings"]


def test_formats_that_run_anywhere_are_not_built_there(
    cli: Cli, board: Board, tmp_path: Path
) -> None:
    done = cli("convert", *CNN, "--to", "onnx", "-o", tmp_path / "out", "--on", board.address())
    assert done.code == 2
    assert "is the same on every machine" in done.err
