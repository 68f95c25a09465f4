"""How much of the MACs must go for a latency that was asked for: found by a few measurements."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lepton_edge import errors, jobs, latency
from lepton_edge.conversion import convert
from lepton_edge.model import ModelSource
from lepton_edge.remote import Address

TRIALS = 5
MOST = 0.95  # of the MACs


def ratio_for(
    source: ModelSource,
    options: Mapping[str, Any],
    share: float,
    format: str,
    *,
    window: str,
    threads: int | None,
    on: str | None = None,
) -> dict[str, Any]:
    """The least share of MACs to remove so that p50 in `format`, float32, falls by `share`.

    Each trial prunes without training (weights do not change the time of dense kernels), converts
    and measures, on the device at the address `on` or this machine. Returns `ratio`, the p50 before
    in ms, and every trial. Raises `CannotConvert` where no trial is fast enough, with the fastest.
    """
    if not 0 < share < 1:
        raise errors.UsageError(
            f"Pruning cannot remove {share:g} of the latency.",
            next="Give a ratio between 0 and 1, such as 0.5.",
        )
    trials: list[dict[str, float]] = []
    with tempfile.TemporaryDirectory(prefix="lepton-edge-") as place:
        folder = Path(place)

        def p50(model: ModelSource, name: str) -> float:
            made = convert(model, to=format, output=folder / name)
            found = latency.benchmark(made.folder, window=window, threads=threads, on=on)
            return found.latency.p50_ms

        before = p50(source, "before")
        low, high, best = 0.0, MOST, None
        for number in range(TRIALS):
            ratio = (low + high) / 2
            try:
                done = jobs.call(
                    "compress", name="prune", source=source.as_dict(),
                    options={**options, "ratio": ratio}, training={}, samples=None,
                    out=str(folder / f"pruned{number}"), work=str(folder / f"work{number}"),
                )  # fmt: skip
            except errors.CannotConvert:
                high = ratio  # so much cannot be removed at all
                continue
            time = p50(ModelSource.from_dict(done["source"]), f"trial{number}")
            trials.append({"macs_removed": ratio, "p50_ms": time})
            if time <= (1 - share) * before:
                high, best = ratio, ratio
            else:
                low = ratio
    if best is None:
        fastest = min((each["p50_ms"] for each in trials), default=before)
        raise errors.CannotConvert(
            f"No pruning of this model makes it {100 * share:.0f} % faster in {format}: the fastest"
            f" of {len(trials)} trials takes {fastest:.3g} ms, the model {before:.3g} ms.",
            next="Ask for less, or distil into a smaller student.",
        )
    return {
        "ratio": best, "format": format, "on": on and str(Address.parse(on)),
        "before_p50_ms": before, "trials": trials,
    }  # fmt: skip
