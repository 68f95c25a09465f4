"""Ways to reach a device, one a file, named by the scheme of its address.

`ssh://user@host:port?python=/usr/bin/python3&folder=/mnt/cache` is an address. A transport runs a
shell command on the device with pipes to it, and says in words why that failed; all else (files,
the lock, the work) is done by what it starts.
"""

from __future__ import annotations

import dataclasses
import importlib
import pkgutil
import subprocess
import urllib.parse
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import IO

from lepton_edge import errors

FORM = (
    "Write ssh://user@host:port, adb://serial for an Android device, or local: for another Python"
    " of this machine."
)


@dataclass(frozen=True)
class Address:
    """Where a device is. `python` and `folder` are its interpreter and where it keeps files.

    `config` is an ssh_config file to use instead of the user's own. `benchmark_model` is that
    program for an Android device, as a file here; `host` is then its serial number. `wait` waits
    for a device that is in use; `token` lets a part of a run use the device that the run holds.
    """

    scheme: str
    user: str | None = None
    host: str | None = None
    port: int | None = None
    python: str = "python3"
    folder: str = "~/.cache/lepton-edge"
    config: str | None = None
    benchmark_model: str | None = None
    wait: bool = False
    token: str | None = None

    @classmethod
    def parse(cls, text: str) -> Address:
        """Raises `UsageError` for what is no address, with the form of one."""
        try:
            parts = urllib.parse.urlsplit(text)
            # A serial number is taken as it stands: its case counts, and it may hold a colon.
            serial = parts.netloc or None if parts.scheme == "adb" else None
            port = None if serial else parts.port
        except ValueError as error:
            raise _malformed(text, str(error)) from None
        if not parts.scheme:
            raise _malformed(text, "it has no scheme")
        if parts.scheme not in schemes():
            raise errors.unknown("way to a device", parts.scheme, schemes())
        if parts.path.strip("/") or parts.fragment or (parts.password and not serial):
            raise _malformed(text, "it holds more than user, host and port")
        given = dict(urllib.parse.parse_qsl(parts.query, keep_blank_values=True))
        known = {"python", "folder", "config", "benchmark_model", "wait", "token"}
        for key, value in given.items():
            if key not in known:
                raise errors.unknown("key of a device's address", key, known)
            if not value or "\n" in value:
                raise _malformed(text, f"{key} has no value")
        wait = given.pop("wait", "no")
        if wait not in ("yes", "no"):
            raise _malformed(text, "wait is yes or no")
        user, host = (None, serial) if serial else (parts.username, parts.hostname)
        for part in (host, user):
            if part is not None and part.startswith("-"):
                raise _malformed(text, f"{part!r} would be an option of {parts.scheme}")
        return cls(parts.scheme, user, host, port, wait=wait == "yes", **given)

    def __str__(self) -> str:
        """Scheme, user, host and port alone: what names the device."""
        user = f"{self.user}@" if self.user else ""
        port = f":{self.port}" if self.port else ""
        host = self.host
        if host and ":" in host and self.scheme != "adb":
            host = f"[{host}]"
        return f"{self.scheme}://{user}{host}{port}" if host else f"{self.scheme}:"

    def text(self) -> str:
        """All of it, as `parse` reads it."""
        defaults = {field.name: field.default for field in dataclasses.fields(self)}
        keys = ("python", "folder", "config", "benchmark_model", "token")
        query = {key: getattr(self, key) for key in keys if getattr(self, key) != defaults[key]}
        if self.wait:
            query["wait"] = "yes"
        return f"{self}?{urllib.parse.urlencode(query)}" if query else str(self)

    def refuse(self, *keys: str) -> None:
        """Raises `UsageError` for a key that has no meaning on this way."""
        defaults = {field.name: field.default for field in dataclasses.fields(self)}
        for key in keys:
            if getattr(self, key) != defaults[key]:
                raise errors.UsageError(
                    f"{key!r} has no meaning in {str(self)!r}.", next="Leave it out."
                )


class Transport(ABC):
    def __init__(self, address: Address) -> None:
        self.address = address

    @abstractmethod
    def start(self, script: str, log: IO[bytes]) -> subprocess.Popen[bytes]:
        """Runs the POSIX shell script on the device, its standard error going to `log`."""

    @abstractmethod
    def failure(self, code: int, log: str) -> errors.DeviceError:
        """Why what `start` started ended with `code`, and what to do next."""


def schemes() -> list[str]:
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def transport(address: Address) -> Transport:
    """The transport of the address's scheme."""
    module = importlib.import_module(f"{__name__}.{address.scheme}")
    found: Transport = module.open_transport(address)
    return found


def _malformed(text: str, reason: str) -> errors.UsageError:
    return errors.UsageError(f"{text!r} is no device's address: {reason}.", next=FORM)
