"""Any source to one float ONNX graph: what the ONNX, OpenVINO and TensorRT converters share.

The graph's inputs and outputs carry the signature's names, the batch is fixed in the file or free
as asked, and cleaning is checked by running the graph before and after it.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import numpy as np

from lepton_edge import errors, plugins
from lepton_edge.artifact import Binding
from lepton_edge.model import Array, Feeds, Model, Signature, TensorSpec

Batch = Literal["dynamic"] | int
Exporter = Literal["torchscript", "dynamo"]
Simplify = Literal["onnxslim", "none"]

TORCH = ("torch", "torch.export", "torchscript")
TENSORFLOW = ("keras", "savedmodel")
FRAMEWORKS = (*TORCH, *TENSORFLOW, "onnx", "tflite")
OPSET = 17  # what every reader of the last years takes; the dynamo exporter begins at 18
CLEANING_TOLERANCE = 1e-5  # of the output's range: cleaning folds constants, it rounds nothing
TOO_LARGE = 1_900_000_000  # bytes; a protobuf message ends at 2 GiB


@dataclass(frozen=True)
class FloatOnnx:
    """An onnx.ModelProto in memory, with the signature it has now and the record of its making."""

    proto: Any
    signature: Signature
    steps: tuple[dict[str, Any], ...]
    versions: dict[str, str]

    def then(self, proto: Any, step: dict[str, Any], *libraries: str) -> FloatOnnx:
        """The next state, one step later."""
        return replace(
            self,
            proto=proto,
            steps=(*self.steps, step),
            versions={**self.versions, **versions(*libraries)},
        )


def backend(module: str, library: str, extra: str) -> ModuleType:
    """Imports a library; `BackendMissing` names the extra that brings it."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != module.partition(".")[0]:
            raise  # it is there, but lacks something of its own
        raise errors.BackendMissing(
            f"{library} is not installed.", next=f"pip install 'lepton-edge[{extra}]'."
        ) from None


def versions(*libraries: str) -> dict[str, str]:
    return {name: version(name) for name in libraries}


def first_line(error: BaseException) -> str:
    """A library's message as one clause."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines or [type(error).__name__])[0].rstrip(". ")[:300]


def signature_for(model: Model, batch: Batch) -> Signature:
    """The source's signature with its free batch set as asked.

    Raises `CannotConvert` where the source's own batch is fixed at another size.
    """
    if batch != "dynamic" and batch < 1:
        raise errors.UsageError(f"Option 'batch' takes 1 or more, or dynamic, got {batch}.")
    fixed = {spec.shape[0] for spec in model.signature.inputs if spec.shape} - {None}
    if fixed and fixed != {batch}:
        sizes = " and ".join(str(size) for size in sorted(size for size in fixed if size))
        raise errors.CannotConvert(
            f"The source's own batch is fixed at {sizes}, not {batch}.",
            next=f"Ask for batch={sizes}, or export the source with a free batch.",
        )

    def change(spec: TensorSpec) -> TensorSpec:
        if batch == "dynamic" or not spec.shape or spec.shape[0] is not None:
            return spec
        return replace(spec, shape=(batch, *spec.shape[1:]))

    return Signature(
        tuple(map(change, model.signature.inputs)), tuple(map(change, model.signature.outputs))
    )


def example_batches(batch: Batch) -> tuple[int, ...]:
    """The batch sizes to try a graph on: two of them where any size goes."""
    return (1, 3) if batch == "dynamic" else (batch,)


def bindings(specs: Sequence[TensorSpec]) -> tuple[Binding, ...]:
    """The file's tensors carry the signature's own names."""
    return tuple(Binding(spec.name, spec.name) for spec in specs)


def export(
    model: Model,
    folder: Path,
    *,
    batch: Batch,
    opset: int | None,
    exporter: Exporter | None,
    simplify: Simplify,
) -> FloatOnnx:
    """The source as a float ONNX graph. `folder` takes temporary files, all removed again.

    Raises `CannotConvert` naming the operator that has no ONNX form, or where the source is
    quantised already.
    """
    from lepton_edge.converters import _onnx_graph as graphs

    backend("onnx", "onnx", "onnx")
    signature = signature_for(model, batch)
    proto: Any
    if model.framework in TORCH:
        from lepton_edge.converters import _torch_onnx

        proto, step, libraries = _torch_onnx.export(
            model, signature, folder, batch=batch, opset=opset, exporter=exporter
        )
    elif model.framework in TENSORFLOW or model.framework == "tflite":
        from lepton_edge.converters import _tf_onnx

        proto, step, libraries = _tf_onnx.export(
            model, signature, opset=opset or OPSET, lean=simplify == "onnxslim"
        )
    else:
        proto, step = graphs.copy(Path(model.native), opset)
        libraries = ()
    graphs.tidy(proto)
    graphs.name_io(proto, signature)
    graphs.set_shapes(proto, signature)
    graphs.refuse_unreadable(proto, model.framework)
    made = FloatOnnx(proto, signature, (step,), versions("onnx", *libraries))
    if batch == "dynamic":
        for size in example_batches(batch):  # some exports freeze the batch of their example
            run(made.proto, model.example(size))
    if simplify == "onnxslim":
        made = _clean(made, model, batch)
    return made


def missing(framework: str) -> list[str]:
    """The libraries that `export` needs for that source and that are not installed."""
    tensorflow = framework in TENSORFLOW or framework == "tflite"
    return plugins.absent(
        *("onnx", "onnxruntime", "onnxslim"),
        *(("torch",) if framework in TORCH else ()),
        *(("tensorflow", "tf2onnx") if tensorflow else ()),
    )


def save(proto: Any, path: Path) -> None:
    """Writes the graph; weights of more than 1.9 GB go to a file beside it."""
    import onnx

    large = proto.ByteSize() > TOO_LARGE
    onnx.save(proto, path, save_as_external_data=large, location=f"{path.name}.data")


def _clean(made: FloatOnnx, model: Model, batch: Batch) -> FloatOnnx:
    onnxslim = backend("onnxslim", "onnxslim", "onnx")
    import onnx

    before = onnx.ModelProto()
    before.CopyFrom(made.proto)
    after = onnxslim.slim(made.proto)
    worst = 0.0
    for size in example_batches(batch):
        feeds = model.example(size)
        for name, wanted in run(before, feeds).items():
            worst = max(worst, difference(wanted, run(after, feeds)[name]))
    if not worst <= CLEANING_TOLERANCE:
        raise errors.CannotConvert(
            f"Cleaning the graph with onnxslim changed its outputs by {worst:.2g} of their range.",
            next="Pass the option simplify=none.",
        )
    step = {
        "step": "clean",
        "tool": "onnxslim",
        "nodes_before": len(before.graph.node),
        "nodes_after": len(after.graph.node),
        "max_relative_difference": worst,
    }
    return made.then(after, step, "onnxslim", "onnxruntime")


def run(proto: Any, feeds: Feeds) -> dict[str, Array]:
    """The graph's outputs, by ONNX Runtime on the CPU; `CannotConvert` where it does not run."""
    ort = backend("onnxruntime", "ONNX Runtime", "onnx")
    state = ort.capi.onnxruntime_pybind11_state
    settings = ort.SessionOptions()
    settings.log_severity_level = 3
    try:
        session = ort.InferenceSession(
            proto.SerializeToString(), settings, providers=["CPUExecutionProvider"]
        )
        names = [node.name for node in session.get_outputs()]
        return dict(zip(names, session.run(names, dict(feeds)), strict=True))
    except (
        state.Fail,
        state.InvalidArgument,
        state.InvalidGraph,
        state.NotImplemented,
        state.RuntimeException,
    ) as error:
        shapes = {name: list(value.shape) for name, value in feeds.items()}
        reason = first_line(error).rpartition("] : ")[2]
        raise errors.CannotConvert(
            f"ONNX Runtime cannot run the exported graph on inputs of {shapes}: {reason}.",
            next="Ask for a fixed batch, or pass another exporter or opset.",
        ) from None


def difference(wanted: Array, got: Array) -> float:
    """Largest difference over the output's range; infinite where shape or finiteness differ."""
    if wanted.shape != got.shape:
        return float("inf")
    same = (wanted == got) | (np.isnan(wanted) & np.isnan(got)) if wanted.dtype.kind == "f" else (
        wanted == got
    )  # fmt: skip
    if same.all():
        return 0.0
    left, right = wanted.astype(np.float64), got.astype(np.float64)
    if not (np.isfinite(left).all() and np.isfinite(right).all()):
        return float("inf")
    span = max(float(np.ptp(left)), float(np.abs(left).max()), 1e-12)
    return float(np.abs(left - right).max()) / span
