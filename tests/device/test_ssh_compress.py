"""A pruned model timed before and after on a device, and pruned until it is fast enough there."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("torch_pruning")

from lepton_edge import errors, prune
from tests.boards import Board

NET = """
import torch
from torch import nn

def wide():
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 64, 3, padding=1), nn.ReLU(), nn.Conv2d(64, 64, 3, padding=1), nn.ReLU(),
        nn.Conv2d(64, 64, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(64, 4),
    )
    net.example_inputs = {"image": torch.zeros(1, 3, 48, 48)}
    return net
"""


def test_pruning_for_a_latency_on_a_device(
    board: Board, python: Callable[..., Path], tmp_path: Path
) -> None:
    (tmp_path / "wide.py").write_text(NET)
    source = f"{tmp_path / 'wide.py'}:wide"
    address = board.address(python=python("3.8", "numpy", "onnxruntime"))
    done = prune(
        source, tmp_path / "out", options={"ratio": 0.2, "cost": "latency"}, to=("onnx",),
        window="20,0", on=address,
    )  # fmt: skip
    budget = done.record["latency_budget"]
    assert budget["on"].startswith("ssh://")
    assert "python=" not in budget["on"]  # the address alone names the device
    times = {each["removed"]: each["p50_ms"] for each in budget["trials"]}
    assert times[done.record["ratio"]] <= 0.8 * budget["before_p50_ms"]
    compared = done.latency["onnx"]
    assert len(compared.a_p50_ms) == 5
    assert done.status == ("PASS" if compared.verdict == "faster" else "SLOWER")
    with pytest.raises(errors.UsageError, match="only what was exported"):
        prune(source, tmp_path / "other", options={"ratio": 0.2}, on=address)
