"""Runs `edgetpu_compiler` where it is on PATH, and reads its log.

The compiler is Google's, closed, for x86-64 Linux. Flags and log lines: coral.ai/docs/edgetpu/
compiler and the logs that users published.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lepton_edge import errors

_SIZES = {"B": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
_SIZE = r"([\d.]+)(B|KiB|MiB|GiB)"
_ROW = re.compile(r"^([A-Za-z][A-Za-z0-9_-]*)\s+(\d+)\s+(\S.*?)\s*$", re.MULTILINE)
_VERSION = re.compile(r"Edge TPU Compiler version (\S+)")
MAPPED = "Mapped to Edge TPU"
# What each status of the log asks for.
NEXT = {
    "More than one subgraph is not supported": "remove the operator before it that is not mapped",
    "Operation is working on an unsupported data type": "quantise it to int8",
    "Operation version not supported": "export with an older converter",
    "Operation not supported": "replace the operator",
    "Tensor has unsupported rank (up to 3 innermost dimensions mapped)": "use a batch of 1",
}


@dataclass(frozen=True)
class Status:
    """`count` operators of one kind and what became of them, in the compiler's words."""

    op: str
    count: int
    status: str

    @property
    def mapped(self) -> bool:
        return self.status == MAPPED


@dataclass(frozen=True)
class Log:
    """What the compiler printed; a number that it did not print is None. Sizes in bytes."""

    version: str | None
    on_chip_used_bytes: int | None
    on_chip_left_bytes: int | None
    off_chip_bytes: int | None
    subgraphs: int | None
    total: int | None
    accelerator: int
    cpu: int
    statuses: tuple[Status, ...]

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def parse_log(text: str) -> Log:
    """The compiler's output or .log file. Raises `BadInput` where it is neither."""
    version = _VERSION.search(text)
    _, header, table = text.partition("Operator ")
    statuses = tuple(Status(op, int(n), status) for op, n, status in _ROW.findall(table))
    if version is None or (header and not statuses):
        raise errors.BadInput("This is no log of edgetpu_compiler.", next="Give its output.")
    on_cpu = sum(row.count for row in statuses if not row.mapped)
    on_tpu = sum(row.count for row in statuses if row.mapped)
    total = _number(text, r"Total number of operations: (\d+)")
    # Compilers that print only the first rows still print both counts.
    printed_tpu = _number(text, r"Number of operations that will run on Edge TPU: (\d+)")
    printed_cpu = _number(text, r"Number of operations that will run on CPU: (\d+)")
    return Log(
        version=version.group(1),
        on_chip_used_bytes=_size(text, "On-chip memory used for caching model parameters"),
        on_chip_left_bytes=_size(text, "On-chip memory remaining for caching model parameters"),
        off_chip_bytes=_size(text, "Off-chip memory used for streaming uncached model parameters"),
        subgraphs=_number(text, r"Number of Edge TPU subgraphs: (\d+)"),
        total=total,
        accelerator=on_tpu if printed_tpu is None else printed_tpu,
        cpu=on_cpu if printed_cpu is None else printed_cpu,
        statuses=statuses,
    )


def compile_file(
    model: str | Path,
    out: str | Path,
    *,
    min_runtime: int | None = None,
    timeout_s: float = 600.0,
) -> tuple[Path, Log]:
    """Compiles into the folder `out`: the file `<stem>_edgetpu.tflite`, and what was mapped.

    Raises `BackendMissing` without the compiler on PATH, `CannotConvert` with the compiler's last
    words where it refuses the model.
    """
    program = shutil.which("edgetpu_compiler")
    if program is None:
        raise errors.BackendMissing(
            "edgetpu_compiler is not on PATH.",
            next="Install it on x86-64 Debian or Ubuntu: coral.ai/docs/edgetpu/compiler.",
        )
    model, out = Path(model), Path(out)
    command = [program, "-s", "-t", str(int(timeout_s))]
    if min_runtime is not None:
        command += ["-m", str(min_runtime)]
    # It writes beside its own log, so it works in a folder of its own: nothing half written.
    with tempfile.TemporaryDirectory(dir=out) as folder:
        try:
            done = subprocess.run(
                [*command, "-o", folder, str(model)],
                capture_output=True,
                text=True,
                timeout=timeout_s + 30,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise errors.CannotConvert(
                f"edgetpu_compiler took longer than {timeout_s:g} s on {str(model)!r}.",
                next="Give it more time, or a smaller model.",
            ) from None
        text = done.stdout + done.stderr
        made = Path(folder) / f"{model.stem}_edgetpu.tflite"
        if done.returncode or not made.exists():
            last = next((line for line in reversed(text.splitlines()) if line.strip()), "nothing")
            raise errors.CannotConvert(
                f"edgetpu_compiler cannot compile {str(model)!r}; its last words: {last.strip()}",
                next=f"See lepton-edge inspect {model} --device coral-usb.",
            )
        target = out / made.name
        made.replace(target)
    return target, parse_log(text)


def _size(text: str, label: str) -> int | None:
    found = re.search(rf"{re.escape(label)}: {_SIZE}", text)
    return round(float(found.group(1)) * _SIZES[found.group(2)]) if found else None


def _number(text: str, pattern: str) -> int | None:
    found = re.search(pattern, text)
    return int(found.group(1)) if found else None
