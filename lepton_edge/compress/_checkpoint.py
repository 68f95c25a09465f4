"""Checkpoints of a training: written whole or not at all, read back without unpickling code."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lepton_edge import errors
from lepton_edge.artifact import replacing

VERSION = 1


@dataclass(frozen=True)
class Form:
    """How a state is kept: `name` of the file in the training's folder, to bytes and back."""

    name: str
    encode: Callable[[dict[str, Any], io.BytesIO], None]
    decode: Callable[[Path], dict[str, Any]]


def _encode_torch(state: dict[str, Any], buffer: io.BytesIO) -> None:
    import torch

    torch.save(state, buffer)


def _decode_torch(path: Path) -> dict[str, Any]:
    import torch

    state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    return state


def _encode_arrays(state: dict[str, Any], buffer: io.BytesIO) -> None:
    """Lists of arrays as members of an .npz, all else as its JSON member `state`."""
    arrays: dict[str, Any] = {}
    plain: dict[str, Any] = {}
    for key, value in state.items():
        if isinstance(value, list) and value and isinstance(value[0], np.ndarray):
            plain[key] = {"arrays": len(value)}
            arrays |= {f"{key}/{index}": each for index, each in enumerate(value)}
        else:
            plain[key] = {"value": value}
    np.savez(buffer, state=np.array(json.dumps(plain)), **arrays)


def _decode_arrays(path: Path) -> dict[str, Any]:
    with np.load(path, allow_pickle=False) as stored:
        plain = json.loads(str(stored["state"]))
        return {
            key: [stored[f"{key}/{index}"] for index in range(each["arrays"])]
            if "arrays" in each
            else each["value"]
            for key, each in plain.items()
        }


TORCH = Form("checkpoint.pt", _encode_torch, _decode_torch)
ARRAYS = Form("checkpoint.npz", _encode_arrays, _decode_arrays)


def save(folder: Path, state: dict[str, Any], key: str, form: Form = TORCH) -> None:
    """Replaces the folder's checkpoint. A full disk is a `UsageError`; the one before it stays."""
    buffer = io.BytesIO()
    form.encode({"version": VERSION, "key": key, **state}, buffer)
    with replacing(folder / form.name) as temporary:
        temporary.write_bytes(buffer.getbuffer())


def load(folder: Path, key: str, form: Form = TORCH) -> dict[str, Any] | None:
    """The folder's checkpoint, or None without one; `UsageError` for one of another training."""
    path = existing(folder)
    if path is None:
        return None
    if path.name != form.name:
        raise _another(path)
    try:
        state = form.decode(path)
        version, found = state["version"], state["key"]
    except Exception as error:  # noqa: BLE001 - a damaged file is an error of many classes
        raise errors.BadInput(
            f"{str(path)!r} is no checkpoint that can be read: {str(error).splitlines()[0]}",
            next="Remove it and start again without --resume.",
        ) from None
    if version != VERSION or found != key:
        raise _another(path)
    return state


def _another(path: Path) -> errors.UsageError:
    return errors.UsageError(
        f"{str(path)!r} is of another model, other data or other settings.",
        next="Repeat the command that it came from, or remove it and start anew.",
    )


def existing(folder: Path) -> Path | None:
    """The checkpoint of an unfinished training in the folder, of either framework."""
    found = (folder / form.name for form in (TORCH, ARRAYS))
    return next((path for path in found if path.exists()), None)


def remove(folder: Path) -> None:
    """At the end of a training."""
    path = existing(folder)
    if path is not None:
        path.unlink()


def refuse(folder: Path) -> None:
    """`UsageError` where a training was left unfinished and nobody asked to go on with it."""
    if existing(folder) is not None:
        raise errors.UsageError(
            f"{str(folder)!r} holds the checkpoint of an unfinished training.",
            next="Pass --resume to go on with it, or remove it.",
        )
