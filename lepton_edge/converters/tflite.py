"""Writes .tflite: from PyTorch by litert_torch, from Keras and SavedModel by tf.lite, from ONNX by
onnx2tf, from .tflite by taking the file; then fp16 and int8 by ai_edge_quantizer."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

from lepton_edge import errors, plugins
from lepton_edge.artifact import Artifact, Binding
from lepton_edge.calibration import write_tflite
from lepton_edge.calibration.graph_tflite import Graph
from lepton_edge.converters import (
    _qdq,
    _tflite_bind,
    _tflite_half,
    _tflite_int8,
    _tflite_onnx,
    _tflite_quantize,
)
from lepton_edge.model import Model, Signature
from lepton_edge.samples import Samples
from lepton_edge.target import CALIBRATED, Target

PRECISIONS = (
    "fp32", "fp16", "int8", "int8-mixed", "int8-dynamic", "int8-weights", "int4-weights"
)  # fmt: skip
_LIBRARIES = {
    "torch": ("torch", "litert-torch", "litert-converter"),
    "torch.export": ("torch", "litert-torch", "litert-converter"),
    "keras": ("tensorflow", "keras"),
    "savedmodel": ("tensorflow",),
    "onnx": (),
    "tflite": (),
}


@dataclass(frozen=True)
class Options(_qdq.Options):
    """`batch` is a size or `dynamic` (convolutional models only, where the source is PyTorch).

    `quantizer` is who makes int8: this project, with the options of `Tuning`, or
    ai_edge_quantizer's own min-max ranges and nearest weights. `io` is the type of the file's
    inputs and outputs for int8: `float` keeps the source's, with `int8` the caller quantises (a
    Session does it, in numpy); without it, int8 for an Edge TPU, which takes no float tensor at
    all, and else float.
    An Edge TPU's gates are int8 whatever `gates` says. `onnx2tf_python` is the Python of the
    environment that holds onnx2tf (default: the one that `lepton-edge doctor` shows).
    """

    batch: Literal["dynamic"] | int = 1
    quantizer: Literal["lepton", "library"] = "lepton"
    io: Literal["float", "int8"] | None = None
    onnx2tf_python: str | None = None


def refuses(framework: str, precision: str) -> str | None:
    """Why this pair cannot be had, as one clause; None where it can be tried."""
    if framework not in _LIBRARIES:
        return {
            "torchscript": "litert_torch takes a module or a .pt2, not TorchScript",
        }.get(framework, f"nothing turns {framework} into TFLite")
    if precision not in PRECISIONS:
        return f"TFLite is not written in {precision}"
    return None


def missing(framework: str, precision: str) -> list[str]:
    """The libraries that the pair needs and that are not installed."""
    lacking = plugins.absent(
        "ai_edge_litert",
        *(("ai_edge_quantizer",) if precision != "fp32" else ()),
        *(name.replace("-", "_") for name in _LIBRARIES[framework]),
    )
    environment = _tflite_onnx.place() / "bin" / "python"
    if framework == "onnx" and not environment.is_file():
        lacking.append(f"onnx2tf in its own environment {str(environment.parents[1])!r}")
    return lacking


def convert(
    model: Model,
    target: Target,
    out: Path,
    *,
    calibration: Samples | None = None,
    options: Options,
) -> Artifact:
    """Writes the file in `target.precision`; its tensors are bound by running it on an example.

    A .tflite source is copied, or quantised: so a float file, slow to make, serves all precisions.
    Raises `CannotConvert` naming the operator, `BackendMissing`, or `UsageError` for int8 without
    calibration data.
    """
    refused = refuses(model.framework, target.precision)
    if refused:
        raise errors.CannotConvert(
            f"Cannot convert {model.source.path!r} to {target}: {refused}.",
            next=f"TFLite takes {', '.join(_LIBRARIES)}; precisions: {', '.join(PRECISIONS)}.",
        )
    _tflite_int8.check(options, target.precision, options.quantizer)
    io = _io(target, calibration, options)
    batch = _batch(model, options)
    example = batch or 2  # a dynamic batch is tried with more than one
    name = f"{model.source.stem}_{target.precision}.tflite"
    with tempfile.TemporaryDirectory() as folder:
        floats = Path(folder) / "float.tflite"
        steps = [_write_float(model, floats, batch, target.precision, options)]
        inputs, outputs = _tflite_bind.bind(model, floats, example, writer=str(steps[0]["step"]))
        record = None
        if target.precision == "fp32" or "stored" in steps[0]:
            shutil.copyfile(floats, out / name)
        else:
            if target.precision in CALIBRATED:
                assert calibration is not None
                step, record = _static(
                    model, floats, out / name, inputs, calibration, target, options, io
                )
            else:
                step = _tflite_quantize.quantize(floats, out / name, target.precision)
                if target.precision == "fp16":
                    fed = _tflite_int8.bound(model.example(example), inputs)
                    step.update(_tflite_half.check(floats, fed))
            steps.append(step)
            inputs, outputs = rebound(model.signature, inputs, outputs, floats, out / name)
    return Artifact(
        folder=out,
        file=name,
        format="tflite",
        precision=target.precision,
        signature=model.signature.with_batch(batch),
        inputs=inputs,
        outputs=outputs,
        steps=tuple(steps),
        calibration=record,
        versions=_versions(model.framework, target.precision),
    )


def _io(target: Target, calibration: Samples | None, options: Options) -> Literal["float", "int8"]:
    """The type of inputs and outputs, from the option and the device."""
    static = target.precision in CALIBRATED
    if static and calibration is None:
        raise errors.UsageError(
            f"{target.precision} for TFLite needs calibration data.", next="Give it with --calib."
        )
    edgetpu = static and _tflite_int8.is_edgetpu(target.device)
    if options.io == "float" and edgetpu:
        raise errors.UsageError(
            f"{target.device} takes no float inputs and outputs.", next="Leave io=float out."
        )
    if options.io == "int8" and not static:
        raise errors.UsageError(
            f"The option io=int8 goes with precision int8, not {target.precision}.",
            next="Leave it out.",
        )
    return options.io or ("int8" if edgetpu else "float")


def _static(
    model: Model,
    floats: Path,
    file: Path,
    inputs: tuple[Binding, ...],
    calibration: Samples,
    target: Target,
    options: Options,
    io: Literal["float", "int8"],
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Writes the int8 file; the step's record and the calibration's."""
    if options.quantizer == "library":
        ranges, record = _tflite_quantize.calibrate(floats, model, inputs, calibration)
        step = _tflite_quantize.quantize(floats, file, target.precision, io=io, ranges=ranges)
        if _tflite_int8.is_edgetpu(target.device):
            write_tflite.check_integer(Graph(file.read_bytes()))
        return step, record
    return _tflite_int8.quantize(
        floats,
        file,
        model.signature,
        inputs,
        calibration,
        options,
        precision=target.precision,
        mixed_db=options.mixed_db,
        float_io=io == "float",
        edgetpu=_tflite_int8.is_edgetpu(target.device),
    )


def _batch(model: Model, options: Options) -> int | None:
    """The batch size to write, None for dynamic; it must be one that the source has."""
    wanted = None if options.batch == "dynamic" else options.batch
    if wanted is not None and wanted < 1:
        raise errors.UsageError(f"A batch has at least 1 sample, not {wanted}.")
    for spec in model.signature.inputs:
        fixed = spec.shape[0] if spec.shape else None
        if fixed is not None and fixed != wanted:
            raise errors.CannotConvert(
                f"{model.source.path!r} has a fixed batch of {fixed} ({spec}), not"
                f" {options.batch}.",
                next=f"Use --option batch={fixed}, or export the source with a dynamic batch.",
            )
    return wanted


def _write_float(
    model: Model, file: Path, batch: int | None, precision: str, options: Options
) -> dict[str, Any]:
    if model.framework in ("torch", "torch.export"):
        from lepton_edge.converters import _tflite_torch

        return _tflite_torch.write(model, file, batch)
    if model.framework in ("keras", "savedmodel"):
        from lepton_edge.converters import _tflite_tensorflow

        return _tflite_tensorflow.write(model, file, batch)
    if model.framework == "onnx":
        python = _tflite_onnx.python(options.onnx2tf_python)
        return _tflite_onnx.write(model, file, batch, python)
    return _copy(Path(model.native), file, precision)


def _copy(source: Path, file: Path, precision: str) -> dict[str, Any]:
    """Takes a .tflite as it is; what it already is must not be called something else."""
    shutil.copyfile(source, file)
    stored = _stored(source)
    if stored == "fp32":
        return {"step": "copy"}
    if stored == precision:
        return {"step": "copy", "stored": stored}
    raise errors.CannotConvert(
        f"{str(source)!r} is {stored} already and cannot become {precision}.",
        next=f"Ask for precision {stored}, or give the float model.",
    )


def _stored(file: Path) -> str:
    """The precision that a file's tensors show: `fp32`, `fp16`, or one of the int8 kinds."""
    opened = _tflite_bind.interpreter(file)
    quantised = {"int8": 0, "uint8": 0, "int16": 0}
    half = activations = False
    produced = _produced(opened)
    for each in opened.get_tensor_details():
        dtype = str(each["dtype"].__name__)
        half = half or dtype == "float16"
        if dtype in quantised and len(each["quantization_parameters"]["scales"]):
            quantised[dtype] += 1
            activations = activations or each["index"] in produced
    if any(quantised.values()):
        return "int8" if activations else "int8-weights"
    return "fp16" if half else "fp32"


def _produced(opened: Any) -> set[int]:
    """Indices of tensors that operators write; the rest are constants and inputs."""
    return {
        int(index)
        for operator in opened._get_ops_details()  # the interpreter has no public form of this
        if operator["op_name"] not in ("DEQUANTIZE", "DELEGATE")
        for index in operator["outputs"]
    }


def rebound(
    signature: Signature,
    inputs: tuple[Binding, ...],
    outputs: tuple[Binding, ...],
    before: Path,
    after: Path,
) -> tuple[tuple[Binding, ...], tuple[Binding, ...]]:
    """The bindings after quantisation, which renames tensors and keeps their order.

    What became an integer in the file has its dtype, scale and zero point.
    """
    results = []
    for bindings, old, new in zip(
        (inputs, outputs), _tflite_bind.tensors(before), _tflite_bind.tensors(after), strict=True
    ):
        names = {a.name: b.name for a, b in zip(old, new, strict=True)}
        results.append(tuple(replace(each, tensor=names[each.tensor]) for each in bindings))
    return _integer(signature, results[0], results[1], after)


def _integer(
    signature: Signature, inputs: tuple[Binding, ...], outputs: tuple[Binding, ...], file: Path
) -> tuple[tuple[Binding, ...], tuple[Binding, ...]]:
    """The bindings with dtype, scale and zero point of what became an integer in the file."""
    sides = []
    for specs, bindings, tensors in zip(
        (signature.inputs, signature.outputs),
        (inputs, outputs),
        _tflite_bind.tensors(file),
        strict=True,
    ):
        dtypes = {spec.name: spec.dtype for spec in specs}
        by_name = {each.name: each for each in tensors}
        changed = []
        for binding in bindings:
            tensor = by_name[binding.tensor]
            if tensor.dtype != dtypes[binding.name]:
                binding = replace(
                    binding,
                    dtype=tensor.dtype,
                    scale=tensor.scale,
                    zero_point=tensor.zero_point,
                )
            changed.append(binding)
        sides.append(tuple(changed))
    return sides[0], sides[1]


def _versions(framework: str, precision: str) -> dict[str, str]:
    libraries = [*_LIBRARIES[framework], "ai-edge-litert"]
    if precision != "fp32":
        libraries.append("ai-edge-quantizer")
    found = {}
    for library in libraries:
        try:
            found[library] = version(library)
        except PackageNotFoundError:
            continue
    return found
