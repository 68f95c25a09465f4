"""`Samples`: a re-iterable stream of (inputs, label) that never holds more than a batch as floats.

Calibration data and evaluation data are different Samples; `overlap` finds what they share, by
content.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from lepton_edge.model import Array


@dataclass(frozen=True)
class Sample:
    """`inputs` are model inputs without a batch dimension; `label` is None, an int or an array.

    `name` says where it came from (file, row), for messages.
    """

    inputs: dict[str, Array]
    label: Any
    name: str


class Samples(ABC):
    """A data set. Iterating twice gives the same samples in the same order."""

    classes: tuple[str, ...] = ()

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def __iter__(self) -> Iterator[Sample]: ...

    @abstractmethod
    def content(self) -> Iterator[bytes]:
        """One 32-byte sha256 a sample, over the raw content before preprocessing."""

    @abstractmethod
    def as_dict(self) -> dict[str, Any]:
        """Text that `open_samples` in another process turns into the same data set."""
