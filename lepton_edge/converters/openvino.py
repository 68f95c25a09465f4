"""Any source to OpenVINO: float32, float16 weights, int8, and 8 or 4 bits for weights alone."""

from __future__ import annotations

import re
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from lepton_edge import errors, plugins
from lepton_edge.artifact import Artifact
from lepton_edge.converters import _float_onnx as floats
from lepton_edge.converters import _qdq, _tf_recurrent
from lepton_edge.model import Model, Signature
from lepton_edge.samples import Samples
from lepton_edge.target import CALIBRATED, Target

WEIGHTS = ("int8-weights", "int4-weights")
PRECISIONS = ("fp32", "fp16", *CALIBRATED, *WEIGHTS)


@dataclass(frozen=True)
class Options(_qdq.Options):
    """`batch` is fixed in the file, or `dynamic`.

    `through` is the way from the source: `onnx` exports it to ONNX first, `direct` gives it to
    OpenVINO. By default PyTorch goes through ONNX (as exact, twice as fast over the zoo), Keras'
    recurrent layers too (OpenVINO would keep their loops), and all else is direct, but for int8.
    `opset` and `exporter` are those of the ONNX export. `quantizer` is who makes int8: this
    project, with the options of `Tuning`, or the library NNCF, whose are `bias_correction` (full)
    and `overflow_fix` (none). Measured, SQNR of the demo's CNN by NNCF:
    full 36.4 dB, none 35.7, fast 19.9; full with overflow_fix=first-layer 28.2. CPUs without VNNI
    instructions need the fix: they saturate where two products of int8 are added in 16 bits.
    """

    batch: Literal["dynamic"] | int = 1
    through: Literal["onnx", "direct"] | None = None
    opset: int | None = None
    exporter: Literal["torchscript", "dynamo"] | None = None
    quantizer: Literal["lepton", "library"] = "lepton"
    bias_correction: Literal["full", "fast", "off"] | None = None
    overflow_fix: Literal["off", "first-layer", "all"] | None = None


def refuses(framework: str, precision: str) -> str | None:
    """One clause why this pair cannot be converted; None where it can be tried."""
    if framework not in floats.FRAMEWORKS:
        return f"the OpenVINO converter reads no {framework} models"
    if precision == "bf16":
        return "OpenVINO computes in bf16 by its precision hint on any fp32 file, not by the file"
    if precision not in PRECISIONS:
        return f"the OpenVINO converter makes {', '.join(PRECISIONS)}, not {precision}"
    return None


def missing(framework: str, precision: str) -> list[str]:
    """The libraries that the pair needs and that are not installed."""
    lacking = plugins.absent("openvino", *(("nncf",) if precision in WEIGHTS else ()))
    through_onnx = precision in CALIBRATED or framework in floats.TORCH
    return lacking + (floats.missing(framework) if through_onnx else [])


def convert(
    model: Model,
    target: Target,
    out: Path,
    *,
    calibration: Samples | None = None,
    options: Options,
) -> Artifact:
    """Writes an .xml and a .bin file into the empty folder `out`.

    int8 needs `calibration`. Raises `CannotConvert` naming the operator that OpenVINO lacks.
    """
    reason = refuses(model.framework, target.precision)
    if reason is not None:
        raise errors.CannotConvert(f"Cannot convert to {target}: {reason}.")
    _qdq.check(target.precision, calibration, options.quantizer)
    # OpenVINO and NNCF would fork a process to send usage data; both do without this module.
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    ov = floats.backend("openvino", "OpenVINO", "openvino")
    own = target.precision in CALIBRATED and options.quantizer == "lepton"
    if own:
        _refuse_foreign(options)
    through = options.through or ("onnx" if own or _better_exported(model) else "direct")
    signature = floats.signature_for(model, options.batch)
    steps: tuple[dict[str, Any], ...] = ()
    record = None
    versions = floats.versions("openvino")
    if through == "onnx":
        made = floats.export(
            model,
            out,
            batch=options.batch,
            opset=options.opset,
            exporter=options.exporter,
            simplify="none",  # OpenVINO folds the graph itself
        )
        if own:
            assert calibration is not None
            vnni = _qdq.has_vnni(target.device)
            dialect = "openvino_avx2" if vnni is False else "openvino"
            made, record = _qdq.quantize(
                made, calibration, dialect, options, out, precision=target.precision
            )
        steps, versions = made.steps, {**made.versions, **versions}
        native = _from_onnx(ov, made.proto, out, calibrated=own)
    else:
        native = _direct(ov, model, signature, options.batch)
    _name_and_shape(native, signature)
    if not own:
        _refuse_quantized(native)
    steps = (*steps, {"step": "convert", "tool": "openvino.convert_model", "through": through})
    if target.precision == "int8" and not own:
        from lepton_edge.converters import _openvino_int8

        assert calibration is not None
        native, step, record = _openvino_int8.quantize(
            native,
            signature,
            calibration,
            bias=options.bias_correction or "full",
            overflow=options.overflow_fix or "off",
        )
        steps, versions = (*steps, step), {**versions, **floats.versions("nncf")}
    if target.precision in WEIGHTS:
        from lepton_edge.converters import _openvino_int8

        native, step = _openvino_int8.compress(native, target.precision)
        steps, versions = (*steps, step), {**versions, **floats.versions("nncf")}
    if target.precision == "fp16":
        note = "weights are float16 in the file; the runtime's precision hint sets how it computes"
        steps = (*steps, {"step": "fp16", "tool": "openvino.save_model", "note": note})
    if native.has_rt_info("conversion_parameters"):
        native.set_rt_info({}, "conversion_parameters")  # it names this machine's paths
    _number_names(native)
    file = f"{model.source.stem}_{target.precision}.xml"
    ov.save_model(native, out / file, compress_to_fp16=target.precision == "fp16")
    return Artifact(
        folder=out,
        file=file,
        format="openvino",
        precision=target.precision,
        signature=signature,
        inputs=floats.bindings(signature.inputs),
        outputs=floats.bindings(signature.outputs),
        steps=steps,
        calibration=record,
        versions=versions,
    )


def _refuse_foreign(options: Options) -> None:
    if options.through == "direct":
        raise errors.UsageError(
            "The option through=direct does not go with int8, whose ranges are found in ONNX.",
            next="Leave it out, or pass quantizer=library.",
        )
    for name in ("bias_correction", "overflow_fix"):
        if getattr(options, name) is not None:
            raise errors.UsageError(
                f"The option {name} is NNCF's.", next="Pass quantizer=library with it."
            )


def _from_onnx(ov: Any, proto: Any, folder: Path, *, calibrated: bool) -> Any:
    file = folder / ".through.onnx"
    try:
        floats.save(proto, file)
        native = ov.convert_model(file)
        # The weights are read from the file when needed; a copy lets it go.
        return native.clone()
    except _failures() as error:
        other = "Ask for fp16 or int8-weights" if calibrated else "Pass the option through=direct"
        raise _cannot(error, other) from None
    finally:
        for part in folder.glob(f"{file.name}*"):
            part.unlink()


def _direct(ov: Any, model: Model, signature: Signature, batch: floats.Batch) -> Any:
    if model.framework in floats.TORCH:
        from lepton_edge.converters import _torch_onnx

        torch = floats.backend("torch", "PyTorch", "torch")
        given: dict[str, Any] = {}
        if model.framework == "torch.export":
            subject = model.native  # its graph knows which sizes are free; a trace of it does not
        else:
            example = model.example(floats.example_batches(batch)[-1])
            given["example_input"] = tuple(
                torch.from_numpy(example[spec.name]) for spec in signature.inputs
            )
            subject = _torch_onnx.positional(model)
        try:
            with _torch_onnx.ready(torch), warnings.catch_warnings():
                # A trace that took one side of a branch is found by the parity check.
                warnings.simplefilter("ignore", torch.jit.TracerWarning)
                warnings.simplefilter("ignore", DeprecationWarning)
                return ov.convert_model(subject, **given)
        except _failures() as error:
            raise _cannot(error) from None
    subject = model.native if model.framework == "keras" else str(model.native)
    if model.framework == "keras":
        keras = floats.backend("keras", "Keras", "tensorflow")
        if isinstance(subject, keras.Sequential):  # OpenVINO would trace it without its shapes
            subject = keras.Model(subject.inputs[0], subject(subject.inputs[0]))
    try:
        with warnings.catch_warnings():
            # TensorFlow and Keras use parts of numpy and Python that are going away.
            warnings.simplefilter("ignore")
            return ov.convert_model(subject)
    except Exception as error:  # noqa: BLE001 (OpenVINO raises the bare class for a failed trace)
        raise _cannot(error) from None


def _better_exported(model: Model) -> bool:
    if model.framework == "keras":
        return _tf_recurrent.has_layers(model.native)
    return model.framework in floats.TORCH


def _name_and_shape(native: Any, signature: Signature) -> None:
    """Names the ports after the signature, by name, else by position, and sets their shapes."""
    for what, ports, specs in (
        ("inputs", native.inputs, signature.inputs),
        ("outputs", native.outputs, signature.outputs),
    ):
        if len(ports) != len(specs):
            names = [sorted(port.get_names()) for port in ports]
            raise errors.CannotConvert(
                f"OpenVINO sees the {what} {names}, the model has {[spec.name for spec in specs]}.",
                next=f"Remove {what} that do not take part in the computation from the model.",
            )
    found: list[tuple[Any, Any]] = []
    for ports, specs in (
        (native.inputs, signature.inputs),
        (native.outputs, signature.outputs),
    ):
        named = [[port for port in ports if spec.name in port.get_names()] for spec in specs]
        if all(len(each) == 1 for each in named):
            found += [(each[0], spec) for each, spec in zip(named, specs, strict=True)]
        else:
            found += list(zip(ports, specs, strict=True))
    inputs = found[: len(native.inputs)]
    try:
        native.reshape(
            {port: [-1 if size is None else size for size in spec.shape] for port, spec in inputs}
        )
    except RuntimeError as error:
        shapes = ", ".join(str(spec) for _, spec in inputs)
        raise errors.CannotConvert(
            f"OpenVINO cannot set the inputs to {shapes}: {_reason(error)}.",
            next="Ask for another batch.",
        ) from None
    for port, spec in found:
        shape = port.get_partial_shape()
        sizes = [None if dim.is_dynamic else dim.get_length() for dim in shape]
        wanted = list(spec.shape)
        if len(sizes) != len(wanted) or any(
            None not in (size, want) and size != want
            for size, want in zip(sizes, wanted, strict=True)
        ):
            raise errors.CannotConvert(
                f"OpenVINO computes {spec.name!r} with the shape {shape}, the model gives {spec}:"
                " the conversion froze the batch.",
                next="Pass the option through=onnx, or another batch.",
            )
        port.get_tensor().set_names({spec.name})


def _number_names(native: Any) -> None:
    """Renames what OpenVINO named by a counter of the process: one model gives one file."""
    seen: dict[str, str] = {}
    for node in native.get_ordered_ops():
        name = node.get_friendly_name()
        counted = re.match(r"([A-Z][A-Za-z]*)_\d+", name)
        if counted:
            new = seen.setdefault(counted[0], f"{counted[1]}.{len(seen)}")
            node.set_friendly_name(new + name[counted.end() :])


def _refuse_quantized(native: Any) -> None:
    if any(node.get_type_name() == "FakeQuantize" for node in native.get_ops()):
        raise errors.CannotConvert(
            "The source is quantised already: it has FakeQuantize.",
            next="Convert the float model that it was made from.",
        )


def _failures() -> tuple[type[Exception], ...]:
    """What a conversion raises: OpenVINO's own share no base class but Exception."""
    frontend = floats.backend("openvino.frontend", "OpenVINO", "openvino")
    own = [value for name, value in vars(frontend).items() if name.endswith("Failure")]
    return (RuntimeError, ValueError, TypeError, LookupError, AttributeError, *own)


def _reason(error: Exception) -> str:
    """OpenVINO writes `Exception from file:line:` before the reason, over several lines."""
    lines = [line.strip() for line in str(error).splitlines()]
    lines = [line for line in lines if line and not line.startswith(("Exception from", "Check "))]
    return (lines or [type(error).__name__])[0].rstrip(". ")[:300]


def _cannot(error: Exception, other: str = "Pass the option through=onnx") -> errors.CannotConvert:
    lines = str(error).splitlines()
    # OpenVINO names unknown operators in a line of its own, far from the first.
    telling = [line.strip() for line in lines if "No translator found" in line or "::" in line]
    telling = [line for line in telling if "No " in line or "aten::" in line]
    return errors.CannotConvert(
        f"OpenVINO cannot read this model: {telling[0][:300] if telling else _reason(error)}.",
        next=f"{other}, or rewrite that part of the model.",
    )
