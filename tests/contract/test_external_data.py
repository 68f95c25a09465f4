"""An .onnx whose weights lie in a file beside it: counted, checked, and missed by name."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from lepton_edge import errors
from lepton_edge._parts import parts
from lepton_edge.artifact import Artifact, open_artifact
from lepton_edge.inspection import inspect
from lepton_edge.loading import load
from lepton_edge.model import ModelSource
from tests.conftest import Done

onnx = pytest.importorskip("onnx", reason="pip install 'lepton-edge[onnx]'")


def write(path: Path, *, nested: bool = False) -> Path:
    """y = x w, with w in `<path>.data`; nested: with the product inside both branches of an If."""
    from onnx import TensorProto, helper

    weights = np.arange(4096, dtype=np.float32).reshape(64, 64) / 4096
    tensor = onnx.numpy_helper.from_array(weights, "w")
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 64])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 64])
    product = helper.make_node("MatMul", ["x", "w"], ["y"])
    if nested:
        branches = {
            f"{name}_branch": helper.make_graph([product], name, [], [y], [tensor])
            for name in ("then", "else")
        }
        condition = helper.make_node("Constant", [], ["c"], value=onnx.numpy_helper.from_array(
            np.array(True), "c"))  # fmt: skip
        nodes, tensors = [condition, helper.make_node("If", ["c"], ["y"], **branches)], []
    else:
        nodes, tensors = [product], [tensor]
    model = helper.make_model(
        helper.make_graph(nodes, "g", [x], [y], tensors),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=10,
    )
    onnx.save(
        model, path, save_as_external_data=True, location=f"{path.name}.data",
        size_threshold=0, convert_attribute=True,
    )  # fmt: skip
    return path


@pytest.mark.parametrize("nested", [False, True])
def test_external_data_counts_in_size_and_checksum(tmp_path: Path, nested: bool) -> None:
    model = write(tmp_path / "model.onnx", nested=nested)
    data = tmp_path / "model.onnx.data"
    assert parts(model) == [data]
    source, bare = ModelSource(str(model)), open_artifact(model)
    whole = model.stat().st_size + data.stat().st_size
    assert data.stat().st_size >= 64 * 64 * 4
    standing = Artifact(model.parent, model.name, "onnx", model=source)
    assert bare.size_bytes == standing.size_bytes == whole
    before = source.sha256()
    assert bare.sha256 == before
    data.write_bytes(b"\x01" + data.read_bytes()[1:])
    assert source.sha256() != before
    assert bare.sha256 != before


def test_a_model_without_external_data_is_hashed_as_it_was(tmp_path: Path) -> None:
    model = write(tmp_path / "model.onnx")
    whole = tmp_path / "whole.onnx"
    onnx.save(onnx.load(model), whole)
    assert parts(whole) == []
    assert open_artifact(whole).size_bytes == whole.stat().st_size


def test_it_runs_and_is_inspected(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime", reason="pip install 'lepton-edge[onnx]'")
    model = write(tmp_path / "model.onnx")
    with load(model) as session:
        (y,) = session.run(np.ones((1, 64), np.float32)).values()
    assert y[0, 0] == pytest.approx(np.arange(0, 4096, 64).sum() / 4096)
    found = inspect(str(model))
    assert found["size_bytes"] == sum(path.stat().st_size for path in tmp_path.iterdir())


def test_missing_external_data_is_one_sentence(cli: object, tmp_path: Path) -> None:
    model = write(tmp_path / "model.onnx")
    (tmp_path / "model.onnx.data").unlink()
    for arguments in (("inspect", model), ("convert", model, "--to", "openvino", "-o", "out"),
                      ("benchmark", model)):  # fmt: skip
        done = cli(*arguments, cwd=tmp_path)  # type: ignore[operator]
        assert isinstance(done, Done)
        assert done.code == 8, done.err
        assert "Traceback" not in done.err
        last = done.err.strip().splitlines()[-1]
        assert "model.onnx.data" in last
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]


def test_data_outside_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    model = write(tmp_path / "model.onnx")
    content = model.read_bytes().replace(b"model.onnx.data", b"../onnx.datadat")
    (tmp_path / "inner" / "model.onnx").write_bytes(content)
    shutil.copy(tmp_path / "model.onnx.data", tmp_path / "onnx.datadat")
    with pytest.raises(errors.BadInput, match="lies outside its folder"):
        parts(tmp_path / "inner" / "model.onnx")


@pytest.mark.parametrize("keep", [0, 1, 30, 60, -1])
def test_a_cut_file_is_refused_or_read_but_never_worse(tmp_path: Path, keep: int) -> None:
    model = write(tmp_path / "model.onnx")
    model.write_bytes(model.read_bytes()[:keep])
    with pytest.raises(errors.BadInput, match=r"model\.onnx"):
        parts(model)


def test_the_bin_of_an_openvino_network_counts(tmp_path: Path) -> None:
    (tmp_path / "net.xml").write_text("<net/>")
    assert open_artifact(tmp_path / "net.xml").size_bytes == 6
    (tmp_path / "net.bin").write_bytes(bytes(100))
    assert open_artifact(tmp_path / "net.xml").size_bytes == 106
