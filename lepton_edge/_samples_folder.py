"""Samples in image files, one folder a class."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from lepton_edge import errors
from lepton_edge._samples_images import decode, pillow
from lepton_edge.samples import Reader, Sample

SUFFIXES = (".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")


class FolderReader(Reader):
    """Classes are the sub-folders, sorted by name; images are sorted by path within each."""

    def __init__(self, path: Path) -> None:
        pillow()
        self.names = ("image",)
        folders = sorted(part for part in path.iterdir() if part.is_dir())
        self.files = [
            (file, label)
            for label, folder in enumerate(folders)
            for file in sorted(folder.rglob("*"))
            if file.suffix.lower() in SUFFIXES and file.is_file()
        ]
        self.classes = tuple(folder.name for folder in folders)
        if not self.files:
            raise errors.BadInput(
                f"The folder {str(path)!r} is empty: no class folders with images.",
                next=f"Put each class's images ({', '.join(SUFFIXES)}) into a folder of its own.",
            )

    def __len__(self) -> int:
        return len(self.files)

    def read(self, chosen: frozenset[int] | None) -> Iterator[Sample]:
        for index, (file, label) in enumerate(self.files):
            if chosen is None or index in chosen:
                try:
                    data = file.read_bytes()
                except OSError as error:
                    raise errors.BadInput(f"Cannot read {str(file)!r}: {error.strerror}.") from None
                yield Sample({"image": decode(data, repr(str(file)))}, label, repr(str(file)))
