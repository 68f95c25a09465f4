"""PyTorch models that write into their inputs or return them: the caller's arrays stay as they are.

The reference copies inputs only where it must, which its first run finds out; so each model here
runs several times, on arrays that keep being used, and must give the same as on fresh copies.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from lepton_edge import sources
from lepton_edge.model import Array, Model, ModelSource, TensorSpec

torch = pytest.importorskip("torch", reason="pip install 'lepton-edge[torch]'")

CODE = """
import torch

class Relu(torch.nn.Module):
    def forward(self, x):
        return x.relu_() * 2

class View(torch.nn.Module):
    def forward(self, x):
        left = x[:, :2]
        left += 10
        return x.sum(1, keepdim=True)

class Through(torch.nn.Module):
    def forward(self, x):
        return x

class Part(torch.nn.Module):
    def forward(self, x):
        return x[:, 1:3], x + 1

class Second(torch.nn.Module):
    def forward(self, x, y):
        return x + y.mul_(3)

class Plain(torch.nn.Module):
    def forward(self, x):
        return x * 2
"""
X = np.array([[-1, 2, -3, 4], [5, -6, 7, -8]], np.float32)
Y = np.array([[1, 0, -1, 0], [2, 2, 2, 2]], np.float32)
EXPECTED = {
    "Relu": (np.maximum(X, 0) * 2,),
    "View": (X.sum(1, keepdims=True) + 20,),
    "Through": (X,),
    "Part": (X[:, 1:3], X + 1),
    "Second": (X + 3 * Y,),
    "Plain": (X * 2,),
}


def opened(folder: Path, name: str, form: str) -> Model:
    (folder / "models.py").write_text(CODE)
    inputs = tuple(
        TensorSpec(each, (None, 4), "float32") for each in (("x", "y") if name == "Second" else "x")
    )
    if form == "eager":
        return sources.load(ModelSource(f"{folder / 'models.py'}:{name}", inputs=inputs))
    space: dict[str, type] = {}
    path = folder / "model.pt"
    if form == "traced":
        exec(CODE, space)
        example = tuple(torch.from_numpy(each.copy()) for each in (X, Y)[: len(inputs)])
        torch.jit.trace(space[name]().eval(), example).save(path)
    else:  # scripting reads the source, so it must be in a file
        import importlib.util

        spec = importlib.util.spec_from_file_location("models", folder / "models.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        torch.jit.script(getattr(module, name)().eval()).save(path)
    return sources.load(ModelSource(str(path), inputs=inputs))


def feeds(model: Model) -> dict[str, Array]:
    return {spec.name: {"x": X, "y": Y}[spec.name].copy() for spec in model.signature.inputs}


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
@pytest.mark.parametrize("form", ["eager", "scripted", "traced"])
@pytest.mark.parametrize("name", EXPECTED)
def test_the_callers_arrays_stay_as_they_were(tmp_path: Path, name: str, form: str) -> None:
    model = opened(tmp_path, name, form)
    given = feeds(model)
    kept = []
    for _ in range(4):  # on the same arrays
        found = model.run(given)
        for output, wanted in zip(found.values(), EXPECTED[name], strict=True):
            np.testing.assert_array_equal(output, wanted)
        for key, value in feeds(model).items():
            np.testing.assert_array_equal(given[key], value)
        kept.append(found)
    for array in given.values():  # a caller fills its arrays anew for the next sample
        array += 100
    for found in kept:
        for output, wanted in zip(found.values(), EXPECTED[name], strict=True):
            np.testing.assert_array_equal(output, wanted)
    for output in model.run(given).values():  # and a caller may write into what it was given
        if output.flags.writeable:
            output[:] = 0
    for key, value in feeds(model).items():
        np.testing.assert_array_equal(given[key], value + 100)


@pytest.mark.parametrize("name", ["Relu", "Plain"])
def test_arrays_that_cannot_be_written_are_taken(tmp_path: Path, name: str) -> None:
    model = opened(tmp_path, name, "eager")
    given = feeds(model)
    for array in given.values():
        array.flags.writeable = False
    for _ in range(3):
        (found,) = model.run(given).values()
        np.testing.assert_array_equal(found, EXPECTED[name][0])
