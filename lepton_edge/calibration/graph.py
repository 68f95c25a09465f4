"""An ONNX graph made ready for quantisation, and looked at by tensor name.

`prepare` folds constants and batch norms with onnxruntime's basic optimisation, which keeps
standard operators, and infers every shape. It owns the imports of onnx and onnxruntime here.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lepton_edge import errors
from lepton_edge.model import Array

if TYPE_CHECKING:
    import onnx

OPSET_MIN = 13  # the first with scales per channel in QuantizeLinear
STANDARD = ("", "ai.onnx", "com.microsoft", "ai.onnx.ml")


class Graph:
    """Producers, consumers, constants and shapes of a model; edit through it, then `model`."""

    def __init__(self, model: onnx.ModelProto) -> None:
        from onnx import numpy_helper

        self.model = model
        self.constants: dict[str, Array] = {
            item.name: numpy_helper.to_array(item) for item in model.graph.initializer
        }
        self.inputs = [item.name for item in model.graph.input]
        self.outputs = [item.name for item in model.graph.output]
        self.nodes: list[onnx.NodeProto] = list(model.graph.node)
        self._types = _types(model)
        self.index()

    def index(self) -> None:
        """Finds producers and consumers again, after nodes were changed."""
        self.producer = {name: node for node in self.nodes for name in node.output if name}
        self.consumers: dict[str, list[onnx.NodeProto]] = {}
        for node in self.nodes:
            for name in dict.fromkeys(read_by(node)):
                if name:
                    self.consumers.setdefault(name, []).append(node)

    def is_float(self, tensor: str) -> bool:
        """Whether it is a float32 activation (a constant is none)."""
        return tensor not in self.constants and self._types.get(tensor, (None, 0))[0] == "float32"

    def rank(self, tensor: str) -> int | None:
        if tensor in self.constants:
            return self.constants[tensor].ndim
        return self._types.get(tensor, (None, None))[1]

    def set_constant(self, name: str, value: Array) -> None:
        self.constants[name] = np.asarray(value, order="C")

    def build(self) -> onnx.ModelProto:
        """A model of the current nodes and constants, in a deterministic order of initializers."""
        import onnx
        from onnx import numpy_helper

        result = onnx.ModelProto()
        result.CopyFrom(self.model)
        del result.graph.node[:], result.graph.initializer[:]
        result.graph.node.extend(self.nodes)
        used = {name for node in self.nodes for name in read_by(node)} | set(self.outputs)
        for name in sorted(self.constants):
            if name in used:
                result.graph.initializer.append(numpy_helper.from_array(self.constants[name], name))
        return result


def read_by(node: onnx.NodeProto) -> list[str]:
    """The tensors that a node reads, those read inside a loop or a branch too."""
    bodies = [each.g for each in node.attribute if each.HasField("g")]
    return [*node.input, *(name for body in bodies for each in body.node for name in read_by(each))]


def _types(model: onnx.ModelProto) -> dict[str, tuple[str | None, int | None]]:
    from onnx import helper

    types: dict[str, tuple[str | None, int | None]] = {}
    graph = model.graph
    for item in [*graph.input, *graph.value_info, *graph.output]:
        tensor = item.type.tensor_type
        if not tensor.elem_type:
            continue
        rank = len(tensor.shape.dim) if tensor.HasField("shape") else None
        types[item.name] = (helper.tensor_dtype_to_np_dtype(tensor.elem_type).name, rank)
    return types


def session(model: onnx.ModelProto | bytes, *, threads: int = 1, level: str = "all") -> Any:
    """An onnxruntime CPU session of a model; `level` is none, basic, extended or all."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.graph_optimization_level = {
        "none": ort.GraphOptimizationLevel.ORT_DISABLE_ALL,
        "basic": ort.GraphOptimizationLevel.ORT_ENABLE_BASIC,
        "extended": ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
        "all": ort.GraphOptimizationLevel.ORT_ENABLE_ALL,
    }[level]
    data = model if isinstance(model, bytes) else model.SerializeToString()
    return ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])


def prepare(path: Path) -> Graph:
    """The float model at `path`, folded, with shapes; raises `CannotConvert` or `BadInput`."""
    import onnx
    import onnxruntime as ort
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
    from onnx import shape_inference, version_converter

    try:
        model = onnx.load(str(path))
    except (OSError, DecodeError) as error:
        raise errors.BadInput(f"Cannot read the ONNX model {str(path)!r}: {error}.") from None
    if any(node.op_type == "QuantizeLinear" for node in model.graph.node):
        raise errors.CannotConvert(
            f"{str(path)!r} is quantised already.", next="Give the float model."
        )
    opset = next((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), 0)
    if opset < OPSET_MIN:
        model = version_converter.convert_version(model, OPSET_MIN)
    with tempfile.TemporaryDirectory() as folder:
        folded = Path(folder, "folded.onnx")
        options = ort.SessionOptions()
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
        options.optimized_model_filepath = str(folded)
        options.log_severity_level = 3
        options.intra_op_num_threads = 1
        try:
            ort.InferenceSession(
                model.SerializeToString(), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # noqa: BLE001 (onnxruntime raises no narrower class)
            raise errors.CannotConvert(
                f"onnxruntime cannot open {str(path)!r}: {str(error).splitlines()[0]}"
            ) from None
        model = onnx.load(str(folded))
    _name_nodes(model)
    _lift_constants(model)
    _drop_inputs(model)
    return Graph(shape_inference.infer_shapes(model, data_prop=True))


def separate_weights(graph: Graph, anchors: Iterable[str], *, with_bias: bool) -> None:
    """Gives each anchor constants of its own, so that they can change without touching another.

    `with_bias` adds a zero bias to convolutions and Gemm without one, for corrections to fill.
    """
    chosen = set(anchors)
    for node in graph.nodes:
        if node.name not in chosen:
            continue
        for index in (1, 2):
            name = node.input[index] if index < len(node.input) else ""
            if name in graph.constants and (
                len(graph.consumers[name]) > 1 or name in graph.outputs
            ):
                graph.constants[f"{node.name}_own{index}"] = graph.constants[name]
                node.input[index] = f"{node.name}_own{index}"
        if with_bias and node.op_type in ("Conv", "Gemm") and not "".join(node.input[2:]):
            weight = graph.constants[node.input[1]]
            axis = 1 if node.op_type == "Gemm" and not attribute(node, "transB", 0) else 0
            del node.input[2:]
            node.input.append(f"{node.name}_own2")
            graph.constants[f"{node.name}_own2"] = np.zeros(weight.shape[axis], np.float32)
    graph.index()


def _name_nodes(model: onnx.ModelProto) -> None:
    seen: Counter[str] = Counter()
    for node in model.graph.node:
        name = node.name or f"{node.op_type}_{next(iter(node.output), '')}"
        seen[name] += 1
        node.name = name if seen[name] == 1 else f"{name}__{seen[name]}"


def _lift_constants(model: onnx.ModelProto) -> None:
    """Constant nodes become initializers."""
    kept = []
    for node in model.graph.node:
        value = next((item.t for item in node.attribute if item.name == "value"), None)
        if node.op_type == "Constant" and value is not None:
            value.name = node.output[0]
            model.graph.initializer.append(value)
        else:
            kept.append(node)
    del model.graph.node[:]
    model.graph.node.extend(kept)


def _drop_inputs(model: onnx.ModelProto) -> None:
    """Old exporters list weights among the inputs, where they are no constants."""
    names = {item.name for item in model.graph.initializer}
    kept = [item for item in model.graph.input if item.name not in names]
    del model.graph.input[:]
    model.graph.input.extend(kept)
    imports = [item for item in model.opset_import if item.domain in ("", "ai.onnx")]
    used = {node.domain for node in model.graph.node} - {"", "ai.onnx"}
    extra = [item for item in model.opset_import if item.domain in used]
    del model.opset_import[:]
    model.opset_import.extend([*imports, *extra])


def attribute(node: onnx.NodeProto, name: str, default: Any = None) -> Any:
    """The value of a node's attribute, or `default`."""
    from onnx import helper

    for item in node.attribute:
        if item.name == name:
            return helper.get_attribute_value(item)
    return default
