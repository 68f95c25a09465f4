"""A float ONNX graph to int8 Q/DQ ONNX by the project's own quantiser, in a backend's dialect."""

from __future__ import annotations

import json
import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lepton_edge import _cache, calibration, devices, errors
from lepton_edge.calibration.tuning import Tuning
from lepton_edge.converters import _float_onnx as floats
from lepton_edge.model import Signature
from lepton_edge.samples import Samples, feeds, fingerprint
from lepton_edge.target import CALIBRATED

ARM = ("aarch64", "arm64", "armv7l")
ROWS = 8  # samples a batch where the graph takes any number


def has_vnni(device: str) -> bool | None:
    """Whether the device's CPU multiplies bytes without saturating; None where it is no x86.

    `cpu` is this machine.
    """
    if device == "cpu" and platform.machine() in ARM:
        return None
    profile = devices.load("x86" if device == "cpu" else device)
    if profile.architecture != "x86_64":
        return None
    return any("VNNI" in each or each == "AMX int8" for each in profile.isa)


def calibration_data(samples: Samples, signature: Signature) -> calibration.Data:
    """The samples under the graph's input names, in batches that it takes."""
    fixed = {spec.shape[0] for spec in signature.inputs if spec.shape} - {None}
    rows = min((size for size in fixed if size), default=ROWS)
    prepared = json.dumps(samples.as_dict().get("preprocess"), sort_keys=True)
    return calibration.Data(
        lambda: feeds(samples, signature, rows), f"{fingerprint(samples)}:{prepared}:{rows}"
    )


def cache() -> Path:
    """Where statistics are kept: they serve every dialect of the same model and data."""
    return _cache.folder("calibration")


# Large weights that Q/DQ leaves in float; recurrent ones must be constants for the other two.
TABLES = {"ort": ("Gather", "LSTM", "GRU", "RNN"), "openvino": ("Gather",), "tensorrt": ()}


@dataclass(frozen=True)
class Options(Tuning):
    """`mixed_db` is the SQNR that int8-mixed keeps at the outputs, by leaving layers in float."""

    mixed_db: float = 28.0


def check(precision: str, calibration: Samples | None, quantizer: str) -> None:
    """Raises `UsageError` for int8 without data, and for what a library's quantiser cannot do."""
    if precision in CALIBRATED and calibration is None:
        raise errors.UsageError(
            f"{precision} needs real inputs to find the ranges of activations.",
            next="Give training samples with --calib, or ask for fp16, which needs none.",
        )
    if precision == "int8-mixed" and quantizer == "library":
        raise errors.UsageError(
            "int8-mixed is made by this project's own quantiser only.",
            next="Leave the option quantizer=library out.",
        )


def quantize(
    made: floats.FloatOnnx,
    samples: Samples,
    dialect: str,
    options: Options,
    folder: Path,
    *,
    precision: str,
) -> tuple[floats.FloatOnnx, dict[str, Any]]:
    """The graph with Q/DQ pairs, and the record of the calibration. `folder` takes temporary files.

    Raises `CannotConvert` where nothing in the graph can be quantised.
    """
    import onnx

    from lepton_edge.converters import _onnx_weights

    source, result = folder / ".float.onnx", folder / ".qdq.onnx"
    try:
        floats.save(made.proto, source)
        data = calibration_data(samples, made.signature)
        subject = (source, result, data, calibration.load(dialect), options)
        if precision == "int8-mixed":
            done = calibration.quantize_mixed(*subject, target_db=options.mixed_db, cache=cache())
        else:
            done = calibration.quantize_onnx(*subject, cache=cache())
        proto = onnx.load(str(result))
    finally:
        for part in folder.glob(".float.onnx*"):
            part.unlink()
        result.unlink(missing_ok=True)
    proto, before, after = _onnx_weights.narrowed(proto, TABLES[dialect.partition("_")[0]])
    if before:
        done["tables"] = {"weights": "int8 symmetric per row", "bytes": [before, after]}
    step = {
        "step": precision,
        "tool": "lepton-edge",
        "quantize_nodes": done.pop("int8_nodes"),
        **done,
    }
    record = {"n": len(samples), "fingerprint": fingerprint(samples), "ranges": options.ranges}
    return made.then(proto, step, "onnxruntime"), record
