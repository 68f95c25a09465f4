"""What every runtime shares: the number of threads, and finding a library without importing it."""

from __future__ import annotations

import importlib
import os
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import ModuleType

from lepton_edge import errors


def thread_count(threads: int | None) -> int:
    """The number of threads to use: as given, else the physical cores this process may use.

    It is always set explicitly, so that the facts tell what ran and not what a library chose.
    """
    if threads is None:
        return _physical_cores()
    if threads < 1:
        raise errors.UsageError(f"Threads must be 1 or more, got {threads}.")
    return threads


def _physical_cores() -> int:
    if not hasattr(os, "sched_getaffinity"):  # macOS and Windows
        return os.cpu_count() or 1
    cores = set()
    for cpu in os.sched_getaffinity(0):
        siblings = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list")
        try:
            cores.add(siblings.read_text().strip())
        except OSError:
            cores.add(str(cpu))
    return len(cores)


def backend(module: str, *, library: str, extra: str) -> ModuleType:
    """Imports a backend's module; `BackendMissing` names the extra that brings it."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != module.partition(".")[0]:
            raise  # the library is there, but lacks something of its own
        raise errors.BackendMissing(
            f"{library} is not installed.", next=f"pip install 'lepton-edge[{extra}]'."
        ) from None
    except ImportError as error:
        raise errors.BackendMissing(
            f"{library} is installed but does not load: {first_line(error)}.",
            next=f"Install it again: pip install 'lepton-edge[{extra}]'.",
        ) from None


def version_of(distribution: str) -> str | None:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


def first_line(error: BaseException) -> str:
    """A library's message as one clause: its first line that says something, without a full stop.

    OpenVINO puts `Exception from file:line:` before the reason, over several lines.
    """
    lines = [line.strip() for line in str(error).splitlines()]
    telling = [line for line in lines if line and not line.startswith(("Exception from", "Check "))]
    return (telling or [type(error).__name__])[0].rstrip(".!")[:300]


def only_cpu(device: str, runtime: str, also: str = "") -> None:
    """Raises `UsageError` for any other device; `also` is what else there is to ask for."""
    if device != "cpu":
        raise errors.UsageError(
            f"The {runtime} runtime runs on 'cpu' only, not on {device!r}.",
            next=f"Use --device cpu{also}; another machine is reached with --on.",
        )


def require_file(path: Path) -> None:
    """Raises `BadInput` where there is no file: some runtimes report that as something else."""
    if not path.is_file():
        raise errors.BadInput(f"There is no file {str(path)!r}.")
