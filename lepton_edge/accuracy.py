"""`evaluate`: a metric on real data, and the paired drop against a baseline.

`score` runs one subject and gives its `Scores`; `judge` turns one or two of them into an
`Accuracy`. So a table evaluates its baseline once and pairs every row with it.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lepton_edge import errors, intervals, jobs, loading
from lepton_edge.loading import Subject
from lepton_edge.measurement import Accuracy, ClassResult, Interval, Roc
from lepton_edge.model import Array
from lepton_edge.preprocess import Preprocess
from lepton_edge.samples import Samples, open_samples
from lepton_edge.samples import limit as take
from lepton_edge.scores import MOST_CLASSES, SUFFIX, Scores

# Percentile intervals of fewer samples are too narrow to rest a verdict on (Efron & Tibshirani,
# 1993, ch. 13); rates of hits have a correction of their own.
LEAST_FOR_VERDICT = 30


def evaluate(
    subject: Subject,
    data: str | Path | Samples,
    *,
    metric: str = "top1",
    output: str | None = None,
    baseline: Subject | Scores | None = None,
    max_drop: str | None = None,
    preprocess: Preprocess | None = None,
    limit: int | None = None,
    device: str = "cpu",
    threads: int | None = None,
    options: Mapping[str, Any] | None = None,
    on: str | None = None,
    seed: int = 0,
    time_limit_s: float = 3600.0,
    memory_limit_mb: int | None = None,
) -> Accuracy:
    """`metric` of `subject` on `data`, and its drop against `baseline` on the same samples.

    Raw samples go through `preprocess`, else the subject's own, else the other's.
    `max_drop` is the budget: `1pt` (points, for rates) or `1%` (of the baseline's value).
    `baseline` may be `Scores`, or the path of a *.scores.npz, instead of a subject to run; a
    subject runs on the CPU with its runtime's own options. `limit` draws that many samples with
    `seed`; `output` names the output where there are several. `on` runs the subject, an artefact,
    on another machine (`ssh://user@host[:port]`); the baseline and the metric are computed here.
    """
    if max_drop is not None:
        if baseline is None:
            raise errors.UsageError("A budget for the drop needs a baseline to compare with.")
        budget(max_drop, 1.0, rate=True)  # its form, before anything runs
    others = () if baseline is None or isinstance(baseline, Scores) else (baseline,)

    def prepared(*subjects: Subject) -> Samples:
        samples = loading.prepare(open_samples(data, preprocess=preprocess), *subjects)
        return samples if limit is None else take(samples, limit, seed=seed)

    job: dict[str, Any] = {
        "metric": metric,
        "output": output,
        "threads": threads,
        "time_limit_s": time_limit_s,
        "memory_limit_mb": memory_limit_mb,
    }
    reference = None
    if isinstance(baseline, Scores):
        reference = baseline
    elif baseline is not None and str(baseline).endswith(SUFFIX):
        reference = Scores.load(Path(str(baseline)))
    elif baseline is not None:
        reference = score(baseline, prepared(baseline, subject), **job)
    found = score(subject, prepared(subject, *others), device=device, options=options, on=on, **job)
    return judge(found, reference, max_drop=max_drop, seed=seed)


def score(
    subject: Subject,
    data: str | Path | Samples,
    *,
    metric: str = "top1",
    output: str | None = None,
    device: str = "cpu",
    threads: int | None = None,
    options: Mapping[str, Any] | None = None,
    on: str | None = None,
    time_limit_s: float = 3600.0,
    memory_limit_mb: int | None = None,
) -> Scores:
    """Per-sample scores of one subject, from a process of its own. `Scores.save` keeps them."""
    with tempfile.TemporaryDirectory(prefix="lepton-edge-") as folder:
        out = Path(folder, f"result{SUFFIX}")
        jobs.call(
            "evaluate",
            subject=loading.as_json(subject),
            data=open_samples(data).as_dict(),
            out=str(out),
            metric=metric,
            output=output,
            device=device,
            threads=threads,
            options=dict(options or {}),
            on=on,
            time_limit_s=time_limit_s,
            memory_limit_mb=memory_limit_mb,
        )
        return Scores.load(out)


def judge(
    found: Scores, baseline: Scores | None = None, *, max_drop: str | None = None, seed: int = 0
) -> Accuracy:
    """The metric with its interval and, with a baseline, the paired drop and its verdict.

    PASS only where the interval's worse end is inside the budget, FAIL(accuracy) where its better
    end is outside; else UNDECIDED, with the samples that would decide (`samples_to_decide`).
    """
    value = float(found.score.mean())
    interval = (
        intervals.wilson(int(found.score.sum()), found.n)
        if found.hits
        else intervals.bootstrap_mean(found.score, seed=seed)
    )
    drop = drop_interval = p_value = status = None
    if baseline is not None:
        _same_samples(found, baseline)
        drop, drop_interval, deviation = _drop(found, baseline, seed)
        if found.hits:
            p_value = intervals.mcnemar(*_discordant(found.score, baseline.score))
        if max_drop is not None:
            allowed = budget(max_drop, float(baseline.score.mean()), rate=found.rate)
            few = not found.hits and found.n < LEAST_FOR_VERDICT
            status = verdict(drop, drop_interval, deviation, allowed, found.n, few=few)
    return Accuracy(
        metric=found.metric,
        value=value,
        interval=interval,
        n=found.n,
        higher_is_better=found.higher_is_better,
        drop=drop,
        drop_interval=drop_interval,
        p_value=p_value,
        status=status,
        max_drop=max_drop,
        per_class=_per_class(found, baseline, seed),
        confusion=_confusion(found),
        roc=_rocs(found),
    )


def budget(text: str, baseline: float, *, rate: bool) -> float:
    """`1pt` is 0.01 of a rate; `1%` is 0.01 of the baseline's value."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*(pt|%)\s*", text)
    if match is None:
        raise errors.UsageError(
            f"Cannot read the budget {text!r}.", next="Write 1pt (points) or 1% (of the baseline)."
        )
    size = float(match[1]) / 100
    if match[2] == "%":
        return size * abs(baseline)
    if not rate:
        raise errors.UsageError(
            "A budget in points is for rates (top1, top5, miou).", next="Write 1% instead."
        )
    return size


def verdict(
    drop: float, interval: Interval, deviation: float, allowed: float, n: int, *, few: bool = False
) -> str:
    """PASS, FAIL(accuracy) or UNDECIDED(needs n=...)."""
    if few:
        return f"UNDECIDED(needs n={LEAST_FOR_VERDICT})"
    if interval[1] <= allowed:
        return "PASS"
    if interval[0] > allowed:
        return "FAIL(accuracy)"
    needed = intervals.samples_to_decide(drop, deviation, allowed)
    if needed is None:
        return f"UNDECIDED(needs n>{intervals.MOST_SAMPLES:,})"
    return f"UNDECIDED(needs n={max(needed, n + 1):,})"


def _same_samples(found: Scores, baseline: Scores) -> None:
    if found.metric != baseline.metric:
        raise errors.UsageError(
            f"The baseline was scored by {baseline.metric}, this by {found.metric}."
        )
    ours, theirs = found.label, baseline.label
    relabelled = ours is not None and theirs is not None and not np.array_equal(ours, theirs)
    if found.fingerprint != baseline.fingerprint or relabelled:
        raise errors.UsageError(
            "The baseline was not evaluated on the same samples in the same order.",
            next="Evaluate both on one data set.",
        )


def _discordant(score: Array, baseline: Array) -> tuple[int, int]:
    """Only the baseline was right, only this one was right."""
    return int(((baseline == 1) & (score == 0)).sum()), int(((baseline == 0) & (score == 1)).sum())


def _drop(found: Scores, baseline: Scores, seed: int) -> tuple[float, Interval, float]:
    """Mean paired drop (positive is worse), its interval, and the deviation of one sample's."""
    differences = baseline.score - found.score
    if not found.higher_is_better:
        differences = -differences
    drop = float(differences.mean())
    if found.hits:
        lost, won = _discordant(found.score, baseline.score)
        interval = intervals.bootstrap_paired_rate(lost, won, found.n, seed=seed)
        total = found.n + 2  # with the half counts that the interval has
        return drop, interval, float(np.sqrt((lost + won + 1) / total - drop * drop))
    return drop, intervals.bootstrap_mean(differences, seed=seed), float(differences.std())


def _name(classes: Sequence[str], index: int) -> str:
    return classes[index] if index < len(classes) else str(index)


def _per_class(found: Scores, baseline: Scores | None, seed: int) -> tuple[ClassResult, ...]:
    """Each class that occurs; the largest drop first, or the lowest value without a baseline."""
    if found.label is None:
        return ()
    results = []
    for index in np.unique(found.label).tolist():
        mine = found.label == index
        n = int(mine.sum())
        drop = interval = None
        if baseline is not None:
            lost, won = _discordant(found.score[mine], baseline.score[mine])
            drop = 100 * (lost - won) / n
            low, high = intervals.bootstrap_paired_rate(lost, won, n, seed=seed)
            interval = (100 * low, 100 * high)
        value = float(found.score[mine].mean())
        results.append(ClassResult(_name(found.classes, index), n, value, drop, interval))
    return tuple(sorted(results, key=lambda each: (-(each.drop or 0.0), each.value)))


def _confusion(found: Scores) -> tuple[tuple[int, ...], ...]:
    if found.label is None or found.predicted is None or found.class_scores is None:
        return ()
    k = found.class_scores.shape[1]
    counts = np.zeros((k, k), np.int64)
    np.add.at(counts, (found.label, found.predicted), 1)
    return tuple(map(tuple, counts.tolist()))


def _rocs(found: Scores) -> tuple[Roc, ...]:
    """Each class against the rest by its own score as given; two classes have one curve."""
    if found.label is None or found.class_scores is None:
        return ()
    k = found.class_scores.shape[1]
    assert k <= MOST_CLASSES
    curves = []
    for index in range(1, 2) if k == 2 else range(k):
        positive = found.label == index
        if positive.all() or not positive.any():
            continue
        false, true, area = intervals.roc(found.class_scores[:, index], positive)
        false, true = intervals.thin(false, true)
        points = (tuple(false.tolist()), tuple(true.tolist()))
        curves.append(Roc(_name(found.classes, index), area, *points))
    return tuple(curves)
