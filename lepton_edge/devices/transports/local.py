"""Another Python of this machine, reached without a network: `local:?python=/path/to/python3.8`."""

from __future__ import annotations

import subprocess
from typing import IO

from lepton_edge import errors
from lepton_edge.devices.transports import Address, Transport


def open_transport(address: Address) -> Transport:
    if address.host or address.port or address.user or address.config:
        raise errors.UsageError(
            f"{str(address)!r} names a host, but local: is this machine.", next="Use ssh://."
        )
    address.refuse("benchmark_model")
    return Local(address)


class Local(Transport):
    def start(self, script: str, log: IO[bytes]) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            ["/bin/sh", "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log
        )

    def failure(self, code: int, log: str) -> errors.DeviceError:
        last = next((line for line in reversed(log.splitlines()) if line.strip()), None)
        return errors.DeviceError(
            f"The worker of {str(self.address)!r} ended with code {code}.",
            next=f"Its log ends: {last!r}." if last else None,
        )
