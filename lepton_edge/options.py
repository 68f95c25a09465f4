"""Options are frozen dataclasses; this builds one from text or TOML keys, strictly.

The keys a user may give, their help and their record in artifact.json all come from the dataclass.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

from lepton_edge import errors

T = TypeVar("T")

_TRUE, _FALSE = {"true", "yes", "on", "1"}, {"false", "no", "off", "0"}


def build(cls: type[T], given: Mapping[str, Any], *, what: str = "option") -> T:
    """An instance of the dataclass `cls`; unknown keys and wrong types are `UsageError`."""
    hints = typing.get_type_hints(cls)
    known = {field.name: hints[field.name] for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
    values: dict[str, Any] = {}
    for key, value in given.items():
        name = key.replace("-", "_")
        if name not in known:
            raise errors.unknown(what, key, known)
        values[name] = _coerce(key, value, known[name], what)
    try:
        return cls(**values)
    except TypeError as error:
        raise errors.UsageError(f"Incomplete {what}s: {error}.") from None


def _coerce(key: str, value: Any, hint: Any, what: str) -> Any:
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        arms = typing.get_args(hint)
        if type(None) in arms and (value is None or value in ("none", "")):
            return None
        last: errors.UsageError | None = None
        for arm in arms:
            if arm is type(None):
                continue
            try:
                return _coerce(key, value, arm, what)
            except errors.UsageError as error:
                last = error
        assert last is not None
        raise last
    if origin is typing.Literal:
        if value not in typing.get_args(hint):
            raise errors.unknown(f"value of {key}", str(value), map(str, typing.get_args(hint)))
        return value
    if origin is tuple:
        arms = typing.get_args(hint)
        items = value
        if isinstance(value, str):  # 3x224 is a list of numbers; a name may hold an x
            items = (value if str in arms else value.replace("x", ",")).split(",")
        if not isinstance(items, (list, tuple)):
            items = [items]
        if len(arms) == 2 and arms[1] is Ellipsis:
            return tuple(_coerce(key, item, arms[0], what) for item in items)
        if len(items) != len(arms):
            raise errors.UsageError(f"{what} {key!r} takes {len(arms)} values, got {len(items)}.")
        return tuple(_coerce(key, item, arm, what) for item, arm in zip(items, arms, strict=True))
    try:
        if hint is bool:
            if isinstance(value, bool):
                return value
            if str(value).lower() in _TRUE | _FALSE:
                return str(value).lower() in _TRUE
            raise ValueError
        if hint is int and (isinstance(value, bool) or (isinstance(value, float) and value % 1)):
            raise ValueError
        if hint is float and isinstance(value, str) and "/" in value:
            top, bottom = value.split("/")
            return float(top) / float(bottom)
        if hint in (int, float):
            return hint(value)
    except (ValueError, ZeroDivisionError):
        raise errors.UsageError(f"{what} {key!r} takes {hint.__name__}, got {value!r}.") from None
    if hint is str and not isinstance(value, str):
        raise errors.UsageError(f"{what} {key!r} takes text, got {value!r}.")
    return value
