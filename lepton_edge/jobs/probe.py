"""The job behind `doctor`: one real inference (or build) with one part, on a tiny file."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from lepton_edge import errors
from lepton_edge.artifact import Artifact

_FOLDER = Path(__file__).parent
_CORAL = (
    "echo 'deb https://packages.cloud.google.com/apt coral-edgetpu-stable main' | sudo tee"
    " /etc/apt/sources.list.d/coral-edgetpu.list && sudo apt-get update && sudo apt-get install"
    " edgetpu-compiler (x86-64 only; see coral.ai/docs/edgetpu/compiler for its key)"
)
_EXPECTED = np.array([[1.0, 0.0, 3.0, 0.0]], np.float32)  # max(x, 0) of the input below
_INPUT = np.array([[1.0, -2.0, 3.0, -4.0]], np.float32)


def run(part: str, on: str | None = None) -> dict[str, Any]:
    """`{"proof": text}`; raises the part's own error, or `WorkerFailed` for a wrong answer.

    A runtime can be asked of the device `on`.
    """
    probes: dict[str, Callable[[], str]] = {
        "onnx": lambda: _runtime("onnx", "probe.onnx", on),
        "openvino": lambda: _runtime("openvino", "probe.xml", on),
        "tflite": lambda: _runtime("tflite", "probe.tflite", on),
        "torch": _torch,
        "tensorflow": _tensorflow,
        "onnx2tf": _onnx2tf,
        "tensorrt": lambda: _tensorrt(on),
        "edgetpu": lambda: _edgetpu(on),
        "edgetpu_compiler": lambda: _program("edgetpu_compiler", "--version", _CORAL),
        "ssh": lambda: _program("ssh", "-V", "sudo apt-get install openssh-client"),
        "adb": lambda: _program("adb", "version", "sudo apt-get install adb"),
        "benchmark_model": lambda: _benchmark_model(str(on)),
    }
    return {"proof": probes[part]()}


def _runtime(format: str, file: str, on: str | None) -> str:
    from lepton_edge import loading

    artifact = Artifact(folder=_FOLDER, file=file, format=format)
    with loading.load(artifact, on=on) as session:
        (output,) = session.run(_INPUT).values()
        _check(output)
        facts = session.facts
    name = facts.get("implementation") or facts.get("runtime", format)
    return f"one inference right, {name}"


def _torch() -> str:
    import torch

    _check(torch.relu(torch.from_numpy(_INPUT)).numpy())
    cuda = "with CUDA" if torch.cuda.is_available() else "CPU"
    return f"one inference right, {cuda}"


def _tensorflow() -> str:
    import tensorflow as tf

    _check(tf.nn.relu(_INPUT).numpy())
    return "one inference right"


def _onnx2tf() -> str:
    from lepton_edge.converters import _tflite_onnx

    interpreter = _tflite_onnx.python(None)
    return f"onnx2tf {_tflite_onnx.version(interpreter)} in {interpreter.parent.parent}"


def _tensorrt(on: str | None) -> str:
    """An engine built and, where there is a GPU, one inference with it."""
    import tempfile

    from lepton_edge import loading, remote
    from lepton_edge._tensorrt import build
    from lepton_edge._tensorrt.plan import Plan

    graph, plan = Artifact(folder=_FOLDER, file="probe.onnx", format="onnx"), Plan("fp32")
    with tempfile.TemporaryDirectory() as folder:
        if on is None:
            built, record = build.build(graph.path, plan, None)
        else:
            built, record = remote.build(graph, on, "tensorrt", plan.as_dict(), limit_s=100)
        artifact = Artifact(Path(folder), "probe.engine", "tensorrt", engine=record)
        artifact.path.write_bytes(built.tobytes())
        by = f"{record['library']} {record['version']}"
        try:
            with loading.load(artifact, device="cuda", on=on) as session:
                (output,) = session.run(_INPUT).values()
                _check(output)
                return f"one inference right, {by} on {session.facts['gpu']}"
        except errors.BackendMissing as error:
            if isinstance(error, errors.DeviceError):
                raise
            return f"one engine built by {by}, not run: {error.message}"


def _edgetpu(on: str | None) -> str:
    """Never a proof: only a file that Google's compiler made runs on an Edge TPU."""
    import tempfile

    from lepton_edge import loading
    from lepton_edge.runtimes import _edgetpu as runtime

    with tempfile.TemporaryDirectory() as folder:
        artifact = Artifact(Path(folder), "probe_edgetpu.tflite", "tflite")
        plain = (_FOLDER / "probe.tflite").read_bytes()
        artifact.path.write_bytes(plain + runtime.CUSTOM_OP.encode())  # tried as a compiled one
        # Nothing in it is for the Edge TPU, which is told after the delegate has run.
        with contextlib.suppress(errors.PlacementError):
            loading.load(artifact, device="edgetpu", on=on).close()
    raise errors.BackendMissing(
        f"{runtime.LIBRARY} loads; whether an inference with it is right is not known.",
        next="Prove it: lepton-edge benchmark M_edgetpu.tflite --device edgetpu.",
    )


def _program(name: str, flag: str, install: str) -> str:
    """The first line that it prints of itself."""
    import shutil
    import subprocess

    path = shutil.which(name)
    if path is None:
        raise errors.BackendMissing(f"{name} is not on PATH.", next=install)
    done = subprocess.run([path, flag], capture_output=True, text=True, check=False)
    said = (done.stdout + done.stderr).strip().partition("\n")[0]
    if done.returncode:
        raise errors.BackendMissing(f"{path} does not run: {said or 'it said nothing'}.")
    return said


def _benchmark_model(on: str) -> str:
    from lepton_edge import remote

    return remote.prove_android(on, _FOLDER / "probe.tflite")


def _check(output: Any) -> None:
    if not np.array_equal(output, _EXPECTED):
        raise errors.WorkerFailed(f"The probe gave {output.tolist()}, not {_EXPECTED.tolist()}.")
