"""`Artifact`: a folder with an exported file and `artifact.json`, all that a device needs.

A bare file or a model's source can stand in for one: then there is no artifact.json, and what is
not known is None.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from lepton_edge import errors
from lepton_edge._parts import parts
from lepton_edge.model import Array, ModelSource, Signature, file_sha256
from lepton_edge.preprocess import Preprocess

SCHEMA = 1
NAME = "artifact.json"
SUFFIXES = {"onnx": ".onnx", "openvino": ".xml", "tflite": ".tflite", "tensorrt": ".engine"}


@dataclass(frozen=True)
class Binding:
    """Where a tensor of the source's signature lives in the exported file.

    `tensor` is the runtime's own name. `permute`, where the converter changed the layout, gives
    the order of the source's axes in the file (numpy.transpose from source to file). `dtype`,
    where the file holds integers for the source's floats, is theirs: float = scale * (integer -
    zero_point).
    """

    name: str
    tensor: str
    permute: tuple[int, ...] | None = None
    dtype: str | None = None
    scale: float = 1.0
    zero_point: int = 0

    @classmethod
    def from_dict(cls, given: Mapping[str, Any]) -> Binding:
        permute = given.get("permute")
        if given.get("dtype") not in (None, "int8", "uint8", "int16"):
            raise ValueError(f"a tensor cannot be quantised to {given['dtype']}")
        return cls(**{**given, "permute": tuple(permute) if permute else None})

    @property
    def plain(self) -> bool:
        """Whether the file's tensor is the source's as it is."""
        return self.permute is None and self.dtype is None

    def to_file(self, value: Array) -> Array:
        """The source's array in the file's layout and dtype; integers saturate."""
        if self.permute is not None:
            value = np.ascontiguousarray(value.transpose(self.permute))
        if self.dtype is None:
            return value
        limits = np.iinfo(self.dtype)
        steps = np.rint(value / np.float32(self.scale)) + self.zero_point
        whole: Array = np.clip(steps, limits.min, limits.max).astype(self.dtype)
        return whole

    def from_file(self, value: Array) -> Array:
        """The file's array in the source's layout; integers become float32."""
        if self.dtype is not None:
            value = (value.astype(np.float32) - self.zero_point) * np.float32(self.scale)
        if self.permute is None:
            return value
        return value.transpose(sorted(range(value.ndim), key=self.permute.__getitem__))


@dataclass(frozen=True)
class Artifact:
    """`folder / file` is what the runtime opens; `files` are name -> sha256 of all that belongs.

    `signature` is the source's: names, dtypes and layout that the user knows; `inputs` and
    `outputs` bind it to the file. `steps` tells what was done, in order, each with its options.
    `model` is set where the artefact is a source itself (formats `torch` and `tensorflow`).
    `engine` tells what a file that is built for one machine was built by and for, and `rebuild`,
    the command that builds it again.
    """

    folder: Path
    file: str
    format: str
    precision: str = "fp32"
    signature: Signature | None = None
    inputs: tuple[Binding, ...] = ()
    outputs: tuple[Binding, ...] = ()
    preprocess: Preprocess | None = None
    classes: tuple[str, ...] = ()
    files: Mapping[str, str] = field(default_factory=dict)
    steps: tuple[Mapping[str, Any], ...] = ()
    source: Mapping[str, Any] = field(default_factory=dict)
    calibration: Mapping[str, Any] | None = None
    parity: Mapping[str, Any] | None = None
    versions: Mapping[str, str] = field(default_factory=dict)
    model: ModelSource | None = None
    engine: Mapping[str, Any] | None = None

    @property
    def path(self) -> Path:
        return self.folder / self.file

    @property
    def size_bytes(self) -> int:
        """Of the exported file and what belongs to it, artifact.json not counted."""
        names = self.files or {self.file: ""}
        paths = [self.folder / name for name in names]
        if self.model is not None:
            weights = [Path(self.model.weights)] if self.model.weights else []
            paths = weights or [self.model.file, *parts(self.model.file)]
        elif not self.files:
            paths += parts(self.path)
        return sum(
            part.stat().st_size
            for path in paths
            for part in (path.rglob("*") if path.is_dir() else [path])
            if part.is_file()
        )

    @property
    def sha256(self) -> str:
        """Of the exported file; of a source, or a bare file with external data, over all of it."""
        if self.model is not None:
            return self.model.sha256()
        if not self.files and parts(self.path):
            return ModelSource(str(self.path)).sha256()
        return self.files.get(self.file) or file_sha256(self.path)

    def describe(self) -> dict[str, Any]:
        """The `artifact` object of the JSON documents."""
        return {
            "path": str(self.path if self.model is None else self.model.path),
            "sha256": self.sha256,
            "format": self.format,
            "precision": self.precision,
            "size_bytes": self.size_bytes,
        }

    def as_dict(self) -> dict[str, Any]:
        """What artifact.json holds."""
        return {
            "schema": SCHEMA,
            "file": self.file,
            "format": self.format,
            "precision": self.precision,
            "signature": self.signature.as_dict() if self.signature else None,
            "inputs": [vars(binding) for binding in self.inputs],
            "outputs": [vars(binding) for binding in self.outputs],
            "preprocess": self.preprocess.as_dict() if self.preprocess else None,
            "classes": list(self.classes),
            "files": dict(self.files),
            "steps": [dict(step) for step in self.steps],
            "source": dict(self.source),
            "calibration": self.calibration,
            "parity": self.parity,
            "versions": dict(self.versions),
            **({"engine": dict(self.engine)} if self.engine is not None else {}),
        }

    def save(self) -> Artifact:
        """Writes artifact.json beside the exported files, with their checksums; returns the result.

        Every file in the folder counts as belonging to the artefact.
        """
        files = {
            str(path.relative_to(self.folder)): file_sha256(path)
            for path in sorted(self.folder.rglob("*"))
            if path.is_file() and path.name != NAME
        }
        saved = replace(self, files=files)
        text = json.dumps(saved.as_dict(), indent=1)
        with replacing(self.folder / NAME) as temporary:
            temporary.write_text(text + "\n")
        return saved

    @classmethod
    def load(cls, folder: Path) -> Artifact:
        """Reads artifact.json and verifies every checksum; raises `BadInput` on any mismatch."""
        try:
            given = json.loads((folder / NAME).read_text())
            if given["schema"] != SCHEMA:
                raise errors.BadInput(
                    f"{str(folder / NAME)!r} has schema {given['schema']}, this version reads"
                    f" {SCHEMA}.",
                    next="Convert again with this version.",
                )
            artifact = cls(
                folder=folder,
                file=given["file"],
                format=given["format"],
                precision=given["precision"],
                signature=Signature.from_dict(given["signature"]) if given["signature"] else None,
                inputs=tuple(map(Binding.from_dict, given["inputs"])),
                outputs=tuple(map(Binding.from_dict, given["outputs"])),
                preprocess=Preprocess.from_dict(given["preprocess"])
                if given["preprocess"]
                else None,
                classes=tuple(given["classes"]),
                files=given["files"],
                steps=tuple(given["steps"]),
                source=given["source"],
                calibration=given["calibration"],
                parity=given["parity"],
                versions=given["versions"],
                engine=dict(given["engine"]) if given.get("engine") else None,
            )
        except OSError as error:
            raise errors.BadInput(f"Cannot read {str(folder / NAME)!r}: {error}.") from None
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise errors.BadInput(f"{str(folder / NAME)!r} is damaged: {error!r}.") from None
        for name, checksum in artifact.files.items():
            inside = (folder / name).resolve()
            if not inside.is_relative_to(folder.resolve()):
                raise errors.BadInput(f"{str(folder / NAME)!r} names a file outside its folder.")
            if file_sha256(inside) != checksum:
                raise errors.BadInput(
                    f"{str(inside)!r} is not the file that artifact.json was written for"
                    " (its sha256 differs).",
                    next="Convert again.",
                )
        if artifact.file not in artifact.files:
            raise errors.BadInput(f"{str(folder / NAME)!r} has no checksum of {artifact.file!r}.")
        return artifact


def open_artifact(path: str | Path) -> Artifact:
    """The artefact at `path`: its folder, its exported file, or a bare .onnx, .xml or .tflite."""
    path = Path(path)
    if path.is_dir() and (path / NAME).exists():
        return Artifact.load(path)
    if not path.exists():
        raise errors.BadInput(f"There is no file {str(path)!r}.")
    if (path.parent / NAME).exists():
        artifact = Artifact.load(path.parent)
        if path.name in artifact.files:
            return artifact
    for format, suffix in SUFFIXES.items():
        if path.suffix == suffix:
            return Artifact(folder=path.parent, file=path.name, format=format)
    raise errors.BadInput(
        f"{str(path)!r} is not an artefact.",
        next=f"Give a folder with {NAME}, or a file that ends in {', '.join(SUFFIXES.values())}.",
    )


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary name beside `path`, renamed onto it when the block ends well.

    Whatever stood at `path` stays untouched if the block fails, and nothing is left behind. For a
    folder, the block creates a folder at the temporary name. Raises `UsageError` where `path`
    cannot be written, its folders included.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    made: list[Path] = []
    try:
        made += [each for each in (path.parent, *path.parent.parents) if not each.exists()]
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        _remove_empty(made)
        raise _unwritable(path, error) from None
    try:
        try:
            yield temporary
            _swap(temporary, path)
        except OSError as error:
            if error.filename is not None and not str(error.filename).startswith(str(path.parent)):
                raise
            raise _unwritable(path, error) from None
    except BaseException:
        if temporary.is_dir():
            shutil.rmtree(temporary, ignore_errors=True)
        elif temporary.parent.is_dir():
            temporary.unlink(missing_ok=True)
        _remove_empty(made)
        raise


def _unwritable(path: Path, error: OSError) -> errors.UsageError:
    return errors.UsageError(
        f"Cannot write {str(path)!r}: {error.strerror or error}.",
        next="Nothing was changed there; choose another place or free some space.",
    )


def _remove_empty(folders: list[Path]) -> None:
    """The folders, innermost first, as far as they are there and hold nothing."""
    for folder in folders:
        with contextlib.suppress(OSError):
            folder.rmdir()


def _swap(new: Path, old: Path) -> None:
    if not old.is_dir():
        os.replace(new, old)
        return
    aside = old.with_name(f".{old.name}.{os.getpid()}.old")
    os.rename(old, aside)
    try:
        os.rename(new, old)
    except OSError:
        os.rename(aside, old)
        raise
    shutil.rmtree(aside)
