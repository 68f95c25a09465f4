"""The job `prunable`: which channels of a PyTorch model can be removed, and MACs by layer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lepton_edge import sources
from lepton_edge.jobs.compress import build
from lepton_edge.model import ModelSource


def run(*, source: Mapping[str, Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """See `compress.prune.Prune.survey`; `options` are those of the pass."""
    found: dict[str, Any] = build("prune", options, {}).survey(
        sources.load(ModelSource.from_dict(source))
    )
    return found
