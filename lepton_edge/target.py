"""`Target`: the format, the precision and the device that an artefact is made for."""

from __future__ import annotations

from dataclasses import dataclass

from lepton_edge import errors, plugins

PRECISIONS = (
    "fp32",
    "fp16",
    "bf16",
    "int8",
    "int8-dynamic",
    "int8-weights",
    "int4-weights",
    "int8-mixed",
)
CALIBRATED = ("int8", "int8-mixed")  # whose ranges of activations come from samples


@dataclass(frozen=True)
class Target:
    """What to export to. Unknown names raise `UsageError` with the nearest spelling."""

    format: str
    precision: str = "fp32"
    device: str = "cpu"

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            raise errors.unknown("precision", self.precision, PRECISIONS)
        if not plugins.exists("converters", self.format):
            raise errors.unknown("format", self.format, plugins.names("converters"))

    def __str__(self) -> str:
        return f"{self.format} {self.precision}"
