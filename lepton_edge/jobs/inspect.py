"""The job `inspect`: what a model is made of, and which targets can take it."""

from __future__ import annotations

from collections.abc import Mapping
from types import ModuleType
from typing import Any

from lepton_edge import plugins, sources
from lepton_edge.artifact import Artifact
from lepton_edge.model import ModelSource
from lepton_edge.target import PRECISIONS


def run(source: Mapping[str, Any]) -> dict[str, Any]:
    """See `inspection.inspect`."""
    given = ModelSource.from_dict(source)
    model = sources.load(given)
    counts = sources.count(model)
    if model.framework == "torch" and given.weights is None:  # the .py file is no measure of it
        size = sum(
            each.numel() * each.element_size() for each in model.native.state_dict().values()
        )
    else:
        size = Artifact(given.file.parent, given.file.name, "torch", model=given).size_bytes
    return {
        "source": {"path": given.path, "sha256": given.sha256()},
        "framework": model.framework,
        "signature": model.signature.as_dict(),
        "operators": dict(counts.operators),
        "parameters": counts.parameters,
        "macs": counts.macs,
        "macs_unknown": counts.why,
        "size_bytes": size,
        "targets": targets(model.framework),
    }


def targets(framework: str) -> list[dict[str, Any]]:
    """Every format and precision, and why its converter cannot make it from this framework."""
    found = []
    for format in plugins.names("converters"):
        converter = plugins.load("converters", format)
        for precision in PRECISIONS:
            reason = converter.refuses(framework, precision) or _missing(
                converter, framework, precision
            )
            found.append(
                {
                    "format": format,
                    "precision": precision,
                    "ok": reason is None,
                    "reason": reason,
                }
            )
    return found


def _missing(converter: ModuleType, framework: str, precision: str) -> str | None:
    """A converter may tell, with `missing(framework, precision)`, which libraries it lacks here."""
    tell = vars(converter).get("missing")
    lacking: list[str] = tell(framework, precision) if tell else []
    return f"not installed: {', '.join(lacking)}" if lacking else None
