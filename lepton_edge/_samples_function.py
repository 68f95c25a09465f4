"""Samples from the user's own Python: `file.py:function` yields (inputs, label)."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from lepton_edge import errors
from lepton_edge._samples_npz import as_label
from lepton_edge._user_code import load_function, raised
from lepton_edge.samples import Reader, Sample


class FunctionReader(Reader):
    """The function is called anew for each pass, and once more to count."""

    classes: tuple[str, ...] = ()

    def __init__(self, path: Path, function: str) -> None:
        self.where = f"{path}:{function}"
        self.function = load_function(path, function)
        first = next(self.read(frozenset({0})), None)
        self.names = tuple(first.inputs) if first else ("input",)

    @cached_property
    def _count(self) -> int:
        return sum(1 for _ in self._items())

    def __len__(self) -> int:
        return self._count

    def read(self, chosen: frozenset[int] | None) -> Iterator[Sample]:
        last = None if chosen is None else max(chosen)
        for index, item in enumerate(self._items()):
            if chosen is None or index in chosen:
                yield self._sample(item, index)
            if index == last:
                return

    def _items(self) -> Iterator[Any]:
        try:
            yield from self.function()
        except GeneratorExit:
            raise
        except errors.EdgeError:
            raise
        except Exception as error:
            raise raised(self.where, error) from error

    def _sample(self, item: Any, index: int) -> Sample:
        name = f"{self.where} item {index}"
        if not isinstance(item, tuple) or len(item) != 2:
            raise errors.BadInput(f"{name} is no pair (inputs, label).")
        given, label = item
        inputs = given if isinstance(given, dict) else {"input": given}
        arrays = {str(key): np.asarray(value) for key, value in inputs.items()}
        if label is not None:
            label = as_label(np.asarray(label))
        for key, value in arrays.items():
            if value.dtype.kind not in "biuf":
                raise errors.BadInput(f"{name} has no numbers in {key!r}: {value.dtype}.")
        return Sample(arrays, label, name)
