"""A float32 ONNX graph to int8 with ONNX Runtime's own quantiser."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnx

from lepton_edge import errors
from lepton_edge.converters import _qdq
from lepton_edge.converters._float_onnx import backend, first_line, run
from lepton_edge.converters._onnx_graph import QUANTIZED, graphs
from lepton_edge.model import Array, Feeds, Signature
from lepton_edge.samples import Samples, feeds, fingerprint


def static(
    proto: onnx.ModelProto, signature: Signature, samples: Samples, folder: Path, *, device: str
) -> tuple[onnx.ModelProto, dict[str, Any], dict[str, Any]]:
    """Weights and activations in int8 as Q/DQ pairs; the step's record; the calibration's record.

    Activations uint8 asymmetric per tensor, weights int8 symmetric per channel: on x86 signed
    activations are slower than float in ONNX Runtime. Weights have 7 bits for an x86 CPU without
    VNNI, whose kernels saturate with 8. Ranges are the minimum and maximum over all samples, which
    are streamed.
    """
    narrow = _qdq.has_vnni(device) is False
    quantization = backend("onnxruntime.quantization", "ONNX Runtime", "onnx")

    class Reader(quantization.CalibrationDataReader):  # type: ignore[misc,name-defined]
        def __init__(self) -> None:
            self.batches = _batches(samples, signature)

        def get_next(self) -> dict[str, Array] | None:
            return next(self.batches, None)

    prepared = _prepare(proto)
    file = folder / ".quantized.onnx"
    settings = {
        "quant_format": quantization.QuantFormat.QDQ,
        "activation_type": quantization.QuantType.QUInt8,
        "weight_type": quantization.QuantType.QInt8,
        "per_channel": True,
        "reduce_range": narrow,
        "calibrate_method": quantization.CalibrationMethod.MinMax,
    }
    with _kept(folder):
        try:
            quantization.quantize_static(
                prepared,
                file,
                Reader(),
                extra_options={"ActivationSymmetric": False, "WeightSymmetric": True},
                **settings,
            )
        except (RuntimeError, ValueError, LookupError, TypeError, AttributeError) as error:
            raise _cannot(error) from None
        quantized = onnx.load(file)
    step = {
        "step": "int8",
        "tool": "onnxruntime.quantization.quantize_static",
        "format": "QDQ",
        "activations": "uint8 asymmetric per tensor",
        "weights": f"int8 symmetric per channel{', 7 bits' if narrow else ''}",
        "ranges": "minimum and maximum",
        **_count(quantized),
    }
    return quantized, step, {"n": len(samples), "fingerprint": fingerprint(samples),
                             "ranges": "minimum and maximum"}  # fmt: skip


def dynamic(
    proto: onnx.ModelProto, example: Feeds, folder: Path, *, device: str
) -> tuple[onnx.ModelProto, dict[str, Any]]:
    """Weights in int8, activations quantised at run time from their own range; the step's record.

    Convolutions get uint8 weights: ONNX Runtime has no signed kernel for ConvInteger on CPUs. int8
    weights have 7 bits for an x86 CPU without VNNI, whose kernels saturate with 8.
    """
    quantization = backend("onnxruntime.quantization", "ONNX Runtime", "onnx")
    prepared = _prepare(proto)
    convolutions = any(node.op_type == "Conv" for node in prepared.graph.node)
    kind = quantization.QuantType.QUInt8 if convolutions else quantization.QuantType.QInt8
    narrow = not convolutions and _qdq.has_vnni(device) is False
    file = folder / ".quantized.onnx"
    with _kept(folder):
        try:
            quantization.quantize_dynamic(
                prepared, file, per_channel=True, weight_type=kind, reduce_range=narrow
            )
            quantized = onnx.load(file)
            run(quantized, example)  # some kernels are missing, which only opening it tells
        except (RuntimeError, ValueError, LookupError, TypeError, AttributeError) as error:
            raise _cannot(error) from None
    step = {
        "step": "int8-dynamic",
        "tool": "onnxruntime.quantization.quantize_dynamic",
        "activations": "uint8, ranges at run time",
        "weights": f"{'uint8' if convolutions else 'int8'} per channel"
        f"{', 7 bits' if narrow else ''}",
        **_count(quantized),
    }
    if convolutions:
        step["slow_because"] = (
            "ONNX Runtime has no fast kernel for dynamic convolutions (ConvInteger), and finds the"
            " range of every input anew"
        )
    return quantized, step


def _batches(samples: Samples, signature: Signature) -> Iterator[dict[str, Array]]:
    fixed = {spec.shape[0] for spec in signature.inputs if spec.shape} - {None}
    yield from feeds(samples, signature, min((size for size in fixed if size), default=1))


class _kept:
    """Quiets the quantiser's advice on the root logger and removes its temporary file."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __enter__(self) -> None:
        self.level = logging.root.level
        logging.root.setLevel(logging.ERROR)

    def __exit__(self, *_: object) -> None:
        logging.root.setLevel(self.level)
        for part in self.folder.glob(".quantized.onnx*"):
            part.unlink()


def _prepare(proto: onnx.ModelProto) -> onnx.ModelProto:
    """The graph with its shapes inferred symbolically and folded by ONNX Runtime."""
    backend("sympy", "sympy", "onnx")
    shapes = backend("onnxruntime.quantization.shape_inference", "ONNX Runtime", "onnx")
    with tempfile.TemporaryDirectory() as place:
        file = Path(place) / "prepared.onnx"
        try:
            shapes.quant_pre_process(proto, file, auto_merge=True)
            return onnx.load(file)
        except (RuntimeError, ValueError, LookupError, TypeError, AttributeError) as error:
            raise _cannot(error) from None


def _count(proto: onnx.ModelProto) -> dict[str, Any]:
    """How many operators compute on quantised values; `CannotConvert` where none does."""
    nodes = [node for graph in graphs(proto.graph) for node in graph.node]
    quantized = sum(
        node.op_type in QUANTIZED or node.op_type.startswith(("DynamicQuantize", "MatMulInteger"))
        for node in nodes
    )
    if not quantized:
        raise errors.CannotConvert(
            "ONNX Runtime's quantiser finds no operator in this model that it can quantise.",
            next="Ask for the precision fp16 or fp32.",
        )
    return {"quantize_nodes": quantized}


def _cannot(error: Exception) -> errors.CannotConvert:
    return errors.CannotConvert(
        f"ONNX Runtime's quantiser cannot quantise this model: {first_line(error)}.",
        next="Ask for the precision int8-dynamic, fp16 or fp32.",
    )
