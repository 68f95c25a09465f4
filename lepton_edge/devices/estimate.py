"""Latency of a model on a device that is not there, from a fit on published measurements.

Tier `compiled`: a compiled Edge TPU file's own cycles and bytes. Tier `calibrated`: a sum of what
each kind of work costs on that device (per kernel, per MAC, per byte moved), fitted by
benchmarks/fit_devices.py. Tier `prior`: another device's or precision's fit, scaled by the ratios
of their peaks, with no measurement of this one in it. The interval is empirical: the errors made on
architectures that the fit had not seen. A device and precision without a fit gets no number.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from lepton_edge import errors
from lepton_edge.devices._cost import cost
from lepton_edge.devices._cost_tflite import refuse_unknown, tflite_cost
from lepton_edge.devices._kernels import Cost, Kernel
from lepton_edge.devices._profile import Profile
from lepton_edge.devices._tflite import Graph, read
from lepton_edge.devices.edgetpu import compiled, partition
from lepton_edge.target import PRECISIONS

# The share of unseen architectures that the interval is made to hold.
LEVEL = 0.8


@dataclass(frozen=True)
class Fit:
    """What work costs: milliseconds a unit of each feature, and how well that held.

    `log_error` is the quantile LEVEL of |ln(predicted / published)| over families left out of the
    fit; `median_error` and `p90_factor` are of the same residuals.
    """

    features: tuple[tuple[str, float], ...]
    log_error: float
    median_error: float
    p90_factor: float
    rows: int
    families: tuple[str, ...]
    source: str
    tier: Literal["calibrated", "prior"] = "calibrated"

    def latency_ms(self, features: Mapping[str, float]) -> float:
        return sum(weight * features[name] for name, weight in self.features)


@dataclass(frozen=True)
class Estimate:
    """A latency that was not measured: batch 1, milliseconds, with the interval at LEVEL."""

    device: str
    precision: str
    latency_ms: float
    interval_ms: tuple[float, float]
    tier: str
    level: float
    basis: Mapping[str, Any]

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def predict(path: str | Path, profile: Profile, precision: str) -> Estimate:
    """The latency of a .tflite or .onnx on the device, calibrated on published measurements.

    Raises `UsageError` where nothing was fitted for that device and precision.
    """
    from lepton_edge.devices._fitted import FITS

    if precision not in PRECISIONS:
        raise errors.unknown("precision", precision, PRECISIONS)
    fit = FITS.get((profile.name, precision))
    if fit is None:
        known = ", ".join(f"{device} {form}" for device, form in sorted(FITS))
        raise errors.UsageError(
            f"There is no estimate for {profile.name} in {precision}: nothing was fitted.",
            next=f"Fitted are {known}. Elsewhere, measure on the device.",
        )
    graph = _edgetpu_graph(path) if profile.kind == "edgetpu" else None
    if graph is not None and compiled.is_compiled(graph):
        facts = compiled.describe(graph)
        if facts.cycles is not None:
            return _from_cycles(graph, facts, facts.cycles, profile, precision, fit)
        graph = _raw_beside(graph)
    features = general_features(cost(path)) if graph is None else _edgetpu(graph)
    latency = fit.latency_ms(features)
    spread = math.exp(fit.log_error)
    return Estimate(
        device=profile.name,
        precision=precision,
        latency_ms=latency,
        interval_ms=(latency / spread, latency * spread),
        tier=fit.tier,
        level=LEVEL,
        basis={
            "source": fit.source,
            "rows": fit.rows,
            "families": list(fit.families),
            "median_error_left_out": fit.median_error,
            "features": features,
            "read_from": str(path) if graph is None else graph.path,
        },
    )


def general_features(found: Cost) -> dict[str, float]:
    """Kernels, GMACs by kind, millions of weights, millions of elements only moved."""
    return {
        "kernels": float(len(found.kernels)),
        "gmac": sum(k.macs for k in found.kernels if k.kind != "depthwise") / 1e9,
        "mweights": found.weights / 1e6,
        "mmoved": sum(k.read + k.written for k in found.kernels if k.macs == 0) / 1e6,
        "mdepthwise": sum(k.read + k.written for k in found.kernels if k.kind == "depthwise") / 1e6,
        "mactivations": sum(k.read + k.written for k in found.kernels if k.weights) / 1e6,
    }


# Parameters beyond this are sent with every inference; 1.08 is the padding of usual layers.
_CACHE_BYTES = 7 * 2**20
_PADDING = 1.08


def edgetpu_features(found: Cost, on_cpu: Collection[int] = ()) -> dict[str, float]:
    """The same for the Edge TPU; `on_cpu` are the kernels (by position) that the CPU runs."""
    there: list[Kernel] = [k for i, k in enumerate(found.kernels) if i not in on_cpu]
    tail = [found.kernels[index] for index in on_cpu]
    weights = sum(k.weights for k in there) * _PADDING
    wide = sum(k.macs for k in there if k.kind == "conv")
    return {
        "inference": 1.0,
        "kernels": float(len(there)),
        "gmac_conv": wide / 1e9,
        "gmac_other": (sum(k.macs for k in there if k.kind != "depthwise") - wide) / 1e9,
        "mb_written": sum(k.written for k in there) / 1e6,
        "mb_streamed": max(0.0, weights - _CACHE_BYTES) / 1e6,
        "mb_input": found.inputs / 1e6,
        "mtail": sum(k.read + k.written + k.macs / 8 for k in tail) / 1e6,
        "boxes": float(sum(k.kind == "boxes" for k in tail)),
    }


# The maximum clock, and per inference: what a byte over USB 3 or PCIe and the call itself cost.
# The link was derived from published latencies less the cycles of the compiled file: 3.6 to 6.0
# ms/MB on a desktop's USB 3 and the Dev Board's PCIe, and 0.3 ms.
_CLOCK_HZ = 500e6
_LINK_MS_PER_MB = 4.8
_CALL_MS = 0.3


def _edgetpu_graph(path: str | Path) -> Graph:
    if Path(path).suffix != ".tflite":
        raise errors.UsageError(
            f"The Edge TPU takes .tflite, not {str(path)!r}.", next="Convert it to int8 first."
        )
    return read(path)


def _from_cycles(
    graph: Graph, facts: compiled.Compiled, cycles: int, profile: Profile, precision: str, fit: Fit
) -> Estimate:
    """Tier `compiled`: the compiler's own cycles, the bytes that it sends, and the CPU's part."""
    costs = dict(fit.features)
    found, indices = tflite_cost(graph)
    left = [i for i, index in enumerate(indices) if index in facts.cpu_indices]
    tail = edgetpu_features(found, left)
    sent = facts.input_bytes + facts.output_bytes + facts.instruction_bytes
    parts = {
        "chip_ms": cycles / _CLOCK_HZ * 1e3,
        "link_ms": sent / 1e6 * _LINK_MS_PER_MB + _CALL_MS,
        "streaming_ms": facts.streamed_bytes / 1e6 * costs["mb_streamed"],
        "cpu_ms": sum(costs[name] * tail[name] for name in ("mtail", "boxes")),
    }
    latency, spread = sum(parts.values()), math.exp(fit.log_error)
    return Estimate(
        device=profile.name,
        precision=precision,
        latency_ms=latency,
        interval_ms=(latency / spread, latency * spread),
        tier="compiled",
        level=LEVEL,
        basis={
            "source": f"cycles and bytes of the compiled file; CPU and streaming: {fit.source}",
            "rows": fit.rows,
            "families": list(fit.families),
            "median_error_left_out": fit.median_error,
            "cycles": cycles,
            "parts_ms": parts,
            "read_from": graph.path,
        },
    )


def _raw_beside(graph: Graph) -> Graph:
    """The file that a compiled one without cycles was made from: X.tflite by X_edgetpu.tflite."""
    raw = Path(graph.path.replace("_edgetpu.tflite", ".tflite"))
    if str(raw) == graph.path or not raw.is_file():
        raise errors.UsageError(
            f"{graph.path!r} holds no cycles (compilers for runtime 14 leave them out), and the"
            " estimate then needs the operators.",
            next="Give the .tflite that it was compiled from, or lay it beside.",
        )
    return read(raw)


def _edgetpu(graph: Graph) -> dict[str, float]:
    placed = partition.partition(graph)
    if not any(item.mapped for item in placed):
        reason = next((str(item.breach) for item in placed if item.breach), "it has no operators")
        raise errors.UsageError(
            f"Nothing in {graph.path!r} can be mapped to the Edge TPU: {reason}.",
            next="Quantise it to int8 first.",
        )
    refuse_unknown(graph)
    found, indices = tflite_cost(graph)
    left = {item.index for item in placed if not item.mapped}
    return edgetpu_features(found, [i for i, index in enumerate(indices) if index in left])
