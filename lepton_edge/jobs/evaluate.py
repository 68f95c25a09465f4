"""The job `evaluate`: one subject over labelled samples, a score a sample."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lepton_edge import errors, loading, remote, scores
from lepton_edge.samples import batch_size, batches, fingerprint, open_samples


def run(
    *,
    subject: Mapping[str, Any],
    data: Mapping[str, Any],
    out: str,
    metric: str = "top1",
    output: str | None = None,
    device: str = "cpu",
    threads: int | None = None,
    options: Mapping[str, Any] | None = None,
    on: str | None = None,
) -> dict[str, Any]:
    """Writes `Scores` to `out`. Streams: no more than a batch is held as floats."""
    samples = open_samples(data)
    measure = scores.metric(metric, output)
    with loading.load(
        loading.from_json(subject), device=device, threads=threads, options=options, on=on
    ) as session:
        remote.keep_outputs(session)
        parts, digests = [], []
        size = batch_size(session.signature)
        size = min(size, session.facts.get("largest_batch") or size)
        for batch in batches(samples, session.signature, size):
            outputs = session.run(batch.feeds)
            if batch.n < len(next(iter(batch.feeds.values()))):  # the rest is padding
                outputs = {name: value[: batch.n] for name, value in outputs.items()}
            scores.check_outputs(outputs, batch.samples)
            parts.append(measure.score(outputs, batch.samples))
            digests += [sample.digest for sample in batch.samples]
        facts = session.facts
        classes = session.artifact.classes or samples.classes
    if not parts:
        raise errors.BadInput(f"The data set {data['path']!r} is empty.")
    found = scores.Scores(
        metric=metric,
        higher_is_better=measure.higher_is_better,
        rate=measure.rate,
        fingerprint=fingerprint(digests),
        classes=tuple(classes),
        facts=facts,
        **scores.join(parts),
    )
    found.save(Path(out))
    return {"n": found.n, "fingerprint": found.fingerprint}
