"""How to quantise: what a user may choose of the project's own quantiser, for every format."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Literal

from lepton_edge.calibration.ranges import Method


@dataclass(frozen=True)
class Tuning:
    """Defaults are for accuracy; each step can be switched off, and the artefact records them all.

    `ranges` of activations: see `lepton_edge.calibration.ranges`; `percentile` belongs to it.
    `rounding` of weights is learned against layer outputs (Hessian-guided) or nearest.
    `compensate` lets a layer's weights make up for what the layers before it lost, as far as that
    holds on data kept out of the fit. `correct_bias` gives each channel the float network's mean.
    `correction_samples` of the data serve these three; statistics always come from all.
    `equalize` balances the channels of a tensor first, by scaling weights. `gates` of
    squeeze-and-excite blocks stay float or not. `keep_float` names operators that stay float.
    `calibration_threads` is 0 for every core that the process has.
    """

    ranges: Method = "auto"
    percentile: float = 99.99
    rounding: Literal["learned", "nearest"] = "learned"
    compensate: bool = True
    correct_bias: bool = True
    correction_samples: int = 128
    equalize: bool = True
    gates: Literal["float", "int8"] = "float"
    keep_float: tuple[str, ...] = ()
    calibration_threads: int = 0

    @property
    def threads(self) -> int:
        return self.calibration_threads or len(os.sched_getaffinity(0))
