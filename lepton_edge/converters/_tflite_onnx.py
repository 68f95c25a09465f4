"""ONNX to float .tflite by onnx2tf, which lives in an environment of its own.

It pins versions that cannot stand beside ours, so it is never imported: its own Python runs it.
"""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from lepton_edge import _cache, errors
from lepton_edge.model import Model

VERSION = "2.6.9"


def place() -> Path:
    """The folder where the environment is looked for: onnx2tf in the user's cache folder."""
    return _cache.folder("onnx2tf")


def recipe() -> str:
    """The commands that create the environment (about 660 MB, half a minute)."""
    folder = place()
    return f"python3.12 -m venv {folder} && {folder}/bin/pip install onnx2tf=={VERSION}"


def python(given: str | None) -> Path:
    """The environment's interpreter, as given or in its place; `BackendMissing` without one."""
    path = Path(given) if given else place() / "bin" / "python"
    if path.is_file():
        return path
    raise errors.BackendMissing(
        f"ONNX to TFLite needs onnx2tf in an environment of its own; there is no {str(path)!r}.",
        next=f"Create it with: {recipe()}; or name its Python with --option onnx2tf_python=PATH.",
    )


def version(interpreter: Path) -> str:
    """The environment's onnx2tf; `BackendMissing` where it does not have one."""
    code = "from importlib.metadata import version; print(version('onnx2tf'))"
    done = _run([str(interpreter), "-c", code], interpreter)
    if done.returncode:
        raise errors.BackendMissing(
            f"{str(interpreter)!r} has no onnx2tf.",
            next=f"{interpreter} -m pip install onnx2tf=={VERSION}.",
        )
    return done.stdout.strip()


def write(model: Model, file: Path, batch: int | None, interpreter: Path) -> dict[str, Any]:
    """Writes the float32 file; returns the step for artifact.json.

    Images become NHWC in it (and 3-D inputs channels-last): the bindings record that.
    """
    with tempfile.TemporaryDirectory() as folder:
        command = [
            str(interpreter),
            "-c",
            "import sys; from onnx2tf import main; sys.exit(main())",
            *("-i", str(Path(model.native).absolute()), "-o", folder, "-n"),
            *(() if batch is None else ("-b", str(batch))),
        ]
        done = _run(command, interpreter)
        written = sorted(Path(folder).glob("*_float32.tflite"))
        if done.returncode or len(written) != 1:
            raise _cannot(done.stdout + done.stderr)
        file.write_bytes(written[0].read_bytes())
    return {
        "step": "onnx2tf",
        "version": version(interpreter),
        "batch": "dynamic" if batch is None else batch,
    }


def _run(command: list[str], interpreter: Path) -> subprocess.CompletedProcess[str]:
    # onnx2tf calls tools of its own environment (onnxsim) by name.
    path = f"{interpreter.parent.absolute()}{os.pathsep}{os.environ.get('PATH', '')}"
    inherited = {
        name: value
        for name, value in os.environ.items()
        if name not in ("PYTHONPATH", "PYTHONHOME")
    }
    with tempfile.TemporaryDirectory() as folder:  # it leaves schema files where it is started
        return subprocess.run(
            command,
            env={**inherited, "PATH": path},
            cwd=folder,
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            check=False,
        )


def _cannot(log: str) -> errors.CannotConvert:
    plain = re.sub(r"\x1b\[[0-9;]*m", "", log)
    operators = operators_in(plain)
    lines = [line.strip() for line in plain.splitlines() if line.strip()]
    reason = next((line for line in lines if line.startswith("ERROR:")), lines[-1] if lines else "")
    what = (
        f"the operator {', '.join(operators)}"
        if operators
        else f"this model: {reason.removeprefix('ERROR:').strip().rstrip('.')[:300]}"
    )
    return errors.CannotConvert(
        f"onnx2tf cannot express {what}.",
        next="Replace it in the model, or convert from PyTorch or Keras directly.",
    )


def operators_in(log: str) -> list[str]:
    """The ONNX operators that onnx2tf's log says it has no form for."""
    found: list[str] = []
    for pattern in (
        r"onnx_op_type:\s*(\w+)",
        r"op(?:_type)?='?(\w+)'? .*(?:unsupported|not supported)",
        r"[Uu]nsupported (?:ONNX )?op(?:erator)?s?:?\s*'?(\w+)",
        r"(\w+) OP is not (?:yet )?(?:implemented|supported)",
    ):
        found += re.findall(pattern, log)
    return list(dict.fromkeys(found))
