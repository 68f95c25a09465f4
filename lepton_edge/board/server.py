"""The process that a connection starts: the device's lock, its files, and who does the work."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Mapping, Sequence

from lepton_edge import _frames, context, errors
from lepton_edge.board.store import FULL, Store
from lepton_edge.model import Array

if TYPE_CHECKING:
    Answer = tuple[dict[str, Any], Sequence[Array]]

LOCK = Path("/tmp/lepton-edge.lock")  # one a device, whoever uses it and wherever files are kept
IDLE_S = 90.0  # without a request or a ping: the connection is gone


class Gone(Exception):
    """The other side went away in the middle of a request."""


class Server:
    """Everything but inference. Each `op_` answers one kind of request."""

    def __init__(self, folder: Path) -> None:
        self.root = folder
        self.store = Store(folder / "artifacts")
        self.lock: int | None = None
        self.session: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        _end(self.session)

    def wait(self) -> bool:
        return bool(select.select([0], [], [], IDLE_S)[0])

    def op_hello(self, *, arrays: Sequence[Array], holder: Mapping[str, Any], wait: bool) -> Answer:
        """Takes the device; `holder` is who has it (token, who, purpose, since)."""
        self._take(dict(holder), wait)
        try:
            self.store.root.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            if error.errno not in FULL:
                raise
            raise errors.DeviceError(
                f"Cannot write into {str(self.root)!r} on the device: {error.strerror}.",
                next="Name another place with ?folder= in the device's address.",
            ) from None
        about = {
            "context": context.capture(),
            "python": sys.executable,
            "clock": time.time(),
            "free": shutil.disk_usage(str(self.store.root)).free,
            "folder": str(self.store.root),
        }
        return about, ()

    def _take(self, holder: dict[str, Any], wait: bool) -> None:
        with contextlib.suppress(FileExistsError):
            os.close(os.open(str(LOCK), os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
            LOCK.chmod(0o666)
        lock = os.open(str(LOCK), os.O_RDWR | os.O_NOFOLLOW)
        while not _locked(lock):
            other = _holder()
            if other.get("token") == holder["token"]:
                os.close(lock)  # the run that this one is a part of has the device
                return
            if not wait:
                raise errors.DeviceBusy(
                    f"The device is in use: {other.get('who', 'someone')} runs"
                    f" {other.get('purpose', 'something')} since {other.get('since', '?')}.",
                    next="Run it again later, or let it wait with --wait.",
                )
            if select.select([0], [], [], 1.0)[0]:
                raise Gone
        os.ftruncate(lock, 0)
        os.pwrite(lock, json.dumps({**holder, "pid": os.getpid()}).encode(), 0)
        self.lock = lock  # held until this process ends, however it ends

    def op_check(self, *, arrays: Sequence[Array]) -> Answer:
        return {}, ()

    def op_have(self, *, arrays: Sequence[Array], key: str, names: Sequence[str]) -> Answer:
        return self.store.have(key, names), ()

    def op_put(self, *, arrays: Sequence[Array], key: str, name: str, offset: int) -> Answer:
        self.store.put(key, name, offset, arrays[0])
        return {}, ()

    def op_seal(self, *, arrays: Sequence[Array], key: str, files: Mapping[str, str]) -> Answer:
        self.store.seal(key, files)
        return {}, ()

    def op_open(self, *, arrays: Sequence[Array], limit_s: float, **job: Any) -> Answer:
        """Opens the session of this connection, in a process of its own."""
        _end(self.session)
        self.session = _start()
        return self._ask(self.session, {"op": "open", **self._whole(job)}, (), limit_s)

    def op_run(self, *, arrays: Sequence[Array], limit_s: float) -> Answer:
        assert self.session is not None
        return self._ask(self.session, {"op": "run"}, arrays, limit_s)

    def op_benchmark(
        self, *, arrays: Sequence[Array], limit_s: float, memory_mb: int | None, **job: Any
    ) -> Answer:
        """One benchmark in a fresh process, which ends with it."""
        request = {"op": "benchmark", **self._whole(job)}
        process = _start()
        try:
            return self._ask(process, request, arrays, limit_s, memory_mb)
        finally:
            _end(process)

    def op_build(self, *, arrays: Sequence[Array], limit_s: float, **job: Any) -> Answer:
        """Builds a file that holds for this machine alone, in a fresh process."""
        cache = str(self.root / "timings")
        process = _start()
        try:
            request = {"op": "build", **self._whole(job), "cache": cache}
            return self._ask(process, request, arrays, limit_s)
        finally:
            _end(process)

    def _whole(self, job: dict[str, Any]) -> dict[str, Any]:
        folder = self.store.folder(job.pop("key"), job.pop("files"))
        return {**job, "folder": str(folder)}

    def _ask(
        self,
        process: subprocess.Popen[bytes],
        header: dict[str, Any],
        arrays: Sequence[Array],
        limit_s: float,
        memory_mb: int | None = None,
    ) -> Answer:
        """The process's answer; watches the connection, the time and, where asked, the memory."""
        assert process.stdin is not None
        assert process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            _frames.write(process.stdin, header, arrays)
        deadline = time.monotonic() + limit_s
        while True:
            # Looking at the memory wakes this process beside the one that is measured.
            pause = min(deadline - time.monotonic(), 0.2 if memory_mb else 3600.0)
            problem = None
            if pause <= 0:
                problem = f"took longer than {limit_s:g} s"
            elif memory_mb and _rss_mb(process.pid) > memory_mb:
                problem = f"used more than {memory_mb} MB"
            if problem:
                _end(process)
                raise errors.WorkerFailed(f"The {header['op']} job {problem} and was stopped.")
            watched: list[Any] = [0, process.stdout]
            ready = select.select(watched, [], [], pause)[0]
            if process.stdout in ready:
                return _answer_of(process, header["op"])
            if ready:
                raise Gone


def _start() -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, sys.argv[0], "work"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )


def _answer_of(process: subprocess.Popen[bytes], op: str) -> Answer:
    assert process.stdout is not None
    try:
        answer = _frames.read(process.stdout)
    except _frames.Broken:
        answer = None
    if answer is not None:
        return answer
    code = process.wait()
    how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
    raise errors.WorkerFailed(
        f"The {op} job's process {how}.",
        next="It may have run out of memory." if code == -signal.SIGKILL else None,
    )


def _end(process: subprocess.Popen[bytes] | None) -> None:
    if process is not None:
        process.kill()
        process.wait()


def _locked(lock: int) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in (errno.EAGAIN, errno.EACCES):
            raise
        return False
    return True


def _holder() -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(LOCK.read_text())
    except (OSError, ValueError):
        return {}  # it has the lock and has not yet written who it is
    return found


def _rss_mb(pid: int) -> float:
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except (OSError, IndexError):
        return 0.0
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20
