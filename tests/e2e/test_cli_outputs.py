"""A model with several outputs on the command line: which of them the metric scores."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import Done

Cli = Callable[..., Done]

# The output `sign` tells the class of a row, `wrong` always tells the other one.
MODEL = """
import torch

class TwoHeads(torch.nn.Module):
    def forward(self, x):
        score = x.sum(1, keepdim=True)
        return {"sign": torch.cat([-score, score], 1), "wrong": torch.cat([score, -score], 1)}

def factory():
    return TwoHeads()

"""


@pytest.fixture
def two_heads(tmp_path: Path) -> tuple[str, Path]:
    pytest.importorskip("torch", reason="pip install 'lepton-edge[torch]'")
    (tmp_path / "model.py").write_text(MODEL)
    x = np.random.default_rng(0).normal(size=(50, 4)).astype(np.float32)
    np.savez(tmp_path / "data.npz", x=x, label=(x.sum(1) > 0).astype(np.int64))
    return f"{tmp_path / 'model.py'}:factory", tmp_path / "data.npz"


def test_evaluate_scores_the_output_that_is_named(cli: Cli, two_heads: tuple[str, Path]) -> None:
    model, data = two_heads
    common = ("evaluate", model, "--input", "x=?x4", "--data", data, "--json")
    for name, hits in (("sign", 1.0), ("wrong", 0.0)):
        done = cli(*common, "--output-name", name)
        assert done.code == 0, done.err
        assert done.document["value"] == hits
    done = cli(*common)
    assert done.code == 2
    assert "--output-name" in done.document["error"]["next"]
    done = cli(*common, "--output-name", "sing")
    assert done.code == 2
    assert "'sign'" in done.document["error"]["next"]


def test_report_scores_the_output_that_is_named(
    cli: Cli, two_heads: tuple[str, Path], tmp_path: Path
) -> None:
    pytest.importorskip("onnxruntime", reason="pip install 'lepton-edge[onnx]'")
    model, data = two_heads
    done = cli("convert", model, "--input", "x=?x4", "--to", "onnx", "-o", tmp_path / "onnx")
    assert done.code == 0, done.err
    done = cli(
        "report", tmp_path / "onnx", "--data", data, "--output-name", "sign",
        "--window", "20,0.1", "-o", tmp_path / "report",
    )  # fmt: skip
    assert done.code == 0, done.err
    (row,) = json.loads((tmp_path / "report" / "report.json").read_text())["rows"]
    assert row["accuracy"]["value"] == 1.0
