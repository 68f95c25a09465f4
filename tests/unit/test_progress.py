"""Progress of a training in another process, as its user sees it on stderr."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lepton_edge._progress import followed


def line(step: int) -> str:
    values = {"step": step, "steps": 40, "loss": 0.5, "accuracy": 0.25, "steps_per_s": 4.0}
    return json.dumps(values) + "\n"


def test_a_training_shorter_than_the_wait_between_looks_is_shown(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "work").mkdir()
    with followed(tmp_path, "progress.jsonl"):
        (tmp_path / "work" / "progress.jsonl").write_text(line(20) + line(40))
    assert capfd.readouterr().err == "step 40 of 40, loss 0.5000, accuracy 25.0 %, 0 s left\n"


def test_what_an_earlier_run_wrote_is_not_shown_and_half_a_line_is_waited_for(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "progress.jsonl"
    path.write_text(line(10))
    with followed(tmp_path, "progress.jsonl"):
        pass
    assert capfd.readouterr().err == ""
    with followed(tmp_path, "progress.jsonl"), path.open("a") as file:
        file.write(line(20) + line(40)[:15])
    assert capfd.readouterr().err == "step 20 of 40, loss 0.5000, accuracy 25.0 %, 5 s left\n"
