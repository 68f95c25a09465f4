"""Runs the user's own Python: `file.py:function` for models, data and metrics."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lepton_edge import errors


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
    sys.modules[spec.name] = module  # as an import does: dataclasses and pickle look there
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[spec.name]
        raise raised(str(path), error) from error
    function = getattr(module, name, None)
    if not callable(function):
        public = [key for key, value in vars(module).items() if callable(value)]
        raise errors.unknown(f"function of {str(path)!r}:", name, public or [name])
    return function  # type: ignore[no-any-return]


def raised(where: str, error: BaseException) -> errors.BadInput:
    """What the user's code raised, as one sentence: the first line of its message."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = f": {lines[0].rstrip('.')}" if lines else ""
    return errors.BadInput(f"{where!r} raised {type(error).__name__}{text}.")
