"""The training engine: repeatable, resumable, in several processes, and honest when it fails."""

from __future__ import annotations

import json
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("accelerate")
pytest.importorskip("tensorboard")

from lepton_edge import errors, jobs, sources  # noqa: E402
from lepton_edge.compress import Finetune, Training  # noqa: E402
from lepton_edge.model import Model, ModelSource  # noqa: E402
from lepton_edge.samples import Samples, open_samples  # noqa: E402
from tests import compress_nets  # noqa: E402

NETS = Path(compress_nets.__file__)


def model(name: str = "cnn") -> Model:
    return sources.load(ModelSource(f"{NETS}:{name}"))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Samples:
    return open_samples(compress_nets.samples(tmp_path_factory.mktemp("data") / "train.npz"))


def weights(done: Model) -> dict[str, Any]:
    state: dict[str, Any] = done.native.state_dict()
    return state


def job(out: Path, data: Samples, net: str = "cnn", **given: Any) -> dict[str, Any]:
    training = {"epochs": 6, "batch": 32, "lr": 0.05, "checkpoint_steps": 3, "log_steps": 1}
    return {
        "do": "compress",
        "name": "finetune",
        "source": ModelSource(f"{NETS}:{net}").as_dict(),
        "options": {},
        "training": {**training, **given.pop("training", {})},
        "samples": data.as_dict(),
        "out": str(out),
        "work": str(out.with_name(f"{out.name}.training")),
        **given,
    }


def test_training_learns_and_is_repeatable(tmp_path: Path, data: Samples) -> None:
    how = Training(epochs=6, batch=32, lr=0.05, augment=("flip", "crop"), label_smoothing=0.1)
    one, two = (Finetune(training=how)(model(), data, out=tmp_path / n) for n in ("a", "b"))
    record = json.loads((tmp_path / "a" / "compress.json").read_text())["steps"][-1]["result"]
    assert record["steps"] == 48
    assert record["last_loss"] < 0.75 * record["first_loss"]
    for name, value in weights(one).items():
        assert torch.equal(value, weights(two)[name])


def test_a_run_killed_goes_on_to_the_same_weights(tmp_path: Path, data: Samples) -> None:
    training = {"epochs": 20, "augment": ["flip"], "holdout": 0.1, "patience": 20}
    whole = job(tmp_path / "whole", data, training=training)
    jobs.call(**whole)
    cut = job(tmp_path / "cut", data, training=training)
    checkpoint = Path(cut["work"], "checkpoint.pt")
    with subprocess.Popen(
        [sys.executable, "-m", "lepton_edge.worker"], stdin=subprocess.PIPE
    ) as process:
        assert process.stdin is not None
        process.stdin.write(json.dumps(cut).encode())
        process.stdin.close()
        while not checkpoint.exists() and process.poll() is None:
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
    assert checkpoint.exists()
    assert not (tmp_path / "cut").exists()
    with pytest.raises(errors.UsageError, match="unfinished training"):
        jobs.call(**cut)
    done = jobs.call(**cut, resume=True)
    assert 0 < done["record"]["result"]["resumed_at"] < done["record"]["result"]["steps"]
    assert not checkpoint.exists()
    pair = [
        sources.load(
            ModelSource(f"{tmp_path}/{n}/model.py:factory", f"{tmp_path}/{n}/{n}.safetensors")
        )
        for n in ("whole", "cut")
    ]
    for name, value in weights(pair[0]).items():
        assert torch.equal(value, weights(pair[1])[name]), name


def test_two_processes_train_as_one(tmp_path: Path, data: Samples) -> None:
    training = {"epochs": 3}
    one = jobs.call(**job(tmp_path / "one", data, "plain", training=training))
    two = jobs.call(**job(tmp_path / "two", data, "plain", training=training, processes=2))
    assert two["record"]["result"]["processes"] == 2
    assert not list((tmp_path / "two.training").glob("rank*"))
    pair = [sources.load(ModelSource.from_dict(done["source"])) for done in (one, two)]
    moved = 0.0
    for name, value in weights(pair[0]).items():
        start = weights(model("plain"))[name]
        moved = max(moved, float((value - start).abs().max()))
        # The same sums in another order, through a few dozen steps.
        assert torch.allclose(value, weights(pair[1])[name], atol=1e-4), name
    assert moved > 0.01


def test_event_files_hold_what_was_logged(tmp_path: Path, data: Samples) -> None:
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

    how = Training(epochs=2, batch=32, lr=0.05, log_steps=4, holdout=0.1)
    Finetune(training=how)(model(), data, out=tmp_path / "out")
    (file,) = (tmp_path / "out.training" / "logs").glob("events.out.tfevents.*")
    found: dict[str, list[tuple[int, float]]] = {}
    for event in EventFileLoader(str(file)).Load():
        for value in event.summary.value:
            number = value.tensor.float_val[0] if value.HasField("tensor") else value.simple_value
            found.setdefault(value.tag, []).append((event.step, number))
    tags = {"loss", "accuracy", "learning_rate", "sparsity"}
    assert set(found) == {f"train/{tag}" for tag in tags} | {"held-out/loss", "held-out/accuracy"}
    assert [step for step, _ in found["train/loss"]] == [4, 8, 12, 14]
    assert [step for step, _ in found["held-out/loss"]] == [7, 14]
    rates = [value for _, value in found["train/learning_rate"]]
    assert rates == pytest.approx([0.05 * how.rate(step - 1, 14) for step in (4, 8, 12, 14)])


def test_held_out_samples_stop_a_training_that_got_worse(tmp_path: Path, data: Samples) -> None:
    how = Training(epochs=40, batch=32, lr=1.0, holdout=0.2, patience=2, schedule="constant")
    Finetune(training=how)(model(), data, out=tmp_path / "out")
    result = json.loads((tmp_path / "out" / "compress.json").read_text())["steps"][-1]["result"]
    assert result["stopped_early"]
    assert result["epochs"] < 40


def test_a_loss_that_is_not_finite_stops_and_keeps_the_checkpoint(
    tmp_path: Path, data: Samples
) -> None:
    how = Training(epochs=20, batch=32, lr=1e18, clip=None, warmup=0.9, checkpoint_steps=1)
    with pytest.raises(errors.UsageError, match=r"last good checkpoint|no longer finite"):
        Finetune(training=how)(model("plain"), data, out=tmp_path / "out")
    state = torch.load(tmp_path / "out.training" / "checkpoint.pt", weights_only=True)
    assert state["step"] >= 1
    assert all(torch.isfinite(value).all() for value in state["model"].values())
    assert not (tmp_path / "out").exists()


def test_a_checkpoint_of_another_model_is_refused(tmp_path: Path, data: Samples) -> None:
    bad = Training(epochs=20, batch=32, lr=1e18, clip=None, warmup=0.9, checkpoint_steps=1)
    with pytest.raises(errors.UsageError):
        Finetune(training=bad)(model("plain"), data, out=tmp_path / "out")
    for name, how in (("cnn", bad), ("plain", Training(epochs=2))):
        with pytest.raises(errors.UsageError, match="another model"):
            Finetune(training=how)(model(name), data, out=tmp_path / "out", resume=True)
    (tmp_path / "out.training" / "checkpoint.pt").write_bytes(b"PK\x03\x04 cut short")
    with pytest.raises(errors.BadInput, match="no checkpoint that can be read"):
        Finetune(training=bad)(model("plain"), data, out=tmp_path / "out", resume=True)


def test_a_disk_that_is_full_at_a_checkpoint_is_said_in_one_sentence(
    tmp_path: Path, data: Samples
) -> None:
    given = job(tmp_path / "out", data, "wide", training={"epochs": 3})

    def small_files() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))

    nets = tmp_path / "nets.py"
    nets.write_text(
        "import torch\n"
        "def wide():\n"
        "    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 2048),"
        " torch.nn.ReLU(), torch.nn.Linear(2048, 4))\n"
        "    net.example_inputs = {'image': torch.zeros(1, 3, 8, 8)}\n"
        "    return net\n"
    )
    given["source"] = ModelSource(f"{nets}:wide").as_dict()
    done = subprocess.run(
        [sys.executable, "-m", "lepton_edge.worker"],
        input=json.dumps(given).encode(),
        capture_output=True,
        preexec_fn=small_files,
    )
    error = json.loads(done.stdout)["error"]
    assert error["kind"] == "usage"
    assert error["message"].startswith("Cannot write")
    assert "checkpoint.pt" in error["message"]
    assert not list(tmp_path.rglob("*.tmp"))


def test_too_much_memory_is_one_sentence(tmp_path: Path, data: Samples) -> None:
    with pytest.raises(errors.WorkerFailed, match="MB and was stopped"):
        jobs.call(**job(tmp_path / "out", data), memory_limit_mb=64)
    assert not (tmp_path / "out").exists()


def test_samples_without_labels_cannot_fine_tune(tmp_path: Path) -> None:
    bare = open_samples(compress_nets.samples(tmp_path / "bare.npz", labels=False))
    with pytest.raises(errors.UsageError, match="no labels"):
        Finetune()(model(), bare, out=tmp_path / "out")
    with pytest.raises(errors.UsageError, match="needs training samples"):
        Finetune()(model(), None, out=tmp_path / "out")


def test_a_data_loader_is_taken_as_it_is(tmp_path: Path, data: Samples) -> None:
    rows = [(torch.from_numpy(s.inputs["image"]), s.label) for s in data]
    loader = torch.utils.data.DataLoader(rows, batch_size=32, shuffle=True)
    how = Training(epochs=2, lr=0.05)
    one, two = (Finetune(training=how)(model(), loader, out=tmp_path / n) for n in ("a", "b"))
    for name, value in weights(one).items():
        assert torch.equal(value, weights(two)[name])


@pytest.mark.parametrize(
    "wrong", [{"lr": 0.0}, {"epochs": 0}, {"holdout": 1.0}, {"patience": 3}, {"warmup": -0.1}]
)
def test_settings_that_make_no_sense_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(errors.UsageError):
        Training(**wrong)


def test_channels_last_trains_to_the_same_weights(tmp_path: Path, data: Samples) -> None:
    how: dict[str, Any] = {"epochs": 2, "batch": 32, "lr": 0.05}
    one = Finetune(training=Training(**how))(model("plain"), data, out=tmp_path / "one")
    two = Finetune(training=Training(**how, channels_last=True))(
        model("plain"), data, out=tmp_path / "two"
    )
    for name, value in weights(one).items():
        # The same sums in another order.
        assert torch.allclose(value, weights(two)[name], atol=1e-4), name
    assert all(value.is_contiguous() for value in weights(two).values())
    with pytest.raises(errors.UsageError, match="calls view on images"):
        Finetune(training=Training(**how, channels_last=True))(
            model("views"), data, out=tmp_path / "three"
        )


def test_bf16_trains(tmp_path: Path, data: Samples) -> None:
    how = Training(epochs=3, batch=32, lr=0.05, precision="bf16")
    Finetune(training=how)(model(), data, out=tmp_path / "out")
    result = json.loads((tmp_path / "out" / "compress.json").read_text())["steps"][-1]["result"]
    assert result["last_loss"] < result["first_loss"]
