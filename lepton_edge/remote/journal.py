"""What a run on a device has finished, kept here until the run ends well.

One file of frames a run, appended to after every part; a run that was cut off finds it and does
not ask for those parts again. Its name is the sha256 of all that the run is made of.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lepton_edge import _cache, _frames
from lepton_edge.model import Array

FORGOTTEN_S = 14 * 24 * 3600.0  # after which an unfinished run is not waited for any more


def folder() -> Path:
    """Where the journals are: the user's cache."""
    return _cache.folder("unfinished")


class Journal:
    """Parts by their name. `finish` forgets them; a `close` without it keeps them."""

    def __init__(self, run: Mapping[str, Any]) -> None:
        key = hashlib.sha256(json.dumps(run, sort_keys=True).encode()).hexdigest()
        self.path = folder() / f"{key}.frames"
        self.path.parent.mkdir(parents=True, exist_ok=True)
        _forget(self.path.parent)
        self._places: dict[str, int] = {}
        self._file = self.path.open("a+b")
        self._read_all()

    def __len__(self) -> int:
        return len(self._places)

    def _read_all(self) -> None:
        """Finds the parts; what was being written when the run was cut off is dropped."""
        self._file.seek(0)
        end = 0
        while True:
            try:
                frame = _frames.read(self._file)
            except _frames.Broken:
                break
            if frame is None:
                break
            self._places[frame[0]["part"]] = end
            end = self._file.tell()
        self._file.truncate(end)

    def __contains__(self, part: str) -> bool:
        return part in self._places

    def get(self, part: str) -> tuple[dict[str, Any], list[Array]]:
        """Raises `KeyError` for a part that is not there."""
        self._file.seek(self._places[part])
        found = _frames.read(self._file)
        assert found is not None
        return found

    def add(self, part: str, header: Mapping[str, Any], arrays: Sequence[Array] = ()) -> None:
        self._places[part] = self._file.seek(0, 2)
        _frames.write(self._file, {**header, "part": part}, arrays)

    def close(self) -> None:
        self._file.close()
        if not self._places:
            self.path.unlink(missing_ok=True)

    def finish(self) -> None:
        self._places.clear()
        self.close()


def _forget(folder: Path) -> None:
    for path in folder.glob("*.frames"):
        if time.time() - path.stat().st_mtime > FORGOTTEN_S:
            path.unlink(missing_ok=True)
