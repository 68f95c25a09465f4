"""Which layers of a .tflite file int8 damages: see `sensitivity`."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import numpy as np

from lepton_edge.calibration import placement_tflite
from lepton_edge.calibration.graph_tflite import CONVERSIONS, Graph, Op, interpreter
from lepton_edge.calibration.observe_onnx import cut
from lepton_edge.calibration.sensitivity import SAMPLES, Layer, Quality, quality, ranked
from lepton_edge.calibration.tflite_quantizer import Work
from lepton_edge.model import Array

RUNS, WARM = 20, 3


class Judge:
    """Float outputs for some samples of the data, to compare those of int8 files with."""

    def __init__(self, work: Work, *, first: int, samples: int) -> None:
        self.feeds = list(cut(work.data.feeds(), samples, skip=first))
        self.threads = work.options.threads
        self.wanted = self._run(work.graph.to_bytes())

    def __call__(self, content: bytes) -> Quality:
        return quality(self.wanted, self._run(content))

    def _run(self, content: bytes) -> dict[str, Array]:
        opened = interpreter(content, self.threads)
        inputs = {item["name"]: item for item in opened.get_input_details()}
        rows: list[list[Array]] = []
        for batch in self.feeds:
            for name, value in batch.items():
                item = inputs[name]
                opened.set_tensor(item["index"], _stored(value, item))
            opened.reset_all_variables()
            opened.invoke()
            rows.append(
                [_real(opened.get_tensor(o["index"]), o) for o in opened.get_output_details()]
            )
        # By place: quantising renames outputs and keeps their order.
        columns = zip(*rows, strict=True)
        return {str(place): np.concatenate(each) for place, each in enumerate(columns)}


def rank(work: Work, *, samples: int = SAMPLES) -> list[Layer]:
    """Every layer that can be int8, the most damaging first; `node` is the operator's scope.

    Times are of the operator alone, in the interpreter with its default kernels.
    """
    judge = Judge(work, first=0, samples=samples)
    already = set(work.floats())
    layers = [
        op for op in placement_tflite.anchors(work.graph, work.dialect) if op.scope not in already
    ]
    others = {op.scope for op in work.graph.ops}
    found = {op.scope: judge(work.nearest(others - {op.scope})) for op in layers}
    whole = Graph(work.nearest())
    ops = [op for op in whole.ops if op.kind not in CONVERSIONS]
    same = dict(zip((op.index for op in work.graph.ops), ops, strict=True))
    return ranked(
        found,
        {op.scope: op.kind for op in layers},
        {op.scope: _time_us(work.graph, op, work.options.threads) for op in layers},
        {op.scope: _time_us(whole, same[op.index], work.options.threads) for op in layers},
    )


def _time_us(graph: Graph, op: Op, threads: int) -> float:
    from ai_edge_litert.interpreter import Interpreter

    sources = [index for index in op.inputs if index >= 0 and not graph.is_constant(index)]
    piece = graph.piece([op], sources, op.outputs)
    opened = Interpreter(model_content=piece, num_threads=threads)
    opened.allocate_tensors()
    times = []
    for _ in range(WARM + RUNS):
        started = time.perf_counter()
        opened.invoke()
        times.append(time.perf_counter() - started)
    return float(np.median(times[WARM:])) * 1e6


def _stored(value: Array, item: Mapping[str, Any]) -> Array:
    """The value as the file's input takes it: on its grid where that is int8."""
    dtype = np.dtype(item["dtype"])
    if dtype == value.dtype or dtype.kind == "f" or value.dtype.kind != "f":
        return value.astype(dtype)
    scale, zero = item["quantization"]
    limits = np.iinfo(dtype)
    result: Array = np.clip(np.rint(value / scale) + zero, limits.min, limits.max).astype(dtype)
    return result


def _real(value: Array, item: Mapping[str, Any]) -> Array:
    scale, zero = item["quantization"]
    if value.dtype.kind == "f" or not scale:
        return value
    result: Array = ((value.astype(np.float32) - zero) * scale).astype(np.float32)
    return result
