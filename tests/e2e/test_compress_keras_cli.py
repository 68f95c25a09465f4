"""Keras models on the command line: trained, measured, converted, and refused in one sentence."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest

pytest.importorskip("tensorboard")
if not find_spec("keras") or not find_spec("tensorflow"):  # not imported: torch may be here
    pytest.skip("pip install 'lepton-edge[tensorflow]'", allow_module_level=True)

from lepton_edge import cli as main
from tests.conftest import Done

Cli = Callable[..., Done]
NETS = Path(__file__).parents[1] / "keras_nets.py"
SHORT = ("--training", "epochs=4", "--training", "batch=32", "--training", "lr=0.05")
FILES = """
import sys
from pathlib import Path
from tests import keras_nets as nets
folder = Path(sys.argv[1])
nets.write_samples(folder / "train.npz", 256)
nets.write_samples(folder / "test.npz", 200, seed=1)
nets.write_samples(folder / "bare.npz", 64, seed=2, label="none")
nets.cnn().save(folder / "cnn.keras")
nets.softmax().save(folder / "softmax.h5")
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Samples and models as files."""
    found = tmp_path_factory.mktemp("keras")
    done = subprocess.run(
        [sys.executable, "-c", FILES, str(found)],
        capture_output=True,
        text=True,
        cwd=NETS.parents[1],
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return found


def test_finetune_to_tflite(cli: Cli, folder: Path) -> None:
    pytest.importorskip("ai_edge_litert")
    out = folder / "tuned"
    done = cli(
        "finetune", folder / "cnn.keras", "-o", out, "--train", folder / "train.npz", *SHORT,
        "--to", "tflite", "--window", "5,0", "--json",
    )  # fmt: skip
    document = done.document
    assert done.code == document["exit_code"], done.err
    assert document["status"] in ("PASS", "SLOWER")  # the graph is the same, and so is its speed
    assert set(document["latency"]) == {"tflite"}
    assert document["source"]["path"] == str(out / "tuned.keras")
    assert document["before"]["parameters"] == document["after"]["parameters"]
    assert document["before"]["macs"] == document["after"]["macs"] > 0
    assert {each.name for each in out.iterdir()} == {"tuned.keras", "compress.json"}
    assert "loss" in done.err  # progress


def test_a_recipe_with_a_pass_on_an_h5_file(cli: Cli, folder: Path) -> None:
    (folder / "recipe.toml").write_text(
        "[model]\npath = 'softmax.h5'\n"
        "[data]\ntrain = 'train.npz'\ndata = 'test.npz'\n"
        "[[passes]]\nkind = 'finetune'\ntraining = { epochs = 6, batch = 32, lr = 0.05 }\n"
        "[goals]\nwindow = '5,0'\n"
    )
    done = cli("run", folder / "recipe.toml", "-o", folder / "run", "--json")
    assert done.code == 0, done.err
    (document,) = done.document["passes"]
    found = document["accuracy"]
    assert found["value"] > 0.9
    assert found["drop_interval"][1] < -0.2  # surely better than before
    made = Path(document["source"]["path"])
    assert made == folder / "run" / "passes" / "1-finetune" / "1-finetune.keras"
    assert made.is_file()


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("prune", "MODEL", "--ratio", "0.5"), 7, "is a Keras model.*distil SMALL"),
        (("prune", "MODEL", "--sparsity", "2:4"), 7, "is a Keras model"),
        (("finetune", "MODEL", "--train", "TRAIN", "--data", "TRAIN"), 2, "share 256 samples"),
        (("finetune", "MODEL", "--train", "TRAIN", "--processes", "2"), 2, "Several processes"),
        (
            ("finetune", "MODEL", "--train", "TRAIN", "--training", "precision=bf16"),
            2,
            "not in bf1",
        ),
        (("finetune", "MODEL", "--train", "TRAIN", "--training", "channels_last=1"), 2, "layout"),
        (("finetune", "MODEL", "--train", "TRAIN", "--weights", "a.h5"), 2, "has its own weights"),
        (("finetune", "NETS", "--train", "TRAIN", "--weights", "a.pth"), 8, "Keras factory"),
        (("finetune", "LOST", "--train", "TRAIN"), 8, "There is no file"),
        (("distil", "MODEL", "--train", "BARE", "--teacher", "TORCH"), 2, "is no Keras model"),
        (("distil", "TORCH", "--train", "BARE", "--teacher", "MODEL"), 2, "is no PyTorch module"),
        (("finetune", "MODEL", "--train", "BARE"), 2, "have no labels"),
    ],
)
def test_bad_requests_are_one_sentence_and_write_nothing(
    folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
    code: int,
    said: str,
) -> None:
    names = {
        "MODEL": folder / "cnn.keras", "NETS": f"{NETS}:cnn", "LOST": folder / "lost.keras",
        "TORCH": f"{NETS.with_name('compress_nets.py')}:cnn",
        "TRAIN": folder / "train.npz", "BARE": folder / "bare.npz",
    }  # fmt: skip
    verb, net, *rest = (str(names.get(each, each)) for each in arguments)
    found = main.run([verb, net, "-o", str(tmp_path / "out"), *rest, "--json"])
    out, err = capsys.readouterr()
    assert found == code, err
    error = json.loads(out)["error"]
    assert re.search(said, f"{error['message']} {error['next']}")
    assert "Traceback" not in err
    assert not (tmp_path / "out").exists()
