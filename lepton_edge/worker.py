"""The process that does one job: `python -m lepton_edge.worker` reads JSON and writes JSON.

The job comes on standard input, the result goes to the original standard output; whatever a
library prints goes to standard error, so it can never be taken for a result.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import signal
import sys
import traceback
from typing import Any

from lepton_edge import errors, plugins

_CANNOT_WRITE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES)


def main() -> int:
    """Runs the job `{"do": <module in lepton_edge.jobs>, ...}`; always writes one JSON document."""
    _end_with_parent()
    result_fd = os.dup(1)
    os.dup2(2, 1)
    answer: dict[str, Any]
    try:
        job = json.loads(sys.stdin.read())
        answer = {"ok": plugins.load("jobs", job.pop("do")).run(**job)}
    except Exception as error:  # noqa: BLE001 - the border of the process: it must be reported
        answer = {"error": _described(error).as_dict()}
    with os.fdopen(result_fd, "w") as out:
        json.dump(answer, out)
    sys.stdout.flush()
    sys.stderr.flush()
    # Some runtimes crash while their static objects are torn down; the answer is out already.
    os._exit(0)


def _end_with_parent() -> None:
    """On Linux a job ends with who asked for it, even by kill -9: nobody else would stop it."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def _described(error: Exception) -> errors.EdgeError:
    if isinstance(error, errors.EdgeError):
        return error
    traceback.print_exc()
    if isinstance(error, MemoryError):
        return errors.WorkerFailed("The job ran out of memory.")
    if isinstance(error, OSError) and error.errno in _CANNOT_WRITE:
        place = f" {error.filename!r}" if error.filename else ""
        return errors.UsageError(
            f"Cannot write{place}: {error.strerror}.", next="Nothing was changed; free some space."
        )
    return errors.EdgeError(f"{type(error).__name__}: {error}")


if __name__ == "__main__":
    main()
