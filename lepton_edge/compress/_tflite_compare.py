"""An int8 .tflite that was written against the training that it comes from, integer by integer."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lepton_edge import errors
from lepton_edge.calibration import learn_tflite
from lepton_edge.calibration.graph_tflite import Graph, interpreter
from lepton_edge.calibration.observe_onnx import Data
from lepton_edge.compress._steps import float32
from lepton_edge.compress._tflite_module import TfliteModule
from lepton_edge.model import Array

CHECKED = 8  # batches of calibration data that go through the file that was written


def compare(file: Path, module: TfliteModule, data: Data) -> dict[str, Any]:
    """The written file's integers against the training's, layer by layer.

    Weights, biases and every scale: `EdgeError` where one differs. Activations, of the first
    batches through LiteRT as it runs files by default (XNNPACK): the share of each tensor that is
    equal, and the largest difference in steps, where the simulation of each operator is given the
    integers that the kernels computed before it. `network_equal` is the share without that, from
    the inputs on: a tie that was rounded otherwise goes through all that follows.
    """
    stored = Graph(file.read_bytes())
    with torch.no_grad():
        for layer in module.written():
            codes, step, bias = module.integers(layer)
            _equal(stored, layer.weight, codes, step)
            if bias is not None:
                _equal(stored, layer.bias, bias, step * module.scale(layer.source))
        for index, params in module.grids.items():
            found = stored.grid(index)
            wanted = (float32(module.scale(index)), params.zero_point)
            if found is None or (found.scale, found.zero_point) != wanted:
                raise _differs(stored, index)
    shown = [index for index in module.grids if index not in stored.inputs]
    runner = interpreter(stored.showing(shown), 1, delegated=True, name=str(file))
    seen: dict[int, list[Array]] = {index: [] for index in shown}
    free: dict[int, list[Array]] = {index: [] for index in shown}
    for batch in itertools.islice(data.feeds(), CHECKED):
        fed = learn_tflite.given(batch, module.source, stored)
        for item in runner.get_input_details():
            runner.set_tensor(item["index"], fed[item["name"]])
        runner.invoke()
        places = runner.get_output_details()
        kernels = {
            index: runner.get_tensor(item["index"])
            for index, item in zip(shown, places, strict=True)
        }
        values = {
            after: torch.from_numpy(np.array(batch[module.source.name(before)]))[None]
            for before, after in zip(module.source.inputs, stored.inputs, strict=True)
        }
        for given, gaps in ((kernels, seen), ({}, free)):
            module.given, module.codes = given, {}
            with torch.inference_mode():
                module.run(values)
            for index in shown:
                gap = np.abs(kernels[index].astype(np.int64) - module.codes[index].numpy())
                gaps[index].append(gap)
        module.given, module.codes = {}, None
    layers = {}
    for index, each in seen.items():
        every = np.stack(each)
        layers[stored.name(index)] = {
            "equal": float((every == 0).mean()),
            "largest_step": int(every.max()),
        }
    return {
        "weights": len(module.axes),
        "biases": len(module.readers) - len(module.axes),
        "activations": layers,
        "activations_equal": _share(seen),
        "network_equal": _share(free),
    }


def _share(gaps: dict[int, list[Array]]) -> float:
    every = [gap.reshape(-1) for each in gaps.values() for gap in each]
    return float((np.concatenate(every) == 0).mean())


def _equal(stored: Graph, index: int, codes: Tensor, step: Tensor) -> None:
    held = np.asarray(stored.main.tensors[index].quantization.scale, np.float32)
    same = np.array_equal(stored.constant(index), codes.cpu().numpy())
    if not same or not np.array_equal(held, float32(step).reshape(-1)):
        raise _differs(stored, index)


def _differs(stored: Graph, index: int) -> errors.EdgeError:
    return errors.EdgeError(f"{stored.name(index)!r} in the file is not what was trained.")
