"""`inspect`: what a model is made of, and which targets can take it, before minutes are spent."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lepton_edge import jobs
from lepton_edge.model import ModelSource
from lepton_edge.preprocess import Preprocess
from lepton_edge.samples import Samples, open_samples


def inspect(
    source: ModelSource | str,
    *,
    time_limit_s: float = 600.0,
    memory_limit_mb: int | None = None,
) -> dict[str, Any]:
    """Signature, operators, parameters, MACs a sample, size in bytes, and targets, as JSON.

    Keys: `source`, `framework`, `signature`, `operators` (name -> count), `parameters`, `macs`
    (None where they cannot be known, `macs_unknown` says why), `size_bytes`, `targets` (format,
    precision, ok, reason). The model is loaded in a process of its own.
    """
    source = ModelSource(source) if isinstance(source, str) else source
    return jobs.call(
        "inspect",
        source=source.as_dict(),
        time_limit_s=time_limit_s,
        memory_limit_mb=memory_limit_mb,
    )


def limits(
    source: ModelSource | str,
    device: str,
    *,
    devices_folder: str | None = None,
    time_limit_s: float = 600.0,
    memory_limit_mb: int | None = None,
) -> dict[str, Any]:
    """What of the model will not run on that device, as JSON; nothing is converted.

    Keys: `device`, `model`, `framework`, `operators` ({index, op, placement, reason, count}),
    `summary` (how many are on the accelerator, the cpu, unsupported, unknown), and `limits` ({what,
    reason, next}) for what is about more than one operator, or not known. See `devices.limits`.
    """
    source = ModelSource(source) if isinstance(source, str) else source
    return jobs.call(
        "limits",
        source=source.as_dict(),
        device=device,
        devices_folder=devices_folder,
        time_limit_s=time_limit_s,
        memory_limit_mb=memory_limit_mb,
    )


def sensitivity(
    source: ModelSource | str,
    *,
    calib: Samples | str | Path,
    preprocess: Preprocess | None = None,
    device: str = "cpu",
    dialect: str | None = None,
    time_limit_s: float = 1800.0,
    memory_limit_mb: int | None = None,
) -> dict[str, Any]:
    """What int8 does to each layer alone, the most damaging first; no labels are needed.

    Keys: `dialect` (that of ONNX Runtime on `device` by default), `samples`, and `layers`: node,
    op, `sqnr_db` of the worst output with that layer in int8 and all others in float, `kl` of the
    class scores, its `share` of all layers' noise, and its time in `float_us` and `int8_us` on
    this machine. This is the ranking that int8-mixed works with.
    """
    source = ModelSource(source) if isinstance(source, str) else source
    return jobs.call(
        "sensitivity",
        source=source.as_dict(),
        calib=open_samples(calib, preprocess=preprocess).as_dict(),
        device=device,
        dialect=dialect,
        time_limit_s=time_limit_s,
        memory_limit_mb=memory_limit_mb,
    )
