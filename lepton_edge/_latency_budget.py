"""Pruning for a latency: what each layer takes there, and the share of it that must go.

A layer's time is learned from a few prunings: each group of channels is halved alone, and what the
model is then faster is shared out among the layers that became smaller. So a layer that is bound by
its weights, or that runs badly on the device, costs what it takes there and not what it computes.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lepton_edge import errors, jobs, latency
from lepton_edge.conversion import convert
from lepton_edge.model import ModelSource
from lepton_edge.remote import Address
from lepton_edge.samples import Samples

if TYPE_CHECKING:
    from lepton_edge.devices.estimate import Estimate

TRIALS = 5
MOST = 0.95  # of the latency
PRIOR = 0.01  # the pull to equal times a MAC: it decides only what no pruning told


@dataclass(frozen=True)
class Measured:
    """p50 in `format`, float32, on the device at the address `on` or this machine."""

    format: str
    window: str
    threads: int | None = None
    on: str | None = None

    def ms(self, source: ModelSource, folder: Path) -> float:
        made = convert(source, to=self.format, output=folder)
        found = latency.benchmark(made.folder, window=self.window, threads=self.threads, on=self.on)
        return found.latency.p50_ms

    def as_dict(self) -> dict[str, Any]:
        return {"format": self.format, "on": self.on and str(Address.parse(self.on))}

    def __str__(self) -> str:
        return self.format


@dataclass(frozen=True)
class Estimated:
    """What `devices predict` says of a device that is not there; see `devices.estimate`.

    The Edge TPU's needs an int8 file, made with the ranges of `calib`.
    """

    device: str
    precision: str
    calib: Samples | None = None

    def estimate(self, source: ModelSource) -> Estimate:
        from lepton_edge import devices

        profile = devices.load(self.device)
        chosen: dict[str, Any] = {"to": "onnx"}
        if profile.kind == "edgetpu":
            if self.calib is None:
                raise errors.UsageError(
                    f"An estimate for {self.device} is of an int8 file, whose ranges need samples.",
                    next="Give --train.",
                )
            chosen = {"to": "tflite", "precision": "int8", "calib": self.calib}
        with tempfile.TemporaryDirectory(prefix="lepton-edge-") as folder:
            made = convert(source, output=Path(folder, "made"), verify=False, **chosen)
            return devices.predict(made.path, profile, self.precision)

    def ms(self, source: ModelSource, folder: Path) -> float:
        return self.estimate(source).latency_ms

    def as_dict(self) -> dict[str, Any]:
        return {"device": self.device, "precision": self.precision}

    def __str__(self) -> str:
        return f"{self.device} {self.precision}, estimated"


def ratio_for(
    source: ModelSource,
    options: Mapping[str, Any],
    share: float,
    clock: Measured | Estimated,
    samples: Samples | None = None,
) -> dict[str, Any]:
    """How to prune so that the latency falls by `share`: options of `Prune`, and what was timed.

    `samples` are those that the pruning itself is given. Nothing is trained (weights do not change
    the time of dense kernels). One pruning for each group of channels gives the layers' times; then
    a few trials find the least share of the sum that is fast enough when timed. Returns `options`
    for `Prune`, `before_p50_ms`, `layers_ms` and `trials`. Raises `CannotConvert` where no trial is
    fast enough, with the fastest.
    """
    if not 0 < share < 1:
        raise errors.UsageError(
            f"Pruning cannot remove {share:g} of the latency.",
            next="Give a ratio between 0 and 1, such as 0.5.",
        )
    plain = {key: value for key, value in options.items() if key not in ("ratio", "cost")}
    found = jobs.call("prunable", source=source.as_dict(), options={**plain, "ratio": share})
    groups, macs, round_to = found["groups"], found["macs"], found["round_to"]
    given = None if samples is None else samples.as_dict()
    needed = given if plain.get("importance") == "taylor" else None  # else half of a group is half
    trials: list[dict[str, float]] = []
    with tempfile.TemporaryDirectory(prefix="lepton-edge-") as place:
        folder = Path(place)

        def pruned(number: str, some: Any, **how: Any) -> tuple[ModelSource, dict[str, float]]:
            done = jobs.call(
                "compress", name="prune", source=source.as_dict(), training={}, samples=some,
                options={**plain, **how, "recover": False}, out=str(folder / f"pruned{number}"),
                work=str(folder / f"work{number}"),
            )  # fmt: skip
            return ModelSource.from_dict(done["source"]), done["record"]["layer_macs"]

        before = clock.ms(source, folder / "before")
        faster, smaller = [], []
        for index, (layer, size) in enumerate(groups.items()):
            half = max(round_to, -(-size // (2 * round_to)) * round_to)
            made, less = pruned(f"-{index}", needed, channels=[f"{layer}:{half}"])
            smaller.append([1 - less[name] / macs[name] for name in macs])
            faster.append(before - clock.ms(made, folder / f"half{index}"))
        times = layer_times(before, list(macs.values()), smaller, faster)
        prices = [f"{name}:{time / macs[name]!r}" for name, time in zip(macs, times, strict=True)]
        how = {"cost": "latency", "prices": prices, "fixed_ms": max(0.0, before - sum(times))}
        low, high, best = 0.0, MOST, None
        for number in range(TRIALS):
            ratio = share if number == 0 else (low + high) / 2
            try:
                made, _ = pruned(str(number), given, ratio=ratio, **how)
            except errors.CannotConvert:
                high = ratio  # so much cannot be removed at all
                continue
            time = clock.ms(made, folder / f"trial{number}")
            trials.append({"removed": ratio, "p50_ms": time})
            if time <= (1 - share) * before:
                high, best = ratio, ratio
            else:
                low = ratio
    if best is None:
        fastest = min((each["p50_ms"] for each in trials), default=before)
        raise errors.CannotConvert(
            f"No pruning of this model makes it {100 * share:.0f} % faster ({clock}): the fastest"
            f" of {len(trials)} trials takes {fastest:.3g} ms, the model {before:.3g} ms.",
            next="Ask for less, or distil into a smaller student.",
        )
    return {
        "options": {**how, "ratio": best}, **clock.as_dict(), "before_p50_ms": before,
        "layers_ms": dict(zip(macs, times, strict=True)), "trials": trials,
    }  # fmt: skip


def layer_times(
    before: float,
    macs: Sequence[float],
    smaller: Sequence[Sequence[float]],
    faster: Sequence[float],
) -> list[float]:
    """Milliseconds of each layer, none negative, their sum at most `before`.

    `smaller[p][l]` is the share of its MACs that layer l lost in pruning p, which made the model
    `faster[p]` milliseconds faster. Least squares with a weak pull to equal times a MAC, solved by
    coordinate descent within the bounds (Lawson and Hanson 1974's problem with a ridge).
    """
    wanted, gone = np.asarray(faster), np.asarray(smaller).reshape(len(faster), len(macs))
    prior = before * np.asarray(macs) / max(float(np.sum(macs)), 1e-12)
    times = prior.copy()
    curvature = (gone**2).sum(0) + PRIOR
    for _ in range(2000):
        for layer in range(len(times)):
            slope = gone[:, layer] @ (gone @ times - wanted) + PRIOR * (times - prior)[layer]
            times[layer] = max(0.0, times[layer] - slope / curvature[layer])
    total = float(times.sum())
    result: list[float] = (times * min(1.0, before / max(total, 1e-12))).tolist()
    return result
