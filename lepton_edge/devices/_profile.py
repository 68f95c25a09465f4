"""`Profile`: what is known of a device, read strictly from a TOML file; every fact has its source.

A fact is written `clock = { value = 1800, unit = "MHz", source = "...", mark = "memory" }`. The
mark says how far to trust it: `read` (in the source named), `memory` (not read again), `derived`
(by arithmetic or a fit, from what the source says), `detected` (on this machine, now).
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from lepton_edge import errors, options
from lepton_edge.target import PRECISIONS

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

Mark = Literal["read", "memory", "derived", "detected"]
Kind = Literal["cpu", "gpu", "edgetpu", "mcu"]
# What `inspect --device` works out for the model at hand, as `devices.limits` names it.
Limit = Literal["operators", "inputs", "shapes", "batch", "segment", "tensorrt", "dla"]


@dataclass(frozen=True)
class Fact:
    """A number, or several (a range, or the variants sold); `unit` is "" for a count."""

    value: float | tuple[float, ...]
    source: str
    unit: str = ""
    mark: Mark = "read"
    note: str | None = None

    def __str__(self) -> str:
        values = self.value if isinstance(self.value, tuple) else (self.value,)
        text = " / ".join(f"{value:g}" if value < 1e6 else f"{value:,.0f}" for value in values)
        return f"{text} {self.unit}".rstrip()


# Every fact there is, with the unit that it is given in; "" is a count or a number without unit.
UNITS = {
    "cores": "",
    "clock": "MHz",
    "l2_cache": "KiB",
    "l3_cache": "KiB",
    "gpu_cores": "",
    "tensor_cores": "",
    "gpu_clock": "MHz",
    "dla_cores": "",
    "accelerator_clock": "MHz",
    "macs_per_cycle": "",
    "peak_int8": "TOPS",
    "peak_fp16": "TFLOPS",
    "peak_fp32": "TFLOPS",
    "memory": "GB",
    "memory_bandwidth": "GB/s",
    "on_chip_memory": "MiB",
    "link_bandwidth": "GB/s",
    "power_modes": "W",
    "runtime_version": "",
}


@dataclass(frozen=True)
class Facts:
    """Peaks are dense and of the main processor alone, never a module's headline figure."""

    cores: Fact | None = None
    clock: Fact | None = None
    l2_cache: Fact | None = None
    l3_cache: Fact | None = None
    gpu_cores: Fact | None = None
    tensor_cores: Fact | None = None
    gpu_clock: Fact | None = None
    dla_cores: Fact | None = None
    accelerator_clock: Fact | None = None
    macs_per_cycle: Fact | None = None
    peak_int8: Fact | None = None
    peak_fp16: Fact | None = None
    peak_fp32: Fact | None = None
    memory: Fact | None = None
    memory_bandwidth: Fact | None = None
    on_chip_memory: Fact | None = None
    link_bandwidth: Fact | None = None
    power_modes: Fact | None = None
    runtime_version: Fact | None = None

    def known(self) -> dict[str, Fact]:
        """The facts that the profile has, by name."""
        found = {item.name: getattr(self, item.name) for item in dataclasses.fields(self)}
        return {name: fact for name, fact in found.items() if fact is not None}


@dataclass(frozen=True)
class Runtime:
    """A runtime of the device: the format that it takes and the precisions that it has there."""

    name: str
    format: str
    precisions: tuple[str, ...]
    source: str
    version: str | None = None
    mark: Mark = "read"

    def __post_init__(self) -> None:
        for precision in self.precisions:
            if precision not in PRECISIONS:
                raise errors.unknown("precision", precision, PRECISIONS)


@dataclass(frozen=True)
class Stack:
    """One release of the vendor's system, and what it fixes: TensorRT, CUDA, Python, Ubuntu."""

    jetpack: str
    tensorrt: str
    source: str
    cuda: str | None = None
    python: str | None = None
    ubuntu: str | None = None
    mark: Mark = "read"


@dataclass(frozen=True)
class Constraint:
    """`limit` names the check that tells whether a model breaks it; one without is for the reader.

    `next` is what to do about it.
    """

    text: str
    source: str
    mark: Mark = "read"
    limit: Limit | None = None
    next: str | None = None


@dataclass(frozen=True)
class Profile:
    """A device by its name. `isa` are the CPU features that matter, where they were detected."""

    name: str
    title: str
    kind: Kind
    architecture: str
    facts: Facts = field(default_factory=Facts)
    runtimes: tuple[Runtime, ...] = ()
    stacks: tuple[Stack, ...] = ()
    constraints: tuple[Constraint, ...] = ()
    isa: tuple[str, ...] = ()
    note: str | None = None

    def as_dict(self) -> dict[str, Any]:
        given = dataclasses.asdict(self)
        known = self.facts.known()
        given["facts"] = {name: dataclasses.asdict(fact) for name, fact in known.items()}
        return given


def read_profile(path: Path) -> Profile:
    """The profile in a TOML file. Raises `UsageError` naming the file and the key that is wrong."""
    try:
        given = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise errors.UsageError(f"Cannot read {str(path)!r}: {error.strerror}.") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise errors.UsageError(f"{str(path)!r} is not valid TOML: {error}.") from None
    try:
        profile = _build(given)
    except errors.UsageError as error:
        raise errors.UsageError(f"{str(path)!r}: {error.message}", next=error.next) from None
    if profile.name != path.stem:
        raise errors.UsageError(
            f"{str(path)!r} describes a device named {profile.name!r}.",
            next=f"Name the file {profile.name}.toml.",
        )
    return profile


def _build(given: Mapping[str, Any]) -> Profile:
    values = dict(given)
    kinds: dict[str, type[Any]] = {
        "runtimes": Runtime,
        "stacks": Stack,
        "constraints": Constraint,
    }
    for key, cls in kinds.items():
        rows = values.pop(key, [])
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise errors.UsageError(f"{key} must be tables.", next=f"Write [[{key}]].")
        values[key] = tuple(options.build(cls, row, what=f"key of {key}") for row in rows)
    facts = values.pop("facts", {})
    if not isinstance(facts, dict):
        raise errors.UsageError("facts must be a table.", next="Write [facts].")
    values["facts"] = Facts(**{name: _read_fact(name, fact) for name, fact in facts.items()})
    return options.build(Profile, values, what="key")


def _read_fact(name: str, given: Any) -> Fact:
    if name not in UNITS:
        raise errors.unknown("fact", name, UNITS)
    if not isinstance(given, dict):
        raise errors.UsageError(
            f"The fact {name!r} is a bare value.",
            next=f'Write {{ value = ..., unit = "{UNITS[name]}", source = "..." }}.',
        )
    value = given.get("value")
    numbers: list[Any] = value if isinstance(value, list) else [value]
    for number in numbers:
        if isinstance(number, bool) or not isinstance(number, (int, float)) or not number >= 0:
            raise errors.UsageError(f"The fact {name!r} takes positive numbers, got {number!r}.")
    if given.get("unit", "") != UNITS[name]:
        wanted = repr(UNITS[name]) if UNITS[name] else "no unit"
        raise errors.UsageError(
            f"The fact {name!r} is in {given.get('unit', '') or 'no unit'!r}, and takes {wanted}.",
            next="Convert the value, and write the unit.",
        )
    fact = options.build(Fact, {**given, "value": 0.0}, what=f"key of the fact {name!r},")
    exact = tuple(float(number) for number in numbers)
    return dataclasses.replace(fact, value=exact if isinstance(value, list) else exact[0])
