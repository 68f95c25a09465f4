"""An Android device reached by the system's adb. `adb:` alone is the only one that is connected."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import IO

from lepton_edge import errors
from lepton_edge.devices.transports import Address, Transport

PUSH_S = 600.0


def open_transport(address: Address) -> Adb:
    address.refuse("python", "config")
    return Adb(address)


class Adb(Transport):
    def start(self, script: str, log: IO[bytes]) -> subprocess.Popen[bytes]:
        # Without a terminal (-T) the pipes are binary and standard error comes apart.
        words = ["shell", "-T", f"exec sh -c {shlex.quote(script)}"]
        return subprocess.Popen(
            self._command(words),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            env={**os.environ, "LC_ALL": "C"},
        )

    def push(self, path: Path, target: str) -> None:
        """Sends a file; raises `DeviceError` with what adb says."""
        command = self._command(["push", str(path), target])
        try:
            done = subprocess.run(
                command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=PUSH_S
            )
        except subprocess.TimeoutExpired:
            raise errors.DeviceError(
                f"{str(self.address)!r} did not take {str(path)!r} in {PUSH_S:g} s.",
                next="Check the cable, then run it again.",
            ) from None
        if done.returncode:
            raise self.failure(done.returncode, done.stdout + done.stderr)

    def _command(self, words: list[str]) -> list[str]:
        program = shutil.which("adb")
        if program is None:
            raise errors.BackendMissing(
                "There is no adb on this machine.", next="Install it: apt-get install adb."
            )
        serial = ["-s", self.address.host] if self.address.host else []
        return [program, *serial, *words]

    def failure(self, code: int, log: str) -> errors.DeviceError:
        lines = [line.strip() for line in log.splitlines() if line.strip()]
        # The server's own start is no failure: it is told in lines that begin with a star.
        last = next((line for line in reversed(lines) if not line.startswith("*")), "")
        said, where = log.lower(), str(self.address)
        for words, why, advice in _FAILURES:
            if any(word in said for word in words):
                return errors.DeviceError(f"Cannot reach {where!r}: {why}.", next=f"{advice}.")
        return errors.DeviceError(
            f"adb failed on {where!r} with code {code} ({last.rstrip('.') or 'it said nothing'}).",
            next="Try it: adb devices -l.",
        )


# (what adb says, in lower case; the reason; what to do next)
_FAILURES = (
    (
        ("unauthorized",),
        "it has not allowed this computer",
        "Answer the question on its screen (USB debugging), then look: adb devices",
    ),
    (
        ("no permissions", "insufficient permissions"),
        "this user may not use the USB device",
        "Install the udev rules: apt-get install android-sdk-platform-tools-common",
    ),
    (
        ("device offline",),
        "it is offline",
        "Plug it in again, or: adb reconnect offline",
    ),
    (
        ("more than one device",),
        "several devices are connected",
        "Name one by its serial number, adb://SERIAL; adb devices lists them",
    ),
    (
        ("not found", "no devices"),
        "adb knows no such device",
        "See adb devices; one in the network first needs: adb connect HOST:PORT",
    ),
    (
        ("cannot connect to daemon", "failed to start daemon"),
        "adb's own server does not start",
        "Try it: adb start-server",
    ),
    (
        ("no space left", "read-only file system", "permission denied"),
        "nothing can be written there",
        "Free some space on it, or name another place with ?folder=/path",
    ),
)
