"""An artefact's record survives a round trip, and nothing that differs from it is opened."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from lepton_edge import errors
from lepton_edge.artifact import Artifact, Binding, open_artifact, replacing
from lepton_edge.model import ModelSource, Signature, TensorSpec
from lepton_edge.preprocess import Preprocess

SIGNATURE = Signature(
    (TensorSpec("image", (None, 1, 28, 28), "float32"),),
    (TensorSpec("logits", (1, 10), "float32"),),
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "made"
    folder.mkdir()
    (folder / "m_fp32.onnx").write_bytes(b"content")
    Artifact(
        folder=folder,
        file="m_fp32.onnx",
        format="onnx",
        signature=SIGNATURE,
        inputs=(Binding("image", "x", (0, 2, 3, 1)),),
        outputs=(Binding("logits", "y"),),
        preprocess=Preprocess(scale=1 / 255, mean=(0.5,), layout="NCHW"),
        classes=("a", "b"),
        steps=({"step": "export", "opset": 17},),
    ).save()
    return folder


def test_round_trip(folder: Path) -> None:
    artifact = open_artifact(folder)
    assert artifact.signature == SIGNATURE
    assert artifact.inputs == (Binding("image", "x", (0, 2, 3, 1)),)
    assert artifact.preprocess == Preprocess(scale=1 / 255, mean=(0.5,), layout="NCHW")
    assert artifact.steps[0]["opset"] == 17
    assert open_artifact(folder / "m_fp32.onnx").files == artifact.files
    assert artifact.describe()["size_bytes"] == len(b"content")


def test_a_changed_file_is_refused(folder: Path) -> None:
    (folder / "m_fp32.onnx").write_bytes(b"contenT")
    with pytest.raises(errors.BadInput, match="sha256 differs"):
        open_artifact(folder)


@pytest.mark.parametrize(
    "change",
    [
        {"files": {"../outside": "0" * 64}},
        {"files": {}},
        {"schema": 99},
        {"signature": {"inputs": 3}},
        {"preprocess": {"scale": "wide"}},
    ],
)
def test_a_tampered_record_is_refused(folder: Path, change: dict[str, object]) -> None:
    path = folder / "artifact.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(errors.EdgeError):
        open_artifact(folder)


def test_a_record_that_is_no_json_is_refused(folder: Path) -> None:
    (folder / "artifact.json").write_text("{")
    with pytest.raises(errors.BadInput, match="damaged"):
        open_artifact(folder)


def test_what_is_no_artefact_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(errors.BadInput, match="is not an artefact"):
        open_artifact(tmp_path / "notes.txt")
    with pytest.raises(errors.BadInput, match="no file"):
        open_artifact(tmp_path / "absent.onnx")


def test_replacing_keeps_what_was_there_when_the_block_fails(tmp_path: Path) -> None:
    kept = tmp_path / "kept.txt"
    kept.write_text("before")
    with pytest.raises(RuntimeError), replacing(kept) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert kept.read_text() == "before"
    assert os.listdir(tmp_path) == ["kept.txt"]


def test_replacing_a_folder(tmp_path: Path) -> None:
    place = tmp_path / "place"
    for text in ("one", "two"):
        with replacing(place) as temporary:
            temporary.mkdir()
            (temporary / "file").write_text(text)
    assert (place / "file").read_text() == "two"
    assert os.listdir(tmp_path) == ["place"]


def test_a_place_that_cannot_be_written_is_a_usage_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with (
        pytest.raises(errors.UsageError, match="Cannot write"),
        replacing(tmp_path / "file" / "below") as temporary,
    ):
        temporary.write_text("never")


def test_a_place_whose_folders_cannot_be_made_is_a_usage_error() -> None:
    """In /proc no folder can be made, not even by root; the error names an ancestor there."""
    place = Path("/proc/no/such/place")
    if not Path("/proc/self").exists():
        pytest.skip("needs Linux's /proc")
    with (
        pytest.raises(errors.UsageError, match="Cannot write '/proc/no/such/place'"),
        replacing(place) as temporary,
    ):
        temporary.write_text("never")


def test_folders_made_on_the_way_go_when_the_block_fails(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), replacing(tmp_path / "a" / "b" / "c") as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert os.listdir(tmp_path) == []
    with replacing(tmp_path / "a" / "b" / "c") as temporary:
        temporary.write_text("whole")
    assert (tmp_path / "a" / "b" / "c").read_text() == "whole"


@pytest.mark.parametrize("text", ["x", "x=", "x=1xa", "x=1x0", "=1x2", "x=1:floaty"])
def test_a_malformed_input_is_refused(text: str) -> None:
    with pytest.raises(errors.UsageError, match="Write it as"):
        TensorSpec.parse(text)


def test_an_input_is_read() -> None:
    assert TensorSpec.parse("ids=?x16:int64") == TensorSpec("ids", (None, 16), "int64")


def test_a_source_hashes_its_weights_too(tmp_path: Path) -> None:
    code, weights = tmp_path / "m.py", tmp_path / "w.safetensors"
    code.write_text("a")
    weights.write_bytes(b"1")
    source = ModelSource(f"{code}:factory", str(weights))
    before = source.sha256()
    weights.write_bytes(b"2")
    assert source.sha256() != before
    assert source.stem == "w"
    assert ModelSource(f"{code}:factory").stem == "factory"


def test_importing_the_package_loads_no_framework() -> None:
    code = (
        "import sys, lepton_edge; from lepton_edge import *; import lepton_edge.cli as c; c._app();"
        "bad = {'torch', 'tensorflow', 'keras', 'jax', 'onnx'} & set(sys.modules);"
        "sys.exit(f'imported {bad}' if bad else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
