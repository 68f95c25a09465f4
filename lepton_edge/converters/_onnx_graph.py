"""Edits of an ONNX graph in memory: names and shapes of its inputs and outputs, and its checks."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnx
from onnx import helper, shape_inference

from lepton_edge import errors
from lepton_edge.model import Signature

QUANTIZED = {"QuantizeLinear", "DynamicQuantizeLinear", "QLinearConv", "QLinearMatMul"}


def copy(path: Path, opset: int | None) -> tuple[onnx.ModelProto, dict[str, Any]]:
    """The file as it is, or in another opset; `CannotConvert` where it has no such form."""
    proto = onnx.load(path)
    found = {item.domain: item.version for item in proto.opset_import}
    if opset is not None and opset != found.get(""):
        from onnx import version_converter

        try:
            proto = version_converter.convert_version(proto, opset)
        except (RuntimeError, ValueError) as error:
            reason = str(error).strip().splitlines()[-1]
            raise errors.CannotConvert(
                f"onnx cannot turn opset {found.get('')} into {opset}: {reason}.",
                next="Leave the option opset out to keep the source's own.",
            ) from None
    used = {item.domain: item.version for item in proto.opset_import}
    return proto, {"step": "copy", "opset": used.get("")}


def graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """The graph and every graph inside its nodes."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                yield from graphs(attribute.g)
            for inner in attribute.graphs:
                yield from graphs(inner)


def sort_nodes(graph: onnx.GraphProto) -> None:
    """Orders the nodes so that each comes after what it reads, as ONNX wants; else as they were."""
    waiting = [onnx.NodeProto() for _ in graph.node]
    for copied, node in zip(waiting, graph.node, strict=True):
        copied.CopyFrom(node)
    made_here = {name for node in waiting for name in node.output}
    needs = {id(node): set(_reads(node)) & made_here for node in waiting}
    ordered: list[onnx.NodeProto] = []
    ready: set[str] = set()
    while waiting:
        late = []
        for node in waiting:
            if needs[id(node)] <= ready:
                ordered.append(node)
                ready.update(node.output)
            else:
                late.append(node)
        if len(late) == len(waiting):
            raise ValueError("the graph has a cycle")
        waiting = late
    del graph.node[:]
    graph.node.extend(ordered)


def _reads(node: onnx.NodeProto) -> Iterator[str]:
    yield from node.input
    for attribute in node.attribute:
        for body in (*((attribute.g,) if attribute.HasField("g") else ()), *attribute.graphs):
            for inner in body.node:
                yield from _reads(inner)


def tidy(proto: onnx.ModelProto) -> None:
    """Removes what names the exporting machine: doc strings and metadata (stack traces, paths)."""
    proto.doc_string = ""
    del proto.metadata_props[:]
    for graph in graphs(proto.graph):
        graph.doc_string = ""
        del graph.metadata_props[:]
        for part in (*graph.node, *graph.input, *graph.output, *graph.value_info):
            part.doc_string = ""
            del part.metadata_props[:]
        for tensor in graph.initializer:
            tensor.doc_string = ""
            del tensor.metadata_props[:]


def name_io(proto: onnx.ModelProto, signature: Signature) -> None:
    """Gives the graph's inputs and outputs the signature's names, by name, else by position.

    Inputs with an initializer (old files) are constants and lose their place among the inputs.
    """
    constants = {tensor.name for tensor in proto.graph.initializer}
    for item in [item for item in proto.graph.input if item.name in constants]:
        proto.graph.input.remove(item)
    renamed: dict[str, str] = {}
    for what, items, specs in (
        ("inputs", proto.graph.input, signature.inputs),
        ("outputs", proto.graph.output, signature.outputs),
    ):
        names, wanted = [item.name for item in items], [spec.name for spec in specs]
        if len(names) != len(wanted):
            raise errors.CannotConvert(
                f"The exported graph has the {what} {names}, the model has {wanted}.",
                next=f"Remove {what} that do not take part in the computation from the model.",
            )
        if set(names) != set(wanted):
            for old, new in zip(names, wanted, strict=True):
                if renamed.setdefault(old, new) != new:
                    raise errors.CannotConvert(f"The exporter merged the outputs {wanted}.")
    taken = {
        name
        for graph in graphs(proto.graph)
        for name in (
            *(tensor.name for tensor in graph.initializer),
            *(name for node in graph.node for name in (*node.input, *node.output)),
        )
    }
    for new in list(renamed.values()):
        if new in taken and new not in renamed:
            renamed[new] = f"{new}__inner"
    for graph in graphs(proto.graph):
        for node in graph.node:
            node.input[:] = [renamed.get(name, name) for name in node.input]
            node.output[:] = [renamed.get(name, name) for name in node.output]
        for part in (*graph.initializer, *graph.input, *graph.output, *graph.value_info):
            part.name = renamed.get(part.name, part.name)
    _reorder(proto.graph.input, [spec.name for spec in signature.inputs])
    _reorder(proto.graph.output, [spec.name for spec in signature.outputs])


def _reorder(items: Any, names: list[str]) -> None:
    kept = {}
    for item in items:
        kept[item.name] = onnx.ValueInfoProto()
        kept[item.name].CopyFrom(item)
    del items[:]
    items.extend(kept[name] for name in names)


def set_shapes(proto: onnx.ModelProto, signature: Signature) -> None:
    """Writes the signature's shapes into the inputs and outputs and infers those between again."""
    for item, spec in zip(
        (*proto.graph.input, *proto.graph.output),
        (*signature.inputs, *signature.outputs),
        strict=True,
    ):
        dims: list[int | str] = [
            size if size is not None else "batch" if axis == 0 else f"{spec.name}_{axis}"
            for axis, size in enumerate(spec.shape)
        ]
        kind = item.type.tensor_type.elem_type
        item.CopyFrom(helper.make_tensor_value_info(spec.name, kind, dims))
    del proto.graph.value_info[:]
    if proto.ByteSize() < 1_900_000_000:  # inference takes a copy in one protobuf message
        proto.CopyFrom(shape_inference.infer_shapes(proto))


def refuse_unreadable(proto: onnx.ModelProto, framework: str) -> None:
    """Raises `CannotConvert` for unknown operators, and for sources that are quantised already."""
    known = {domain.domain for domain in proto.opset_import} - {"", "ai.onnx"}
    opset = next(item.version for item in proto.opset_import if item.domain in ("", "ai.onnx"))
    for graph in graphs(proto.graph):
        for node in graph.node:
            if node.op_type in QUANTIZED and framework in ("onnx", "tflite"):
                raise errors.CannotConvert(
                    f"The source is quantised already: it has {node.op_type}.",
                    next="Convert the float model that it was made from.",
                )
            local = {function.name for function in proto.functions}
            if node.domain in ("", "ai.onnx") and not onnx.defs.has(
                node.op_type, max_inclusive_version=opset
            ):
                raise errors.CannotConvert(
                    f"The operator {node.op_type!r} has no form in ONNX opset {opset}.",
                    next="Write it with other operators in the model, or raise the option opset.",
                )
            if node.domain not in ("", "ai.onnx") and node.op_type not in local:
                where = "" if node.domain in known else ", which the file does not declare"
                if node.domain not in ("com.microsoft", "ai.onnx.ml"):
                    raise errors.CannotConvert(
                        f"The operator {node.op_type!r} is of the domain {node.domain!r}{where}.",
                        next="Write it with standard operators in the model.",
                    )
    try:
        onnx.checker.check_model(proto)
    except onnx.checker.ValidationError as error:
        reason = str(error).strip().splitlines()[0]
        raise errors.CannotConvert(f"The exported graph is not valid ONNX: {reason}.") from None
    if framework == "onnx":
        half = (onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16)
        for tensor in proto.graph.initializer:
            if tensor.data_type in half:
                raise errors.CannotConvert(
                    f"The source is half precision already: {tensor.name!r} is"
                    f" {helper.tensor_dtype_to_string(tensor.data_type)}.",
                    next="Convert the float32 model that it was made from.",
                )
