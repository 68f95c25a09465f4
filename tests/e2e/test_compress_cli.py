"""`prune`, `distil` and `finetune` as commands: results, files, bad input with its exit code."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("torch_pruning")
pytest.importorskip("accelerate")

from lepton_edge import cli as main
from lepton_edge import errors
from tests import compress_nets
from tests.conftest import Done

Cli = Callable[..., Done]
NETS = Path(compress_nets.__file__)
SHORT = ("--training", "epochs=3", "--training", "batch=32", "--training", "lr=0.05")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Training and test samples, without labels too."""
    found = tmp_path_factory.mktemp("compress")
    compress_nets.samples(found / "train.npz", 256)
    compress_nets.samples(found / "test.npz", 200, seed=1)
    compress_nets.samples(found / "bare.npz", 64, seed=2, labels=False)
    return found


def test_prune_then_int8(cli: Cli, folder: Path) -> None:
    train, test = folder / "train.npz", folder / "test.npz"
    pruned = cli(
        "prune", f"{NETS}:cnn", "-o", folder / "half", "--ratio", "0.5", "--round-to", "4",
        "--train", train, "--data", test, *SHORT, "--json",
    )  # fmt: skip
    assert pruned.code == 0, pruned.err
    document = pruned.document
    assert document["after"]["macs"] <= 0.51 * document["before"]["macs"]
    assert document["after"]["size_bytes"] < document["before"]["size_bytes"]
    assert document["accuracy"]["drop_interval"] is not None
    (each,) = document["pass"]["rounds"]
    assert [row["layer"] for row in each["reconstructed"]] == ["3", "8"]
    half = document["source"]
    done = cli(
        "finetune", half["path"], "--weights", half["weights"], "-o", folder / "int8",
        "--precision", "int8", "--train", train, "--training", "epochs=3",
    )  # fmt: skip
    assert done.code == 0, done.err
    assert "integers written are those trained" in done.out
    assert "loss" in done.err  # progress, one line at least
    assert (folder / "int8" / "half_int8.onnx").exists()
    again = cli("evaluate", folder / "int8", "--data", test, "--json")
    assert again.document["value"] > 0.8


def test_what_did_not_get_faster_is_called_slower(cli: Cli, folder: Path) -> None:
    done = cli(
        "prune", f"{NETS}:cnn", "-o", folder / "timed", "--ratio", "0.1", "--round-to", "4",
        "--to", "onnx", "--window", "5,0", "--json",
    )  # fmt: skip
    document = done.document
    assert done.code == document["exit_code"], done.err
    verdict = document["latency"]["onnx"]["verdict"]
    assert document["status"] == ("PASS" if verdict == "faster" else "SLOWER")
    assert document["accuracy"] is None


WIDE = (
    "import torch\n"
    "from torch import nn\n"
    "def wide():\n"
    "    torch.manual_seed(0)\n"
    "    net = nn.Sequential(nn.Conv2d(3, 64, 3, padding=1), nn.ReLU(),"
    " nn.Conv2d(64, 64, 3, padding=1), nn.ReLU(), nn.Conv2d(64, 64, 3, padding=1), nn.ReLU(),"
    " nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 4))\n"
    "    net.example_inputs = {'image': torch.zeros(1, 3, 48, 48)}\n"
    "    return net\n"
    "def heavy():\n"  # nearly all of the weights in one layer, nearly all of the MACs elsewhere
    "    torch.manual_seed(0)\n"
    "    net = nn.Sequential(nn.Conv2d(3, 32, 3, padding=1), nn.ReLU(),"
    " nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),"
    " nn.Linear(64 * 64, 1024), nn.ReLU(), nn.Linear(1024, 4))\n"
    "    net.example_inputs = {'image': torch.zeros(1, 3, 16, 16)}\n"
    "    return net\n"
)


def test_a_latency_is_reached_by_measuring(folder: Path) -> None:
    from lepton_edge._latency_budget import Measured, ratio_for
    from lepton_edge.model import ModelSource

    (folder / "wide.py").write_text(WIDE)
    source, clock = ModelSource(f"{folder / 'wide.py'}:wide"), Measured("onnx", "30,0", 1)
    found = ratio_for(source, {"round_to": 8}, 0.3, clock)
    by_ratio = {each["removed"]: each["p50_ms"] for each in found["trials"]}
    assert by_ratio[found["options"]["ratio"]] <= 0.7 * found["before_p50_ms"]
    assert sum(found["layers_ms"].values()) <= 1.001 * found["before_p50_ms"]
    with pytest.raises(errors.UsageError, match=r"cannot remove 1.5 of the latency"):
        ratio_for(source, {}, 1.5, clock)


def test_layers_are_chosen_by_what_they_take_on_the_device(cli: Cli, folder: Path) -> None:
    """On the estimated Jetson the weights of the linear layer cost most, and so it goes first."""
    (folder / "wide.py").write_text(WIDE)

    def pruned(name: str, *how: str) -> tuple[dict[str, int], float]:
        done = cli(
            "prune", f"{folder / 'wide.py'}:heavy", "-o", folder / name, *how,
            "--device", "jetson-nano", "--device-precision", "fp16", "--json",
        )  # fmt: skip
        assert done.code == 0, done.err
        found = done.document
        written = json.loads((folder / name / "compress.json").read_text())["steps"][-1]
        assert written == found["pass"]  # for a recipe that goes on after it
        estimate = found["estimate"]
        low, high = estimate["after"]["interval_ms"]
        assert low < estimate["after"]["latency_ms"] < high
        kept = {row["layer"]: row["kept"] for row in found["pass"]["rounds"][0]["layers"]}
        return kept, estimate["after"]["latency_ms"] / estimate["before"]["latency_ms"]

    asked, ratio = pruned("by-latency", "--ratio", "0.3", "--cost", "latency")
    assert ratio <= 0.7
    by_macs, _ = pruned("by-macs", "--ratio", "0.3")
    assert asked["6"] < by_macs["6"]  # the linear layer
    assert sum(asked[name] for name in "02") > sum(by_macs[name] for name in "02")


def test_channels_can_be_given_exactly(cli: Cli, folder: Path) -> None:
    done = cli(
        "prune", f"{NETS}:cnn", "-o", folder / "exact", "--train", folder / "bare.npz",
        "--no-recover", "--channels", "0:5,3:12", "--round-to", "1",
        "--json",
    )  # fmt: skip
    assert done.code == 0, done.err
    rows = done.document["pass"]["rounds"][0]["layers"]
    assert {row["layer"]: row["kept"] for row in rows} == {"0": 5, "3": 12}


def test_distil_without_labels_into_half_the_width(cli: Cli, folder: Path) -> None:
    done = cli(
        "distil", f"{NETS}:cnn", "-o", folder / "narrow", "--width", "0.5",
        "--train", folder / "bare.npz", "--training", "epochs=2",
    )  # fmt: skip
    assert done.code == 0, done.err
    assert "model.py:factory --weights" in done.out
    assert "parameters:" in done.out


@pytest.mark.parametrize("sparsity", ["2:4", "unstructured"])
def test_sparsity_says_what_it_buys(cli: Cli, folder: Path, sparsity: str) -> None:
    name = sparsity.replace(":", "")
    done = cli("prune", f"{NETS}:cnn", "-o", folder / name, "--sparsity", sparsity)
    assert done.code == 0, done.err
    assert "zeros:" in done.out
    assert "no faster" in done.out or "No runtime here runs it faster" in done.out


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("prune", "cnn", "--ratio", "1.5"), 2, "cannot remove 1.5"),
        (("prune", "cnn", "--ratio", "0"), 2, "cannot remove 0"),
        (("prune", "cnn"), 2, "how much"),
        (("prune", "cnn", "--ratio", "0.5", "--cost", "latency"), 2, "that of a format"),
        (("prune", "cnn", "--ratio", "0.5", "--channels", "0:8"), 2, "not both"),
        (("prune", "cnn", "--channels", "0:64"), 2, "has 16 channels, of which 64 cannot stay"),
        (("prune", "cnn", "--channels", "0=8"), 2, "layer:number"),
        (("prune", "cnn", "--channels", "8:2"), 7, "channels of '8' cannot be pruned"),
        (("prune", "cnn", "--channels", "0:16"), 2, "nothing would change"),
        (("prune", "cnn", "--ratio", "0.5", "--device", "coral"), 2, "coral"),
        (("prune", "cnn", "--ratio", "0.5", "--device", "coral-usb"), 2, "needs? samples"),
        (("prune", "cnn", "--ratio", "0.99"), 7, "can be removed in steps of 8"),
        (("prune", "cnn", "--ratio", "0.5", "--importance", "tailor"), 2, "taylor"),
        (("prune", "cnn", "--ratio", "0.5", "--importance", "taylor"), 2, "labelled"),
        (("prune", "hard_coded", "--ratio", "0.5"), 7, "Nothing in this model can be pruned"),
        (("prune", "cnn", "--sparsity", "2:4", "--rounds", "2"), 2, "--rounds is for channels"),
        (("prune", "cnn", "--ratio", "0.5", "--training", "lr=-1"), 2, "lr=-1"),
        (("prune", "cnn", "--ratio", "0.5", "--training", "lr_=1"), 2, "lr"),
        (("distil", "cnn"), 2, "needs samples|needs a teacher"),
        (("distil", "cnn", "--teacher", f"{NETS}:five", "--train", "TRAIN"), 2, "outputs are"),
        (("finetune", "cnn", "--train", "BARE"), 2, "no labels"),
        (("finetune", "cnn", "--train", "TRAIN", "--data", "TRAIN"), 2, "share 256 samples"),
        (("finetune", "cnn", "--precision", "fp16"), 2, "fp32 or int8"),
        (("finetune", "cnn", "--dialect", "openvino"), 2, "--dialect is for --precision int8"),
        (("finetune", "cnn", "--precision", "int8"), 2, "needs training samples"),
        (("finetune", "cnn", "--train", "TRAIN", "--processes", "3"), 2, "cannot be shared"),
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
    verb, net, *rest = arguments
    paths = {"TRAIN": str(folder / "train.npz"), "BARE": str(folder / "bare.npz")}
    rest = [paths.get(each, each) for each in rest]
    found = main.run([verb, f"{NETS}:{net}", "-o", str(tmp_path / "out"), *rest, "--json"])
    out, err = capsys.readouterr()
    assert found == code, err
    error = json.loads(out)["error"]
    assert re.search(said, f"{error['message']} {error['next']}")
    assert "Traceback" not in err
    assert not (tmp_path / "out").exists()


def test_an_exported_graph_is_refused(cli: Cli, tmp_path: Path) -> None:
    from lepton_edge.jobs import probe

    onnx = Path(probe.__file__).with_name("probe.onnx")
    done = cli("prune", onnx, "-o", tmp_path / "out", "--ratio", "0.5", "--json")
    assert done.code == 7
    assert "file.py:factory" in json.dumps(done.document)
