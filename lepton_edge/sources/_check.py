"""Looks at a model file's content before any framework does: nothing is unpacked or run."""

from __future__ import annotations

import re
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path, PurePosixPath

from lepton_edge import errors
from lepton_edge._parts import parts
from lepton_edge.devices import _tflite as tflite

MOST_BYTES = 64 * 2**30  # unpacked; a larger archive is taken for a bomb
MOST_RATIO = 200  # weights hardly compress
MOST_MEMBERS = 100_000
# What reading a member of a damaged or encrypted archive raises.
UNREADABLE = (
    *(zipfile.BadZipFile, zlib.error, EOFError, OSError),
    *(KeyError, RuntimeError, NotImplementedError),
)

# TorchScript can open files; it is otherwise a language without access to the machine.
_SCRIPT_FILES = re.compile(r"\b(torch|ops\.\w+|aten)\.(save|load|from_file)\b")


def damaged(path: Path, why: str, kind: str) -> errors.BadInput:
    return errors.BadInput(
        f"{str(path)!r} is not a sound {kind} file: {why}.",
        next="Export or download it again.",
    )


def first_line(error: BaseException) -> str:
    """A library's message as one clause, short, without its own codes and its full stop."""
    text = re.sub(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ", "", str(error).strip())
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__).rstrip(".")[:300]


def member(path: Path, archive: zipfile.ZipFile, name: str, kind: str) -> bytes:
    """One member's bytes; its checksum is verified by reading it."""
    try:
        return archive.read(name)
    except UNREADABLE as error:
        raise damaged(
            path, f"its member {name!r} cannot be read ({first_line(error)})", kind
        ) from None


def archive(path: Path, kind: str, wanted: tuple[str, ...] = ()) -> zipfile.ZipFile:
    """The zip file, open; every member stays inside and the whole is of a sane size.

    `wanted` are names of which one must end a member's path.
    """
    try:
        opened = zipfile.ZipFile(path)
        members = opened.infolist()
    except (*UNREADABLE, ValueError) as error:
        raise damaged(path, first_line(error).lower(), kind) from None
    if len(members) > MOST_MEMBERS:
        raise damaged(path, f"it has {len(members):,} members", kind)
    total = 0
    seen: set[str] = set()
    for info in members:
        name = PurePosixPath(info.filename.replace("\\", "/"))
        if name.is_absolute() or ".." in name.parts or ":" in "".join(name.parts[:1]):
            raise damaged(path, f"its member {info.filename!r} leads outside", kind)
        # Readers differ in which of two members they take, so one could hide the other.
        if info.filename.lower() in seen:
            raise damaged(path, f"it has two members {info.filename!r}", kind)
        seen.add(info.filename.lower())
        total += info.file_size
        if info.file_size > 2**20 and info.file_size > MOST_RATIO * max(1, info.compress_size):
            raise damaged(path, f"its member {info.filename!r} unpacks out of proportion", kind)
    if total > MOST_BYTES:
        raise damaged(path, f"it unpacks to {total / 2**30:.0f} GiB", kind)
    if wanted and not any(m.filename.endswith(wanted) for m in members):
        raise damaged(path, f"it holds no {' or '.join(wanted)}", kind)
    return opened


def _zip(kind: str, *wanted: str) -> Callable[[Path], None]:
    def check(path: Path) -> None:
        archive(path, kind, wanted).close()

    return check


def starts_with(path: Path, mark: bytes) -> bool:
    """Whether the file begins so; raises `BadInput` where it cannot be read."""
    try:
        with path.open("rb") as file:
            return file.read(len(mark)) == mark
    except OSError as error:
        raise errors.BadInput(f"Cannot read {str(path)!r}: {error.strerror}.") from None


def _torchscript(path: Path) -> None:
    if not starts_with(path, b"PK"):
        raise errors.BadInput(
            f"{str(path)!r} is no TorchScript archive; it may be a pickle, which is never loaded.",
            next="Save a state_dict and name it with --weights beside file.py:factory.",
        )
    with archive(path, "TorchScript") as opened:
        code = [name for name in opened.namelist() if "/code/" in name]
        for name in code:
            if name.endswith(".py") and (
                found := _SCRIPT_FILES.search(member(path, opened, name, "TorchScript").decode())
            ):
                raise errors.BadInput(
                    f"{str(path)!r} is not opened: its code calls {found[0]!r}, which opens files.",
                    next="Give the model as file.py:factory with --weights, or as .onnx.",
                )
    if not code:
        raise errors.BadInput(
            f"{str(path)!r} holds no TorchScript code; it looks like a state_dict or a pickle.",
            next="Name it with --weights beside file.py:factory.",
        )


def _tflite(path: Path) -> None:
    tflite.read(path)  # every offset leads inside: the interpreter itself trusts them


def _hdf5(path: Path) -> None:
    if not starts_with(path, b"\x89HDF\r\n\x1a\n"):
        raise damaged(path, "it does not carry HDF5's mark", "HDF5")


def _onnx(path: Path) -> None:
    """Walks the fields of the outermost protobuf message: a graph, and no end before its end.

    Wire format: https://protobuf.dev/programming-guides/encoding/; ModelProto.graph is field 7.
    """
    size = path.stat().st_size
    graph = False
    with path.open("rb") as file:

        def varint() -> int:
            value = shift = 0
            while byte := file.read(1):
                value |= (byte[0] & 127) << shift
                shift += 7
                if byte[0] < 128:
                    return value
                if shift > 63:
                    break
            raise damaged(path, "it is no protobuf message, or it is cut off", "ONNX")

        while file.tell() < size:
            field, wire = divmod(varint(), 8)
            if wire == 0:
                varint()
            elif wire == 2:
                length = varint()
                graph = graph or (field == 7 and length > 0)
                file.seek(length, 1)
            elif wire in (1, 5):
                file.seek(8 if wire == 1 else 4, 1)
            else:
                raise damaged(path, "it is no protobuf message", "ONNX")
            if field == 0 or file.tell() > size:
                raise damaged(path, "it is no protobuf message, or it is cut off", "ONNX")
    if not graph:
        raise damaged(path, "it holds no graph", "ONNX")
    parts(path)  # and its external data is there


CONTENT: dict[str, Callable[[Path], None]] = {
    ".onnx": _onnx,
    ".tflite": _tflite,
    ".keras": _zip("Keras", "config.json"),
    ".h5": _hdf5,
    ".hdf5": _hdf5,
    ".pt2": _zip("torch.export", "models/model.json", "serialized_exported_program.json"),
    ".pt": _torchscript,
}


def saved_model(folder: Path) -> None:
    """A folder is a SavedModel if it holds saved_model.pb."""
    if not (folder / "saved_model.pb").is_file():
        raise errors.BadInput(
            f"The folder {str(folder)!r} is no SavedModel: it holds no saved_model.pb.",
            next="Give a SavedModel's folder, or a model file.",
        )
