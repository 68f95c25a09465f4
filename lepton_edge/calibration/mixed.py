"""int8 with the few layers in float that hurt most for the time they cost.

Layers are taken in the order of the noise that they cause over the time that they cost in float;
how many of them is found by few trials, the next one where the shares of noise point to.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from lepton_edge import errors
from lepton_edge.calibration import sensitivity
from lepton_edge.calibration.dialects import Dialect
from lepton_edge.calibration.observe_onnx import Data
from lepton_edge.calibration.onnx_quantizer import Work
from lepton_edge.calibration.placement import Plan
from lepton_edge.calibration.tuning import Tuning
from lepton_edge.calibration.write_onnx import Quantized

EVALUATIONS = 5
JUDGED = 64  # samples of an evaluation, the last of the data


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
    """Writes the model with the fewest layers in float whose outputs keep `target_db` of SQNR.

    Each of the at most EVALUATIONS trials is a whole quantisation, judged on samples that nothing
    was fitted to; `record["sensitivity"]` holds the ranking, `record["evaluations"]` what each
    trial found. The rest is as for `quantize_onnx`. Raises `CannotConvert` where no trial reaches
    `target_db`.
    """
    work = Work(model, data, dialect, options, cache=cache)
    layers = sensitivity.rank(work)
    order = sorted(layers, key=lambda layer: (-layer.share / layer.cost_us, layer.node))
    judge = sensitivity.Judge(work, first=max(0, work.stats.n - JUDGED), samples=JUDGED)
    left = [1.0]  # of the noise, after so many layers in float
    for layer in order:
        left.append(max(left[-1] - layer.share, 0.0))
    seen: dict[int, sensitivity.Quality] = {}
    least, most, kept = 0, len(order), 0
    best: tuple[Plan, Quantized, dict[str, Any]] | None = None
    while least < most and len(seen) < EVALUATIONS:
        plan = work.plan(keep_float=[layer.node for layer in order[:kept]])
        quantized, record = work.quantize(plan)
        seen[kept] = judge(work.build(plan, quantized))
        if seen[kept].sqnr_db >= target_db:
            most, best = kept, (plan, quantized, record)
        else:
            least = kept + 1
        # The noise that is left must fall by as much as is missing, or may rise by what is spare.
        allowed = left[kept] * 10 ** ((seen[kept].sqnr_db - target_db) / 10)
        enough = next((n for n, share in enumerate(left) if share <= allowed), len(order))
        bold = least + (1 << len(seen) - 1) - 1  # the last trials must not fall short by a little
        kept = min(max(enough, bold if least else 0), most - 1)
    if best is None:
        found = max(quality.sqnr_db for quality in seen.values())
        raise errors.CannotConvert(
            f"int8-mixed reaches {found:.1f} dB with up to {max(seen)} of {len(order)} layers in"
            f" float, not {target_db:g} dB.",
            next="Lower the option mixed_db, or ask for fp16 or fp32.",
        )
    plan, quantized, record = best
    work.write(plan, quantized, out)
    return {
        **work.record(plan),
        **record,
        "target_db": target_db,
        "kept_in_float": [layer.node for layer in order[:most]],
        "sensitivity": [asdict(layer) for layer in layers],
        "evaluations": [{"kept": n, **asdict(each)} for n, each in sorted(seen.items())],
    }
