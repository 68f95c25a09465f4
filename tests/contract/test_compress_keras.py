"""Training of Keras models by their own loop: real models, in processes with TensorFlow alone."""

from __future__ import annotations

import io
import json
import re
import signal
import subprocess
import sys
import time
import zipfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("tensorboard")
if not find_spec("keras") or not find_spec("tensorflow"):  # not imported: torch may be here
    pytest.skip("pip install 'lepton-edge[tensorflow]'", allow_module_level=True)

from lepton_edge import jobs

HERE = Path(__file__).parent
CHECKS = re.findall(r"^def check_(\w+)", (HERE / "keras_training.py").read_text(), re.M)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where `keras_training` ran, with what each check found."""
    found = tmp_path_factory.mktemp("keras")
    command = [sys.executable, "-m", "tests.contract.keras_training", str(found)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=HERE.parents[1])
    assert done.returncode == 0, done.stderr[-4000:]
    return found


def weights(file: Path) -> dict[str, Any]:
    """Every array in a .keras file, by its place."""
    h5py = pytest.importorskip("h5py")
    found: dict[str, Any] = {}

    def keep(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset):
            found[name] = item[()]

    with zipfile.ZipFile(file) as archive:
        stored = io.BytesIO(archive.read("model.weights.h5"))
    with h5py.File(stored) as opened:
        opened.visititems(keep)
    return found


@pytest.mark.parametrize("name", CHECKS)
def test_training(folder: Path, name: str) -> None:
    failed = json.loads((folder / "checks.json").read_text())[name]
    assert failed is None, failed


def test_a_run_killed_goes_on_to_the_same_weights(folder: Path) -> None:
    job = json.loads((folder / "killed.json").read_text())
    checkpoint = Path(job["work"], "checkpoint.npz")
    with subprocess.Popen(
        [sys.executable, "-m", "lepton_edge.worker"], stdin=subprocess.PIPE
    ) as process:
        assert process.stdin is not None
        process.stdin.write(json.dumps(job).encode())
        process.stdin.close()
        while not checkpoint.exists() and process.poll() is None:
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
    assert checkpoint.exists()
    assert not (folder / "cut").exists()
    done = jobs.call(**job, resume=True)
    assert 0 < done["record"]["result"]["resumed_at"] < done["record"]["result"]["steps"]
    assert not checkpoint.exists()
    one, two = (weights(folder / name / f"{name}.keras") for name in ("whole", "cut"))
    assert len(one) > 5
    for key, value in one.items():
        assert np.array_equal(value, two[key]), key


@pytest.mark.parametrize("name", ["sgd", "momentum", "adam", "adamw"])
def test_settings_mean_what_they_mean_in_torch(folder: Path, tmp_path: Path, name: str) -> None:
    torch = pytest.importorskip("torch")
    pytest.importorskip("accelerate")
    from lepton_edge.compress import Training, _data, _train
    from lepton_edge.compress._objectives import Task
    from lepton_edge.model import Signature, TensorSpec
    from lepton_edge.samples import open_samples

    rng = np.random.default_rng(5)  # as tests.keras_nets.start
    values = [rng.normal(0, 0.05, (192, 4)), np.random.default_rng(5).normal(0, 0.05, 4)]
    module = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 4))
    with torch.no_grad():
        module[1].weight.copy_(torch.from_numpy(values[0].T.copy()))
        module[1].bias.copy_(torch.from_numpy(values[1]))
    how = Training(**json.loads((folder / "twins.json").read_text())[name])
    image = TensorSpec("image", (None, 8, 8, 3), "float32")
    data = _data.table(open_samples(folder / "train.npz"), Signature((image,), ()))
    _train.fit(module, Task(None, "auto", how.label_smoothing), data, how, tmp_path)
    with np.load(folder / f"twin-{name}.npz") as twin:
        kernel, bias = twin["arr_0"], twin["arr_1"]
    ours, start = module[1].weight.detach().numpy().T, values[0]
    moved = float(np.abs(ours - start).max())
    assert moved > 0.02
    assert np.abs(kernel - ours).max() < 0.01 * moved
    assert np.abs(bias - module[1].bias.detach().numpy()).max() < 0.01 * moved
