"""`inspect`: what a model is made of, and which targets can take it, before minutes are spent."""

from __future__ import annotations

from typing import Any

from lepton_edge import jobs
from lepton_edge.model import ModelSource


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
