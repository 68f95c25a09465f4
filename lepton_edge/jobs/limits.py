"""The job `limits`: what of a model will not run on a device, before anything is converted."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lepton_edge import devices, plugins, sources
from lepton_edge.devices import _tflite as tflite
from lepton_edge.devices import limits
from lepton_edge.model import ModelSource, TensorSpec

Refusals = dict[tuple[str, str], "str | None"]


def run(source: Mapping[str, Any], device: str, devices_folder: str | None) -> dict[str, Any]:
    """See `inspection.limits`."""
    given = ModelSource.from_dict(source)
    profile = devices.load(device, devices_folder)
    framework = sources.framework_of(given)
    refused = refusals(framework, profile)
    described = _tflite(given, refused) if framework == "tflite" else _source(given, refused)
    found = limits.predict(described, profile)
    return {"device": profile.name, "model": given.path, "framework": framework, **found}


def _source(given: ModelSource, refused: Refusals) -> limits.Described:
    model = sources.load(given)
    counts = sources.count(model)
    return limits.Described(
        model.framework,
        tuple(counts.operators.items()),
        counts.parameters,
        model.signature.inputs,
        refused,
    )


def _tflite(given: ModelSource, refused: Refusals) -> limits.Described:
    """Read from the file, so that one that no interpreter here can open is described too."""
    graph = tflite.read(given.file)
    constants = [tensor for tensor in graph.tensors if tensor.is_constant]
    inputs = (graph.tensors[index] for index in graph.inputs)
    return limits.Described(
        "tflite",
        tuple((operator.name, 1) for operator in graph.operators),
        sum(tensor.size for tensor in constants),
        tuple(
            TensorSpec(
                each.name,
                tuple(None if i in each.free else dim for i, dim in enumerate(each.shape)),
                each.dtype,
            )
            for each in inputs
        ),
        refused,
        sum(len(tensor.data) for tensor in constants),
    )


def refusals(framework: str, profile: devices.Profile) -> Refusals:
    """Why each format and precision of the device cannot be made; None for the source's own."""
    formats = plugins.names("converters")
    return {
        (runtime.format, precision): None
        if runtime.format == framework
        else plugins.load("converters", runtime.format).refuses(framework, precision)
        for runtime in profile.runtimes
        if runtime.format in formats
        for precision in runtime.precisions
    }
