"""A device reached by the system's OpenSSH; the user's own configuration of it holds.

No password or passphrase is ever asked for (BatchMode): what needs one is an error that says how
to set up a key. A connection that no longer answers is given up after 45 s (ServerAlive).
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from typing import IO

from lepton_edge import errors
from lepton_edge.devices.transports import Address, Transport

OPTIONS = {
    "BatchMode": "yes",
    "ConnectTimeout": "30",
    "ServerAliveInterval": "15",
    "ServerAliveCountMax": "3",
    "ClearAllForwardings": "yes",
    "RemoteCommand": "none",
    "LogLevel": "ERROR",  # failures are told apart by ssh's own words
}
OWN_FAILURE = 255  # ssh's exit code where it failed itself


def open_transport(address: Address) -> Transport:
    if not address.host:
        raise errors.UsageError(
            "An ssh address needs a host.", next="Write ssh://user@host or ssh://user@host:port."
        )
    address.refuse("benchmark_model")
    return Ssh(address)


class Ssh(Transport):
    def start(self, script: str, log: IO[bytes]) -> subprocess.Popen[bytes]:
        program = shutil.which("ssh")
        if program is None:
            raise errors.BackendMissing(
                "There is no ssh on this machine.",
                next="Install it: apt-get install openssh-client.",
            )
        # The login shell may be any: it is given nothing but the start of a POSIX one.
        command = f"exec /bin/sh -c {shlex.quote(script)}"
        return subprocess.Popen(
            [program, "-T", "-a", "-x", *self._arguments(), "--", str(self.address.host), command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            env={**os.environ, "LC_ALL": "C"},
        )

    def _arguments(self) -> list[str]:
        address = self.address
        found = [word for key, value in OPTIONS.items() for word in ("-o", f"{key}={value}")]
        for flag, value in (("-F", address.config), ("-p", address.port), ("-l", address.user)):
            if value is not None:
                found += [flag, str(value)]
        return found

    def failure(self, code: int, log: str) -> errors.DeviceError:
        lines = [line.strip() for line in log.splitlines() if line.strip()]
        last = lines[-1].rstrip(".") if lines else ""
        if code != OWN_FAILURE:
            return errors.DeviceError(
                f"What ran on {str(self.address)!r} ended with code {code}.",
                next=f"Its log ends: {last!r}." if last else None,
            )
        said = log.lower()
        login = self._login()
        reason, next = f"ssh failed ({last or 'it said nothing'})", f"Try it: {login}"
        for words, why, advice in _FAILURES:
            if any(word in said for word in words):
                reason, next = why, advice.format(login=login, host=self.address.host)
                break
        return errors.DeviceError(f"Cannot reach {str(self.address)!r}: {reason}.", next=f"{next}.")

    def _login(self) -> str:
        address = self.address
        words = ["ssh"]
        for flag, value in (("-F", address.config), ("-p", address.port)):
            if value is not None:
                words += [flag, str(value)]
        words.append(f"{address.user}@{address.host}" if address.user else str(address.host))
        return shlex.join(words)


# (what ssh says, in lower case; the reason; what to do next)
_FAILURES = (
    (
        ("could not resolve hostname", "name or service not known"),
        "no machine of that name is known",
        "Check the name, or give the address: ssh://user@192.168.1.20",
    ),
    (
        ("remote host identification has changed",),
        "its host key is not the one that was seen before",
        "If the device was set up again: ssh-keygen -R {host}; else it is another machine",
    ),
    (
        ("host key verification failed",),
        "its host key is not known here",
        "Compare its fingerprint and connect once by hand: {login}",
    ),
    (
        ("permission denied",),
        "it refused the key (no password is asked for)",
        "Send it your key once: ssh-copy-id, then try: {login}",
    ),
    (
        ("connection refused",),
        "nothing listens at that port",
        "Start its ssh server, or name the port: ssh://user@host:port",
    ),
    (
        ("timed out", "no route to host", "network is unreachable"),
        "it does not answer",
        "Check that it is on and in the same network: ping {host}",
    ),
    (
        ("bad configuration option", "can't open user config file"),
        "ssh does not accept its configuration",
        "Try it: {login}",
    ),
)
