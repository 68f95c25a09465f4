"""The job `infer`: one subject over samples, every output kept, a row a sample."""

from __future__ import annotations

import gc
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from lepton_edge import errors, loading, remote, sources
from lepton_edge.model import ModelSource
from lepton_edge.samples import batch_size, batches, limit, open_samples

EXAMPLES = "inputs.npz"
MOST = 32  # rows at once, where any number goes


def run(
    *,
    subject: Mapping[str, Any],
    out: str,
    n: int,
    data: Mapping[str, Any] | None = None,
    examples: Mapping[str, Any] | None = None,
    batch: int | None = None,
    device: str = "cpu",
    threads: int | None = None,
    options: Mapping[str, Any] | None = None,
    on: str | None = None,
) -> dict[str, Any]:
    """Writes one .npy an output into the folder `out`: [n, ...], written row by row.

    `data` is a data set as text, of which `n` samples are drawn (seeded). Without it, `examples`
    is the model's source whose seeded example inputs are used; they are kept in `inputs.npz`, so
    that another subject can be given the same. `batch` is for a subject that takes any.
    """
    folder = Path(out)
    if data is None and examples is None:
        raise errors.UsageError("There is nothing to infer on.", next="Give data or examples.")
    with loading.load(
        loading.from_json(subject), device=device, threads=threads, options=options, on=on
    ) as session:
        remote.keep_outputs(session)
        if data is None:
            # After the session: TensorFlow takes its number of threads before anything runs.
            data = _examples(ModelSource.from_dict(dict(examples or {})), folder, n)
        samples = limit(open_samples(data), n)
        files: dict[str, np.memmap[Any, Any]] = {}
        start = 0
        most = session.facts.get("largest_batch") or MOST
        size = batch_size(session.signature, min(batch or MOST, most))
        for part in batches(samples, session.signature, size):
            outputs = session.run(part.feeds)
            fed = len(next(iter(part.feeds.values())))
            for name, value in outputs.items():
                if value.ndim == 0 or len(value) != fed:
                    raise errors.UsageError(
                        f"The output {name!r} has the shape {list(value.shape)} for a batch of"
                        f" {fed}: no row a sample.",
                        next="Outputs need the batch as their first axis.",
                    )
                rows = value[: part.n]
                if name not in files:
                    path = folder / f"output{len(files)}.npy"
                    shape = (len(samples), *rows.shape[1:])
                    files[name] = np.lib.format.open_memmap(path, "w+", rows.dtype, shape)
                if files[name].shape[1:] != rows.shape[1:]:
                    raise errors.UsageError(
                        f"The output {name!r} changes its shape from sample to sample:"
                        f" {list(files[name].shape[1:])}, then {list(rows.shape[1:])}.",
                        next="Such outputs cannot be compared row by row.",
                    )
                files[name][start : start + part.n] = rows
            start += part.n
        facts = session.facts
    for value in files.values():
        value.flush()
    names = {name: f"output{index}.npy" for index, name in enumerate(files)}
    return {"outputs": names, "n": start, "facts": facts, "data": dict(data)}


def _examples(source: ModelSource, folder: Path, n: int) -> dict[str, Any]:
    """The source's own example inputs, as a data set; the model is dropped again."""
    model = sources.load(source)
    np.savez(folder / EXAMPLES, allow_pickle=False, **model.example(n))
    del model
    gc.collect()
    return {"path": str(folder / EXAMPLES)}
