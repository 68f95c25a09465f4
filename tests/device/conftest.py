"""Boards and artefacts that several modules use; every board is a real sshd on loopback."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lepton_edge import conversion
from lepton_edge.artifact import Artifact
from lepton_edge.model import ModelSource
from lepton_edge.preprocess import Preprocess
from tests import boards
from tests.conftest import DEMO, PREPROCESS

LITERT = ("3.11", "numpy", "ai-edge-litert")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is kept of unfinished runs must not reach from one test, or run of them, to another."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture(scope="session")
def python(request: pytest.FixtureRequest) -> Callable[..., Path]:
    """`python("3.8", "numpy", ...)`: an interpreter that has these packages and no others."""
    cache = Path(request.config.cache.mkdir("boards"))
    return lambda version, *packages: boards.environment(cache, version, *packages)


@pytest.fixture(scope="module")
def board(request: pytest.FixtureRequest) -> Iterator[boards.Board]:
    """A server whose user reaches every Python of these tests."""
    cache = Path(request.config.cache.mkdir("boards"))
    with boards.sshd(cache, *boards.installations(), small="2m") as found:
        yield found


@pytest.fixture(scope="session")
def convert(
    images: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str, str], Artifact]:
    """The demo's CNN in a format and precision, converted once."""
    made: dict[tuple[str, str], Artifact] = {}

    def one(format: str, precision: str) -> Artifact:
        if (format, precision) not in made:
            made[format, precision] = conversion.convert(
                ModelSource(f"{DEMO / 'cnn.py'}:factory", str(DEMO / "cnn.safetensors")),
                to=format,
                precision=precision,
                output=tmp_path_factory.mktemp("artifacts") / f"{format}-{precision}",
                calib=images[0] if precision == "int8" else None,
                data=images[1],
                preprocess=Preprocess.parse(PREPROCESS),
            )
        return made[format, precision]

    return one
