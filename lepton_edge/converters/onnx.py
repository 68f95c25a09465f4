"""Any source to ONNX, for ONNX Runtime: float32, float16, and 8 or 4 bits by five precisions."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from lepton_edge import errors
from lepton_edge.artifact import Artifact
from lepton_edge.converters import _float_onnx as floats
from lepton_edge.converters import _qdq
from lepton_edge.model import Model
from lepton_edge.samples import Samples
from lepton_edge.target import CALIBRATED, Target

PRECISIONS = ("fp32", "fp16", *CALIBRATED, "int8-dynamic", "int8-weights", "int4-weights")


@dataclass(frozen=True)
class Options(_qdq.Options):
    """`batch` is fixed in the file, or `dynamic`. `opset` is 17 by default, 18 with dynamo.

    `exporter` is torch.onnx's, for PyTorch sources: both agree with the source to 1e-6, torchscript
    takes a tenth of the time; it is the default, but for a .pt2 file with a dynamic batch, whose
    batch it would freeze. `simplify` folds constants, checked by running the graph before and
    after. `quantizer` is who makes int8: this project, with the options of `Tuning` and in the
    `dialect` of the target device's CPU, or ONNX Runtime's library, uint8 by min-max ranges.
    """

    batch: Literal["dynamic"] | int = 1
    opset: int | None = None
    exporter: Literal["torchscript", "dynamo"] | None = None
    simplify: Literal["onnxslim", "none"] = "onnxslim"
    quantizer: Literal["lepton", "library"] = "lepton"
    dialect: Literal["ort_x86_vnni", "ort_x86", "ort_arm"] | None = None


def refuses(framework: str, precision: str) -> str | None:
    """One clause why this pair cannot be converted; None where it can be tried."""
    if framework not in floats.FRAMEWORKS:
        return f"the ONNX converter reads no {framework} models"
    if precision == "bf16":
        return "ONNX Runtime's CPU provider has no bf16 kernels; ask for fp16"
    if precision not in PRECISIONS:
        return f"the ONNX converter makes {', '.join(PRECISIONS)}, not {precision}"
    return None


def missing(framework: str, precision: str) -> list[str]:
    """The libraries that the pair needs and that are not installed."""
    return floats.missing(framework)


def convert(
    model: Model,
    target: Target,
    out: Path,
    *,
    calibration: Samples | None = None,
    options: Options,
) -> Artifact:
    """Writes the .onnx file into the empty folder `out`; inputs and outputs keep their dtypes.

    int8 needs `calibration`. Raises `CannotConvert` naming the operator that has no ONNX form.
    """
    reason = refuses(model.framework, target.precision)
    if reason is not None:
        raise errors.CannotConvert(f"Cannot convert to {target}: {reason}.")
    _qdq.check(target.precision, calibration, options.quantizer)
    made = floats.export(
        model,
        out,
        batch=options.batch,
        opset=options.opset,
        exporter=options.exporter,
        simplify=options.simplify,
    )
    record = None
    if target.precision == "fp16":
        from lepton_edge.converters import _onnx_half

        example = model.example(floats.example_batches(options.batch)[0])
        _onnx_half.check_activations(made.proto, example)
        made = made.then(*_onnx_half.to_half(made.proto), "onnxruntime")
    elif target.precision in CALIBRATED:
        assert calibration is not None
        if options.quantizer == "lepton":
            dialect = options.dialect or dialect_of(target.device)
            made, record = _qdq.quantize(
                made, calibration, dialect, options, out, precision=target.precision
            )
        else:
            from lepton_edge.converters import _onnx_int8

            proto, step, record = _onnx_int8.static(
                made.proto, made.signature, calibration, out, device=target.device
            )
            made = made.then(proto, step, "onnxruntime")
    elif target.precision == "int8-dynamic":
        from lepton_edge.converters import _onnx_int8

        example = model.example(floats.example_batches(options.batch)[0])
        done = _onnx_int8.dynamic(made.proto, example, out, device=target.device)
        made = made.then(*done, "onnxruntime")
    elif target.precision in ("int8-weights", "int4-weights"):
        from lepton_edge.converters import _onnx_weights

        narrow = _onnx_weights.int8 if target.precision == "int8-weights" else _onnx_weights.int4
        made = made.then(*narrow(made.proto), "onnxruntime")
    file = f"{model.source.stem}_{target.precision}.onnx"
    floats.save(made.proto, out / file)
    return Artifact(
        folder=out,
        file=file,
        format="onnx",
        precision=target.precision,
        signature=made.signature,
        inputs=floats.bindings(made.signature.inputs),
        outputs=floats.bindings(made.signature.outputs),
        steps=made.steps,
        calibration=record,
        versions=made.versions,
    )


def dialect_of(device: str) -> str:
    """The int8 dialect of ONNX Runtime on that device's CPU."""
    vnni = _qdq.has_vnni(device)
    return "ort_arm" if vnni is None else "ort_x86_vnni" if vnni else "ort_x86"
