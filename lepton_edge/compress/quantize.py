"""Fine-tuning with quantisation in the loop: the integers that were trained are those written."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lepton_edge import errors
from lepton_edge.artifact import Binding
from lepton_edge.calibration import (
    dialects,
    onnx_quantizer,
    tflite_quantizer,
    write_tflite,
)
from lepton_edge.calibration.graph import session
from lepton_edge.calibration.graph_tflite import CONVERSIONS, Graph
from lepton_edge.calibration.observe_onnx import Data
from lepton_edge.calibration.tuning import Tuning
from lepton_edge.compress._training import Training
from lepton_edge.model import Signature
from lepton_edge.samples import Samples

if TYPE_CHECKING:
    from torch import nn

    from lepton_edge.calibration.placement import Plan
    from lepton_edge.compress._onnx_module import OnnxModule

    # What trains, what it learns from, and what writes the file and gives the record of it.
    Begun = tuple[nn.Module, nn.Module, Callable[[Path], dict[str, Any]]]

# Weights are in units of their grid's step: this rate moves one by at most 1/100 of it.
RECOVERY = Training(epochs=3, optimizer="adam", lr=0.01, weight_decay=0.0, clip=None)


@dataclass(frozen=True)
class QuantizedTraining:
    """How a float graph is trained in the integers of a `dialect` (see `calibration.dialects`).

    `weight_bits` 4 or 8. `learned_step` trains the grids' steps too. `weight` is the share of the
    float model's answers in the loss, the rest the labels' (all of it without labels). `keep_float`
    names operators that stay float; `equalize` balances channels first, as the converter does. The
    rate of the training is in units of each weight's step: Adam at 0.01 moves one by at most 1/100
    of it a step.
    """

    dialect: str = "ort_x86_vnni"
    weight_bits: int = 8
    learned_step: bool = False
    weight: float = 0.5
    temperature: float = 2.0
    output: str | None = None
    keep_float: tuple[str, ...] = ()
    equalize: bool = True
    training: Training = field(default_factory=lambda: RECOVERY)

    def __post_init__(self) -> None:
        if self.weight_bits not in (4, 8):
            raise errors.UsageError(f"Weights have 4 or 8 bits, not {self.weight_bits}.")
        if not 0 <= self.weight <= 1:
            raise errors.UsageError(f"The weight {self.weight:g} is not between 0 and 1.")
        if self.container == "tflite" and self.weight_bits != 8:
            raise errors.UsageError(
                f"The kernels of {self.dialect} take weights of 8 bits, not {self.weight_bits}.",
                next="Leave --weight-bits out, or train for ort_x86_vnni.",
            )

    @property
    def container(self) -> str:
        """The format of the dialect's file: onnx or tflite."""
        return dialects.load(self.dialect).container

    def __call__(
        self,
        model: Path,
        signature: Signature,
        training: Samples | Iterable[Any],
        calibration: Data,
        *,
        out: Path,
        work: Path,
        key: str = "",
        resume: bool = False,
        bindings: tuple[Sequence[Binding], Sequence[Binding]] = ((), ()),
    ) -> dict[str, Any]:
        """Trains the float graph `model` and writes the int8 file `out`; returns the record.

        `model` is ONNX for any batch, or, for a dialect of TFLite, a .tflite whose inputs and
        outputs `bindings` bind to those of `signature`; `calibration` is under the file's names.
        After writing, every layer's integers in the file are compared with those of the training,
        on the calibration data: weights and biases must be equal, and activations are counted.
        """
        from lepton_edge.compress import _data, _train
        from lepton_edge.compress._objectives import Distillation, Task

        tuning = Tuning(keep_float=self.keep_float, equalize=self.equalize, calibration_threads=1)
        begin = self._tflite if self.container == "tflite" else self._onnx
        module, teacher, finish = begin(model, calibration, tuning, bindings)
        data = _data.source(training, signature)
        labelled = not isinstance(data, _data.Table) or data.labels is not None
        task = Task(self.output, "auto", self.training.label_smoothing)
        weight = self.weight if labelled else 1.0
        objective: Any = task
        if weight:
            objective = Distillation(teacher, task, temperature=self.temperature, weight=weight)
        result = _train.fit(
            module, objective, data, self.training, work, key=f"{key}:{self}", resume=resume
        )
        return {
            "pass": "quantize",
            **asdict(self),
            "labels": labelled,
            "result": result.as_dict(),
            **finish(out),
        }

    def _onnx(self, model: Path, data: Data, tuning: Tuning, _bindings: Any) -> Begun:
        from lepton_edge.compress._onnx_module import OnnxModule

        dialect = dialects.load(self.dialect)
        if self.weight_bits != 8:
            dialect = replace(dialect, weight=replace(dialect.weight, bits=self.weight_bits))
        made = onnx_quantizer.Work(model, data, dialect, tuning, cache=None)
        plan = made.plan()
        grids = onnx_quantizer.activation_grids(made.graph, plan, made.stats, dialect, tuning)
        module = OnnxModule(
            made.graph, plan.weights, plan=plan, dialect=dialect, activations=grids,
            learned=self.learned_step,
        )  # fmt: skip

        def finish(out: Path) -> dict[str, Any]:
            made.write(plan, module.quantized(), out)
            return {
                "int8_nodes": len(plan.ints),
                "float_nodes": dict(sorted(plan.floats.items())),
                "equal": compare(out, module, data),
            }

        return module, OnnxModule(made.graph, plan.weights), finish

    def _tflite(self, model: Path, data: Data, tuning: Tuning, bindings: tuple[Any, Any]) -> Begun:
        from lepton_edge.compress import _tflite_compare
        from lepton_edge.compress import _tflite_module as tflite

        dialect = dialects.load(self.dialect)
        made = tflite_quantizer.Work(model, data, dialect, tuning, float_io=True, cache=None)
        teacher = tflite.TfliteModule(made.graph, made.graph, *bindings)
        graph = Graph(made.nearest())
        if dialect.full_integer:
            write_tflite.check_integer(graph)
        pairs = write_tflite.pairs(made.graph, graph)
        layers = tflite.trainable(made.graph, graph, pairs, dialect)
        module = tflite.TfliteModule(
            graph, made.graph, *bindings, layers=layers, dialect=dialect, learned=self.learned_step
        )

        def finish(out: Path) -> dict[str, Any]:
            module.write(out)
            return {
                "int8_nodes": sum(
                    op.kind not in CONVERSIONS and graph.grid(op.outputs[0]) is not None
                    for op in graph.ops
                ),
                "float_nodes": made.floats(),
                "equal": _tflite_compare.compare(out, module, data),
            }

        return module, teacher, finish


def compare(file: Path, module: OnnxModule, data: Data) -> dict[str, Any]:
    """The written file's integers against the training's, layer by layer.

    Weights and biases: `EdgeError` where one differs. Activations, of the first batch through
    ONNX Runtime without optimisation: the share that is equal, and the largest difference in steps,
    which sums in another order leave at ties.
    """
    import onnx
    import torch
    from onnx import numpy_helper

    plan = module.plan
    assert plan is not None
    proto = onnx.load(str(file))
    stored = {item.name: numpy_helper.to_array(item) for item in proto.graph.initializer}
    trained = module.quantized()
    biases = 0
    for name, weight in trained.weights.items():
        pairs = [(f"{name}_weight_q", weight.codes), (f"{name}_weight_scale", weight.params.scale)]
        if weight.bias is not None and f"{name}_bias_q" in stored:
            pairs.append((f"{name}_bias_q", _bias_codes(module, plan, name)))
            biases += 1
        for key, wanted in pairs:
            if not np.array_equal(stored[key], wanted):
                raise errors.EdgeError(f"{key!r} in {str(file)!r} is not what was trained.")
    feeds = next(iter(data.feeds()))
    module.codes = {}
    with torch.inference_mode():
        module(*(torch.from_numpy(np.array(feeds[name])) for name in module.graph.inputs))
    produced = {name for node in proto.graph.node for name in node.output}
    names = [name for name in module.codes if f"{name}_q" in produced]
    for name in names:
        signed = trained.activations[plan.root(name)].grid.signed
        output = onnx.ValueInfoProto(name=f"{name}_q")
        output.type.tensor_type.elem_type = (
            onnx.TensorProto.INT8 if signed else onnx.TensorProto.UINT8
        )
        proto.graph.output.append(output)
    runner = session(proto, level="none")
    found = runner.run([f"{name}_q" for name in names], dict(feeds))
    layers, same, total = {}, 0, 0
    for name, codes in zip(names, found, strict=True):
        gap = np.abs(codes.astype(np.int64) - module.codes[name].numpy())
        layers[name] = {"equal": float((gap == 0).mean()), "largest_step": int(gap.max())}
        same, total = same + int((gap == 0).sum()), total + gap.size
    module.codes = None
    return {
        "weights": len(trained.weights),
        "biases": biases,
        "activations": layers,
        "activations_equal": same / max(1, total),
    }


def _bias_codes(module: OnnxModule, plan: Plan, name: str) -> Any:
    """The integers that the training rounded the bias of a layer to."""
    import torch

    node = next(each for each in module.graph.nodes if each.name == name)
    with torch.no_grad():
        step = module.weight_scale(node) * module.scale(plan.root(node.input[0]))
        bias = module.value(node.input[2])
        return torch.round(bias.double() / step.double()).to(torch.int32).numpy()


PASS = QuantizedTraining
