"""`RemoteSession`: an artefact that is open on a device; `run` sends the inputs there.

The device does the rest as this machine would: binding, layout, quantised inputs and outputs.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, final

from lepton_edge import errors
from lepton_edge.artifact import Artifact
from lepton_edge.model import Array, Signature
from lepton_edge.remote.connection import LIMIT_S, Connection
from lepton_edge.remote.journal import Journal
from lepton_edge.session import Session


@final
class RemoteSession(Session):
    """Owns its connection. `facts` are the device's, with `on` (its address) and `machine`."""

    def __init__(
        self,
        connection: Connection,
        artifact: Artifact,
        *,
        device: str,
        threads: int | None,
        options: Mapping[str, Any],
    ) -> None:
        job = {"device": device, "threads": threads, "options": dict(options)}
        named = connection.place(artifact)
        opened, _ = connection.call({"op": "open", **named, **job, "limit_s": LIMIT_S})
        signature = Signature.from_dict(opened["signature"])
        place = {"on": str(connection.address), "machine": machine(connection.about)}
        super().__init__(
            replace(artifact, inputs=(), outputs=()),
            signature=signature,
            file_inputs=[spec.name for spec in signature.inputs],
            file_outputs=[spec.name for spec in signature.outputs],
            facts={**opened["facts"], **place},
        )
        self._connection = connection
        self._failed = False
        self._journal: Journal | None = None
        self._run = {
            "files": named["files"],
            "job": job,
            "facts": self.facts,
            "worker": connection.worker_sha256,
        }

    def keep(self) -> None:
        """Keeps the outputs that come until the session is closed after no failure.

        The next session that is the same has them, and does not ask the device again.
        """
        self._journal = Journal(self._run)

    def _invoke(self, arrays: list[Array]) -> Sequence[Array]:
        if self._journal is None:
            return self._ask(arrays)
        part = _digest(arrays)
        if part not in self._journal:
            self._journal.add(part, {}, self._ask(arrays))
        return self._journal.get(part)[1]

    def _ask(self, arrays: list[Array]) -> list[Array]:
        try:
            return self._connection.call({"op": "run", "limit_s": LIMIT_S}, arrays)[1]
        except errors.EdgeError:
            self._failed = True
            raise

    def _release(self) -> None:
        if self._journal is not None:
            if self._failed:
                self._journal.close()
            else:
                self._journal.finish()
        self._connection.close()


def machine(about: Mapping[str, Any]) -> str:
    """`Raspberry Pi 4 Model B (aarch64)`: the device in words, as it says itself."""
    cpu = about["context"]["cpu"]
    name = about["context"].get("board", {}).get("model") or cpu["model"]
    return f"{name} ({cpu['architecture']})" if name else str(cpu["architecture"])


def _digest(arrays: Sequence[Array]) -> str:
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(f"{array.dtype.str}{array.shape}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()
