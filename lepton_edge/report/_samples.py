"""Every timed run of a report in one .npz beside report.json, which lists it by name and sha256.

The array `row3` holds the runs of row 3 in order, in whole nanoseconds: the clock's own unit, and
a tenth of their size as text.
"""

from __future__ import annotations

import hashlib
import io
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np

from lepton_edge import errors
from lepton_edge.measurement import Report

NAME = "report.samples.npz"
_ABSENT = f"Rendered again without {NAME}: the single runs are not kept beside this report."


def pack(report: Report) -> tuple[Report, bytes | None]:
    """The report with `samples` set, and the file's content; None where no row has runs."""
    rows = {
        f"row{index}": np.rint(np.array(row.latency.samples_ms) * 1e6).astype(np.int64)
        for index, row in enumerate(report.rows)
        if row.latency is not None and row.latency.samples_ms
    }
    if not rows:
        return replace(report, samples=None), None
    file = io.BytesIO()
    np.savez_compressed(file, allow_pickle=False, **rows)
    content = file.getvalue()
    listed = {"file": NAME, "sha256": hashlib.sha256(content).hexdigest()}
    return replace(report, samples=listed), content


def unpack(report: Report, folder: Path) -> Report:
    """The report with the runs that its file in `folder` holds, each row's `samples_ms`.

    Where the file was left behind the report gets a note that says so: all that is drawn is in
    report.json. Raises `BadInput` where the file is not the one that the report lists.
    """
    if report.samples is None:
        return report
    path = folder / Path(report.samples["file"]).name
    if not path.exists():
        return replace(report, notes=(*report.notes, _ABSENT))
    try:
        content = path.read_bytes()
    except OSError as error:
        raise errors.BadInput(f"Cannot read {str(path)!r}: {error.strerror}.") from None
    if hashlib.sha256(content).hexdigest() != report.samples["sha256"]:
        raise errors.BadInput(f"{str(path)!r} is not the file that the report lists (its sha256).")
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as given:
            runs = {name: given[name] for name in given.files}
    except (ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise errors.BadInput(f"{str(path)!r} is damaged: {error}.") from None
    rows = []
    for index, row in enumerate(report.rows):
        taken = runs.get(f"row{index}")
        if row.latency is not None and taken is not None:
            samples = tuple((taken / 1e6).tolist())
            row = replace(row, latency=replace(row.latency, samples_ms=samples))
        rows.append(row)
    return replace(report, rows=tuple(rows))
