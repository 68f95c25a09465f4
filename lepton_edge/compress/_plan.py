"""What a training is going to do and what it did, for both frameworks' loops."""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from lepton_edge import errors
from lepton_edge.compress import _checkpoint
from lepton_edge.compress._data import Source, Table
from lepton_edge.compress._events import Events
from lepton_edge.compress._training import Training

PROGRESS = "progress.jsonl"


@dataclass
class Result:
    """What a training did: `losses` are of every step, `best` is the least held-out loss."""

    steps: int = 0
    epochs: int = 0
    losses: list[float] = field(default_factory=list)
    best: float | None = None
    stopped_early: bool = False
    resumed_at: int | None = None
    processes: int = 1

    def as_dict(self) -> dict[str, Any]:
        found = asdict(self)
        losses = found.pop("losses")
        found["first_loss"], found["last_loss"] = losses[0], float(np.mean(losses[-20:]))
        return found


@dataclass(frozen=True)
class Plan:
    """The data that is trained on and what is held out of it, in batches and steps.

    `key` is what a checkpoint belongs to: what is trained, the data and the settings.
    """

    data: Source
    held: Table | None
    batch: int
    per_epoch: int
    total: int
    key: str

    @classmethod
    def of(cls, data: Source, training: Training, key: str) -> Plan:
        """`key` names what is trained."""
        held = None
        if training.holdout:
            if not isinstance(data, Table):
                raise errors.UsageError("Holding out samples needs Samples, not a DataLoader.")
            data, held = data.split(training.holdout, training.seed)
        batch = min(training.batch, len(data)) if isinstance(data, Table) else training.batch
        per_epoch = data.steps(batch)
        settings = json.dumps(asdict(training), sort_keys=True)
        whole = hashlib.sha256(f"{key}\0{data.key}\0{settings}".encode()).hexdigest()
        total = training.steps or training.epochs * per_epoch
        return cls(data, held, batch, per_epoch, total, whole)

    @property
    def epochs(self) -> int:
        """Epochs that are begun."""
        return -(-self.total // self.per_epoch)


class Log:
    """TensorBoard's events and the lines of progress of a training in the folder `work`."""

    def __init__(self, work: Path, total: int, start: int) -> None:
        work.mkdir(parents=True, exist_ok=True)
        self.work, self.total, self.start, self.began = work, total, start, time.monotonic()
        self.events = Events(work / "logs", purge=start if start else None)

    def step(self, step: int, losses: Sequence[float], **values: float) -> None:
        """`losses` are the recent ones; `values` are accuracy, learning_rate and sparsity."""
        loss = float(np.mean(losses))
        self.add(step, **{f"train/{key}": each for key, each in (("loss", loss), *values.items())})
        seconds = time.monotonic() - self.began
        line = {
            "step": step,
            "steps": self.total,
            "loss": round(loss, 6),
            "accuracy": round(values["accuracy"], 4),
            "steps_per_s": round((step - self.start) / max(seconds, 1e-9), 3),
        }
        with (self.work / PROGRESS).open("a") as file:
            file.write(json.dumps(line) + "\n")

    def held_out(self, step: int, loss: float, accuracy: float) -> None:
        self.add(step, **{"held-out/loss": loss, "held-out/accuracy": accuracy})

    def add(self, step: int, **scalars: float) -> None:
        self.events.add(step, **scalars)

    def close(self) -> None:
        self.events.close()


def refuse_not_finite(loss: float, step: int, total: int, rate: float, work: Path) -> None:
    """`UsageError` for the loss of the step that follows `step`, where it is no number."""
    if math.isfinite(loss):
        return
    kept = _checkpoint.existing(work)
    raise errors.UsageError(
        f"The loss became {loss} at step {step + 1} of {total} (learning rate {rate:.3g}).",
        next="No checkpoint had been written yet; try a smaller lr."
        if kept is None
        else f"The last good checkpoint is kept at {str(kept)!r}; try a smaller lr.",
    )


def weights_not_finite(step: int, total: int) -> errors.UsageError:
    return errors.UsageError(
        f"The weights were no longer finite at step {step} of {total}.",
        next="The checkpoint before it is kept; try a smaller lr.",
    )


def out_of_memory(batch: int) -> errors.WorkerFailed:
    return errors.WorkerFailed(
        f"Training ran out of memory with batches of {batch}.",
        next="Give a smaller batch, or bf16.",
    )


def improved(result: Result, loss: float, patience: int | None, since: int) -> int:
    """Epochs since the best held-out loss, this one's being `loss`; says in `result` when to stop.

    0 means that it is the best.
    """
    if result.best is None or loss < result.best:
        result.best = loss
        return 0
    result.stopped_early = patience is not None and since + 1 >= patience
    return since + 1


def mean(parts: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The mean of `loss` and `accuracy` over batches of `rows` samples."""
    rows = sum(each["rows"] for each in parts)
    return {
        key: sum(each[key] * each["rows"] for each in parts) / rows for key in ("loss", "accuracy")
    }
