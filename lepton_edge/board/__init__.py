"""What runs on a device: one file with numpy and one runtime, from Python 3.8 up.

`serve` is the process that a connection starts (server.py): it holds the device's lock, keeps
files by their sha256, and starts a process of its own (work.py) for every session and every
benchmark, so that a crash there is an answer here. Both speak frames (`_frames`) on standard input
and output, and end with them.
"""

from __future__ import annotations

import contextlib
import os
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any, Sequence

from lepton_edge import _frames, errors
from lepton_edge.board.server import Gone, Server
from lepton_edge.board.work import Work
from lepton_edge.model import Array

if TYPE_CHECKING:
    Answer = tuple[dict[str, Any], Sequence[Array]]

ENDS = (BrokenPipeError, _frames.Broken, Gone)  # of a connection, in the middle of something


def main() -> None:
    """`serve FOLDER` or `work`: answers frames until the other side ends.

    What libraries print goes to standard error, so it can never be taken for an answer.
    """
    handler = Work() if sys.argv[1] == "work" else Server(Path(sys.argv[2]).expanduser())
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    if isinstance(handler, Server):
        out.write(f"{_frames.SAY} ready\n".encode())
        out.flush()
    # Unbuffered: the server waits on the descriptor, which knows nothing of a buffer.
    with contextlib.suppress(*ENDS), handler, open(0, "rb", buffering=0) as source:
        while handler.wait():
            request = _frames.read(source)
            if request is None:
                break
            header, arrays = request
            if header["op"] != "ping":
                _frames.write(out, *_answer(handler, header, arrays))
    # Some runtimes crash while their static objects are torn down; all is answered already.
    os._exit(0)


def _answer(handler: Server | Work, header: dict[str, Any], arrays: Sequence[Array]) -> Answer:
    try:
        found: Answer = getattr(handler, "op_" + header.pop("op"))(arrays=arrays, **header)
        return found
    except Gone:
        raise
    except errors.EdgeError as error:
        return {"error": error.as_dict()}, ()
    except MemoryError:
        return {"error": errors.WorkerFailed("The device ran out of memory.").as_dict()}, ()
    except Exception as error:  # noqa: BLE001 - the border of the process: it must be reported
        traceback.print_exc()
        text = f"{type(error).__name__}: {error}"
        return {"error": errors.EdgeError(text).as_dict()}, ()
