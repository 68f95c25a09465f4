"""The verbs as a user types them, on real images."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import MODEL, PREPROCESS, Done

Cli = Callable[..., Done]
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def artefacts(
    cli: Cli, images: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The demo's CNN in ONNX, fp32 and int8."""
    pytest.importorskip("onnxruntime", reason="pip install 'lepton-edge[onnx]'")
    folder = tmp_path_factory.mktemp("artefacts")
    done = cli(
        "convert", *MODEL, "--to", "onnx", "--precision", "fp32,int8", "--calib", images[0],
        "--data", images[1], "--preprocess", PREPROCESS, "-o", folder, "--json",
    )  # fmt: skip
    assert done.code == 0, done.err
    assert [each["status"] for each in done.document["targets"]] == ["PASS", "PASS"]
    return folder


def test_convert_writes_what_it_says(artefacts: Path) -> None:
    record = json.loads((artefacts / "onnx-int8" / "artifact.json").read_text())
    assert record["file"] == "cnn_int8.onnx"
    assert record["parity"]["status"] == "PASS"
    assert record["calibration"]["n"] == 512
    assert record["preprocess"]["layout"] == "NCHW"
    assert record["source"]["framework"] == "torch"


def test_inspect(cli: Cli) -> None:
    found = cli("inspect", *MODEL, "--json").document
    assert found["macs"] == 5_532_544
    targets = {(row["format"], row["precision"]): row for row in found["targets"]}
    assert targets["onnx", "int8"]["ok"]
    assert not targets["tensorrt", "int8"]["ok"]
    assert targets["tensorrt", "int8"]["reason"]


def test_inspect_ranks_the_layers_that_int8_damages(cli: Cli, images: tuple[Path, Path]) -> None:
    pytest.importorskip("onnxruntime", reason="pip install 'lepton-edge[onnx]'")
    asked = ("inspect", *MODEL, "--sensitivity", "--preprocess", PREPROCESS)
    found = cli(*asked, "--calib", images[0], "--dialect", "openvino", "--json").document
    assert found["dialect"] == "openvino"
    assert len(found["layers"]) == 6
    shares = [layer["share"] for layer in found["layers"]]
    assert shares == sorted(shares, reverse=True)
    assert sum(shares) == pytest.approx(1)
    table = cli(*asked, "--calib", images[0])
    assert found["layers"][0]["node"] in table.out
    missing = cli(*asked)
    assert missing.code == 2
    assert "Give --calib" in missing.err


def test_verify(cli: Cli, artefacts: Path, few_images: Path) -> None:
    done = cli("verify", MODEL[0], artefacts / "onnx-fp32", *MODEL[1:], "--data", few_images)
    assert done.code == 0, done.err
    assert "top-1 agreement 100.00 %" in done.out


def test_verify_says_that_noise_is_no_input_for_int8(
    cli: Cli, images: tuple[Path, Path], tmp_path: Path
) -> None:
    """Calibrated for images in raw bytes, compared on normal noise around zero."""
    pytest.importorskip("onnxruntime", reason="pip install 'lepton-edge[onnx]'")
    done = cli("convert", *MODEL, "--to", "onnx", "--precision", "int8", "--calib", images[0],
               "--preprocess", "layout=NCHW dtype=float32", "-o", tmp_path / "out")  # fmt: skip
    assert done.code == 0, done.err
    done = cli("verify", MODEL[0], tmp_path / "out", *MODEL[1:])
    assert done.code == 3
    assert "FAIL(parity)" in done.out
    assert "give real ones with --data" in done.err


def test_verify_fails_on_another_model(cli: Cli, artefacts: Path, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch", reason="pip install 'lepton-edge[torch]'")
    from safetensors.torch import load_file, save_file

    state = load_file(MODEL[2])
    state["classifier.bias"] = state["classifier.bias"] + torch.arange(10.0)
    save_file(state, tmp_path / "other.safetensors")
    done = cli("verify", MODEL[0], artefacts / "onnx-fp32", "--weights",
               tmp_path / "other.safetensors", "--json")  # fmt: skip
    assert done.code == 3
    assert done.document["status"] == "FAIL(parity)"


def test_evaluate_gates_on_the_paired_drop(
    cli: Cli, artefacts: Path, images: tuple[Path, Path]
) -> None:
    """The preprocessing travels in artifact.json: none is given here."""
    common = ("--data", images[1], "--baseline", MODEL[0], "--baseline-weights", MODEL[2])
    done = cli("evaluate", artefacts / "onnx-int8", *common, "--max-drop", "1pt", "--json")
    assert done.code == 0, done.err
    found = done.document
    assert found["n"] == 10_000
    assert found["value"] > 0.91
    low, high = found["drop_interval"]
    assert low <= found["drop"] <= high < 0.01
    assert len(found["per_class"]) == 10
    done = cli("evaluate", artefacts / "onnx-int8", *common, "--max-drop", "0.001pt")
    assert done.code == 3
    assert "UNDECIDED(needs n" in done.out or "FAIL(accuracy)" in done.out


def test_benchmark_and_compare(cli: Cli, artefacts: Path) -> None:
    done = cli("benchmark", artefacts / "onnx-fp32", "--window", "100,0.3", "--json")
    assert done.code in (0, 6), done.err  # 6: the machine was too noisy, and it says so
    found = done.document
    assert found["latency"]["n"] >= 100
    assert found["latency"]["p99_ms"] is None or found["latency"]["n"] >= 662
    assert found["facts"]["providers"] == ["CPUExecutionProvider"]
    done = cli("compare", artefacts / "onnx-fp32", artefacts / "onnx-fp32", "--window", "50,0.1",
               "--json")  # fmt: skip
    assert done.code in (0, 6), done.err
    assert done.document["verdict"] in ("tie", "faster", "slower", "NOT COMPARABLE")
    assert len(done.document["a_p50_ms"]) == 5


def test_report(cli: Cli, artefacts: Path, few_images: Path, tmp_path: Path) -> None:
    done = cli("report", artefacts / "onnx-fp32", artefacts / "onnx-int8", "--data", few_images,
               "--baseline", MODEL[0], "--baseline-weights", MODEL[2], "--window", "100,0.3",
               "-o", tmp_path)  # fmt: skip
    assert done.code == 0, done.err
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "report.html", "report.json", "report.md", "report.samples.npz",
    ]  # fmt: skip
    again = cli("report", tmp_path / "report.json", "-o", tmp_path / "again")
    assert again.code == 0, again.err
    assert (tmp_path / "again" / "report.md").read_text() == (tmp_path / "report.md").read_text()


def test_doctor_proves_and_names_what_is_missing(cli: Cli) -> None:
    done = cli("doctor", "onnx", "--json")
    assert done.code == 0, done.err
    (part,) = done.document["parts"]
    assert "inference right" in part["proof"]
    assert cli("doctor", "onyx").code == 2


def test_doctor_says_what_a_device_needs(cli: Cli) -> None:
    done = cli("doctor", "raspberry-pi-4", "--json")
    rows = {row["name"]: row for row in done.document["parts"]}
    assert set(rows) == {"tflite-convert", "tflite", "onnx-convert", "onnx", "ssh"}
    ways = (("tflite-convert", "tflite", "ssh"), ("onnx-convert", "onnx", "ssh"))
    usable = any(all(rows[part]["works"] for part in way) for way in ways)
    assert done.code == (0 if usable else 4)
    assert "doctor raspberry-pi-4 --on ssh://" in done.document["there"]


def test_a_graph_for_a_jetson_comes_with_the_command_that_builds_it(
    cli: Cli, tmp_path: Path
) -> None:
    pytest.importorskip("torch", reason="pip install 'lepton-edge[torch]'")
    pytest.importorskip("onnxruntime", reason="pip install 'lepton-edge[onnx]'")
    words = ("--to", "tensorrt", "--precision", "fp16", "--device", "jetson-orin-nano")
    done = cli("convert", *MODEL, *words, "-o", tmp_path / "out")
    assert done.code == 0, done.err
    graph = tmp_path / "out" / "cnn_fp16.onnx"
    assert f"lepton-edge convert {graph} --to tensorrt --precision fp16 -o ENGINE --on" in done.out


def test_doctor_names_what_the_edge_tpu_lacks(cli: Cli) -> None:
    if shutil.which("edgetpu_compiler"):
        pytest.skip("edgetpu_compiler is here")
    done = cli("doctor", "coral-usb")
    assert done.code == 4
    assert "edgetpu_compiler is not on PATH" in done.out
    assert "apt-get install edgetpu-compiler" in done.out
    assert "libedgetpu1-std" in done.out


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("raspbery-pi-4",), "Did you mean 'raspberry-pi-4'"),
        (("raspberry-pi-4", "onnx"), "one device at a time"),
    ],
)
def test_doctor_of_what_is_unknown(cli: Cli, words: tuple[str, ...], says: str) -> None:
    done = cli("doctor", *words)
    assert done.code == 2
    assert says in done.err


def test_dry_run_writes_nothing(cli: Cli, tmp_path: Path) -> None:
    done = cli("convert", *MODEL, "--to", "onnx,tflite", "-o", tmp_path / "out", "--dry-run")
    assert done.code == 0
    assert done.out.count("would convert") == 2
    assert not (tmp_path / "out").exists()


def test_the_help_pages_are_up_to_date() -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "docs" / "generate.py", "--check"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_the_python_interface(artefacts: Path, few_images: Path) -> None:
    import numpy as np

    import lepton_edge

    with np.load(few_images) as given:
        image, label = given["image"], given["label"]
    with lepton_edge.load(artefacts / "onnx-int8") as session:
        (logits,) = session.predict(image[0]).values()
        assert logits.shape == (1, 10)
        hits = sum(
            int(next(iter(session.predict(one).values())).argmax() == truth)
            for one, truth in zip(image, label, strict=True)
        )
    result = lepton_edge.evaluate(artefacts / "onnx-int8", few_images)
    assert result.n == 400
    assert result.value == hits / 400
