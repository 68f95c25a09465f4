"""Files on a device, in folders named by the sha256 of what is in them.

A folder is there whole or not at all; what has arrived of one that is not is kept beside it, so
that a broken transfer goes on where it ended.
"""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path
from typing import Any, Mapping, Sequence

from lepton_edge import errors
from lepton_edge.model import Array, file_sha256

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES)


class Store:
    def __init__(self, root: Path) -> None:
        self.root = root

    def have(self, key: str, names: Sequence[str]) -> dict[str, Any]:
        """Whether the folder `key` is complete; if not, how many bytes of each file are here."""
        if (self.root / key).is_dir():
            return {"complete": True}
        part = self._part(key)
        sizes = {name: _size(part / name) for name in names}
        return {"complete": False, "sizes": sizes}

    def put(self, key: str, name: str, offset: int, data: Array) -> None:
        """Writes bytes at `offset`, where the file then ends."""
        path = self._part(key) / name
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("r+b" if path.exists() else "wb") as file:
                file.seek(offset)
                file.truncate()
                file.write(data.data)
        except OSError as error:
            if error.errno not in FULL:
                raise
            shutil.rmtree(str(self._part(key)), ignore_errors=True)
            raise errors.DeviceError(
                f"Cannot write into {str(self.root)!r} on the device: {error.strerror}.",
                next="Nothing was left there; free some space, or name another place with"
                " ?folder= in the device's address.",
            ) from None

    def seal(self, key: str, files: Mapping[str, str]) -> None:
        """Checks every file's sha256 and gives the folder its name."""
        part = self._part(key)
        for name, checksum in files.items():
            if file_sha256(part / name) != checksum:
                (part / name).unlink()
                raise errors.DeviceError(
                    f"{name!r} arrived damaged on the device.", next="Run it again."
                )
        os.replace(str(part), str(self.root / key))

    def folder(self, key: str, files: Mapping[str, str]) -> Path:
        """The complete folder; where a file was changed since it came, the folder is removed."""
        folder = self.root / key
        for name, checksum in files.items():
            if not (folder / name).is_file() or file_sha256(folder / name) != checksum:
                shutil.rmtree(str(folder), ignore_errors=True)
                raise errors.DeviceError(
                    f"{name!r} was changed on the device and is removed there.",
                    next="Run it again: it is sent again.",
                )
        return folder

    def _part(self, key: str) -> Path:
        return self.root / f".{key}.part"


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0
