"""Samples from the user's own Python: `file.py:function` yields (inputs, label)."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from lepton_edge import errors
from lepton_edge._samples_npz import as_label
from lepton_edge.samples import Reader, Sample


def load_function(path: Path, name: str) -> Callable[..., Any]:
    """`name` of the Python file `path`, which is run; its folder can be imported from.

    Raises `BadInput` where the file is missing or fails, `UsageError` for an unknown name.
    """
    if not path.is_file():
        raise errors.BadInput(f"There is no file {str(path)!r}.")
    spec = importlib.util.spec_from_file_location(f"lepton_edge_user_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise errors.BadInput(f"{str(path)!r} is no Python file.")
    module = importlib.util.module_from_spec(spec)
    folder = str(path.resolve().parent)
    if folder not in sys.path:
        sys.path.append(folder)  # at the end: it must not hide an installed package
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise _raised(str(path), error) from error
    function = getattr(module, name, None)
    if not callable(function):
        public = [key for key, value in vars(module).items() if callable(value)]
        raise errors.unknown(f"function of {str(path)!r}:", name, public or [name])
    return function  # type: ignore[no-any-return]


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
            raise _raised(self.where, error) from error

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


def _raised(where: str, error: Exception) -> errors.BadInput:
    return errors.BadInput(f"{where!r} raised {type(error).__name__}: {error}.")
