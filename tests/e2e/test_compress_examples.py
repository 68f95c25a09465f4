"""The example's own commands and the benchmark, in short, on a few images of the same form."""

from __future__ import annotations

import io
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("torch_pruning")
pytest.importorskip("accelerate")
pyarrow = pytest.importorskip("pyarrow")
pytest.importorskip("pyarrow.parquet")
image = pytest.importorskip("PIL.Image")

from tests import compress_nets  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "examples" / "cifar10"


def parquet(path: Path, n: int, seed: int) -> None:
    """Images as PNG with a label, as in the Hugging Face data set."""
    rng = np.random.default_rng(seed)
    rows = []
    for _ in range(n):
        buffer = io.BytesIO()
        image.fromarray(rng.integers(0, 256, (32, 32, 3), np.uint8)).save(buffer, "PNG")
        rows.append({"bytes": buffer.getvalue(), "path": ""})
    table = pyarrow.table({"image": rows, "label": rng.integers(0, 10, n)})
    pyarrow.parquet.write_table(table, path)


def commands(page: Path) -> list[str]:
    """The shell commands of a page, continued lines joined."""
    blocks = re.findall(r"```sh\n(.*?)```", page.read_text(), re.DOTALL)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [line for line in lines if line.strip() and not line.startswith("#")]


def test_the_examples_commands_run(tmp_path: Path) -> None:
    parquet(tmp_path / "cifar10-train.parquet", 96, 0)
    parquet(tmp_path / "cifar10-test.parquet", 64, 1)
    preprocess = re.search(r"PRE='([^']*)'", (EXAMPLE / "README.md").read_text())
    assert preprocess is not None
    found = [line for line in commands(EXAMPLE / "README.md") if line.startswith("lepton-edge")]
    assert len(found) >= 5
    shutil.copy(EXAMPLE / "net.py", tmp_path)
    shutil.copytree(EXAMPLE / "trained", tmp_path / "trained")
    recipe = re.sub(
        r"(?m)^(steps|epochs) = .*$", "steps = 2", (EXAMPLE / "recipe.toml").read_text()
    )
    recipe = re.sub(r'\[\[targets\]\]\nto = "(openvino|tflite)"\n', "", recipe)
    (tmp_path / "recipe.toml").write_text(f'{recipe}window = "5,0"\n')
    for line in found:
        line = line.replace("$CIFAR", str(tmp_path)).replace("$PRE", preprocess[1])
        words = shlex.split(line)
        words = [re.sub(r"^(steps|epochs)=\d+$", "steps=2", word) for word in words]
        if (
            words[1] in ("finetune", "distil") and "--data" in words
        ):  # two evaluations fewer; pruning keeps its own
            place = words.index("--data")
            del words[place : place + 2]
        done = subprocess.run(
            [sys.executable, "-m", "lepton_edge.cli", *words[1:]],
            cwd=tmp_path, capture_output=True, text=True,
        )  # fmt: skip
        # 3: with so few steps and samples no budget is met and nothing has to get faster.
        assert done.returncode in (0, 3), f"{line}\n{done.stderr}"


def test_the_benchmark_prints_its_table(tmp_path: Path) -> None:
    pytest.importorskip("nncf")
    compress_nets.samples(tmp_path / "train.npz", 64)
    compress_nets.samples(tmp_path / "test.npz", 64, seed=1)
    done = subprocess.run(
        [sys.executable, ROOT / "benchmarks" / "compression.py",
         "--model", f"{compress_nets.__file__}:named", "--train", tmp_path / "train.npz",
         "--test", tmp_path / "test.npz", "--steps", "2", "--batch", "32",
         "--keep", tmp_path / "kept"],
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    rows = [line for line in done.stdout.splitlines() if line.startswith("| ")]
    assert [row.split("|")[1].strip() for row in rows] == [
        "", "original", "lepton-edge", "Torch-Pruning alone", "NNCF, unstructured",
    ]  # fmt: skip
    done = subprocess.run(
        [sys.executable, ROOT / "benchmarks" / "compression_speed.py",
         tmp_path / "kept" / "row0", tmp_path / "kept" / "row1", "--to", "onnx",
         "--test", tmp_path / "test.npz", "--window", "5,0", "--keep", tmp_path / "kept"],
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (row,) = [line for line in done.stdout.splitlines() if line.startswith("| row1 ")]
    # Against the first pruned row, by the MACs that the table above told of both.
    ours, other = (int(each.split("|")[2].replace(",", "")) for each in rows[2:4])
    macs = re.escape(f"{other:,} (x{other / ours:.3f})")
    assert re.search(rf"\| onnx fp32 \| {macs} \|.* -> .*(faster|slower|tie)", row), row
