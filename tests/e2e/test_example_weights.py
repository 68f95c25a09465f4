"""The weights that the CIFAR-10 example ships: small, whole, and as good as its README says."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("safetensors")

from lepton_edge import accuracy, inspection, sources
from lepton_edge.conversion import convert
from lepton_edge.model import ModelSource
from lepton_edge.preprocess import Preprocess
from lepton_edge.samples import open_samples

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "cifar10"
TRAINED = EXAMPLE / "trained"
SHIPPED = {
    "teacher": ModelSource(f"{EXAMPLE / 'net.py'}:teacher", str(TRAINED / "teacher.safetensors")),
    "eighth": ModelSource(
        f"{TRAINED / 'eighth' / 'model.py'}:factory",
        str(TRAINED / "eighth" / "eighth.safetensors"),
    ),
}


def told(name: str) -> list[str]:
    """The cells of the README's row of shipped weights: MACs, parameters, bytes, top-1."""
    page = (EXAMPLE / "README.md").read_text()
    (row,) = re.findall(rf"(?m)^\| `trained/{name}.*$", page)
    return [cell.strip() for cell in row.strip("| ").split("|")[1:]]


def test_they_are_under_two_megabytes_in_all() -> None:
    assert sum(path.stat().st_size for path in TRAINED.rglob("*") if path.is_file()) < 2e6


@pytest.mark.parametrize("name", SHIPPED)
def test_they_open_with_the_sizes_that_the_readme_says(name: str) -> None:
    found = inspection.inspect(SHIPPED[name])
    macs, parameters, size, _top1 = told(name)
    assert macs == f"{found['macs']:,}"
    assert parameters == f"{found['parameters']:,}"
    assert size == f"{found['size_bytes']:,}"


def test_the_student_converts_and_agrees_with_itself(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    made = convert(SHIPPED["eighth"], to="onnx", output=tmp_path / "out")
    assert made.parity is not None
    assert made.parity["status"] == "PASS"


@pytest.mark.parametrize("name", SHIPPED)
def test_they_reach_the_accuracy_that_the_readme_says(name: str) -> None:
    folder = os.environ.get("LEPTON_EDGE_TEST_DATA")
    path = Path(folder or "", "cifar10-test.parquet")
    if folder is None or not path.is_file():
        pytest.skip("set LEPTON_EDGE_TEST_DATA to a folder with cifar10-test.parquet")
    text = re.search(r"PRE='([^']*)'", (EXAMPLE / "README.md").read_text())
    assert text is not None
    test = open_samples(path, preprocess=Preprocess.parse(text[1]))
    found = accuracy.evaluate(SHIPPED[name], test)
    assert told(name)[3].startswith(f"{100 * found.value:.2f} %")
    assert sources.load(SHIPPED[name]).framework == "torch"
