"""A float .tflite file to static int8 by the project's own quantiser."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np

from lepton_edge import devices, errors
from lepton_edge.artifact import Binding
from lepton_edge.calibration import Data, load
from lepton_edge.calibration.mixed import quantize_tflite_mixed
from lepton_edge.calibration.tflite_quantizer import quantize_tflite
from lepton_edge.calibration.tuning import Tuning
from lepton_edge.converters import _tflite_bind
from lepton_edge.converters._qdq import cache
from lepton_edge.model import Array, Signature
from lepton_edge.samples import Samples, feeds, fingerprint
from lepton_edge.target import CALIBRATED


def is_edgetpu(device: str) -> bool:
    """Whether that device's accelerator takes nothing but integers; `cpu` is this machine."""
    return device != "cpu" and devices.load(device).kind == "edgetpu"


def check(options: Tuning, precision: str, quantizer: str) -> None:
    """Raises `UsageError` for choices that would have no effect."""
    ours = precision in CALIBRATED and quantizer == "lepton"
    changed = [each.name for each in fields(Tuning) if getattr(options, each.name) != each.default]
    if changed and not ours:
        by = "the library's quantiser" if quantizer == "library" else f"precision {precision}"
        raise errors.UsageError(
            f"The option {changed[0]} has no effect with {by}.", next="Leave it out."
        )
    if precision == "int8-mixed" and quantizer == "library":
        raise errors.UsageError(
            "int8-mixed is made by this project's own quantiser only.",
            next="Leave the option quantizer=library out.",
        )


def quantize(
    source: Path,
    file: Path,
    signature: Signature,
    bindings: tuple[Binding, ...],
    samples: Samples,
    options: Tuning,
    *,
    precision: str,
    mixed_db: float,
    float_io: bool,
    edgetpu: bool,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Writes `file`; the step's record and the calibration's. See `quantize_tflite`."""
    data = calibration_data(source, signature, bindings, samples)
    dialect = load("edgetpu" if edgetpu else "tflite")
    if precision == "int8-mixed":
        done = quantize_tflite_mixed(
            *(source, file, data, dialect, options),
            target_db=mixed_db,
            float_io=float_io,
            cache=cache(),
        )
    else:
        done = quantize_tflite(
            source, file, data, dialect, options, float_io=float_io, cache=cache()
        )
    step = {
        "step": precision,
        "tool": "lepton-edge and ai_edge_quantizer",
        "scheme": "int8 weights per channel, int8 activations per tensor",
        "io": "float" if float_io and not edgetpu else "int8",
        "computes": "int8 where the kernel has it",
        **done,
    }
    record = {"n": len(samples), "fingerprint": fingerprint(samples), "ranges": options.ranges}
    return step, record


def calibration_data(
    source: Path, signature: Signature, bindings: tuple[Binding, ...], samples: Samples
) -> Data:
    """The samples under the names of the file `source`, in its layout and batches."""
    batch = int(_tflite_bind.interpreter(source).get_input_details()[0]["shape"][0])
    signature = signature.with_batch(batch)
    prepared = json.dumps(samples.as_dict().get("preprocess"), sort_keys=True)
    permuted = json.dumps([[each.tensor, each.permute] for each in bindings])
    return Data(
        lambda: (bound(arrays, bindings) for arrays in feeds(samples, signature, batch)),
        f"{fingerprint(samples)}:{prepared}:{permuted}:{batch}",
    )


def bound(arrays: dict[str, Array], bindings: tuple[Binding, ...]) -> dict[str, Array]:
    """The source's inputs under the file's tensor names, in its layout."""
    found = {}
    for binding in bindings:
        value = arrays[binding.name]
        if binding.permute is not None:
            value = np.ascontiguousarray(value.transpose(binding.permute))
        found[binding.tensor] = value
    return found
