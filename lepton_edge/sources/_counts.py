"""What `inspect` counts in a model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Counts:
    """Operators by the framework's own names, parameters, and multiply-accumulates a sample.

    MACs are those of convolutions, matrix products and recurrent cells; `macs` is None where they
    cannot be known from the model (`why`), for example in a loop of unknown length.
    """

    operators: Mapping[str, int] = field(default_factory=dict)
    parameters: int = 0
    macs: int | None = None
    why: str | None = None
