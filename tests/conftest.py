"""What several test modules share: the command line as a process, and real images."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hypothesis
import numpy as np
import pytest

from lepton_edge import errors
from lepton_edge.demo import data as fashion

DEMO = Path(fashion.__file__).parent
PREPROCESS = "scale=1/255 mean=.2860 std=.3530 layout=NCHW"
MODEL = (f"{DEMO / 'cnn.py'}:factory", "--weights", str(DEMO / "cnn.safetensors"))

# Shared machines stall: how long an example takes says nothing about the code.
hypothesis.settings.register_profile(
    "steady", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("steady")

# OpenVINO's converter forks a process to send usage data, unless this module cannot be imported.
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]

# One thread each: tests run beside others, and two pools on two cores starve each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")


@dataclass(frozen=True)
class Done:
    """A finished command: exit code, stdout and stderr."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.out)
        return found


@pytest.fixture(scope="session")
def cli() -> Callable[..., Done]:
    """Runs `lepton-edge ARGUMENTS` in a process of its own."""

    def run(*arguments: object, cwd: Path | None = None) -> Done:
        command = [sys.executable, "-m", "lepton_edge.cli", *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True, cwd=cwd, timeout=600)
        return Done(done.returncode, done.stdout, done.stderr)

    return run


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """`calib.npz` (512 training images) and `test.npz` (10,000 test images) of Fashion-MNIST."""
    given = os.environ.get("LEPTON_EDGE_FASHION_MNIST")
    try:
        folder = fashion.fetch(Path(given) if given else None)
    except errors.EdgeError as error:
        pytest.skip(f"no Fashion-MNIST: {error}")
    return fashion.write_npz(folder, tmp_path_factory.mktemp("images"))


@pytest.fixture(scope="session")
def few_images(images: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first 400 test images, for tests that need some real data but not much."""
    path = tmp_path_factory.mktemp("few") / "few.npz"
    with np.load(images[1]) as given:
        np.savez(path, image=given["image"][:400], label=given["label"][:400])
    return path
