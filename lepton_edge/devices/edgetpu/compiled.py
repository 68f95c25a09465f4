"""Reads a file that edgetpu_compiler wrote: what is on the chip, what is sent each inference.

The custom operator `edgetpu-custom-op` carries a package of executables. Its tables are those of
google-coral/libedgetpu executable/executable.fbs (Apache-2.0); only the numbers are read.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from lepton_edge import errors
from lepton_edge.devices._flatbuffer import Table
from lepton_edge.devices._tflite import Graph, read

CUSTOM_OP = "edgetpu-custom-op"
_MAGIC = b"DWN1"  # the package's file identifier: four bytes after its start
_TYPES = {0: "stand-alone", 1: "parameter-caching", 2: "execution-only"}


@dataclass(frozen=True)
class Executable:
    """One program for the chip. Sizes in bytes; `cycles` is the compiler's own estimate or None.

    Parameters of a parameter-caching executable are loaded once and stay on the chip; those of
    the others are sent with every inference, and so are the instructions.
    """

    kind: str
    parameter_bytes: int
    instruction_bytes: int
    input_bytes: int
    output_bytes: int
    scratch_bytes: int
    memory_bytes_per_tile: int
    cycles: int | None


@dataclass(frozen=True)
class Compiled:
    """What a compiled file tells. `cpu` are the operators left to the CPU, in order, by name."""

    compiler: str
    min_runtime: int
    cached_bytes: int
    streamed_bytes: int
    instruction_bytes: int
    input_bytes: int
    output_bytes: int
    cycles: int | None
    segments: int
    cpu: tuple[str, ...]
    cpu_indices: tuple[int, ...] = field(repr=False)
    executables: tuple[Executable, ...] = field(repr=False)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def is_compiled(graph: Graph) -> bool:
    return any(operator.name == CUSTOM_OP for operator in graph.operators)


def read_compiled(path: str | Path) -> Compiled:
    """The compiled file's own facts. Raises `BadInput` where the file is not a compiled one."""
    return describe(read(path))


def describe(graph: Graph) -> Compiled:
    """The same for a graph that was read already."""
    customs = [operator for operator in graph.operators if operator.name == CUSTOM_OP]
    if not customs:
        raise errors.BadInput(
            f"{graph.path!r} was not compiled for the Edge TPU.",
            next=f"Compile it: edgetpu_compiler {graph.path}",
        )
    packages = [_package(operator.custom, graph.path) for operator in customs]
    executables = [item for package in packages for item in _executables(package)]
    # What runs with every inference: all but the executables that only load parameters.
    runs = [item for item in executables if item.kind != "parameter-caching"]
    cycles = [item.cycles for item in runs]
    left = [operator for operator in graph.operators if operator.name != CUSTOM_OP]
    return Compiled(
        compiler=packages[0].text(4),
        min_runtime=packages[0].number(0, "<i"),
        cached_bytes=sum(i.parameter_bytes for i in executables if i.kind == "parameter-caching"),
        streamed_bytes=sum(item.parameter_bytes for item in runs),
        instruction_bytes=sum(item.instruction_bytes for item in runs),
        input_bytes=sum(item.input_bytes for item in runs),
        output_bytes=sum(item.output_bytes for item in runs),
        cycles=sum(c for c in cycles if c) if all(cycles) and cycles else None,
        segments=len(customs),
        cpu=tuple(operator.name for operator in left),
        cpu_indices=tuple(operator.index for operator in left),
        executables=tuple(executables),
    )


def _package(custom: memoryview, path: str) -> Table:
    at = bytes(custom[:4096]).find(_MAGIC)
    if at < 4:
        raise errors.BadInput(
            f"The {CUSTOM_OP} in {path!r} holds no Edge TPU package.",
            next="Compile the model again.",
        )
    return Table.root(custom, path, start=at - 4)


def _executables(package: Table) -> list[Executable]:
    name = package.buffer.name
    found = []
    for blob in Table.root(package.raw(1), name).blobs(0):
        item = Table.root(blob, name)
        kind = item.number(13, "<h")
        if kind not in _TYPES:
            raise errors.BadInput(f"{name!r} has an Edge TPU executable of an unknown kind {kind}.")
        found.append(
            Executable(
                kind=_TYPES[kind],
                parameter_bytes=len(item.raw(6)),
                instruction_bytes=sum(len(stream.raw(0)) for stream in item.tables(5)),
                input_bytes=_layers(item, 8),
                output_bytes=_layers(item, 9),
                scratch_bytes=item.number(4, "<i"),
                memory_bytes_per_tile=item.number(12, "<i"),
                # Compilers for runtime 14 leave both fields at 0: not known, rather than none.
                cycles=item.number(16, "<q") or item.number(11, "<i") or None,
            )
        )
    return found


def _layers(executable: Table, field_number: int) -> int:
    return sum(
        layer.number(1, "<i") * layer.number(9, "<i", 1)
        for layer in executable.tables(field_number)
    )
