"""The short form of benchmarks/quantisation.py, run for real: trained, quantised, tabled."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from lepton_edge.errors import GateFailed

pytest.importorskip("torch")
pytest.importorskip("onnxruntime.quantization")

ROOT = Path(__file__).resolve().parents[2]


def run(folder: Path, *arguments: str) -> tuple[int, str, str]:
    done = subprocess.run(
        [sys.executable, str(ROOT / "benchmarks" / "quantisation.py"), "--quick",
         "--folder", str(folder / "kept"), *arguments],
        capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    return done.returncode, done.stdout, done.stderr


def test_the_short_form_trains_quantises_and_writes_its_part_of_the_page(
    tmp_path: Path, images: tuple[Path, Path]
) -> None:
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- benchmark: zoo -->\nold\n<!-- /benchmark: zoo -->\nafter\n")
    code, out, err = run(
        tmp_path, "--section", "zoo", "--subjects", "demo", "gru",
        "--backends", "onnx", "tensorrt", "--contenders", "lepton-edge", "TensorRT",
        "-o", str(page),
    )  # fmt: skip
    assert code == 0, err
    assert out == ""
    text = page.read_text()
    assert text.startswith("before\n<!-- benchmark: zoo -->\n`python benchmarks/quantisation.py")
    assert text.endswith("<!-- /benchmark: zoo -->\nafter\n")
    assert "old" not in text
    assert str(tmp_path) not in text
    # Two networks; ours in two dialects, and the library in one of them.
    assert text.count("\n| Fashion-MNIST") == 6
    rows = json.loads((tmp_path / "kept" / "results.json").read_text())["zoo"]["rows"]
    ours = [row for row in rows if row["contender"] == "lepton-edge"]
    assert {row["n"] for row in rows} == {300}
    demo, gru = ours[0], ours[2]
    # The demo's CNN is well trained, so that its float accuracy and SQNR are known to be high.
    assert demo["float_accuracy"] > 0.9
    assert demo["sqnr_db"] > 35
    assert demo["drop_pt"] < 1
    # Two passes over 2,000 images: the network has learned something, and was trained here.
    assert gru["float_accuracy"] > 0.2
    assert (tmp_path / "kept" / "quick" / "gru.safetensors").exists()


def test_what_cannot_run_is_said(tmp_path: Path) -> None:
    code, out, _ = run(tmp_path, "--section", "w4a8", "--json")
    assert code == 0
    (row,) = json.loads(out)["w4a8"]["rows"]
    assert row["skipped"].startswith("CIFAR-10 is not there.")

    page = tmp_path / "page.md"
    page.write_text("no markers\n")
    code, _, err = run(tmp_path, "--section", "w4a8", "-o", str(page))
    assert code == 2
    assert "has no place for the section w4a8" in err
    assert page.read_text() == "no markers\n"


def test_a_failed_contender_is_a_row_and_an_exit_code(
    tmp_path: Path, images: tuple[Path, Path]
) -> None:
    kept = tmp_path / "kept" / "quick" / "gru"
    kept.mkdir(parents=True)
    (kept.parent / "gru.safetensors").write_bytes(b"not weights")
    code, out, _ = run(tmp_path, "--section", "zoo", "--subjects", "gru", "--backends", "tensorrt",
                       "--json")  # fmt: skip
    assert code == GateFailed.exit_code
    rows = json.loads(out)["zoo"]["rows"]
    assert len(rows) == 2
    assert all(row["failed"].startswith("BadInput: ") for row in rows)
