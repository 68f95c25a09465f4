"""Every error a user can meet, in one tree; the exit code is an attribute of the class.

EdgeError               1  internal: a defect of ours
├── UsageError          2  the request is malformed or contradicts itself
├── GateFailed          3  parity or accuracy is outside what was allowed, or undecided
├── BackendMissing      4  a library, runtime or device that was asked for is not there
│   └── DeviceError     4  a device cannot be reached, was lost, or cannot take the work
│       └── DeviceBusy  4  another run has the device
├── PlacementError      5  less ran on the accelerator than was asked
├── UnstableMeasurement 6  clock or latency drifted: the number would not be worth printing
├── CannotConvert       7  the format or backend cannot express the model
├── BadInput            8  a model or data file is damaged, untrusted or not what it claims
└── WorkerFailed        1  a job's process crashed, hung or was killed
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class EdgeError(Exception):
    """One sentence on what failed and on what; `next` says what to do about it."""

    exit_code = 1
    kind = "internal"
    status = "ERROR"  # the status word of the JSON documents and of a report's row

    def __init__(self, message: str, *, next: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.next = next
        self.log = ""  # the end of a worker's log, where one failed

    def __str__(self) -> str:
        return f"{self.message} {self.next}" if self.next else self.message

    def as_dict(self) -> dict[str, str | None]:
        """The `error` object of the JSON documents."""
        return {"kind": self.kind, "message": self.message, "next": self.next}


class UsageError(EdgeError):
    exit_code = 2
    kind = "usage"


class GateFailed(EdgeError):
    exit_code = 3
    kind = "gate"
    status = "FAIL(parity)"


class BackendMissing(EdgeError):
    exit_code = 4
    kind = "backend-missing"


class DeviceError(BackendMissing):
    kind = "device"


class DeviceBusy(DeviceError):
    kind = "device-busy"


class PlacementError(EdgeError):
    exit_code = 5
    kind = "placement"
    status = "FALLBACK"


class UnstableMeasurement(EdgeError):
    exit_code = 6
    kind = "unstable"
    status = "UNSTABLE"


class CannotConvert(EdgeError):
    exit_code = 7
    kind = "cannot-convert"
    status = "FAIL(convert)"


class BadInput(EdgeError):
    exit_code = 8
    kind = "bad-input"


class WorkerFailed(EdgeError):
    """A job's process ended without a result; `log` holds the end of what it wrote."""

    kind = "worker"


def from_dict(error: dict[str, str | None]) -> EdgeError:
    """The error that a worker reported, as the class it was there."""
    for cls in (
        UsageError,
        GateFailed,
        BackendMissing,
        DeviceError,
        DeviceBusy,
        PlacementError,
        UnstableMeasurement,
        CannotConvert,
        BadInput,
        WorkerFailed,
    ):
        if cls.kind == error.get("kind"):
            return cls(error.get("message") or "", next=error.get("next"))
    return EdgeError(error.get("message") or "", next=error.get("next"))


def unknown(what: str, given: str, known: Iterable[str]) -> UsageError:
    """`UsageError` for a name that is not one of `known`, with the nearest spelling."""
    names = sorted(known)
    near = difflib.get_close_matches(given, names, n=1, cutoff=0.5)
    hint = f"Did you mean {near[0]!r}?" if near else f"Known: {', '.join(names)}."
    return UsageError(f"Unknown {what} {given!r}.", next=hint)
