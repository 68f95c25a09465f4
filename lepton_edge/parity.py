"""`verify`: does the artefact compute what its source computes, on the same inputs?

Source and artefact run in a process of their own each. What is asked of them depends on the
artefact's precision; the table below is stated in every result. It catches wrong models (a lost
layer, a swapped layout, a clipped range); whether the accuracy holds is what `evaluate` measures.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lepton_edge import errors, jobs, loading
from lepton_edge.artifact import Artifact, open_artifact
from lepton_edge.measurement import Output, Parity
from lepton_edge.model import Array, ModelSource
from lepton_edge.samples import Samples, limit


@dataclass(frozen=True)
class Tolerance:
    """What every output must keep; None where it is not asked.

    `relative`: max abs error over the range of the source's output. `equal`: share of equal
    elements, for integer outputs (indices, masks), where a near tie may fall either way.
    """

    relative: float | None = None
    sqnr_db: float | None = None
    cosine: float | None = None
    equal: float = 1.0

    def __str__(self) -> str:
        parts = []
        if self.relative is not None:
            parts.append(f"max abs <= {self.relative:g} of the output's range")
        if self.sqnr_db is not None:
            parts.append(f"SQNR >= {self.sqnr_db:g} dB")
        if self.cosine is not None:
            parts.append(f"cosine >= {self.cosine:g}")
        return f"{', '.join(parts)}; integers equal in >= {100 * self.equal:g} %"


# An SQNR of s dB bounds the cosine: noise that is orthogonal to the signal gives
# 1 / sqrt(1 + 10^(-s/10)); each cosine below is that of its SQNR, rounded down.
TOLERANCES: Mapping[str, Tolerance] = {
    # Reordered sums in float32 differ by about 1e-6 of the range; ten to a hundred layers by 1e-5.
    "fp32": Tolerance(relative=1e-4, equal=0.99),
    # 11 bits of significand: one rounding is 66 dB or more; sums through a deep network keep 50.
    "fp16": Tolerance(sqnr_db=40, cosine=0.9999, equal=0.98),
    # 8 bits: three bits less, 18 dB under fp16; a deep ImageNet classifier keeps about 28.
    "bf16": Tolerance(sqnr_db=20, cosine=0.995, equal=0.95),
    # Well quantised networks keep 15 to 40 dB; those that lost accuracy were seen below 10.
    "int8": Tolerance(sqnr_db=10, cosine=0.95, equal=0.9),
    "int8-mixed": Tolerance(sqnr_db=10, cosine=0.95, equal=0.9),
    "int8-dynamic": Tolerance(sqnr_db=10, cosine=0.95, equal=0.9),
    # Activations stay float: only the rounding of weights is left, 20 dB on a hard network.
    "int8-weights": Tolerance(sqnr_db=15, cosine=0.98, equal=0.9),
    # Four bits fewer are 24 dB in theory; nearest rounding of a hard network fails this, rightly.
    "int4-weights": Tolerance(sqnr_db=5, cosine=0.87, equal=0.8),
}


def verify(
    source: ModelSource | str,
    artifact: Artifact | str | Path,
    *,
    data: Samples | None = None,
    n: int = 64,
    device: str = "cpu",
    threads: int | None = None,
    options: Mapping[str, Any] | None = None,
    on: str | None = None,
    time_limit_s: float = 1800.0,
    memory_limit_mb: int | None = None,
) -> Parity:
    """Compares both on `n` samples of `data`, or on the source's seeded example inputs.

    A failed comparison is a `Parity` with the status FAIL(parity) and reasons, no exception.
    `device`, `threads` and `options` are for the artefact's runtime; the source runs on the CPU.
    `on` runs the artefact on another machine (`ssh://user@host[:port]`), the source here.
    """
    source = ModelSource(source) if isinstance(source, str) else source
    artifact = artifact if isinstance(artifact, Artifact) else open_artifact(artifact)
    if n < 1:
        raise errors.UsageError(f"Cannot verify on {n} samples; use at least one.")
    limits: dict[str, Any] = {"time_limit_s": time_limit_s, "memory_limit_mb": memory_limit_mb}
    with tempfile.TemporaryDirectory(prefix="lepton-edge-") as folder:
        ours, theirs = Path(folder, "source"), Path(folder, "artifact")
        ours.mkdir()
        theirs.mkdir()
        chosen = limit(data, n).as_dict() if data is not None else None
        reference = jobs.call(
            "infer",
            subject=loading.as_json(source),
            out=str(ours),
            n=n,
            data=chosen,
            examples=source.as_dict(),
            batch=_fixed_batch(artifact),
            threads=threads,
            **limits,
        )
        result = jobs.call(
            "infer",
            subject=loading.as_json(artifact),
            out=str(theirs),
            n=n,
            data=reference["data"],
            device=device,
            threads=threads,
            options=dict(options or {}),
            on=on,
            **limits,
        )
        where = "example inputs (seeded random)" if data is None else str(data.as_dict()["path"])
        return compare_outputs(
            _open(ours, reference["outputs"]),
            _open(theirs, result["outputs"]),
            precision=artifact.precision,
            inputs=f"{where}, n={reference['n']}",
        )


def _fixed_batch(artifact: Artifact) -> int | None:
    """The artefact's batch: a model may compute something else for a batch than for its rows."""
    inputs = artifact.signature.inputs if artifact.signature else ()
    return next((spec.shape[0] for spec in inputs if spec.shape), None)


def compare_outputs(
    reference: Mapping[str, Array], found: Mapping[str, Array], *, precision: str, inputs: str
) -> Parity:
    """Two sets of outputs ([n, ...] each, by name) under the tolerance of `precision`.

    Where both have exactly one output, its names need not match.
    """
    tolerance = TOLERANCES[precision]
    if len(reference) == len(found) == 1:
        found = dict(zip(reference, found.values(), strict=True))
    reasons = [
        f"the output {name!r} is missing in the {side}"
        for side, here, there in (("artefact", found, reference), ("source", reference, found))
        for name in there
        if name not in here
    ]
    outputs = []
    for name in reference:
        if name not in found:
            continue
        if reference[name].shape != found[name].shape:
            shapes = f"{list(reference[name].shape)} and {list(found[name].shape)}"
            reasons.append(f"{name}: source and artefact differ in shape: {shapes}")
            continue
        degenerate = _degenerate(reference[name], found[name])
        if degenerate:
            reasons.append(f"{name}: {degenerate}")
            if "NaN" in degenerate:
                continue
        output, equal = _compare(name, reference[name], found[name])
        outputs.append(output)
        reasons += [f"{name}: {each}" for each in _outside(output, equal, tolerance)]
    status = "FAIL(parity)" if reasons or not outputs else "PASS"
    text = f"{precision}: {tolerance}"
    return Parity(status, tuple(outputs), text, inputs, tuple(reasons))


def _outside(output: Output, equal: float | None, tolerance: Tolerance) -> list[str]:
    if equal is not None:
        short = f"{100 * equal:.2f} % of the integers are equal"
        return [] if equal >= tolerance.equal else [f"{short}, below {100 * tolerance.equal:g} %"]
    found = []
    if output.max_abs and output.sqnr_db is None and tolerance.sqnr_db is not None:
        found.append("the source gives nothing but zeros, the artefact does not")
    if tolerance.relative is not None and output.relative > tolerance.relative:
        found.append(f"max abs is {output.relative:.3g} of the range, above {tolerance.relative:g}")
    low = output.sqnr_db
    if tolerance.sqnr_db is not None and low is not None and low < tolerance.sqnr_db:
        found.append(f"SQNR is {low:.1f} dB, below {tolerance.sqnr_db:g}")
    cosine = output.cosine
    if tolerance.cosine is not None and cosine is not None and cosine < tolerance.cosine:
        found.append(f"cosine is {cosine:.5f}, below {tolerance.cosine:g}")
    return found


def _degenerate(reference: Array, found: Array) -> str | None:
    """What makes a comparison worthless, whatever its figures."""
    floating = found.dtype.kind == "f"
    if floating and not all(np.isfinite(row).all() for row in found):
        return "the artefact gives NaN or infinite values"
    if reference.dtype.kind == "f" and not all(np.isfinite(row).all() for row in reference):
        return "the source itself gives NaN or infinite values"
    if not _varies(found):
        zero = not np.any(found[:1])
        if floating and zero:
            return "the artefact gives nothing but zeros"
        if _varies(reference):
            return "the artefact gives one constant, the source does not"
    elif len(found) > 1 and not _by_sample(found) and _by_sample(reference):
        return "the artefact gives the same for every input, the source does not"
    return None


def _varies(value: Array) -> bool:
    first = value.flat[0]
    return any((row != first).any() for row in value)


def _by_sample(value: Array) -> bool:
    return any((row != value[0]).any() for row in value[1:])


def _compare(name: str, reference: Array, found: Array) -> tuple[Output, float | None]:
    """The figures, row by row, in float64; the share of equal elements for integers."""
    largest = noise = signal = dot = power = 0.0
    low, high = math.inf, -math.inf
    same = 0
    for ref_row, row in zip(reference, found, strict=True):
        ref, got = ref_row.astype(np.float64), row.astype(np.float64)
        error = ref - got
        largest = max(largest, float(np.abs(error).max()))
        noise += float(np.sum(error * error))
        signal += float(np.sum(ref * ref))
        power += float(np.sum(got * got))
        dot += float(np.sum(ref * got))
        low, high = min(low, float(ref.min())), max(high, float(ref.max()))
        same += int(np.sum(error == 0))
    # A constant output has no range: then its own size is the measure.
    span = (high - low) or abs(high) or 1.0
    agreement = None
    if reference.ndim == 2 and reference.shape[1] > 1 and reference.dtype.kind == "f":
        agreement = float(np.mean(reference.argmax(1) == found.argmax(1)))
    output = Output(
        name=name,
        max_abs=largest,
        relative=largest / span,
        sqnr_db=10 * math.log10(signal / noise) if noise and signal else None,
        cosine=min(1.0, dot / math.sqrt(signal * power)) if signal and power else None,
        top1_agreement=agreement,
        n=len(reference),
    )
    exact = reference.dtype.kind in "biu" and found.dtype.kind in "biu"
    return output, same / reference.size if exact else None


def _open(folder: Path, names: Mapping[str, str]) -> dict[str, Array]:
    return {name: np.load(folder / file, mmap_mode="r") for name, file in names.items()}
