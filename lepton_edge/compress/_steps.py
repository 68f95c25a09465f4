"""Parameters in units of their grid's step, steps that can be learned, and rounding that trains.

Gradients pass straight through where a value is inside its range (Bengio et al. 2013, arXiv
1308.3432); learned step size: Esser et al. 2020, arXiv 1902.08153.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lepton_edge.calibration import grid
from lepton_edge.calibration.write_onnx import BIAS_LIMIT
from lepton_edge.model import Array


class _Round(torch.autograd.Function):
    """Half to even, as ONNX rounds; the gradient passes unchanged."""

    @staticmethod
    def forward(_context: Any, value: Tensor) -> Tensor:
        return torch.round(value)

    @staticmethod
    def backward(_context: Any, *gradients: Tensor) -> Tensor:
        return gradients[0]


def rounded(value: Tensor) -> Tensor:
    result: Tensor = _Round.apply(value)  # type: ignore[no-untyped-call]
    return result


class StepModule(nn.Module):
    """A graph whose trained constants are held in units of a step, under any keys.

    `learned` makes the steps parameters too. Weights are held in units of their channel's first
    step, biases in hundreds of theirs, steps as exponents: so a rate means the same for every
    channel, however channels were scaled against each other.
    """

    def __init__(self, learned: bool) -> None:
        super().__init__()
        self.learned = learned
        self.trained = nn.ParameterDict()
        self.place: dict[Any, str] = {}  # constant -> its key among the parameters
        self.units: dict[str, Tensor] = {}
        self.steps = nn.ParameterDict()
        self.first: dict[str, Tensor] = {}

    def _train(self, key: Hashable, value: Array) -> None:
        if key not in self.place:
            self.place[key] = f"p{len(self.place)}"
            self.trained[self.place[key]] = nn.Parameter(torch.from_numpy(np.array(value)))

    def _learn(self, key: str, step: Tensor) -> None:
        self.first[key] = step
        if self.learned:
            self.steps[key] = nn.Parameter(torch.zeros_like(step))

    def _in_units(self, key: str, unit: Tensor) -> None:
        with torch.no_grad():
            self.trained[key].div_(unit)
        self.units[key] = unit

    def value(self, name: Hashable) -> Tensor:
        """A trained constant as the graph has it."""
        key = self.place[name]
        value: Tensor = self.trained[key]
        return value * self.units[key].to(value.device) if key in self.units else value

    def _step(self, key: str) -> Tensor:
        """The first step, times what was learned: a tenth of the exponent, in natural units."""
        if key not in self.steps:
            return self.first[key]
        exponent: Tensor = self.steps[key]
        return self.first[key].to(exponent.device) * torch.exp(0.1 * exponent)


def spread(weight: Tensor, axis: int | None, qmax: int, ratio: Tensor | float = 1.0) -> Tensor:
    """The step of each channel, or of the whole weight, so that `ratio` of it fits the codes."""
    others = [each for each in range(weight.ndim) if each != axis]
    step = ratio * weight.abs().amax(others) / qmax
    return torch.where(step > 0, step.clamp_min(grid.SCALE_MIN), torch.ones_like(step))


def widened(step: Tensor, bias: Tensor, source: Tensor) -> Tensor:
    """A weight's step, made wide enough for an int32 bias; `source` is the input's step."""
    floor = bias.detach().abs() / (source.detach() * BIAS_LIMIT)
    return torch.maximum(step, floor if step.ndim else floor.max())


def on_grid(weight: Tensor, step: Tensor, bounds: tuple[int, int]) -> Tensor:
    """The codes of a weight, as floats; the gradient passes."""
    return rounded(torch.clamp(weight / step, *bounds))


def bias_codes(bias: Tensor, step: Tensor) -> Tensor:
    """The integers of a bias, in float64: a large one has more digits than float32 keeps."""
    return rounded(bias.double() / step.double())


def shaped(step: Tensor, ndim: int, axis: int | None) -> Tensor:
    """One step a channel, to be multiplied with a weight."""
    if axis is None or not step.ndim:
        return step
    shape = [1] * ndim
    shape[axis] = -1
    return step.reshape(shape)


def float32(value: Tensor) -> Array:
    return np.asarray(value.detach().cpu().numpy(), np.float32)
