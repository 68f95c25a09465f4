"""Samples in a .parquet file, streamed by row group with pyarrow."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from lepton_edge import errors
from lepton_edge._samples_images import decode, pillow
from lepton_edge._samples_npz import as_label
from lepton_edge.model import Array
from lepton_edge.samples import Reader, Sample, label_name

BATCH_ROWS = 128


class ParquetReader(Reader):
    """A binary column, or a struct {bytes, path}, is an image; other columns are numbers."""

    def __init__(self, path: Path) -> None:
        self.arrow = _pyarrow()
        self.path = path
        with self._open() as file:
            schema = file.schema_arrow
            self.n = file.metadata.num_rows
        self.label = label_name(schema.names, str(path))
        self.names = tuple(name for name in schema.names if name != self.label)
        self.classes = self._classes(schema.metadata or {})
        if not self.names:
            raise errors.BadInput(f"{str(path)!r} holds no inputs, only {schema.names}.")
        if any(_is_image(self.arrow, schema.field(name).type) for name in self.names):
            pillow()

    def __len__(self) -> int:
        return int(self.n)

    def read(self, chosen: frozenset[int] | None) -> Iterator[Sample]:
        start = 0
        try:
            with self._open() as file:
                for group in range(file.num_row_groups):
                    end = start + file.metadata.row_group(group).num_rows
                    if chosen is None or not chosen.isdisjoint(range(start, end)):
                        yield from self._group(file, group, start, chosen)
                    start = end
        except (self.arrow.ArrowException, OSError) as error:
            raise self._damaged(error) from None

    def _group(
        self, file: Any, group: int, index: int, chosen: frozenset[int] | None
    ) -> Iterator[Sample]:
        for batch in file.iter_batches(batch_size=BATCH_ROWS, row_groups=[group]):
            columns = {name: batch.column(name) for name in (*self.names, *self._labels())}
            for row in range(batch.num_rows):
                if chosen is None or index in chosen:
                    name = f"{str(self.path)!r} row {index}"
                    inputs = {key: self._value(columns[key][row], name) for key in self.names}
                    label = None
                    if self.label is not None:
                        label = as_label(self._value(columns[self.label][row], name))
                    yield Sample(inputs, label, name)
                index += 1

    def _labels(self) -> tuple[str, ...]:
        return () if self.label is None else (self.label,)

    def _value(self, scalar: Any, name: str) -> Array:
        value = scalar.as_py()
        if isinstance(value, dict):
            value = value.get("bytes")
        if value is None:
            raise errors.BadInput(f"{name} has an empty cell.")
        if isinstance(value, bytes):
            return decode(value, name)
        array = np.asarray(value)
        if array.dtype.kind not in "biuf":
            raise errors.BadInput(f"{name} has a cell that is neither an image nor numbers.")
        if array.dtype == np.float64:  # Python floats: back to the column's own width
            kind = scalar.type
            while hasattr(kind, "value_type"):
                kind = kind.value_type
            array = array.astype(kind.to_pandas_dtype())
        return array

    def _classes(self, metadata: dict[bytes, bytes]) -> tuple[str, ...]:
        try:
            if b"classes" in metadata:
                return tuple(map(str, json.loads(metadata[b"classes"])))
            features = json.loads(metadata.get(b"huggingface", b"{}"))
            return tuple(features["info"]["features"][self.label]["names"])
        except (KeyError, TypeError):
            return ()
        except ValueError as error:
            raise self._damaged(error) from None

    def _open(self) -> Any:
        from pyarrow import parquet

        try:
            return parquet.ParquetFile(self.path)
        except (self.arrow.ArrowException, OSError) as error:
            raise self._damaged(error) from None

    def _damaged(self, error: Exception) -> errors.BadInput:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        return errors.BadInput(f"{str(self.path)!r} is damaged or no .parquet file: {first}")


def _is_image(arrow: Any, kind: Any) -> bool:
    types = arrow.types
    return bool(types.is_struct(kind) or types.is_binary(kind) or types.is_large_binary(kind))


def _pyarrow() -> Any:
    try:
        import pyarrow
    except ImportError:
        raise errors.BackendMissing(
            "Reading .parquet needs pyarrow, which is not installed.",
            next="pip install 'lepton-edge[data]'.",
        ) from None
    return pyarrow
