"""Any source to a TensorRT engine, through ONNX and a strongly typed network.

float32, float16, and int8 by Q/DQ pairs of the project's own quantiser, symmetric throughout.

NVIDIA's `tensorrt` is used where it is installed, else `tensorrt_rtx`, and the artefact says which:
an engine opens only in the library that built it. tensorrt_rtx builds without a GPU.
"""

from __future__ import annotations

import importlib
import importlib.util
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from lepton_edge import errors, plugins
from lepton_edge.artifact import Artifact
from lepton_edge.calibration.observe_onnx import cut
from lepton_edge.converters import _float_onnx as floats
from lepton_edge.converters import _qdq
from lepton_edge.model import Model
from lepton_edge.samples import Samples
from lepton_edge.target import CALIBRATED, Target

if TYPE_CHECKING:
    import tensorrt as trt

PRECISIONS = ("fp32", "fp16", *CALIBRATED)
LIBRARIES = ("tensorrt", "tensorrt_rtx")
TOLERANCES = {"fp32": 1e-4, "fp16": 5e-2}  # of the output's range
LEAST_DB = 10.0  # SQNR of an int8 graph, as `verify` asks of it
CHECKED = 32  # samples that an int8 graph is tried on
INSTALL = (
    "pip install --no-deps tensorrt-rtx-cu13 tensorrt-rtx-cu13-libs tensorrt-rtx-cu13-bindings"
    " && pip install nvidia-cuda-runtime"
)


@dataclass(frozen=True)
class Options(_qdq.Options):
    """`batch` is fixed in the engine, or `dynamic` from 1 to `max_batch`, tuned for `best_batch`.

    `compute_capability` is the GPU to build for, such as `8.6`; by default the
    library's own choice, as is `workspace_mb`, the bound on the memory of a layer's kernel.
    `opset`, `exporter` and `simplify` are those of the ONNX export; the others are the quantiser's.
    """

    batch: Literal["dynamic"] | int = 1
    best_batch: int = 8
    max_batch: int = 32
    compute_capability: str | None = None
    workspace_mb: int | None = None
    opset: int | None = None
    exporter: Literal["torchscript", "dynamo"] | None = None
    simplify: Literal["onnxslim", "none"] = "onnxslim"


def refuses(framework: str, precision: str) -> str | None:
    """One clause why this pair cannot be converted; None where it can be tried."""
    if framework not in floats.FRAMEWORKS:
        return f"the TensorRT converter reads no {framework} models"
    if precision not in PRECISIONS:
        return f"the TensorRT converter makes {', '.join(PRECISIONS)}, not {precision}"
    return None


def missing(framework: str, precision: str) -> list[str]:
    """The libraries that the pair needs and that are not installed."""
    return plugins.absent("|".join(LIBRARIES)) + floats.missing(framework)


def convert(
    model: Model,
    target: Target,
    out: Path,
    *,
    calibration: Samples | None = None,
    options: Options,
) -> Artifact:
    """Writes the .engine file into the empty folder `out`; int8 needs `calibration`.

    Raises `BackendMissing` without a TensorRT library, `CannotConvert` naming the operator that
    its parser refuses.
    """
    reason = refuses(model.framework, target.precision)
    if reason is not None:
        raise errors.CannotConvert(f"Cannot convert to {target}: {reason}.")
    _qdq.check(target.precision, calibration, "lepton")
    if options.batch == "dynamic" and not 1 <= options.best_batch <= options.max_batch:
        raise errors.UsageError("Options need 1 <= best_batch <= max_batch.")
    name, library = _library()
    made = floats.export(
        model,
        out,
        batch=options.batch,
        opset=options.opset,
        exporter=options.exporter,
        simplify=options.simplify,
    )
    if target.precision == "fp16":
        from lepton_edge.converters import _onnx_half

        example = model.example(floats.example_batches(options.batch)[0])
        _onnx_half.check_activations(made.proto, example)
        proto, step = _onnx_half.to_half(made.proto)
        del step["note"], step["slow_because"]  # they are about other runtimes
        made = made.then(proto, step, "onnxruntime")
    record = None
    if calibration is not None and target.precision in CALIBRATED:
        made, record = _qdq.quantize(
            made, calibration, "tensorrt", options, out, precision=target.precision
        )
        step = _check_int8(model, made, calibration)
    else:
        step = _check(model, made, options.batch, target.precision)
    made = made.then(made.proto, step, "onnxruntime")
    engine, step = _build(library, name, made.proto, out, options)
    made = made.then(made.proto, {"step": "build", "tool": name, **step})
    file = f"{model.source.stem}_{target.precision}.engine"
    (out / file).write_bytes(engine)
    return Artifact(
        folder=out,
        file=file,
        format="tensorrt",
        precision=target.precision,
        signature=made.signature,
        inputs=floats.bindings(made.signature.inputs),
        outputs=floats.bindings(made.signature.outputs),
        steps=made.steps,
        calibration=record,
        versions={**made.versions, name: str(library.__version__)},
    )


def _check(
    model: Model, made: floats.FloatOnnx, batch: floats.Batch, precision: str
) -> dict[str, Any]:
    """Runs the graph that the engine is built from: the engine itself needs its GPU."""
    worst = 0.0
    for size in floats.example_batches(batch):
        feeds = model.example(size)
        wanted, found = model.run(feeds), floats.run(made.proto, feeds)
        worst = max(worst, *(floats.difference(wanted[name], found[name]) for name in wanted))
    allowed = TOLERANCES[precision]
    if not worst <= allowed:
        raise errors.GateFailed(
            f"The ONNX graph for the engine differs from its source by {worst:.2g} of the output's"
            f" range, above {allowed:g}.",
            next="Pass the option exporter=dynamo or simplify=none.",
        )
    return {"step": "check", "tool": "onnxruntime", "max_relative_difference": worst}


def _check_int8(model: Model, made: floats.FloatOnnx, samples: Samples) -> dict[str, Any]:
    """The same for int8, on real samples: noise lies outside of the ranges that were found."""
    signal = noise = 0.0
    data = _qdq.calibration_data(samples, made.signature)
    for feeds in cut(data.feeds(), CHECKED):
        wanted, found = model.run(feeds), floats.run(made.proto, feeds)
        signal += sum(float(np.square(value, dtype=np.float64).sum()) for value in wanted.values())
        noise += sum(
            float(np.square(wanted[name] - found[name], dtype=np.float64).sum()) for name in wanted
        )
    sqnr_db = 10 * math.log10(signal / noise) if noise > 0 and signal > 0 else math.inf
    if not sqnr_db >= LEAST_DB:
        raise errors.GateFailed(
            f"The int8 graph for the engine keeps {sqnr_db:.1f} dB of its source on calibration"
            f" samples, under {LEAST_DB:g}.",
            next="Ask for int8-mixed, fp16 or fp32.",
        )
    return {"step": "check", "tool": "onnxruntime", "sqnr_db": round(min(sqnr_db, 200.0), 2)}


def _library() -> tuple[str, Any]:
    for name in LIBRARIES:
        if importlib.util.find_spec(name) is None:
            continue
        library = importlib.import_module(name)
        if hasattr(library, "Builder"):  # NVIDIA's placeholder packages have nothing inside
            return name, library
    raise errors.BackendMissing("No TensorRT library is installed.", next=f"{INSTALL}.")


def _build(
    library: Any, name: str, proto: Any, folder: Path, options: Options
) -> tuple[bytes, dict[str, Any]]:
    logger = _logger(library)
    builder: trt.Builder = library.Builder(logger)
    flags = 1 << int(library.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    network = builder.create_network(flags)
    parser: trt.OnnxParser = library.OnnxParser(network, logger)
    file = folder / ".through.onnx"
    try:
        floats.save(proto, file)
        parsed = parser.parse_from_file(str(file))
    finally:
        for part in folder.glob(f"{file.name}*"):
            part.unlink()
    if not parsed:
        raise _refused(parser)
    config = builder.create_builder_config()
    if options.workspace_mb is not None:
        config.set_memory_pool_limit(library.MemoryPoolType.WORKSPACE, options.workspace_mb << 20)
    if options.compute_capability is not None:
        _set_gpu(library, name, config, options.compute_capability)
    if options.batch == "dynamic":
        profile = builder.create_optimization_profile()
        for index in range(network.num_inputs):
            tensor = network.get_input(index)
            least, best, most = (
                tuple(size if dim == -1 else dim for dim in tensor.shape)
                for size in (1, options.best_batch, options.max_batch)
            )
            profile.set_shape(tensor.name, least, best, most)
        config.add_optimization_profile(profile)
    engine = builder.build_serialized_network(network, config)
    if engine is None:
        raise errors.CannotConvert(
            f"TensorRT cannot build the engine: {logger.last or 'it gives no reason'}.",
            next="Where there is no GPU, set the option compute_capability, such as 8.6.",
        )
    step: dict[str, Any] = {
        "layers": network.num_layers,
        "strongly_typed": True,
        "compute_capability": options.compute_capability or "the library's own default",
        "workspace_mb": options.workspace_mb,
    }
    if options.batch == "dynamic":
        step["batches"] = [1, options.best_batch, options.max_batch]
    return bytes(engine), step


def _set_gpu(library: Any, name: str, config: Any, capability: str) -> None:
    if name != "tensorrt_rtx":
        raise errors.UsageError(
            "The library tensorrt builds for the GPU of this machine only.",
            next="Leave compute_capability out, or install tensorrt_rtx in its place.",
        )
    known = {
        f"{each[2:-1]}.{each[-1]}": each
        for each in library.ComputeCapability.__members__
        if each.startswith("SM")
    }
    if capability not in known:
        raise errors.unknown("compute_capability", capability, known)
    config.num_compute_capabilities = 1
    config.set_compute_capability(getattr(library.ComputeCapability, known[capability]), 0)


def _refused(parser: trt.OnnxParser) -> errors.CannotConvert:
    first = parser.get_error(0)
    reason = first.desc().strip().splitlines()[0].rstrip(". ")[:300]
    return errors.CannotConvert(
        f"TensorRT's parser refuses the operator {first.node_operator()!r}"
        f" ({first.node_name()}): {reason}.",
        next="Write it with other operators in the model, or convert to onnx.",
    )


def _logger(library: Any) -> Any:
    class Logger(library.ILogger):  # type: ignore[misc]
        """Keeps the last error for the message; warnings go nowhere."""

        def __init__(self) -> None:
            library.ILogger.__init__(self)
            self.last = ""

        def log(self, severity: Any, message: str) -> None:
            if severity in (library.ILogger.ERROR, library.ILogger.INTERNAL_ERROR):
                self.last = message.strip().splitlines()[0].rstrip(". ")[:300]

    return Logger()
