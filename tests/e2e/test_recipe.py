"""`run`: a recipe from its passes to its report, resumed after kill -9, and what is wrong."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("torch_pruning")
pytest.importorskip("accelerate")
pytest.importorskip("bokeh")

from lepton_edge import cli as main
from lepton_edge.model import file_sha256
from tests import compress_nets
from tests.conftest import Done

Cli = Callable[..., Done]
NETS = Path(compress_nets.__file__)
HEAD = f"""
[model]
path = "{NETS}:cnn"

[data]
train = "train.npz"
data = "test.npz"
"""
PRUNE = """
[[passes]]
kind = "prune"
ratio = 0.5
round_to = 4
training = {epochs = 3, batch = 32, lr = 0.05, checkpoint_steps = 2}
"""
JETSON = 'device = "jetson-nano"\ndevice_precision = "fp16"\n'
INT8 = """
[[passes]]
kind = "finetune"
precision = "int8"
training = {steps = 4}
"""
TARGETS = """
[[targets]]
to = "onnx"

[goals]
window = "5,0"
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("recipe")
    compress_nets.samples(found / "train.npz", 256)
    compress_nets.samples(found / "calib.npz", 64, seed=3)
    compress_nets.samples(found / "test.npz", 200, seed=1)
    return found


def written(folder: Path, text: str, name: str = "recipe.toml") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def test_a_recipe_runs_its_passes_and_reports_its_targets(cli: Cli, folder: Path) -> None:
    recipe = written(folder, HEAD + PRUNE + JETSON + INT8 + TARGETS)
    planned = cli("run", recipe, "-o", folder / "whole", "--dry-run")
    assert planned.code == 0, planned.err
    assert "pass 1: prune" in planned.out
    assert "train.npz, 256 samples" in planned.out
    assert not (folder / "whole").exists()

    done = cli("run", recipe, "-o", folder / "whole", "--json")
    document = done.document
    # 3: on a busy machine a net of this size need not be faster; its accuracy was no goal.
    assert done.code == document["exit_code"] == (0 if document["status"] == "PASS" else 3), (
        done.err
    )
    pruned, trained = document["passes"]
    assert pruned["after"]["macs"] <= 0.51 * pruned["before"]["macs"]
    assert set(pruned["latency"]) == {"onnx"}
    assert pruned["accuracy"]["drop_interval"] is not None
    before, after = (pruned["estimate"][side] for side in ("before", "after"))
    assert after["device"] == "jetson-nano"
    assert after["latency_ms"] < before["latency_ms"]
    assert trained["pass"]["equal"]["weights"] > 0
    assert set(trained["latency"]) == {"onnx"}
    report = json.loads(Path(document["reports"]["json"]).read_text())
    rows = {row["name"]: row for row in report["rows"]}
    assert list(rows) == ["original torch", "original onnx fp32", "onnx fp32", "trained onnx int8"]
    assert rows["original torch"]["is_baseline"]
    assert rows["trained onnx int8"]["accuracy"]["drop"] is not None
    assert rows["onnx fp32"]["latency"]["p50_ms"] > 0
    assert any("prune: parameters x" in note for note in report["notes"])

    # What is finished is not done again: as if the run had been killed while it converted.
    whole = folder / "whole"
    kept = [
        whole / "passes" / "1-prune" / "1-prune.safetensors",
        whole / "passes" / "2-finetune.json",
    ]
    times = [path.stat().st_mtime_ns for path in kept]
    (whole / "targets" / "onnx-fp32" / "artifact.json").unlink()
    resumed = cli("run", recipe, "-o", whole, "--resume", "--json")
    assert resumed.code in (0, 3), resumed.err
    assert resumed.document["passes"] == document["passes"]
    assert [path.stat().st_mtime_ns for path in kept] == times

    again = cli("run", recipe, "-o", folder / "whole")
    assert again.code == 2
    assert "--resume" in again.err
    other = written(folder, HEAD + PRUNE + TARGETS, "other.toml")
    wrong = cli("run", other, "-o", folder / "whole", "--resume")
    assert wrong.code == 2
    assert "another recipe" in wrong.err


def test_a_run_killed_goes_on_to_the_same_weights(cli: Cli, folder: Path) -> None:
    longer = PRUNE.replace("epochs = 3", "epochs = 40")
    recipe = written(folder, HEAD + longer, "long.toml")
    whole = cli("run", recipe, "-o", folder / "uncut", "--json")
    assert whole.code in (0, 3), whole.err
    command = [sys.executable, "-m", "lepton_edge.cli", "run", str(recipe), "-o", "cut"]
    checkpoint = folder / "cut" / "passes" / "1-prune.training" / "checkpoint.pt"
    with subprocess.Popen(command, cwd=folder, stderr=subprocess.DEVNULL) as process:
        while not checkpoint.exists() and process.poll() is None:
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
    assert checkpoint.exists()
    if sys.platform == "linux":  # the job ends with the run: it would else write beside the next
        size = (checkpoint.stat().st_mtime_ns, len(os.listdir(checkpoint.parent)))
        time.sleep(0.5)
        assert (checkpoint.stat().st_mtime_ns, len(os.listdir(checkpoint.parent))) == size
    done = cli("run", recipe, "-o", "cut", "--resume", "--json", cwd=folder)
    assert done.code in (0, 3), done.err
    (record,) = done.document["passes"][0]["pass"]["rounds"]
    assert record["recovery"]["resumed_at"] > 0
    files = [
        folder / name / "passes" / "1-prune" / "1-prune.safetensors" for name in ("uncut", "cut")
    ]
    assert file_sha256(files[0]) == file_sha256(files[1])


def test_goals_decide_the_exit_code(cli: Cli, folder: Path) -> None:
    goals = TARGETS + 'max_latency = 0.000001\nmax_drop = "1pt"\n'
    done = cli("run", written(folder, HEAD + goals, "goals.toml"), "-o", folder / "goals", "--json")
    assert done.code == 3, done.err
    assert done.document["status"] == "FAIL(latency)"


@pytest.mark.parametrize(
    ("text", "code", "said"),
    [
        (HEAD, 2, "nothing to do"),
        (HEAD + TARGETS + "windo = 1\n", 2, "Did you mean 'window'"),
        (HEAD + "[[pases]]\nkind = 'prune'\n", 2, "Did you mean 'passes'"),
        (HEAD + PRUNE.replace("round_to", "roundto"), 2, "Did you mean 'round_to'"),
        (HEAD + PRUNE.replace("epochs", "epoch"), 2, "Did you mean 'epochs'"),
        (HEAD + PRUNE.replace('"prune"', '"prun"'), 2, "Did you mean 'prune'"),
        (HEAD + PRUNE.replace("0.5", "1.5"), 2, "cannot remove 1.5"),
        (HEAD + PRUNE.replace("[[passes]]", "[passes]"), 2, r"Write \[\[passes\]\]"),
        (HEAD + PRUNE + JETSON.replace("nano", "nan"), 2, "Did you mean 'jetson-nano'"),
        (HEAD + INT8 + JETSON, 2, "is not estimated"),
        (HEAD + INT8 + PRUNE, 2, "it is the last pass"),
        (HEAD + INT8.replace("finetune", "distil"), 2, "finetune has fp32 and int8"),
        (HEAD + TARGETS.replace('"onnx"', '"onx"'), 2, "Did you mean 'onnx'"),
        (HEAD + TARGETS.replace('"onnx"', '"onnx"\nprecision = "int8"'), 2, "calib"),
        (HEAD + TARGETS + 'max_drop = "much"\n', 2, "Cannot read the budget"),
        (HEAD + '[[targets]]\nto = "onnx"\n' * 2, 2, "there twice"),
        (HEAD.replace('train = "train.npz"', "") + PRUNE, 2, "a train"),
        (HEAD.replace("train.npz", "test.npz") + PRUNE, 2, "share 200 samples"),
        (HEAD.replace("cnn", "gone") + TARGETS, 2, "Unknown function"),
        (HEAD + "[[passes]]\nkind = 'distil'\nteacher = 'no.py:net'\n", 8, "no.py"),
        (HEAD + "[[passes]\n", 2, "not valid TOML"),
    ],
)
def test_bad_recipes_are_one_sentence_and_write_nothing(
    folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    text: str,
    code: int,
    said: str,
) -> None:
    recipe = written(folder, text, "bad.toml")
    found = main.run(["run", str(recipe), "-o", str(tmp_path / "out"), "--json"])
    out, err = capsys.readouterr()
    assert found == code, err
    error: dict[str, Any] = json.loads(out)["error"]
    assert re.search(said, f"{error['message']} {error['next']}"), error
    assert "Traceback" not in err
    assert not (tmp_path / "out" / "passes").exists()
