"""Do int8 artefacts compute on Arm what they compute here? An emulated aarch64 Debian answers.

    python benchmarks/aarch64.py ROOT --data test.npz [--n 1000] ARTIFACT ...

ROOT is made where it does not exist (as root, with debootstrap and qemu-user-static): a Debian
arm64 with Python, numpy and two runtimes. Every artefact runs here and there, by `--on`, on the
same samples, under the cores that are named; printed is how far the outputs agree. Emulation says
nothing about speed, so no time is taken.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from lepton_edge import accuracy, loading
from lepton_edge.samples import Samples, limit, open_samples

# What these cores have decides which kernels a runtime takes: the A72 (Raspberry Pi 4) has no
# dot product, the A76 (Raspberry Pi 5) has one, `max` has all that the emulator knows (i8mm, SVE).
CORES = ("cortex-a72", "cortex-a76", "max")
MIRROR = "http://deb.debian.org/debian"
PACKAGES = (
    "numpy", "onnxruntime", "ai-edge-litert", "flatbuffers", "protobuf", "backports.strenum",
    "typing_extensions", "ml_dtypes", "tqdm",
)  # fmt: skip
PLATFORMS = ("manylinux_2_28_aarch64", "manylinux_2_27_aarch64", "manylinux2014_aarch64")
QEMU, SHELL = "qemu-aarch64-static", "busybox"
PYTHON = "/usr/local/bin/python-emulated"


def make(root: Path) -> None:
    """A Debian arm64 in `root`: nothing in it is run while it is made."""
    for program in ("debootstrap", QEMU):
        if shutil.which(program) is None:
            raise SystemExit(f"{program} is missing: apt-get install debootstrap qemu-user-static")
    debian = ["--arch=arm64", "--foreign", "--variant=minbase", "--include=python3"]
    subprocess.run(["debootstrap", *debian, "bookworm", root, MIRROR], check=True)
    for archive in sorted(root.glob("var/cache/apt/archives/*.deb")):
        subprocess.run(["dpkg", "-x", archive, root], check=True)
    add_runtimes(root)


def add_runtimes(root: Path) -> None:
    with tempfile.TemporaryDirectory() as wheels:
        platforms = [word for name in PLATFORMS for word in ("--platform", name)]
        target = ["--python-version", "3.11", "--implementation", "cp", "--only-binary=:all:"]
        pip = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", wheels]
        subprocess.run([*pip, *platforms, *target, *PACKAGES], check=True)
        for wheel in sorted(Path(wheels).glob("*.whl")):
            shutil.unpack_archive(wheel, root / "opt" / "site", "zip")
    shutil.copy(shutil.which(QEMU) or QEMU, root / "usr" / "bin" / QEMU)
    add_launcher(root)


def add_launcher(root: Path) -> None:
    """An interpreter that Python inside can start again: a kernel without binfmt cannot run it."""
    (root / "usr" / "local" / "bin").mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(["apt-get", "download", "-q", "busybox-static"], check=True, cwd=folder)
        (archive,) = Path(folder).glob("*.deb")
        subprocess.run(["dpkg", "-x", archive, f"{folder}/unpacked"], check=True)
        (program,) = Path(folder).glob("unpacked/**/bin/busybox")
        shutil.copy(program, root / "usr" / "local" / "bin" / SHELL)
    launcher = root / PYTHON.lstrip("/")
    launcher.write_text(
        f"#!/usr/local/bin/{SHELL} sh\nexport PYTHONPATH=/opt/site HOME=/root\n"
        f'exec /usr/bin/{QEMU} -0 {PYTHON} /usr/bin/python3.11 "$@"\n'
    )
    launcher.chmod(0o755)


def address(root: Path, core: str, folder: Path) -> str:
    """Where that Python is reached: a script outside that goes into `root`."""
    outside = folder / core
    strip = f'for word; do shift; set -- "$@" "${{word#{root}}}"; done'
    outside.write_text(
        f'#!/bin/sh\n{strip}\nexport QEMU_CPU={core}\nexec chroot {root} {PYTHON} "$@"\n'
    )
    outside.chmod(0o755)
    return f"local:?python={outside}&folder={root}/cache&wait=yes"


def line(path: str, core: str, samples: Samples, on: str) -> str:
    artifact = loading.as_artifact(path)
    here = accuracy.score(artifact, samples, threads=1)
    there = accuracy.score(artifact, samples, threads=1, on=on)
    assert here.class_scores is not None
    assert there.class_scores is not None
    assert here.facts is not None
    assert there.facts is not None
    assert "aarch64" in there.facts["machine"], there.facts
    difference = here.class_scores - there.class_scores
    noise, signal = float(np.square(difference).sum()), float(np.square(here.class_scores).sum())
    cells = (
        Path(path).name,
        core,
        f"{here.facts['runtime']} {here.facts['version']}",
        str(there.facts["version"]),
        f"{here.n:,}",
        f"{100 * (here.predicted == there.predicted).mean():.2f} %",
        f"{100 * here.score.mean():.2f} %",
        f"{100 * there.score.mean():.2f} %",
        f"{10 * np.log10(signal / noise):.1f} dB" if noise else "the same bits",
    )
    return f"| {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("root", type=Path, help="the Debian root; made where it is missing")
    parser.add_argument("artifacts", nargs="+", help="folders of .tflite or .onnx artefacts")
    parser.add_argument("--data", required=True, help="labelled samples")
    parser.add_argument("--n", type=int, default=1000, help="samples, drawn with seed 0")
    given = parser.parse_args()
    if os.geteuid() != 0:
        raise SystemExit("Only root can go into another root (chroot).")
    root = given.root.resolve()
    if not root.exists():
        make(root)
    print("| artefact | core | runtime here | there | n | same class | top-1 here | there | SQNR |")
    print("|---|---|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for path in given.artifacts:
            samples = limit(open_samples(given.data), given.n)
            samples = loading.prepare(samples, loading.as_artifact(path))
            for core in CORES:
                print(line(path, core, samples, address(root, core, Path(folder))), flush=True)


if __name__ == "__main__":
    main()
