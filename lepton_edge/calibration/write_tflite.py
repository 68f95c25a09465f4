"""Static int8 by ai_edge_quantizer, from ranges that are given to it; every weight nearest."""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Collection, Mapping
from typing import Any

from lepton_edge import errors
from lepton_edge.calibration.dialects import Dialect
from lepton_edge.calibration.graph_tflite import BRANCHES, CONVERSIONS, Graph
from lepton_edge.model import Array


def supported() -> frozenset[str]:
    """The operators that the library has an int8 form for, by their names in TFLite's schema."""
    from_library = _library("default_policy").DEFAULT_JSON_POLICY
    names = json.loads(from_library)["ops_per_config"]["static_wi8_ai8"]
    other = {"CONV_2D_TRANSPOSE": "TRANSPOSE_CONV"}
    return frozenset(other.get(name, name) for name in names)


def write(
    graph: Graph,
    ranges: Mapping[str, Mapping[str, Array]],
    dialect: Dialect,
    floats: Collection[str],
    *,
    float_io: bool,
) -> bytes:
    """The int8 file, with the operators whose scope is in `floats` in float.

    `ranges` are by tensor name, as `ranges_for_tflite` gives them. `float_io` keeps the inputs and
    outputs float. Raises `CannotConvert` where the library finds no way, or nothing to quantise.
    """
    branches = sorted({op.kind for op in graph.ops if op.kind in BRANCHES})
    if branches and not float_io:
        raise errors.CannotConvert(
            f"The operator {', '.join(branches)} has no int8 form, which this target asks for.",
            next="A recurrent layer of Keras is no loop with unroll=True.",
        )
    quantizer, qtyping = _library("quantizer"), _library("qtyping")
    names = _library("algorithm_manager").AlgorithmName
    operations = qtyping.TFLOperationName
    worker = quantizer.Quantizer(graph.to_bytes())
    worker.add_static_config(
        ".*", operations.ALL_SUPPORTED, activation_num_bits=8, weight_num_bits=8
    )
    if dialect.full_integer:  # fully connected layers with a scale a channel came later
        worker.add_static_config(
            ".*",
            operations.FULLY_CONNECTED,
            activation_num_bits=8,
            weight_num_bits=8,
            weight_granularity=qtyping.QuantGranularity.TENSORWISE,
        )
    if float_io:
        for side in (operations.INPUT, operations.OUTPUT):
            worker.update_quantization_recipe(".*", side, None, algorithm_key=names.NO_QUANTIZE)
    scopes = [
        "".join(f"{graph.name(tensor)};" for tensor in op.outputs)
        for op in graph.ops
        if op.scope in floats
    ]
    scopes += graph.inside()  # nothing is observed there
    if scopes:
        worker.update_quantization_recipe(
            f"^(?:{'|'.join(map(re.escape, scopes))})$",
            operations.ALL_SUPPORTED,
            None,
            algorithm_key=names.NO_QUANTIZE,
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the library opens the file and warns about memory
            result = worker.quantize(dict(ranges), enable_progress_report=False)
    except (ValueError, RuntimeError, KeyError) as error:
        raise errors.CannotConvert(
            f"ai_edge_quantizer cannot make this model int8: {_first_line(error)}.",
            next="Use precision fp32 or fp16.",
        ) from error
    return _completed(bytes(result.quantized_model))


def _completed(content: bytes) -> bytes:
    """The file with outputs that nothing reads on the grid of those beside them.

    The library leaves them float, and XNNPACK does not open a SPLIT of which one part is.
    """
    graph, found = Graph(content), False
    for op in graph.ops:
        beside = next((tensor for tensor in op.outputs if graph.grid(tensor)), None)
        unread = [t for t in op.outputs if t not in graph.consumers and t not in graph.outputs]
        for tensor in unread:
            if beside is not None and graph.dtype(tensor) == "FLOAT32":
                graph.set_grid_of(tensor, beside)
                found = True
    return graph.to_bytes() if found else content


def pairs(graph: Graph, quantized: Graph) -> dict[int, int]:
    """{index of an operator of the float file: index of the same in the int8 file}."""
    before = [op for op in graph.ops if op.kind not in CONVERSIONS]
    after = [op for op in quantized.ops if op.kind not in CONVERSIONS]
    if [op.kind for op in before] != [op.kind for op in after]:
        raise errors.CannotConvert(
            "ai_edge_quantizer changed the order of this model's operators.",
            next="Use the option quantizer=library.",
        )
    return {one.index: two.index for one, two in zip(before, after, strict=True)}


def check_integer(quantized: Graph) -> None:
    """Raises `CannotConvert` naming the first operator that has a float tensor."""
    # Conversions to float stand beside the operator that asked for them.
    for op in sorted(quantized.ops, key=lambda op: op.kind in CONVERSIONS):
        for tensor in (*op.inputs, *op.outputs):
            if tensor >= 0 and quantized.dtype(tensor) in ("FLOAT32", "FLOAT16"):
                raise errors.CannotConvert(
                    f"The operator {op.kind} ({op.scope!r}) has no int8 form here: its tensor"
                    f" {quantized.name(tensor)!r} stays float, which this target does not take.",
                    next="Replace it in the model, or use a device that takes float operators.",
                )


def _library(module: str) -> Any:
    import importlib

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the library's own imports (jax, absl) announce changes
        try:
            return importlib.import_module(f"ai_edge_quantizer.{module}")
        except ImportError:
            raise errors.BackendMissing(
                "ai-edge-quantizer is not installed.",
                next="pip install 'lepton-edge[tflite-convert]'.",
            ) from None


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
