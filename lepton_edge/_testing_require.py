"""What the checks of the contract kit are made of."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

import numpy as np

from lepton_edge import errors
from lepton_edge.model import Array, Feeds


def require(holds: bool, otherwise: str) -> None:
    if not holds:
        raise AssertionError(f"{otherwise}.")


def refuses(
    call: Callable[[], Any],
    kinds: type[errors.EdgeError] | tuple[type[errors.EdgeError], ...],
    what: str,
) -> errors.EdgeError:
    """The error that `call` raised, which must be of `kinds`."""
    names = [kind.__name__ for kind in (kinds if isinstance(kinds, tuple) else (kinds,))]
    wanted = " or ".join(names)
    try:
        call()
    except kinds as error:
        return error
    except Exception as error:
        raise AssertionError(
            f"{what} raised {type(error).__name__}, not {wanted}: {error}."
        ) from error
    raise AssertionError(f"{what} was accepted; it must raise {wanted}.")


def agree(outputs: Feeds, expected: Mapping[str, Array], tolerance: float, what: str) -> None:
    """Same names and shapes, and no value further off than `tolerance` x the expected range.

    Where all expected values are equal, their size stands for the range.
    """
    require(
        list(outputs) == list(expected),
        f"{what}: outputs {list(outputs)}, not {list(expected)}",
    )
    for name, wanted in expected.items():
        got = outputs[name]
        require(
            isinstance(got, np.ndarray) and got.shape == wanted.shape,
            f"{what}: output {name!r} has shape {np.shape(got)}, not {wanted.shape}",
        )
        if not wanted.size:
            continue
        exact, found = wanted.astype(np.float64), got.astype(np.float64)
        off = float(np.abs(found - exact).max())
        allowed = tolerance * (float(np.ptp(exact)) or float(np.abs(exact).max()))
        require(
            off <= allowed,
            f"{what}: output {name!r} is off by {off:.3g}, more than {allowed:.3g}",
        )


def frozen_options(module: ModuleType) -> Any:
    """The module's `Options` with all its defaults."""
    cls = getattr(module, "Options", None)
    require(
        isinstance(cls, type) and dataclasses.is_dataclass(cls),
        f"{module.__name__} has no dataclass Options",
    )
    assert cls is not None
    frozen = cls.__dataclass_params__.frozen
    require(frozen, f"{module.__name__}.Options is not frozen")
    try:
        return cls()
    except TypeError as error:
        raise AssertionError(f"{module.__name__}.Options has no defaults: {error}.") from None
