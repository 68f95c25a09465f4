"""`Connection`: a device that this run has, and what it is asked there."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import getpass
import hashlib
import json
import shlex
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any, NoReturn

import numpy as np

from lepton_edge import _frames, errors
from lepton_edge._parts import parts
from lepton_edge.artifact import Artifact
from lepton_edge.devices import transports
from lepton_edge.model import Array, file_sha256
from lepton_edge.remote import bundle

CHUNK = 4 << 20  # bytes of a file sent at once
PING_S = 15.0
LIMIT_S = 1800.0  # that one request may take on the device
NOISE = 1 << 16  # bytes that a login may print before the worker answers
LOG_TAIL = 4000

# A POSIX shell on the device: gets the worker if it is not there, and becomes it.
_SCRIPT = """
umask 077
py={python} dir={folder}
case $py in "~/"*) py=$HOME/${{py#"~/"}};; esac
case $dir in "~/"*) dir=$HOME/${{dir#"~/"}};; esac
command -v "$py" >/dev/null 2>&1 || {{ echo "{say} refused no-python"; exit 0; }}
file=$dir/worker/{sha256}.pyz
if [ "$(wc -c 2>/dev/null <"$file")" -eq {size} ] 2>/dev/null; then :; else
  mkdir -p "$dir/worker" 2>/dev/null && : 2>/dev/null >"$file.$$" || {{
    echo "{say} refused folder $dir"; exit 0; }}
  echo "{say} need"
  if head -c {size} 2>/dev/null >"$file.$$" && [ "$(wc -c <"$file.$$")" -eq {size} ]
  then mv "$file.$$" "$file"
  else rm -f "$file.$$"; echo "{say} refused folder $dir"; exit 0
  fi
fi
exec "$py" "$file" serve "$dir"
"""


class Connection:
    """Reaches the device and takes it; `close` gives it back. Errors name the device.

    `about` is what it said of itself: its context, interpreter, clock and free space.
    """

    def __init__(self, address: transports.Address, purpose: str) -> None:
        self.address = address
        self._transport = transports.transport(address)
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - close() closes it
        self._busy = threading.Lock()
        self._closed = threading.Event()
        try:
            self._process = self._start()
        except BaseException:
            self._log.close()
            raise
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._to: IO[bytes] = self._process.stdin
        self._from: IO[bytes] = self._process.stdout
        try:
            self._greet(purpose)
        except BaseException:
            self.close()
            raise
        threading.Thread(target=self._ping, daemon=True).start()

    def _start(self) -> subprocess.Popen[bytes]:
        self.worker_sha256, self._worker = bundle.worker()
        script = _SCRIPT.format(
            python=shlex.quote(self.address.python),
            folder=shlex.quote(self.address.folder),
            sha256=self.worker_sha256,
            size=len(self._worker),
            say=_frames.SAY,
        )
        return self._transport.start(script, self._log)

    def _greet(self, purpose: str) -> None:
        while (said := self._line()) != "ready":
            if said == "need":
                with contextlib.suppress(BrokenPipeError):
                    self._to.write(self._worker)
                    self._to.flush()
            elif said.startswith("refused "):
                self._refused(said.removeprefix("refused "))
        now = datetime.datetime.now(datetime.timezone.utc)
        holder = {
            "token": self.address.token or f"{socket.gethostname()} {time.time_ns()}",
            "who": f"{getpass.getuser()}@{socket.gethostname()}",
            "purpose": purpose,
            "since": now.isoformat(timespec="seconds"),
        }
        self.about, _ = self.call({"op": "hello", "holder": holder, "wait": self.address.wait})
        # Dates come from this machine; the device's own clock may be anything.
        self.about["clock_offset_s"] = round(self.about.pop("clock") - time.time(), 3)

    def _line(self) -> str:
        """What the script says next; whatever else a login prints is passed over."""
        seen = 0
        while seen < NOISE:
            line = self._from.readline(NOISE)
            if not line:
                self._ended()
            seen += len(line)
            _, ours, rest = line.decode(errors="replace").partition(f"{_frames.SAY} ")
            if ours:
                return rest.strip()
        raise errors.DeviceError(
            f"The login of {str(self.address)!r} prints without end.",
            next="Let its shell's start-up files print nothing where there is no terminal.",
        )

    def _refused(self, reason: str) -> NoReturn:
        kind, _, detail = reason.partition(" ")
        name = str(self.address)
        python = self.address.python
        if kind == "no-python":
            raise errors.DeviceError(
                f"There is no {python!r} on {name!r}.",
                next="Install Python 3.8 or newer there, or name it with ?python=/path/to/python3.",
            )
        if kind == "old":
            version, _, path = detail.partition(" ")
            raise errors.DeviceError(
                f"{path} on {name!r} is Python {version}; 3.8 or newer is needed.",
                next="Name another with ?python=/path/to/python3.",
            )
        if kind == "numpy":
            raise errors.DeviceError(
                f"{detail} on {name!r} has no numpy.",
                next=f"There: {detail} -m pip install numpy, and a runtime.",
            )
        raise errors.DeviceError(
            f"Cannot write into {detail!r} on {name!r}: no space, or no right to.",
            next="Free some space there, or name another place with ?folder=/path.",
        )

    def call(
        self, header: Mapping[str, Any], arrays: Sequence[Array] = ()
    ) -> tuple[dict[str, Any], list[Array]]:
        """The device's answer; its error as the class that it was there, or `DeviceError`."""
        with self._busy:
            try:
                _frames.write(self._to, header, arrays)
                answer = _frames.read(self._from)
            except (BrokenPipeError, _frames.Broken):
                answer = None
        if answer is None:
            self._ended()
        found, results = answer
        if "error" in found:
            error = errors.from_dict(found["error"])
            error.message = f"On {str(self.address)!r}: {error.message}"
            error.log = self.log()
            raise error
        return found, results

    def check(self) -> None:
        """Raises `DeviceError` where the device is not held any more."""
        self.call({"op": "check"})

    def _ended(self) -> NoReturn:
        self._closed.set()
        for pipe in (self._to, self._from):
            with contextlib.suppress(OSError):
                pipe.close()
        code, log = self._process.wait(), self.log()
        if hasattr(self, "about"):
            last = next((line.strip() for line in reversed(log.splitlines()) if line.strip()), "")
            error = errors.DeviceError(
                f"The connection to {str(self.address)!r} was lost in the middle of the work"
                f" ({last.rstrip('.') or 'no answer'}).",
                next="When it is back, run the same command again: what was finished is kept.",
            )
        else:
            error = self._transport.failure(code, log)
        error.log = log
        raise error

    def log(self) -> str:
        """The end of what ssh and the device wrote to standard error."""
        self._log.seek(0, 2)
        self._log.seek(max(0, self._log.tell() - LOG_TAIL))
        return self._log.read().decode(errors="replace")

    def _ping(self) -> None:
        """Tells the device, between requests, that this run still wants it."""
        while not self._closed.wait(PING_S):
            if self._busy.acquire(blocking=False):
                with contextlib.suppress(OSError, ValueError):
                    _frames.write(self._to, {"op": "ping"})
                self._busy.release()

    def place(self, artifact: Artifact) -> dict[str, Any]:
        """Sends what the device lacks of the artefact; returns what names it in a request."""
        files = dict(artifact.files) or _files_of(artifact)
        key = hashlib.sha256(json.dumps(sorted(files.items())).encode()).hexdigest()
        paths = {name: artifact.folder / name for name in files}
        have, _ = self.call({"op": "have", "key": key, "names": list(files)})
        if not have["complete"]:
            missing = sum(path.stat().st_size for path in paths.values())
            missing -= sum(have["sizes"].values())
            if missing > self.about["free"]:
                raise errors.DeviceError(
                    f"{str(artifact.path)!r} needs {missing:,} bytes on {str(self.address)!r},"
                    f" and {self.about['folder']!r} has {self.about['free']:,} left.",
                    next="Free some space there, or name another place with ?folder=/path.",
                )
            for name, path in paths.items():
                self._send(key, name, path, have["sizes"][name])
            self.call({"op": "seal", "key": key, "files": files})
        known = artifact.as_dict()
        wanted = ("file", "format", "precision", "signature", "inputs", "outputs", "files")
        about = {name: known[name] for name in wanted}
        if artifact.engine is not None:
            here = dataclasses.replace(self.address, token=None, wait=False).text()
            rebuild = artifact.engine.get("rebuild")
            rebuild = f"{rebuild} --on {shlex.quote(here)}" if rebuild else None
            about["engine"] = {**artifact.engine, "rebuild": rebuild}
        return {"key": key, "files": files, "artifact": about}

    def _send(self, key: str, name: str, path: Path, done: int) -> None:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            offset = done if done <= size else 0
            file.seek(offset)
            while offset < size or size == 0:
                part = np.frombuffer(file.read(CHUNK), np.uint8)
                self.call({"op": "put", "key": key, "name": name, "offset": offset}, [part])
                offset += len(part)
                if size == 0:
                    break

    def close(self) -> None:
        """Ends the worker there, which gives the device back."""
        self._closed.set()
        with contextlib.suppress(OSError, ValueError):
            self._to.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        with contextlib.suppress(OSError):
            self._from.close()
        self._log.close()

    def __enter__(self) -> Connection:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _files_of(artifact: Artifact) -> dict[str, str]:
    """A bare file and what belongs to it."""
    paths = [artifact.path, *parts(artifact.path)]
    return {str(path.relative_to(artifact.folder)): file_sha256(path) for path in paths}
