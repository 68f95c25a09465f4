"""Fine-tuning with quantisation in the loop: the integers that were trained are those written."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lepton_edge import errors
from lepton_edge.calibration import dialects, onnx_quantizer
from lepton_edge.calibration.graph import session
from lepton_edge.calibration.observe_onnx import Data
from lepton_edge.calibration.tuning import Tuning
from lepton_edge.compress._training import Training
from lepton_edge.model import Signature
from lepton_edge.samples import Samples

if TYPE_CHECKING:
    from lepton_edge.calibration.placement import Plan
    from lepton_edge.compress._onnx_module import OnnxModule

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
        if dialects.load(self.dialect).container != "onnx":
            raise errors.CannotConvert(
                f"Training in the integers of {self.dialect} is not possible: its graph is not"
                " ONNX.",
                next="Train in those of ort_x86_vnni, and convert that for this target.",
            )

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
    ) -> dict[str, Any]:
        """Trains the float ONNX graph `model` and writes the Q/DQ graph `out`; returns the record.

        The graph takes any batch. After writing, every layer's integers in the file are compared
        with those of the training, on the calibration data: weights and biases must be equal, and
        activations are counted.
        """
        from lepton_edge.compress import _data, _train
        from lepton_edge.compress._objectives import Distillation, Task
        from lepton_edge.compress._onnx_module import OnnxModule

        dialect = dialects.load(self.dialect)
        if self.weight_bits != 8:
            dialect = replace(dialect, weight=replace(dialect.weight, bits=self.weight_bits))
        tuning = Tuning(keep_float=self.keep_float, equalize=self.equalize, calibration_threads=1)
        made = onnx_quantizer.Work(model, calibration, dialect, tuning, cache=None)
        plan = made.plan()
        grids = onnx_quantizer.activation_grids(made.graph, plan, made.stats, dialect, tuning)
        module = OnnxModule(
            made.graph, plan.weights, plan=plan, dialect=dialect, activations=grids,
            learned=self.learned_step,
        )  # fmt: skip
        teacher = OnnxModule(made.graph, plan.weights)
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
        quantized = module.quantized()
        made.write(plan, quantized, out)
        equal = compare(out, module, calibration)
        return {
            "pass": "quantize",
            **asdict(self),
            "labels": labelled,
            "result": result.as_dict(),
            "int8_nodes": len(plan.ints),
            "float_nodes": dict(sorted(plan.floats.items())),
            "equal": equal,
        }


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
