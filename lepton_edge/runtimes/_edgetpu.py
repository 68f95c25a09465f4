"""Edge TPU through libedgetpu, as a delegate of a TFLite interpreter.

A libedgetpu that was built for another interpreter crashes the process rather than failing, so it
is believed only after a real inference with the very model, in a process of its own.
"""

from __future__ import annotations

import signal
import subprocess
import sys
from typing import Any

from lepton_edge import errors
from lepton_edge.artifact import Artifact

CUSTOM_OP = "edgetpu-custom-op"  # what the compiler leaves in the file in place of operators
LIBRARY = "libedgetpu.so.1"
PROOF_S = 120.0
_PROOF = """
import importlib, sys
module, library, port, model = sys.argv[1:]
lite = importlib.import_module(module)
delegate = lite.load_delegate(library, {"device": port} if port else {})
interpreter = lite.Interpreter(model, experimental_delegates=[delegate])
interpreter.allocate_tensors()
interpreter.invoke()
"""


def delegate(lite: Any, module: str, library: str, port: str, artifact: Artifact) -> Any:
    """The delegate, after one inference with it elsewhere. `port` is "", `usb`, `pci:0`, ...

    Raises `PlacementError` for a file that is not compiled, `BackendMissing` where the library or
    the device is not there or the library does not fit the interpreter.
    """
    if CUSTOM_OP.encode() not in artifact.path.read_bytes():
        raise errors.PlacementError(
            f"Nothing in {str(artifact.path)!r} is compiled for the Edge TPU.",
            next=f"Compile it first: edgetpu_compiler {artifact.path.name}.",
        )
    given = [module, library, port, str(artifact.path)]
    try:
        done = subprocess.run(
            [sys.executable, "-c", _PROOF, *given],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=PROOF_S,
        )
    except subprocess.TimeoutExpired:
        raise errors.BackendMissing(
            f"An inference with {library} did not end in {PROOF_S:g} s.",
            next="Unplug the Edge TPU and plug it in again.",
        ) from None
    if done.returncode:
        raise _failure(done.returncode, done.stdout.decode(errors="replace"), library, module)
    return lite.load_delegate(library, {"device": port} if port else {})


def missing(library: str, log: str) -> errors.BackendMissing | None:
    """The error where the loader's message says that the library is not there."""
    if "cannot open shared object file" not in log:
        return None
    return errors.BackendMissing(
        f"{library} is not installed.",
        next="Install libedgetpu1-std, or name the library: --option delegate=/path/to/it.",
    )


def _failure(code: int, log: str, library: str, module: str) -> errors.BackendMissing:
    name = module.partition(".")[0]
    if code < 0:
        return errors.BackendMissing(
            f"{library} crashes with {name} ({signal.Signals(-code).name}).",
            next="Use a libedgetpu that was built for this version of the interpreter, or another"
            " interpreter: --option implementation=tflite_runtime.",
        )
    last = next((line.strip() for line in reversed(log.splitlines()) if line.strip()), "")
    return missing(library, log) or errors.BackendMissing(
        f"No inference on the Edge TPU by {library}: {last.rstrip('.')}.",
        next="Check that the Edge TPU is plugged in and that this user may use it.",
    )


def placement(interpreter: Any, artifact: Artifact, allow_fallback: bool) -> str:
    """`EDGETPU 1, CPU 6`: parts that the compiler made, operators that it left.

    Raises `PlacementError` where it left any and that was not allowed.
    """
    details: list[dict[str, Any]] = getattr(interpreter, "_get_ops_details", list)()
    names = [item["op_name"] for item in details if item["op_name"] != "DELEGATE"]
    left = [name for name in names if name.lower() != CUSTOM_OP]
    if left and not allow_fallback:
        raise errors.PlacementError(
            f"{len(left)} operators of {str(artifact.path)!r} run on the CPU, not on the Edge TPU:"
            f" {', '.join(sorted(set(left)))}.",
            next="See why with inspect --device coral-usb, or allow it: --option"
            " allow_fallback=true.",
        )
    return f"EDGETPU {len(names) - len(left)}, CPU {len(left)}"
