"""Any source to a TensorRT engine, through ONNX and a strongly typed network.

float32, float16, and int8 by Q/DQ pairs of the project's own quantiser, symmetric throughout.

NVIDIA's `tensorrt` is used where it is installed, else `tensorrt_rtx`, and the artefact says which:
an engine opens only where it was built. For a device that is not this machine the artefact is the
ONNX graph with a plan, from which the device builds its engine.
"""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from lepton_edge import devices, errors, plugins
from lepton_edge._tensorrt import build, library
from lepton_edge._tensorrt import plan as plans
from lepton_edge.artifact import Artifact, open_artifact
from lepton_edge.calibration.observe_onnx import cut
from lepton_edge.converters import _float_onnx as floats
from lepton_edge.converters import _qdq
from lepton_edge.model import Array, Model, Signature
from lepton_edge.samples import Samples
from lepton_edge.target import CALIBRATED, Target

PRECISIONS = ("fp32", "fp16", *CALIBRATED)
TOLERANCES = {"fp32": 1e-4, "fp16": 5e-2}  # of the output's range
LEAST_DB = 10.0  # SQNR of an int8 graph, as `verify` asks of it
CHECKED = 32  # samples that an int8 graph is tried on
HERE = ("cpu", "cuda", "x86")  # devices that this machine builds for


@dataclass(frozen=True)
class Options(_qdq.Options):
    """`batch` is fixed in the engine, or `dynamic` from 1 to `max_batch`, tuned for `best_batch`.

    `profile` says which shapes an input takes, `name=LEAST:BEST:MOST` with sizes as 1x3x224x224,
    several with `;` between. `dla` is the core of a Jetson's DLA that runs every layer;
    `allow_fallback` lets the GPU run those that it cannot. `tf32` lets float32 be computed with 10
    bits of significand. `workspace_mb` bounds the memory of a layer's kernel, by default 80 % of
    what the GPU has free. `compute_capability` is the GPU that tensorrt_rtx builds for, such as
    `8.6`, by default its own choice. `opset`, `exporter` and `simplify` are those of the ONNX
    export; the others are the quantiser's.
    """

    batch: Literal["dynamic"] | int = 1
    best_batch: int = 8
    max_batch: int = 32
    profile: str | None = None
    dla: int | None = None
    allow_fallback: bool = False
    tf32: bool = False
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
    modules = [module for names in library.MODULES.values() for module in names]
    return plugins.absent("|".join(modules)) + floats.missing(framework)


def convert(
    model: Model,
    target: Target,
    out: Path,
    *,
    calibration: Samples | None = None,
    options: Options,
) -> Artifact:
    """Writes the .engine file into the empty folder `out`; int8 needs `calibration`.

    For a device that is not this machine (`target.device`, such as jetson-orin-nano) it is the
    .onnx file and plan.json, see `prepare`. Raises `BackendMissing` without a TensorRT library,
    `CannotConvert` naming the operator that its parser refuses, `PlacementError` naming layers
    that the DLA cannot run.
    """
    here = target.device in HERE
    if here:
        if not _is_planned(model):
            _qdq.check(target.precision, calibration, "lepton")
        library.find()  # before minutes are spent
    prepared = prepare(model, target, out, calibration=calibration, options=options)
    if not here:
        return prepared
    try:
        engine, record = build.build(prepared.path, _read_plan(prepared), _cache())
    except BaseException:
        _clear(prepared)
        raise
    return finish(prepared, engine, record)


def _is_planned(model: Model) -> bool:
    """Whether the source is the graph of an artefact that `prepare` made."""
    return (model.source.file.parent / plans.NAME).exists()


def prepare(
    model: Model,
    target: Target,
    out: Path,
    *,
    calibration: Samples | None = None,
    options: Options,
) -> Artifact:
    """The graph that an engine is built from, as an ONNX artefact with plan.json in `out`.

    It needs no TensorRT. The graph is compared with its source by ONNX Runtime. A source that is
    such an artefact's .onnx is taken as it is, with its plan.
    """
    if _is_planned(model):
        return _planned(model.source.file, target, out, options)
    reason = refuses(model.framework, target.precision)
    if reason is not None:
        raise errors.CannotConvert(f"Cannot convert to {target}: {reason}.")
    _qdq.check(target.precision, calibration, "lepton")
    signature = floats.signature_for(model, options.batch)
    plan = _plan(target, signature, options)  # what contradicts itself is known before the export
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
    file = f"{model.source.stem}_{target.precision}.onnx"
    floats.save(made.proto, out / file)
    document = {"schema": 1, "onnx": file, **plan.as_dict(), "builds": plan.builds(file)}
    (out / plans.NAME).write_text(json.dumps(document, indent=1) + "\n")
    return Artifact(
        folder=out,
        file=file,
        format="onnx",
        precision=target.precision,
        signature=made.signature,
        inputs=floats.bindings(made.signature.inputs),
        outputs=floats.bindings(made.signature.outputs),
        steps=(*made.steps, {"step": "plan", "tool": "lepton-edge", **plan.as_dict()}),
        calibration=record,
        versions=made.versions,
    )


def remote_build(prepared: Artifact) -> dict[str, Any]:
    """What the runtime of this format is asked on a device, beside the file."""
    return _read_plan(prepared).as_dict()


def finish(prepared: Artifact, engine: Array, record: dict[str, Any]) -> Artifact:
    """The artefact of the engine in the place of what `prepare` made."""
    _clear(prepared)
    file = f"{prepared.path.stem}.engine"
    (prepared.folder / file).write_bytes(engine.tobytes())
    name, version = record["library"], record["version"]
    told = {key: value for key, value in record.items() if key not in ("library", "version")}
    return replace(
        prepared,
        file=file,
        format="tensorrt",
        steps=(*prepared.steps[:-1], {"step": "build", "tool": name, **told}),
        versions={**prepared.versions, name: version},
        engine=record,
    )


def _plan(target: Target, signature: Signature, options: Options) -> plans.Plan:
    """Raises `UsageError` for what contradicts itself, `CannotConvert` for a device too old."""
    if options.batch == "dynamic" and not 1 <= options.best_batch <= options.max_batch:
        raise errors.UsageError("Options need 1 <= best_batch <= max_batch.")
    batch = options.batch
    plan = plans.Plan(
        precision=target.precision,
        profiles=plans.profiles_for(
            {spec.name: spec.shape for spec in signature.inputs},
            plans.parse_profiles(options.profile or ""),
            (1, options.best_batch, options.max_batch) if batch == "dynamic" else (batch,) * 3,
        ),
        workspace_mb=options.workspace_mb,
        dla=options.dla,
        allow_fallback=options.allow_fallback,
        tf32=options.tf32,
        compute_capability=options.compute_capability,
    )
    if target.device in HERE:
        plans.check_dla(plan, None, "this machine")
        return plan
    profile = devices.load(target.device)
    known = [stack.tensorrt for stack in profile.stacks]
    versions = [each for each in known if library.number(each) >= library.LEAST]
    if not known:
        raise errors.UsageError(
            f"{target.device} runs no TensorRT.",
            next="Name a Jetson, or leave --device out to build for this machine.",
        )
    if not versions:
        raise errors.CannotConvert(
            f"{target.device} ends at TensorRT {known[-1]}; engines are built from 8.5 on.",
            next="Convert to onnx or tflite for its CPU.",
        )
    if plan.compute_capability is not None:
        raise errors.UsageError("compute_capability is for tensorrt_rtx, which no Jetson has.")
    cores = profile.facts.dla_cores
    count = 0 if cores is None or isinstance(cores.value, tuple) else int(cores.value)
    plans.check_dla(plan, count, target.device)
    plan = replace(plan, library="tensorrt", device=target.device, versions=tuple(versions))
    if not plan.builds("model.onnx"):
        raise errors.UsageError(
            f"No TensorRT of {target.device} uses its DLA.", next="Leave the option dla out."
        )
    return plan


def _planned(file: Path, target: Target, out: Path, options: Options) -> Artifact:
    planned = open_artifact(file)
    if planned.format != "onnx" or planned.path != file:
        raise errors.BadInput(f"{str(file)!r} has a build plan beside it that is of another file.")
    plan = _read_plan(planned)
    asked = (target.precision, plan.device if target.device in HERE else target.device)
    if options != Options() or asked != (plan.precision, plan.device):
        raise errors.UsageError(
            f"{str(file)!r} has a build plan, for {plan.precision} on {plan.device or 'any GPU'}.",
            next=f"Ask for --precision {plan.precision} without options, or convert the model that"
            " it was made of.",
        )
    for name in planned.files:
        shutil.copyfile(file.parent / name, out / name)
    return replace(planned, folder=out, files={})


def _read_plan(prepared: Artifact) -> plans.Plan:
    return plans.Plan.from_dict(json.loads((prepared.folder / plans.NAME).read_text()))


def _clear(prepared: Artifact) -> None:
    for path in (*prepared.folder.glob(f"{prepared.file}*"), prepared.folder / plans.NAME):
        path.unlink(missing_ok=True)


def _cache() -> Path:
    """Where the timings of kernels are kept."""
    return _qdq.cache().parent / "timings"


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
