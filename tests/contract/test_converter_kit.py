"""The converter's contract kit: passes our converters, and catches broken ones."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from lepton_edge import plugins, sources, testing
from lepton_edge.artifact import Artifact
from lepton_edge.model import Model, ModelSource

ZOO = Path(__file__).parents[1] / "zoo.py"


@functools.cache
def model(name: str) -> Model:
    pytest.importorskip("torch")
    return sources.load(ModelSource(f"{ZOO}:{name}"))


def onnx_with(change: Callable[[Artifact], Artifact], **parts: Any) -> ModuleType:
    """The ONNX converter, with what `change` does to its result."""
    ours = plugins.load("converters", "onnx")

    def convert(model: Any, target: Any, out: Any, *, calibration: Any = None, options: Any) -> Any:
        return change(ours.convert(model, target, out, calibration=calibration, options=options))

    module = ModuleType("broken")
    vars(module).update(
        {"convert": convert, "refuses": ours.refuses, "Options": ours.Options, **parts}
    )
    return module


@pytest.mark.parametrize("name", ["plain_cnn", "bert"])
@pytest.mark.parametrize("format", ["onnx", "openvino"])
def test_our_converters_keep_the_contract(format: str, name: str) -> None:
    pytest.importorskip({"onnx": "onnxruntime", "openvino": "openvino"}[format])
    pytest.importorskip("onnx")
    testing.check_converter(plugins.load("converters", format), model(name), format=format)


def renamed(artifact: Artifact) -> Artifact:
    path = artifact.path.rename(artifact.folder / "model.onnx")
    return dataclasses.replace(artifact, file=path.name)


def other_weights(artifact: Artifact) -> Artifact:
    """Something a sloppy conversion could do: one weight tensor is halved."""
    import onnx
    from onnx import numpy_helper

    proto = onnx.load(artifact.path)
    weight = next(item for item in proto.graph.initializer if len(item.dims) == 4)
    weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight) / 2, weight.name))
    onnx.save(proto, artifact.path)
    return artifact


BROKEN: dict[str, tuple[Callable[[Artifact], Artifact], dict[str, Any], str]] = {
    "wrong weights": (other_weights, {}, "is off by"),
    "wrong name": (renamed, {}, "not 'plain_cnn_fp32'"),
    "saved too early": (Artifact.save, {}, "which the job does"),
    "no steps": (lambda a: dataclasses.replace(a, steps=()), {}, "steps taken"),
    "no versions": (lambda a: dataclasses.replace(a, versions={}), {}, "versions"),
    "no bindings": (lambda a: dataclasses.replace(a, inputs=()), {}, "inputs bound"),
    "no signature": (lambda a: dataclasses.replace(a, signature=None), {}, "no signature"),
    "another precision": (lambda a: dataclasses.replace(a, precision="fp16"), {}, "fp16"),
    "refuses what it takes": (lambda a: a, {"refuses": lambda *_: "no"}, "refuses('torch'"),
    "takes everything": (lambda a: a, {"refuses": lambda *_: None}, "an unknown framework"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_converter_is_caught(kind: str) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    change, parts, message = BROKEN[kind]
    with pytest.raises(AssertionError) as caught:
        testing.check_converter(onnx_with(change, **parts), model("plain_cnn"), format="onnx")
    assert message in str(caught.value)


def test_int8_without_data_is_caught() -> None:
    """A converter that quantises without being given data invents its ranges."""
    pytest.importorskip("onnxruntime")
    ours = plugins.load("converters", "onnx")
    module = onnx_with(lambda artifact: artifact)
    strict = module.convert

    def convert(model: Any, target: Any, out: Any, *, calibration: Any = None, options: Any) -> Any:
        if target.precision == "int8":
            (out / "x.onnx").write_text("ranges made up")
            return Artifact(out, "x.onnx", "onnx", "int8")
        return strict(model, target, out, calibration=calibration, options=options)

    vars(module).update(convert=convert, Options=ours.Options)
    with pytest.raises(AssertionError, match="int8 without calibration data was accepted"):
        testing.check_converter(module, model("plain_cnn"), format="onnx")
