"""What is installed: every module once, the data files, and the links at the top."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "lepton_edge"


@pytest.mark.parametrize("name", ["converters", "runtimes", "calibration", "devices"])
def test_the_links_at_the_top_lead_into_the_package(name: str) -> None:
    link = ROOT / name
    assert link.is_symlink()
    assert not link.readlink().is_absolute()
    assert link.resolve() == PACKAGE / name


def test_every_module_is_in_the_wheel_once(tmp_path: Path) -> None:
    pytest.importorskip("build", reason="needs the dev extra: pip install 'lepton-edge[dev]'")
    # From a copy, since setuptools would add what an earlier build left behind.
    copy = tmp_path / "copy"
    ignored = shutil.ignore_patterns(".*", "__pycache__")
    shutil.copytree(PACKAGE, copy / "lepton_edge", ignore=ignored)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    # Without isolation nothing is downloaded; the build environment is this one.
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "-o", str(tmp_path)]
    done = subprocess.run([*command, str(copy)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = [name for name in archive.namelist() if ".dist-info/" not in name]
    expected = {
        str(path.relative_to(copy)) for path in (copy / "lepton_edge").rglob("*") if path.is_file()
    }
    assert Counter(names) == Counter(expected)
