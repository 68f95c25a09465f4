"""The job `benchmark`: the protocol of `lepton_edge.timing` on one subject."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from lepton_edge import errors, loading, remote, sources, timing
from lepton_edge.artifact import Artifact
from lepton_edge.model import Array, Signature, random_feeds
from lepton_edge.samples import batch_size, batches, limit, open_samples
from lepton_edge.session import Session

FEEDS = 8  # distinct inputs, in rotation
RANDOM = "random input (seeded)"


def run(
    *,
    subject: Mapping[str, Any],
    runs: int,
    seconds: float,
    warmup_s: float = 1.0,
    out: str,
    data: Mapping[str, Any] | None = None,
    device: str = "cpu",
    threads: int | None = None,
    options: Mapping[str, Any] | None = None,
    on: str | None = None,
    with_energy: bool = False,
    there: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Measures at least `runs` runs and `seconds`; every run's nanoseconds go to `out` (.npy).

    `there` has the limits of the process on the device `on`: `limit_s` and `memory_mb`.
    """
    artifact = loading.from_json(subject)
    given = options or {}
    if on is not None:
        feeds: list[dict[str, Array]] = []
        text = RANDOM
        if data is not None:
            remote.needs_outputs(on)
            signature = artifact.signature
            if signature is None:
                with loading.load(artifact, device=device, options=given, on=on) as session:
                    signature = session.signature
            feeds, text = _inputs(artifact, signature, data)
        found, taken = remote.benchmark(
            artifact,
            on,
            feeds,
            device=device,
            threads=threads,
            given=given,
            runs=runs,
            seconds=seconds,
            warmup_s=warmup_s,
            with_energy=with_energy,
            limits=there or {"limit_s": 1800.0, "memory_mb": None},
        )
        np.save(out, taken)
        if "blocks" in found:
            text = "random input of benchmark_model"
        return {**found, "inputs": text}
    where: list[str] = []

    def inputs(session: Session) -> list[dict[str, Array]]:
        feeds, text = _inputs(artifact, session.signature, data)
        where.append(text)
        return feeds

    found, taken = timing.timed(
        lambda: loading.load(artifact, device=device, threads=threads, options=given),
        inputs,
        runs=runs,
        seconds=seconds,
        warmup_s=warmup_s,
        with_energy=with_energy,
    )
    np.save(out, taken)
    return {**found, "inputs": where[0]}


def _inputs(
    artifact: Artifact, signature: Signature, data: Mapping[str, Any] | None
) -> tuple[list[dict[str, Array]], str]:
    """A few batches, made before anything is timed, and where they came from."""
    batch = batch_size(signature, 1)
    if data is not None:
        samples = limit(open_samples(data), FEEDS * batch, seed=None)
        found = [
            item.feeds
            for item in batches(samples, signature, batch)
            if len(next(iter(item.feeds.values()))) == batch
        ]
        if not found:
            raise errors.UsageError(f"The data has fewer samples than one batch of {batch}.")
        return found, f"{data['path']}, {len(found)} batches in rotation"
    if artifact.model is not None:
        return [dict(sources.load(artifact.model).example(batch))], "example input (seeded)"
    return [random_feeds(signature.inputs, batch)], RANDOM
