"""Options are read strictly: an unknown key or a wrong type never passes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import pytest

from lepton_edge import errors, options, plugins
from lepton_edge.target import Target


@dataclass(frozen=True)
class Example:
    batch: Literal["dynamic"] | int = 1
    exact: bool = False
    scale: float = 1.0
    size: tuple[int, ...] = ()
    pair: tuple[int, int] = (0, 0)
    layers: tuple[str, ...] = ()
    name: str | None = None
    need: int = 0


def test_texts_become_values() -> None:
    given = {
        "batch": "8",
        "exact": "yes",
        "scale": "1/4",
        "size": "2x3x4",
        "layers": "/mixer/Conv,exit",
        "pair": "5,6",
        "name": "n",
    }
    layers = ("/mixer/Conv", "exit")
    wanted = Example(8, True, 0.25, (2, 3, 4), (5, 6), layers, "n")
    assert options.build(Example, given) == wanted
    assert options.build(Example, {"batch": "dynamic", "name": "none"}) == Example("dynamic")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("batch", "some"),
        ("exact", "perhaps"),
        ("scale", "wide"),
        ("scale", "1/0"),
        ("size", "2,b"),
        ("pair", "1,2,3"),
        ("name", 3),
        ("need", 1.5),
        ("need", True),
    ],
)
def test_wrong_values_are_usage_errors(key: str, value: object) -> None:
    with pytest.raises(errors.UsageError):
        options.build(Example, {key: value})


def test_an_unknown_key_names_the_nearest() -> None:
    with pytest.raises(errors.UsageError, match="Did you mean 'batch'"):
        options.build(Example, {"bach": 1})


def test_an_unknown_precision_or_format_names_the_nearest() -> None:
    with pytest.raises(errors.UsageError, match="Did you mean 'int8'"):
        Target("onnx", "int-8")
    with pytest.raises(errors.UsageError, match="Did you mean 'openvino'"):
        Target("openvno")


def test_plugins_are_found_by_name() -> None:
    assert {"onnx", "openvino", "tflite"} <= set(plugins.names("converters"))
    assert not any(name.startswith("_") for name in plugins.names("converters"))
    with pytest.raises(errors.UsageError, match="Unknown runtime"):
        plugins.load("runtimes", "onxx")


def test_an_error_crosses_the_process_border() -> None:
    error = errors.CannotConvert("No.", next="Try this.")
    again = errors.from_dict(error.as_dict())
    assert type(again) is errors.CannotConvert
    assert str(again) == "No. Try this."
