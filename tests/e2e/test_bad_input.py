"""Bad input gives one sentence and its exit code; nothing is written, nothing is lost."""

from __future__ import annotations

import json
import os
import pickle
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from lepton_edge import jobs
from lepton_edge.artifact import Artifact
from tests.conftest import MODEL, PREPROCESS, Done

Cli = Callable[..., Done]
ZOO = Path(__file__).parents[1] / "zoo.py"


def refused(done: Done, code: int, *words: str) -> None:
    """One sentence on stderr, no traceback, the exit code, and every word of `words` in it."""
    said = done.err + done.out
    assert done.code == code, said
    assert "Traceback" not in said
    last = done.err.strip().splitlines()[-1]
    assert last.startswith("lepton-edge: "), said
    for word in words:
        assert word in last, last


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """An artefact of an earlier day, which must survive whatever fails."""
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / "kept.txt").write_text("kept")
    Artifact(folder=folder, file="kept.txt", format="onnx").save()
    return folder


def untouched(folder: Path) -> None:
    assert sorted(os.listdir(folder)) == ["artifact.json", "kept.txt"]
    assert (folder / "kept.txt").read_text() == "kept"
    assert not [name for name in os.listdir(folder.parent) if name.endswith((".tmp", ".old"))]


def convert(cli: Cli, place: Path, *model: object, to: str = "onnx") -> Done:
    return cli("convert", *model, "--to", to, "-o", place)


@pytest.fixture(scope="module")
def good_onnx(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("onnx", reason="pip install 'lepton-edge[onnx]'")
    from onnx import TensorProto, helper

    shape = [1, 64]
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
        [helper.make_tensor("w", TensorProto.FLOAT, [64, 64], np.arange(4096.0) / 4096)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    path = tmp_path_factory.mktemp("onnx") / "good.onnx"
    path.write_bytes(model.SerializeToString())
    return path


def test_a_missing_file(cli: Cli, place: Path) -> None:
    refused(convert(cli, place, "absent.onnx"), 8, "absent.onnx")
    untouched(place)


def test_a_truncated_onnx(cli: Cli, place: Path, tmp_path: Path, good_onnx: Path) -> None:
    bad = tmp_path / "bad.onnx"
    bad.write_bytes(good_onnx.read_bytes()[:-500])
    refused(convert(cli, place, bad, to="openvino"), 8, "bad.onnx")
    untouched(place)


def test_a_text_file_named_onnx(cli: Cli, place: Path, tmp_path: Path) -> None:
    bad = tmp_path / "notes.onnx"
    bad.write_text("These are my notes, and no model at all.\n" * 20)
    refused(convert(cli, place, bad), 8, "notes.onnx")
    untouched(place)


@pytest.mark.parametrize("suffix", [".tflite", ".pt2", ".pt", ".keras", ".h5"])
def test_a_damaged_file_of_each_kind(cli: Cli, place: Path, tmp_path: Path, suffix: str) -> None:
    bad = tmp_path / f"bad{suffix}"
    bad.write_bytes(b"PK\x03\x04" + bytes(200))
    refused(cli("inspect", bad), 8, f"bad{suffix}")
    refused(convert(cli, place, bad), 8, f"bad{suffix}")
    untouched(place)


def test_a_truncated_tflite_and_pt2(cli: Cli, place: Path, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch", reason="pip install 'lepton-edge[torch]'")
    whole = {"cut.tflite": (Path(jobs.__file__).parent / "probe.tflite").read_bytes()}
    torch.export.save(
        torch.export.export(torch.nn.Linear(4, 4).eval(), (torch.zeros(1, 4),)),
        tmp_path / "whole.pt2",
    )
    whole["cut.pt2"] = (tmp_path / "whole.pt2").read_bytes()
    for name, content in whole.items():
        (tmp_path / name).write_bytes(content[: len(content) * 2 // 3])
        refused(convert(cli, place, tmp_path / name), 8, name)
    untouched(place)


class _Payload:
    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (f"touch {self.__dict__['mark']}",)


def test_a_pickle_with_code_never_runs(cli: Cli, place: Path, tmp_path: Path) -> None:
    payload, mark = _Payload(), tmp_path / "ran"
    payload.__dict__["mark"] = mark
    bad = tmp_path / "bad.pth"
    bad.write_bytes(pickle.dumps(payload))
    done = convert(cli, place, MODEL[0], "--weights", bad)
    refused(done, 8, "bad.pth")
    assert not mark.exists()
    untouched(place)


def test_a_zip_that_climbs_out(cli: Cli, place: Path, tmp_path: Path) -> None:
    for name in ("bad.keras", "bad.pt2"):
        with zipfile.ZipFile(tmp_path / name, "w") as archive:
            archive.writestr("../../climbed", "out")
        refused(convert(cli, place, tmp_path / name), 8, name)
    assert not (tmp_path.parent / "climbed").exists()
    untouched(place)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--to", "onxx"), ("onxx", "onnx")),
        (("--to", "onnx", "--precision", "int-8"), ("int-8", "int8")),
        (("--to", "onnx", "--presicion", "int8"), ("--presicion", "--precision")),
        (("--to", "onnx", "--option", "opsett=17"), ("opsett", "opset")),
        (("--to", "onnx", "--option", "batch=some"), ("batch",)),
        (("--to", "onnx", "--preprocess", "skale=1"), ("skale", "scale")),
        (("--to", "onnx", "--input", "x=ab"), ("x=ab",)),
        (("--to", "onnx", "--precision", "int8"), ("--calib",)),
    ],
)
def test_what_is_misspelt(
    cli: Cli, place: Path, arguments: tuple[str, ...], words: tuple[str, ...]
) -> None:
    refused(cli("convert", *MODEL, *arguments, "-o", place), 2, *words)
    untouched(place)


def test_an_unknown_kind_of_model(cli: Cli, place: Path, tmp_path: Path) -> None:
    (tmp_path / "model.xyz").write_text("?")
    refused(convert(cli, place, tmp_path / "model.xyz"), 8, "model.xyz")


def test_calibration_data_that_is_the_evaluation_data(
    cli: Cli, place: Path, few_images: Path, tmp_path: Path
) -> None:
    shared = tmp_path / "shared.npz"
    with np.load(few_images) as given:  # other order, other file: found by content
        np.savez(shared, image=given["image"][50:40:-1], label=given["label"][50:40:-1])
    done = cli("convert", *MODEL, "--to", "onnx", "--precision", "int8", "--preprocess", PREPROCESS,
               "--calib", shared, "--data", few_images, "-o", place)  # fmt: skip
    refused(done, 2, "10 ")
    untouched(place)


@pytest.mark.parametrize(
    ("change", "code", "word"),
    [
        ("nan", 8, "nan"),
        ("labels", 8, "label"),
        ("empty", 8, "empty"),
        ("shape", 2, "image"),
        ("dtype", 2, "int64"),
        ("names", 2, "image"),
        ("truncated", 8, "data.npz"),
    ],
)
def test_bad_data(cli: Cli, tmp_path: Path, change: str, code: int, word: str) -> None:
    image = np.random.default_rng(0).random((8, 1, 28, 28)).astype(np.float32)
    label = np.arange(8)
    path = tmp_path / "data.npz"
    arrays = {"image": image, "label": label}
    if change == "nan":
        image[3, 0, 5, 5] = np.nan
    elif change == "labels":
        label[5] = 10
    elif change == "empty":
        arrays = {"image": image[:0], "label": label[:0]}
    elif change == "shape":
        arrays["image"] = image[:, :, :14]
    elif change == "dtype":
        arrays["image"] = image.astype(np.int64)
    elif change == "names":
        arrays = {"left": image, "right": image, "label": label}
    np.savez(path, **arrays)
    if change == "truncated":
        path.write_bytes(path.read_bytes()[:2000])
    done = cli("evaluate", *MODEL, "--data", path)
    refused(done, code)
    assert word in done.err.lower()


def test_calibration_data_with_nan_leaves_the_output_alone(
    cli: Cli, place: Path, tmp_path: Path
) -> None:
    image = np.random.default_rng(0).random((8, 1, 28, 28)).astype(np.float32)
    image[6, 0, 1, 2] = np.nan
    np.savez(tmp_path / "calib.npz", image=image)
    done = cli("convert", *MODEL, "--to", "onnx", "--precision", "int8", "-o", place,
               "--calib", tmp_path / "calib.npz")  # fmt: skip
    refused(done, 8, "calib.npz", "6", "NaN")
    untouched(place)


def test_a_factory_that_raises(cli: Cli, place: Path, tmp_path: Path) -> None:
    code = tmp_path / "broken.py"
    code.write_text("def factory():\n    raise RuntimeError('no licence')\n")
    refused(convert(cli, place, f"{code}:factory"), 8, "no licence", "broken.py")
    refused(convert(cli, place, f"{code}:factori"), 2, "factori", "factory")
    untouched(place)


def test_a_folder_that_is_no_artefact_is_not_replaced(cli: Cli, tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.txt").write_text("years of work")
    refused(cli("convert", *MODEL, "--to", "onnx", "-o", mine), 2, "mine")
    assert (mine / "thesis.txt").read_text() == "years of work"


def test_a_place_that_cannot_be_written(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    refused(cli("convert", *MODEL, "--to", "onnx", "-o", tmp_path / "file" / "out"), 2, "write")
    nowhere = "/proc/no/such/place"  # not even root can make a folder there
    refused(cli("convert", *MODEL, "--to", "onnx", "-o", nowhere), 2, "write", nowhere)


def test_a_full_disk(cli: Cli, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=96k", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("a small tmpfs cannot be mounted here: needs root")
    try:
        (disk / "kept.txt").write_text("kept")
        done = cli("convert", *MODEL, "--to", "onnx", "-o", disk / "out")
        refused(done, 2, "space")
        assert os.listdir(disk) == ["kept.txt"]
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_ctrl_c_in_the_middle(place: Path) -> None:
    command = [sys.executable, "-m", "lepton_edge.cli", "convert", *MODEL, "--to", "tflite"]
    with subprocess.Popen(
        [*command, "-o", str(place)],
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # A shell starts background jobs, such as this test run may be, deaf to Ctrl-C.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as process:
        time.sleep(4)  # within the worker: importing its libraries alone takes longer
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=30)
    assert process.returncode == 130, err
    assert "interrupted" in err
    untouched(place)
    workers = subprocess.run(["pgrep", "-s", str(process.pid)], capture_output=True, text=True)
    assert not workers.stdout.strip()


def test_a_converter_that_is_not_installed(
    cli: Cli, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hidden = tmp_path / "hidden"
    hidden.mkdir()
    # Found first and not importable: to every process what an absent package is.
    (hidden / "openvino.py").write_text("raise ModuleNotFoundError(name='openvino')")
    monkeypatch.setenv("PYTHONPATH", str(hidden))
    refused(convert(cli, place, *MODEL, to="openvino"), 4, "lepton-edge[openvino]")
    untouched(place)


def test_a_backend_that_is_not_installed(tmp_path: Path) -> None:
    # A module of that name which cannot be imported is how Python sees a package that is absent.
    code = "import sys; sys.modules['openvino'] = None; import lepton_edge.worker as w; w.main()"
    (tmp_path / "m.xml").write_text("<net/>")
    job = {
        "do": "benchmark",
        "subject": {"artifact": str(tmp_path / "m.xml")},
        "runs": 1,
        "seconds": 0,
        "warmup_s": 0,
        "out": str(tmp_path / "times.npy"),
    }
    done = subprocess.run(
        [sys.executable, "-c", code], input=json.dumps(job), capture_output=True, text=True
    )
    error = json.loads(done.stdout)["error"]
    assert error["kind"] == "backend-missing"
    assert "lepton-edge[openvino]" in error["next"]


def test_json_errors_are_documents(cli: Cli) -> None:
    done = cli("inspect", "absent.onnx", "--json")
    assert done.code == 8
    assert done.document["exit_code"] == 8
    assert done.document["error"]["kind"] == "bad-input"
    done = cli("inspect", "--json")
    assert done.code == 2
    assert done.document["error"]["kind"] == "usage"
