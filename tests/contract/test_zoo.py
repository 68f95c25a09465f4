"""Every family of the zoo through every format, in this process; docs/zoo.md has the whole matrix.

`python benchmarks/zoo.py` runs each cell in processes of its own, and all of TFLite.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest

from lepton_edge import errors, loading, parity, plugins, sources
from lepton_edge import options as knobs
from lepton_edge.model import Model, ModelSource
from lepton_edge.target import Target

torch = pytest.importorskip("torch", reason="pip install 'lepton-edge[torch]'")

from tests import zoo  # noqa: E402 - it imports torch

ZOO = Path(zoo.__file__)
NEEDS = {
    "onnx": ("onnxruntime", "onnx"),
    "openvino": ("openvino", "openvino"),
    "tflite": ("litert_torch", "tflite-convert"),
}
# Each takes seconds here and is in the whole matrix: one of convolution with several outputs, one
# recurrent, one of attention, one with integer inputs.
LITE = ("ssd", "gru", "transformer_encoder", "two_tower")

_models: dict[str, Model] = {}


def model(name: str) -> Model:
    if name not in _models:
        _models[name] = sources.load(ModelSource(f"{ZOO}:{name}"))
    return _models[name]


def converted(name: str, format: str, batch: str, folder: Path) -> None:
    """Converts and compares: a dynamic batch with one sample and with several."""
    library, extra = NEEDS[format]
    if importlib.util.find_spec(library) is None:
        pytest.skip(f"pip install 'lepton-edge[{extra}]'")
    source = model(name)
    converter = plugins.load("converters", format)
    artifact = converter.convert(
        source, Target(format), folder, options=knobs.build(converter.Options, {"batch": batch})
    )
    with loading.load(artifact, threads=1) as session:
        for size in (1,) if batch == "1" else (1, 5):
            feeds = source.example(size)
            result = parity.compare_outputs(
                source.run(feeds), session.run(feeds), precision="fp32", inputs="example"
            )
            assert result.status == "PASS", (size, result.reasons)


# OpenVINO's converter forks, and where another test has loaded jax (for TFLite), jax warns of it.
@pytest.mark.filterwarnings(
    "ignore:Exception ignored in. <function _at_fork:pytest.PytestUnraisableExceptionWarning"
)
@pytest.mark.parametrize("batch", ["1", "dynamic"])
@pytest.mark.parametrize("format", ["onnx", "openvino"])
@pytest.mark.parametrize("name", zoo.FAMILIES.values())
def test_agrees_with_its_source(name: str, format: str, batch: str, tmp_path: Path) -> None:
    converted(name, format, batch, tmp_path)


@pytest.mark.parametrize("name", LITE)
def test_tflite_agrees_with_its_source(name: str, tmp_path: Path) -> None:
    converted(name, "tflite", "1", tmp_path)


@pytest.mark.parametrize("name", ["ssd", "two_tower"])
def test_tflite_says_what_has_no_dynamic_batch(name: str, tmp_path: Path) -> None:
    with pytest.raises(errors.CannotConvert, match=r"operator aten\.\w+") as caught:
        converted(name, "tflite", "dynamic", tmp_path)
    assert caught.value.exit_code == 7
    assert "batch=1" in (caught.value.next or "")


@pytest.mark.parametrize("name", zoo.FAMILIES.values())
def test_the_zoo_is_small_seeded_and_not_constant(name: str) -> None:
    one, again = getattr(zoo, name)(), getattr(zoo, name)()
    assert not one.training
    assert sum(parameter.numel() for parameter in one.parameters()) < 200_000
    example = [value.numpy() for value in one.example_inputs.values()]
    assert all(value.shape[0] == 1 and value.size <= 4 * 64 * 64 for value in example)
    feeds = model(name).example(8)
    first, second = (_run(each, feeds) for each in (one, again))
    for left, right in zip(first, second, strict=True):
        assert torch.equal(left, right)
        assert float((left - left.roll(1, 0)).abs().max()) > 1e-3


def _run(module: Any, feeds: Any) -> list[Any]:
    with torch.inference_mode():
        result = module(*(torch.from_numpy(value) for value in feeds.values()))
    return list(result.values()) if isinstance(result, dict) else [result]
