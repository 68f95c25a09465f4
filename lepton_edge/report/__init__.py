"""The report of one run in several forms: html, markdown, json and text, one module a form.

A form is a module with `SUFFIX` and `render(report) -> str`; it is found by its name.
"""

from __future__ import annotations

from collections.abc import Iterable
from json import loads  # `json` here is the form of that name
from pathlib import Path

from lepton_edge import errors, plugins
from lepton_edge.artifact import replacing
from lepton_edge.measurement import Report
from lepton_edge.report import _samples


def write(
    report: Report, folder: str | Path, forms: Iterable[str] = ("html", "markdown", "json")
) -> dict[str, Path]:
    """Writes `report<suffix>` into `folder` for each form; returns form -> path.

    With the form `json` comes `samples`, the file of all timed runs that report.json lists.
    Nothing is written unless every form could be rendered, and a file that cannot be written
    leaves its predecessor untouched. Raises `UsageError` for an unknown form or an unwritable
    folder, `BackendMissing` where a form's library is not installed.
    """
    modules = {form: plugins.load("report", form) for form in forms}
    packed, runs = _samples.pack(report)
    # A file name may hold bytes that are no text; they are shown escaped, never dropped.
    contents = {
        form: module.render(packed).encode("utf-8", "backslashreplace")
        for form, module in modules.items()
    }
    names = {form: f"report{module.SUFFIX}" for form, module in modules.items()}
    if runs is not None and "json" in modules:  # the listed file before the one that lists it
        contents, names = {"samples": runs, **contents}, {"samples": _samples.NAME, **names}
    paths = {}
    for form, content in contents.items():
        paths[form] = Path(folder) / names[form]
        with replacing(paths[form]) as temporary:
            temporary.write_bytes(content)
    return paths


def read(path: str | Path) -> Report:
    """The report that `write` wrote as `path` (report.json), with the timed runs beside it.

    Raises `BadInput` where either file is missing, damaged, or of another version.
    """
    path = Path(path)
    try:
        report = Report.from_dict(loads(path.read_text()))
    except OSError as error:
        raise errors.BadInput(f"Cannot read {str(path)!r}: {error.strerror}.") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise errors.BadInput(f"{str(path)!r} is no report of this version: {error!r}.") from None
    return _samples.unpack(report, path.parent)
