"""What a worker can do: one module a job, each with `run(**job) -> JSON-able result`.

`call(job)` runs one in a process of its own, with limits. A crash, a hang or too much memory is a
`WorkerFailed` that carries the end of the log.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from lepton_edge import errors

LOG_TAIL = 4000


def call(
    do: str,
    *,
    time_limit_s: float = 1800.0,
    memory_limit_mb: int | None = None,
    python: str | None = None,
    **job: Any,
) -> dict[str, Any]:
    """The result of the job `do`; the worker's own error where it reported one.

    `memory_limit_mb` bounds the resident set, looked at five times a second (default: 90 % of this
    machine's memory). Ctrl-C ends the worker with everything that it started.
    """
    limit = (memory_limit_mb or _machine_memory_mb() * 9 // 10) * 2**20
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            [python or sys.executable, "-m", "lepton_edge.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            start_new_session=True,
        )
        verdict: list[str] = []
        watcher = threading.Thread(
            target=_watch, args=(process, time.monotonic() + time_limit_s, limit, verdict)
        )
        watcher.start()
        try:
            out, _ = process.communicate(json.dumps({"do": do, **job}).encode())
        except BrokenPipeError:
            out = b""
        finally:
            _kill(process)
            process.wait()
            watcher.join()
        log.seek(max(0, log.tell() - LOG_TAIL))
        tail = log.read().decode(errors="replace")
    if verdict:
        reason = {
            "time": f"took longer than {time_limit_s:g} s and was stopped",
            "memory": f"used more than {limit >> 20} MB and was stopped",
        }[verdict[0]]
        raise _failed(f"The {do} job {reason}.", tail)
    try:
        answer = json.loads(out)
    except ValueError:
        how = (
            f"was killed by {signal.Signals(-process.returncode).name}"
            if process.returncode < 0
            else f"ended with code {process.returncode}"
        )
        raise _failed(f"The {do} job's process {how}.", tail) from None
    if "error" in answer:
        error = errors.from_dict(answer["error"])
        error.log = tail
        raise error
    result: dict[str, Any] = answer["ok"]
    return result


def _failed(message: str, log: str) -> errors.WorkerFailed:
    last = next((line for line in reversed(log.splitlines()) if line.strip()), None)
    error = errors.WorkerFailed(message, next=f"Its log ends: {last!r}." if last else None)
    error.log = log
    return error


def _watch(
    process: subprocess.Popen[bytes], deadline: float, limit: int, verdict: list[str]
) -> None:
    while process.poll() is None:
        if time.monotonic() > deadline:
            verdict.append("time")
        elif _rss(process.pid) > limit:
            verdict.append("memory")
        if verdict:
            _kill(process)
            return
        time.sleep(0.2)


def _kill(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)


def _rss(pid: int) -> int:
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except (OSError, IndexError):
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")


def _machine_memory_mb() -> int:
    return int(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") >> 20)
