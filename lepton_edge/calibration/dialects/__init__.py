"""Int8 dialects: what one backend accepts and runs fast, as one frozen object a file.

A dialect is a module here with a constant `DIALECT`; nothing else knows their names.
"""

from __future__ import annotations

import importlib
import pkgutil
from dataclasses import dataclass, field
from typing import Literal

from lepton_edge import errors
from lepton_edge.calibration.grid import Grid

# Their output holds only values of their input, so both have the same grid.
PASS_THROUGH = frozenset(
    {"MaxPool", "Reshape", "Transpose", "Flatten", "Squeeze", "Unsqueeze", "Slice", "Identity"}
    | {"Split", "Gather", "Expand", "DepthToSpace", "SpaceToDepth", "Tile"}
)


@dataclass(frozen=True)
class Dialect:
    """Grids, operators and placement of one backend; see `source` for where each is written.

    `anchors` have constant weights and integer kernels. `followers` are quantised where all their
    inputs are. `placement` is `outputs` where a kernel needs its output quantised to run in
    integers, `inputs` where Q/DQ before each anchor is enough and the backend fuses the rest.
    `bias` is int32 with scale s_x * s_w, or stays float. `fold_activation`: Relu and Clip vanish
    where the grid saturates at the same values. `same_scale` operators share one grid between all
    inputs and outputs. `fixed` outputs have a grid of their own: (scale, zero point).
    `full_integer` leaves no float tensor, inputs and outputs included.
    """

    name: str
    source: str
    activation: Grid
    weight: Grid
    container: Literal["onnx", "tflite"] = "onnx"
    per_channel: bool = True
    placement: Literal["outputs", "inputs"] = "outputs"
    bias: Literal["int32", "float"] = "int32"
    residual: Literal["both", "skip"] = "both"
    fold_activation: bool = True
    full_integer: bool = False
    anchors: frozenset[str] = frozenset({"Conv", "Gemm", "MatMul"})
    followers: frozenset[str] = frozenset()
    same_scale: frozenset[str] = PASS_THROUGH
    fixed: dict[str, tuple[float, int]] = field(default_factory=dict)


def names() -> list[str]:
    """Every dialect that `load` knows, sorted."""
    return sorted(m.name for m in pkgutil.iter_modules(__path__) if not m.name.startswith("_"))


def load(name: str) -> Dialect:
    """The dialect of that name; raises `UsageError` with the nearest spelling."""
    if name not in names():
        raise errors.unknown("dialect", name, names())
    dialect = importlib.import_module(f"{__name__}.{name}").DIALECT
    assert isinstance(dialect, Dialect)
    return dialect
