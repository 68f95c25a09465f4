"""What of a float .tflite file does not fit into float16."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from lepton_edge import errors
from lepton_edge.calibration.graph_tflite import Graph, interpreter
from lepton_edge.model import Array

LARGEST = float(np.finfo(np.float16).max)  # 65504


def check(source: Path, feeds: Mapping[str, Array]) -> dict[str, Any]:
    """Raises `CannotConvert` naming a weight beyond float16; activations beyond it are returned.

    Activations are those of `feeds`, under the file's tensor names: the CPU computes in float32,
    but a delegate that computes in float16 overflows there.
    """
    graph = Graph(source.read_bytes())
    for index in range(len(graph.main.tensors)):
        if graph.dtype(index) != "FLOAT32" or not graph.is_constant(index):
            continue
        value = graph.constant(index)
        beyond = value[np.isfinite(value) & (np.abs(value) > LARGEST)]
        # One negative value is a mask, and minus infinity serves as well.
        if beyond.size and (beyond.max() > 0 or beyond.min() != beyond.max()):
            worst = float(beyond[np.abs(beyond).argmax()])
            raise errors.CannotConvert(
                f"The weight {graph.name(index)!r} holds {worst:.6g}, beyond float16's"
                f" {LARGEST:g}.",
                next="Ask for the precision fp32, or scale that weight in the model.",
            )
    opened = interpreter(graph.to_bytes(), 1, keep_all=True, name=str(source))
    places = {item["name"]: item["index"] for item in opened.get_input_details()}
    for name, value in feeds.items():
        opened.resize_tensor_input(places[name], value.shape)
    opened.allocate_tensors()
    for name, value in feeds.items():
        opened.set_tensor(places[name], value)
    opened.invoke()
    large = [
        graph.producer[tensor].scope
        for tensor in graph.activations()
        if float(np.abs(opened.get_tensor(tensor)).max(initial=0.0)) > LARGEST
    ]
    if not large:
        return {}
    return {
        "activations_beyond_65504": large,
        "note": "a delegate that computes in float16 overflows in these operators",
    }
