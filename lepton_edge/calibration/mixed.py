"""int8 with the few layers in float that hurt most for the time they cost.

Layers are taken in the order of the noise that they cause over the time that they cost in float;
how many of them is found by few trials, the next one where the shares of noise point to.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

from lepton_edge import errors
from lepton_edge.artifact import replacing
from lepton_edge.calibration import sensitivity
from lepton_edge.calibration.dialects import Dialect
from lepton_edge.calibration.observe_onnx import Data
from lepton_edge.calibration.onnx_quantizer import Work
from lepton_edge.calibration.placement import Plan
from lepton_edge.calibration.sensitivity import Layer, Quality
from lepton_edge.calibration.tuning import Tuning
from lepton_edge.calibration.write_onnx import Quantized

T = TypeVar("T")
EVALUATIONS = 5
JUDGED = 64  # samples of an evaluation, the last of the data


def search(
    layers: Sequence[Layer], trial: Callable[[list[str]], tuple[T, Quality]], target_db: float
) -> tuple[T, dict[str, Any]]:
    """What `trial` made of the fewest layers in float that keep `target_db`, and the record.

    `trial` quantises with the named layers in float and judges the outputs; it is called at most
    EVALUATIONS times. Raises `CannotConvert` where no trial reaches `target_db`.
    """
    order = sorted(layers, key=lambda layer: (-layer.share / layer.cost_us, layer.node))
    left = [1.0]  # of the noise, after so many layers in float
    for layer in order:
        left.append(max(left[-1] - layer.share, 0.0))
    seen: dict[int, Quality] = {}
    best: list[T] = []
    least, most, kept = 0, len(order), 0
    while least < most and len(seen) < EVALUATIONS:
        made, seen[kept] = trial([layer.node for layer in order[:kept]])
        if seen[kept].sqnr_db >= target_db:
            most, best = kept, [made]
        else:
            least = kept + 1
        # The noise that is left must fall by as much as is missing, or may rise by what is spare.
        allowed = left[kept] * 10 ** ((seen[kept].sqnr_db - target_db) / 10)
        enough = next((n for n, share in enumerate(left) if share <= allowed), len(order))
        bold = least + (1 << len(seen) - 1) - 1  # the last trials must not fall short by a little
        kept = min(max(enough, bold if least else 0), most - 1)
    if not best:
        found = max(quality.sqnr_db for quality in seen.values())
        raise errors.CannotConvert(
            f"int8-mixed reaches {found:.1f} dB with up to {max(seen)} of {len(order)} layers in"
            f" float, not {target_db:g} dB.",
            next="Lower the option mixed_db, or ask for fp16 or fp32.",
        )
    return best[0], {
        "target_db": target_db,
        "kept_in_float": [layer.node for layer in order[:most]],
        "sensitivity": [asdict(layer) for layer in layers],
        "evaluations": [{"kept": n, **asdict(each)} for n, each in sorted(seen.items())],
    }


def quantize_mixed(
    model: Path,
    out: Path,
    data: Data,
    dialect: Dialect,
    options: Tuning,
    *,
    target_db: float,
    cache: Path | None = None,
) -> dict[str, Any]:
    """Writes the ONNX model with the fewest layers in float whose outputs keep `target_db` of SQNR.

    Each trial is a whole quantisation, judged on samples that nothing was fitted to;
    `record["sensitivity"]` holds the ranking, `record["evaluations"]` what each trial found. The
    rest is as for `quantize_onnx`.
    """
    work = Work(model, data, dialect, options, cache=cache)
    layers = sensitivity.rank(work)
    judge = sensitivity.Judge(work, first=max(0, work.stats.n - JUDGED), samples=JUDGED)

    def trial(kept: list[str]) -> tuple[tuple[Plan, Quantized, dict[str, Any]], Quality]:
        plan = work.plan(keep_float=kept)
        quantized, record = work.quantize(plan)
        return (plan, quantized, record), judge(work.build(plan, quantized))

    (plan, quantized, record), found = search(layers, trial, target_db)
    work.write(plan, quantized, out)
    return {**work.record(plan), **record, **found}


def quantize_tflite_mixed(
    model: Path,
    out: Path,
    data: Data,
    dialect: Dialect,
    options: Tuning,
    *,
    target_db: float,
    float_io: bool = True,
    cache: Path | None = None,
) -> dict[str, Any]:
    """The same for a .tflite file; the rest is as for `quantize_tflite`."""
    from lepton_edge.calibration import sensitivity_tflite, tflite_quantizer

    if dialect.full_integer:
        raise errors.UsageError(
            f"The dialect {dialect.name} leaves no operator in float.", next="Ask for int8."
        )
    work = tflite_quantizer.Work(model, data, dialect, options, float_io=float_io, cache=cache)
    layers = sensitivity_tflite.rank(work)
    judge = sensitivity_tflite.Judge(
        work, first=max(0, work.observed.statistics.n - JUDGED), samples=JUDGED
    )

    def trial(kept: list[str]) -> tuple[tuple[bytes, dict[str, Any]], Quality]:
        made = work.quantize(kept)
        return made, judge(made[0])

    (content, record), found = search(layers, trial, target_db)
    with replacing(out) as temporary:
        temporary.write_bytes(content)
    return {**work.record(), **record, **found}
