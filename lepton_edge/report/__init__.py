"""The report of one run in several forms: html, markdown, json and text, one module a form.

A form is a module with `SUFFIX` and `render(report) -> str`; it is found by its name.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from lepton_edge import plugins
from lepton_edge.artifact import replacing
from lepton_edge.measurement import Report


def write(
    report: Report, folder: str | Path, forms: Iterable[str] = ("html", "markdown", "json")
) -> dict[str, Path]:
    """Writes `report<suffix>` into `folder` for each form; returns form -> path.

    Nothing is written unless every form could be rendered, and a file that cannot be written
    leaves its predecessor untouched. Raises `UsageError` for an unknown form or an unwritable
    folder, `BackendMissing` where a form's library is not installed.
    """
    modules = {form: plugins.load("report", form) for form in forms}
    # A file name may hold bytes that are no text; they are shown escaped, never dropped.
    texts = {
        form: module.render(report).encode("utf-8", "backslashreplace")
        for form, module in modules.items()
    }
    paths = {}
    for form, text in texts.items():
        paths[form] = Path(folder) / f"report{modules[form].SUFFIX}"
        with replacing(paths[form]) as temporary:
            temporary.write_bytes(text)
    return paths
