"""The process that does one job: `python -m lepton_edge.worker` reads JSON and writes JSON.

The job comes on standard input, the result goes to the original standard output; whatever a
library prints goes to standard error, so it can never be taken for a result.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from typing import Any

from lepton_edge import errors, plugins


def main() -> int:
    """Runs the job `{"do": <module in lepton_edge.jobs>, ...}`; always writes one JSON document."""
    result_fd = os.dup(1)
    os.dup2(2, 1)
    answer: dict[str, Any]
    try:
        job = json.loads(sys.stdin.read())
        answer = {"ok": plugins.load("jobs", job.pop("do")).run(**job)}
    except errors.EdgeError as error:
        answer = {"error": error.as_dict()}
    except MemoryError:
        answer = {
            "error": {"kind": "worker", "message": "The job ran out of memory.", "next": None}
        }
    except Exception as error:  # noqa: BLE001 - the border of the process: it must be reported
        traceback.print_exc()
        message = f"{type(error).__name__}: {error}"
        answer = {"error": {"kind": "internal", "message": message, "next": None}}
    with os.fdopen(result_fd, "w") as out:
        json.dump(answer, out)
    sys.stdout.flush()
    sys.stderr.flush()
    # Some runtimes crash while their static objects are torn down; the answer is out already.
    os._exit(0)


if __name__ == "__main__":
    main()
