"""`Scores`: one number a sample, and the metrics that give it; what paired comparison needs.

A metric is `top1 top5 mae mse miou` or the user's own `file.py:function`, which takes the outputs
of one sample (a dict of arrays without the batch) and its label, and returns one number; the
function's attribute `higher_is_better` is True unless it says False.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lepton_edge import errors
from lepton_edge.artifact import replacing
from lepton_edge.model import Array
from lepton_edge.samples import Sample, load_function

SUFFIX = ".scores.npz"
MOST_CLASSES = 100  # up to here all class scores are kept, for confusion and ROC
IGNORED = 255  # the label of pixels that do not count, as in Pascal VOC


@dataclass(frozen=True)
class Scores:
    """Per-sample results of one subject on one data set, in the data's order.

    `score` is 1 or 0 for a rate of hits. `label`, `predicted` ([n], int) and `classes_scores`
    ([n, k], where k <= 100) are there for top1 and top5. `fingerprint` is that of the samples.
    """

    metric: str
    higher_is_better: bool
    rate: bool  # lies between 0 and 1, so that points make sense
    fingerprint: str
    score: Array
    label: Array | None = None
    predicted: Array | None = None
    class_scores: Array | None = None
    classes: tuple[str, ...] = ()
    facts: dict[str, Any] | None = None

    @property
    def n(self) -> int:
        return len(self.score)

    @property
    def hits(self) -> bool:
        """Whether every score is a hit or a miss."""
        return self.metric in ("top1", "top5")

    def save(self, path: Path) -> None:
        """Writes an .npz (name it *.scores.npz) that `load` reads; nothing half written."""
        arrays = {
            name: value
            for name in ("score", "label", "predicted", "class_scores")
            if (value := getattr(self, name)) is not None
        }
        text = {
            name: getattr(self, name)
            for name in ("metric", "higher_is_better", "rate", "fingerprint", "classes", "facts")
        }
        with replacing(path) as temporary, temporary.open("wb") as file:
            np.savez(file, about=np.array(json.dumps(text)), **arrays)

    @classmethod
    def load(cls, path: Path) -> Scores:
        """Raises `BadInput` for a file that `save` did not write."""
        try:
            with path.open("rb") as file, np.load(file, allow_pickle=False) as given:
                about = json.loads(str(given["about"]))
                arrays = {name: given[name] for name in given.files if name != "about"}
            return cls(**{**about, "classes": tuple(about["classes"])}, **arrays)
        except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
            raise errors.BadInput(f"{str(path)!r} holds no scores: {error}.") from None


Scored = dict[str, Array]


@dataclass(frozen=True)
class Metric:
    """`score(outputs, samples)` gives arrays, one row a sample; the key `score` is the metric."""

    name: str
    higher_is_better: bool
    rate: bool
    score: Callable[[dict[str, Array], Sequence[Sample]], Scored]


def metric(name: str, output: str | None = None) -> Metric:
    """The metric of that name, on the output `output` (needed where a model has several)."""

    def one(outputs: dict[str, Array]) -> Array:
        if output is None and len(outputs) != 1:
            raise errors.UsageError(
                f"The metric {name} needs one output, the model has {list(outputs)}.",
                next="Say which with --output-name (in Python: output=), or use file.py:function.",
            )
        if output is not None and output not in outputs:
            raise errors.unknown("output", output, outputs)
        return outputs[output] if output is not None else next(iter(outputs.values()))

    if name in ("top1", "top5"):
        most = int(name[3:])
        return Metric(name, True, True, lambda outputs, samples: _top(one(outputs), samples, most))
    if name == "mae":
        return Metric(name, False, False, lambda o, s: _distance(one(o), s, np.abs))
    if name == "mse":
        return Metric(name, False, False, lambda o, s: _distance(one(o), s, np.square))
    if name == "miou":
        return Metric(name, True, True, lambda outputs, samples: _miou(one(outputs), samples))
    path, colon, function = name.rpartition(":")
    if colon and path.endswith(".py"):
        custom = load_function(Path(path), function)
        higher = bool(getattr(custom, "higher_is_better", True))
        return Metric(name, higher, False, lambda o, s: _custom(custom, name, o, s))
    raise errors.unknown("metric", name, ("top1", "top5", "mae", "mse", "miou", "file.py:function"))


def check_outputs(outputs: dict[str, Array], samples: Sequence[Sample]) -> None:
    """Raises `GateFailed` for NaN or infinite outputs, naming the first sample."""
    for name, value in outputs.items():
        if value.ndim == 0 or len(value) != len(samples):
            raise errors.UsageError(
                f"The output {name!r} has the shape {list(value.shape)}: no row a sample.",
                next="Outputs need the batch as their first axis.",
            )
        if value.dtype.kind == "f" and not np.isfinite(value).all():
            finite = [bool(np.isfinite(row).all()) for row in value]
            where = samples[finite.index(False)].name
            raise errors.GateFailed(
                f"The output {name!r} has NaN or infinite values for {where}.",
                next="Such a model is wrong; verify it against its source.",
            )


def join(parts: Sequence[Scored]) -> Scored:
    """All parts of a stream as one."""
    return {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}


def _labels(samples: Sequence[Sample]) -> list[Any]:
    for sample in samples:
        if sample.label is None:
            raise errors.UsageError(
                f"{sample.name} has no label.", next="Accuracy needs labelled data."
            )
    return [sample.label for sample in samples]


def _top(output: Array, samples: Sequence[Sample], most: int) -> Scored:
    rows = output.reshape(len(output), *(size for size in output.shape[1:] if size != 1))
    if rows.ndim != 2:
        raise errors.UsageError(
            f"top{most} needs a row of class scores a sample, the output is {list(output.shape)}.",
            next="Choose another output or metric.",
        )
    labels = _labels(samples)
    for sample in samples:
        if not isinstance(sample.label, int):
            raise errors.UsageError(f"{sample.name} has no class index as its label.")
        if not 0 <= sample.label < rows.shape[1]:
            raise errors.BadInput(
                f"{sample.name} has the label {sample.label}, the model has"
                f" {rows.shape[1]} classes (0 to {rows.shape[1] - 1})."
            )
    label = np.array(labels, np.int64)
    own = rows[np.arange(len(rows)), label]
    # Rank by score, then by index: ties go to the lower class, as argmax does.
    above = (rows > own[:, None]).sum(1)
    ties = ((rows == own[:, None]) & (np.arange(rows.shape[1]) < label[:, None])).sum(1)
    scored = {
        "score": ((above + ties) < most).astype(np.float64),
        "label": label,
        "predicted": rows.argmax(1).astype(np.int64),
    }
    if rows.shape[1] <= MOST_CLASSES:
        scored["class_scores"] = rows.astype(np.float32)
    return scored


def _distance(output: Array, samples: Sequence[Sample], kind: Callable[[Array], Array]) -> Scored:
    values = []
    for row, sample, label in zip(output, samples, _labels(samples), strict=True):
        truth = np.squeeze(np.asarray(label, np.float64))
        value = np.squeeze(np.asarray(row, np.float64))
        if truth.shape != value.shape:
            raise errors.UsageError(
                f"{sample.name} has a label of {list(truth.shape)}, the output is"
                f" {list(value.shape)}."
            )
        values.append(float(kind(value - truth).mean()))
    return {"score": np.array(values)}


def _miou(output: Array, samples: Sequence[Sample]) -> Scored:
    """Mean over the classes present in label or prediction, a sample; 255 does not count."""
    values = []
    for row, sample, label in zip(output, samples, _labels(samples), strict=True):
        truth = np.squeeze(np.asarray(label))
        if row.ndim == truth.ndim + 1 and row.shape[1:] == truth.shape:
            found = row.argmax(0)
        elif row.ndim == truth.ndim + 1 and row.shape[:-1] == truth.shape:
            found = row.argmax(-1)
        elif row.shape == truth.shape and row.dtype.kind in "iu":
            found = row
        else:
            raise errors.UsageError(
                f"{sample.name} has a label of {list(truth.shape)}, the output is"
                f" {list(row.shape)}: neither class scores nor class indices of it."
            )
        counts = truth != IGNORED
        shares = []
        for each in np.union1d(truth[counts], found[counts]):
            mine, theirs = (found == each) & counts, (truth == each) & counts
            shares.append((mine & theirs).sum() / (mine | theirs).sum())
        if not shares:
            raise errors.BadInput(f"{sample.name} has no labelled pixel.")
        values.append(float(np.mean(shares)))
    return {"score": np.array(values)}


def _custom(
    function: Callable[..., Any], name: str, outputs: dict[str, Array], samples: Sequence[Sample]
) -> Scored:
    values = []
    for index, sample in enumerate(samples):
        try:
            value = float(function({k: v[index] for k, v in outputs.items()}, sample.label))
        except Exception as error:
            raise errors.BadInput(
                f"{name!r} raised {type(error).__name__} for {sample.name}: {error}."
            ) from error
        if not np.isfinite(value):
            raise errors.BadInput(f"{name!r} gave {value} for {sample.name}.")
        values.append(value)
    return {"score": np.array(values)}
