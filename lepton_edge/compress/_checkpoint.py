"""Checkpoints of a training: written whole or not at all, read back without unpickling code."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from lepton_edge import errors
from lepton_edge.artifact import replacing

NAME = "checkpoint.pt"
VERSION = 1


def save(folder: Path, state: dict[str, Any], key: str) -> None:
    """Replaces the folder's checkpoint. A full disk is a `UsageError`; the one before it stays."""
    import torch

    buffer = io.BytesIO()
    torch.save({"version": VERSION, "key": key, **state}, buffer)
    with replacing(folder / NAME) as temporary:
        temporary.write_bytes(buffer.getbuffer())


def load(folder: Path, key: str) -> dict[str, Any] | None:
    """The folder's checkpoint, or None without one; `UsageError` for one of another training."""
    import torch

    path = folder / NAME
    if not path.exists():
        return None
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        version, found = state["version"], state["key"]
    except Exception as error:  # noqa: BLE001 - torch raises of many classes for a damaged file
        raise errors.BadInput(
            f"{str(path)!r} is no checkpoint that can be read: {str(error).splitlines()[0]}",
            next="Remove it and start again without --resume.",
        ) from None
    if version != VERSION or found != key:
        raise errors.UsageError(
            f"{str(path)!r} is of another model, other data or other settings.",
            next="Repeat the command that it came from, or remove it and start anew.",
        )
    return state


def refuse(folder: Path) -> None:
    """`UsageError` where a training was left unfinished and nobody asked to go on with it."""
    if (folder / NAME).exists():
        raise errors.UsageError(
            f"{str(folder)!r} holds the checkpoint of an unfinished training.",
            next="Pass --resume to go on with it, or remove it.",
        )
