"""What a model costs, operator by operator: MACs, weights and activations, from its file."""

from __future__ import annotations

from pathlib import Path

from lepton_edge import errors
from lepton_edge.devices._cost_onnx import onnx_cost
from lepton_edge.devices._cost_tflite import refuse_unknown, tflite_cost
from lepton_edge.devices._kernels import Cost
from lepton_edge.devices._tflite import read


def cost(path: str | Path) -> Cost:
    """The cost of a .tflite or .onnx file.

    Raises `BadInput` for other files and open sizes, `UsageError` for operators of unknown cost.
    """
    suffix = Path(path).suffix
    if suffix == ".tflite":
        graph = read(path)
        refuse_unknown(graph)
        return tflite_cost(graph, joined=True)[0]
    if suffix == ".onnx":
        return onnx_cost(Path(path))
    raise errors.BadInput(
        f"{str(path)!r} is neither .tflite nor .onnx.", next="Convert the model first."
    )
