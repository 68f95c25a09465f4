"""Float .tflite to int8 .tflite in a dialect: equalise, observe, solve, write, correct."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np

from lepton_edge import errors
from lepton_edge.artifact import replacing
from lepton_edge.calibration import (
    equalize,
    equalize_tflite,
    learn_tflite,
    observe_tflite,
    placement_tflite,
    write_tflite,
)
from lepton_edge.calibration.dialects import Dialect
from lepton_edge.calibration.graph_tflite import CONVERSIONS, Graph
from lepton_edge.calibration.observe_onnx import Data, cut
from lepton_edge.calibration.patches_tflite import KNOWN
from lepton_edge.calibration.statistics import TensorStats
from lepton_edge.calibration.tuning import Tuning
from lepton_edge.model import Array

EQUALIZE_SAMPLES = 64  # whose channel ranges are balanced


def quantize_tflite(
    model: Path,
    out: Path,
    data: Data,
    dialect: Dialect,
    options: Tuning | None = None,
    *,
    float_io: bool = True,
    cache: Path | None = None,
) -> dict[str, Any]:
    """Writes the int8 file to `out` and returns a JSON-able record of what was done.

    `data` is under the file's own tensor names, in its layout and batch size. `float_io` keeps the
    inputs and outputs float; a full-integer dialect has neither. `cache` is a folder where
    statistics are kept. The same model, data and options give the same bytes on one machine.
    Raises `CannotConvert` where nothing can be quantised, or where the dialect is full-integer and
    an operator has no int8 form, and `UsageError` for empty data or an operator to keep in float
    that is not there.
    """
    work = Work(model, data, dialect, options or Tuning(), float_io=float_io, cache=cache)
    content, record = work.quantize()
    with replacing(out) as temporary:
        temporary.write_bytes(content)
    return {**work.record(), **record}


class Work:
    """A float file made ready, with its statistics: from here it can be quantised in many ways."""

    def __init__(
        self,
        model: Path,
        data: Data,
        dialect: Dialect,
        options: Tuning,
        *,
        float_io: bool,
        cache: Path | None,
    ) -> None:
        self.name, self.data, self.dialect, self.options = str(model), data, dialect, options
        self.float_io = float_io and not dialect.full_integer
        self.supported = write_tflite.supported()
        self.graph = graph = prepare(model.read_bytes(), with_bias=options.correct_bias)
        scopes = [op.scope for op in graph.ops]
        unknown = set(options.keep_float) - set(scopes)
        if unknown:
            raise errors.unknown("operator", min(unknown), scopes)
        if options.keep_float and dialect.full_integer:
            raise errors.UsageError(
                f"The dialect {dialect.name} leaves no operator in float.",
                next="Leave the option keep_float out.",
            )
        if not placement_tflite.anchors(graph, dialect):
            raise errors.CannotConvert(
                f"{self.name!r} has no operator that {dialect.name} runs in int8: no convolution"
                " or matrix product with constant weights.",
                next="Use int8-dynamic, int8-weights or fp32.",
            )
        self.equalized: list[dict[str, Any]] = []
        scaled = self._equalize() if options.equalize else []
        self.observed = self._observe(cache)
        changed = [self._rein_in(*each) for each in scaled]
        if any(changed):
            self.observed = self._observe(cache)

    def floats(self, keep_float: Collection[str] = ()) -> dict[str, str]:
        """{operator: reason} of those that stay float; `keep_float` adds to the options'."""
        keep = {*self.options.keep_float, *keep_float}
        return placement_tflite.floats(
            self.graph, self.dialect, self.supported, keep=keep, gates=self.options.gates
        )

    def nearest(self, keep_float: Collection[str] = ()) -> bytes:
        """Every weight rounded to its nearest code, nothing learned or corrected."""
        solved = observe_tflite.solve(
            self.observed, self.dialect, self.options.ranges, self.options.percentile
        )
        ranges = observe_tflite.as_qsvs(solved, self.observed.ranks)
        return write_tflite.write(
            self.graph, ranges, self.dialect, self.floats(keep_float), float_io=self.float_io
        )

    def quantize(self, keep_float: Collection[str] = ()) -> tuple[bytes, dict[str, Any]]:
        """The file as the options ask, with `keep_float` in float too, and the layers' record."""
        options = self.options
        content = self.nearest(keep_float)
        quantized = Graph(content)
        matching = write_tflite.pairs(self.graph, quantized)
        if self.dialect.full_integer:
            write_tflite.check_integer(quantized)
        layers = []
        if options.rounding == "learned" or options.correct_bias:
            layers = learn_tflite.learn(
                self.graph,
                quantized,
                matching,
                self.data,
                options,
                samples=min(options.correction_samples, self.observed.statistics.n),
            )
            content = quantized.to_bytes()
        ints = [
            op
            for op in quantized.ops
            if op.kind not in CONVERSIONS and any(quantized.grid(t) for t in op.outputs)
        ]
        if not ints:
            raise errors.CannotConvert(
                f"ai_edge_quantizer found no operator of {self.name!r} to make int8.",
                next="Use precision fp32 or fp16.",
            )
        floats = self.floats(keep_float)
        other = {layer.node for layer in layers} | set(floats)
        nearest = [op.scope for op in placement_tflite.anchors(self.graph, self.dialect)]
        return content, {
            "layers": [vars(layer) for layer in layers],
            "nearest": [scope for scope in nearest if scope not in other],
            "int8_nodes": len(ints),
            "float_nodes": floats,
        }

    def record(self) -> dict[str, Any]:
        return {
            "quantizer": "lepton-edge",
            "dialect": self.dialect.name,
            "options": {each.name: getattr(self.options, each.name) for each in fields(Tuning)},
            "samples": self.observed.statistics.n,
            "statistics": self.observed.statistics.key,
            "equalized": self.equalized,
        }

    def _observe(self, cache: Path | None) -> observe_tflite.Observed:
        return observe_tflite.measure(
            self.graph,
            self.data.feeds(),
            threads=self.options.threads,
            cache=cache,
            data=self.data.fingerprint,
        )

    def _rein_in(
        self, group: equalize_tflite.Group, factor: Array, few: Mapping[str, TensorStats]
    ) -> bool:
        """Undoes what all samples show to be too much; whether there was any."""
        names = equalize.Group(equalize_tflite.measured(self.graph, group))
        back = equalize.reined_in(names, few, factor, self.observed.statistics.tensors)
        if back is not None:
            equalize_tflite.scale(self.graph, group, back)
            factor = factor * back
        self.equalized.append(equalize.record(self.graph.name(group.tensors[0]), factor))
        return back is not None

    def _equalize(
        self,
    ) -> Sequence[tuple[equalize_tflite.Group, Array, Mapping[str, TensorStats]]]:
        found = equalize_tflite.groups(self.graph)
        names = {name for group in found for name in equalize_tflite.measured(self.graph, group)}
        if not names:
            return []
        few = cut(self.data.feeds(), EQUALIZE_SAMPLES)
        seen = observe_tflite.measure(self.graph, few, threads=self.options.threads, only=names)
        rows = []
        for group in found:
            factor = equalize_tflite.apply(self.graph, group, seen.statistics.tensors)
            if factor is not None:
                rows.append((group, factor, seen.statistics.tensors))
        return rows


def prepare(content: bytes, *, with_bias: bool) -> Graph:
    """The float file with a bias of its own in each layer whose weights are its own.

    A layer without bias gets one of zeros where `with_bias`, for the correction to go into.
    """
    graph = Graph(content)
    for op in graph.ops:
        if op.kind not in KNOWN or not graph.is_constant(op.inputs[1]):
            continue
        if graph.dtype(op.inputs[1]) != "FLOAT32" or graph.shared(op.inputs[1]):
            continue
        bias = op.inputs[2] if len(op.inputs) > 2 else -1
        if graph.is_constant(bias) and graph.shared(bias):
            value = graph.constant(bias)
        elif bias < 0 and with_bias:
            shape = graph.shape(op.inputs[1])
            value = np.zeros(shape[3] if op.kind == "DEPTHWISE_CONV_2D" else shape[0], np.float32)
        else:
            continue
        own = graph.add_constant(op.inputs[1], f"{op.scope}/bias", value)
        graph.set_input(op, 2, own)
    return Graph(graph.to_bytes())
