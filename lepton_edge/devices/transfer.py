"""Latency on a device from a measurement on its sibling: tier `transferred`.

The two devices' latencies go together as a power law, t = factor * t_sibling ** exponent, learned
by benchmarks/fit_transfer.py from networks that were published on both. With the model's file the
ratio is that of its estimates on the two devices instead (what an estimate misses about a network
it mostly misses on both). The interval is made of the errors on families (or, with one family,
networks) that were left out.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path

from lepton_edge import errors
from lepton_edge.devices._cost import cost
from lepton_edge.devices._profile import Profile
from lepton_edge.devices.estimate import LEVEL, Estimate, general_features


@dataclass(frozen=True)
class ByModel:
    """The rest of the ratio beyond that of a model's two estimates; errors as in `Transfer`."""

    factor: float
    log_error: float
    median_error: float
    rows: int
    families: tuple[str, ...]


@dataclass(frozen=True)
class Transfer:
    """`log_error` is the quantile LEVEL of |ln(predicted / published)| on what was left out."""

    factor: float
    exponent: float
    log_error: float
    median_error: float
    rows: int
    families: tuple[str, ...]
    range_ms: tuple[float, float]
    source: str
    by_model: ByModel | None = None


@dataclass(frozen=True)
class Measurement:
    """A measured latency: batch 1, milliseconds, p50; `board` is the device's own name."""

    path: str
    model: str
    precision: str
    p50_ms: float
    board: str | None


def read(path: str | Path) -> Measurement:
    """What `lepton-edge benchmark --json` printed. Raises `BadInput` where it is something else."""
    name = str(path)
    try:
        found = json.loads(Path(path).read_bytes())
        measured = Measurement(
            path=name,
            model=str(found["artifact"]["path"]),
            precision=str(found["artifact"]["precision"]),
            p50_ms=float(found["latency"]["p50_ms"]),
            board=((found.get("context") or {}).get("board") or {}).get("model"),
        )
        batch = int(found["latency"]["batch"])
    except OSError as error:
        raise errors.BadInput(f"Cannot read {name!r}: {error.strerror}.") from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise errors.BadInput(
            f"{name!r} is no measurement.",
            next="Give what lepton-edge benchmark MODEL --json printed.",
        ) from None
    if batch != 1 or not (math.isfinite(measured.p50_ms) and measured.p50_ms > 0):
        raise errors.BadInput(
            f"{name!r} was measured with batch {batch} and p50 {measured.p50_ms} ms.",
            next="Measure with batch 1.",
        )
    return measured


def board_name(measured: Measurement, known: list[str]) -> str:
    """The profile whose name's words are all in what the board calls itself, the longest one."""
    words = set((measured.board or "").lower().replace("-", " ").split())
    fits = [name for name in known if set(name.split("-")) <= words]
    if not fits:
        raise errors.UsageError(
            f"{measured.path!r} does not say on which device it was measured"
            + (f" (it says {measured.board!r})." if measured.board else "."),
            next="Name it: --measured-on DEVICE.",
        )
    return max(fits, key=len)


def predict(
    measured: Measurement,
    sibling: Profile,
    profile: Profile,
    precision: str | None = None,
    model: str | Path | None = None,
) -> Estimate:
    """The latency on `profile` of what was measured on `sibling`, in the same precision.

    `model`, its .onnx or .tflite file, makes the errors smaller. Raises `UsageError` where no
    networks were published on both devices in that precision.
    """
    from lepton_edge.devices._fitted import FITS
    from lepton_edge.devices._transfers import TRANSFERS

    form = precision or measured.precision
    if form != measured.precision:
        raise errors.UsageError(
            f"{measured.path!r} was measured in {measured.precision}, not in {form}.",
            next="A measurement is transferred in its own precision.",
        )
    learned = TRANSFERS.get((sibling.name, profile.name, form))
    if learned is None:
        known = ", ".join(f"{a} to {b} {p}" for a, b, p in sorted(TRANSFERS))
        raise errors.UsageError(
            f"Nothing was learned about {form} from {sibling.name} to {profile.name}.",
            next=f"Known are {known}.",
        )
    used: Transfer | ByModel = learned
    if model is None:
        latency = learned.factor * measured.p50_ms**learned.exponent
    elif learned.by_model is None:
        raise errors.UsageError(
            f"From {sibling.name} to {profile.name} in {form} too few networks are known to make "
            "use of the model.",
            next="Leave the model out.",
        )
    else:
        used, features = learned.by_model, general_features(cost(model))
        here, there = (FITS[each.name, form].latency_ms(features) for each in (sibling, profile))
        latency = used.factor * measured.p50_ms * there / here
    spread = math.exp(used.log_error)
    low, high = learned.range_ms
    return Estimate(
        device=profile.name,
        precision=form,
        latency_ms=latency,
        interval_ms=(latency / spread, latency * spread),
        tier="transferred",
        level=LEVEL,
        basis={
            "source": learned.source,
            "rows": used.rows,
            "families": list(used.families),
            "median_error_left_out": used.median_error,
            "measured_on": sibling.name,
            "measured_ms": measured.p50_ms,
            "ratio": latency / measured.p50_ms,
            "inside_learned_range": low <= measured.p50_ms <= high,
            **({} if model is None else {"read_from": str(model)}),
        },
    )
