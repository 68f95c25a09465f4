"""What `inspect` counts equals what a hand counts, in every framework; targets say why not."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lepton_edge import inspection, plugins, sources
from lepton_edge.devices import _tflite
from lepton_edge.devices._lowered import lowered
from lepton_edge.jobs import inspect as job
from lepton_edge.jobs import limits
from lepton_edge.model import ModelSource, TensorSpec
from lepton_edge.target import PRECISIONS
from tests.conftest import DEMO

torch = pytest.importorskip("torch", reason="pip install 'lepton-edge[torch]'")
ZOO = Path(__file__).parents[1] / "zoo.py"

# Name: (module, shape of its input, MACs a sample by hand).
HAND: dict[str, tuple[Any, tuple[int, ...], int]] = {
    "linear": (lambda: torch.nn.Linear(7, 5), (7,), 7 * 5),
    "linear over steps": (lambda: torch.nn.Linear(7, 5), (3, 7), 3 * 7 * 5),
    "conv": (lambda: torch.nn.Conv2d(3, 8, 3, 2, 1), (3, 9, 9), 5 * 5 * 8 * 3 * 9),
    "depthwise": (lambda: torch.nn.Conv2d(6, 6, 3, groups=6), (6, 8, 8), 6 * 6 * 6 * 9),
    "grouped": (lambda: torch.nn.Conv2d(4, 6, 3, groups=2), (4, 8, 8), 6 * 6 * 6 * 2 * 9),
    "dilated": (lambda: torch.nn.Conv1d(4, 6, 3, dilation=2), (4, 12), 8 * 6 * 4 * 3),
    "conv 3d": (lambda: torch.nn.Conv3d(2, 4, 3), (2, 5, 5, 5), 27 * 4 * 2 * 27),
    # Each input pixel is spread over its kernel: no product with the zeros in between.
    "transposed": (lambda: torch.nn.ConvTranspose2d(4, 6, 3, 2), (4, 5, 5), 25 * 4 * 6 * 9),
    "transposed, grouped": (
        lambda: torch.nn.ConvTranspose2d(4, 6, 3, 2, groups=2),
        (4, 5, 5),
        25 * 4 * 3 * 9,
    ),
    "lstm": (lambda: torch.nn.LSTM(3, 5, batch_first=True), (7, 3), 7 * 4 * 5 * (3 + 5)),
    "gru, two layers, both ways": (
        lambda: torch.nn.GRU(3, 5, 2, batch_first=True, bidirectional=True),
        (7, 3),
        7 * 2 * 3 * 5 * ((3 + 5) + (10 + 5)),
    ),
    "attention": (
        lambda: torch.nn.TransformerEncoder(
            torch.nn.TransformerEncoderLayer(32, 4, 64, batch_first=True),
            1,
            enable_nested_tensor=False,
        ),
        (16, 32),
        # four projections, scores and their use, two layers of 64
        16 * 4 * 32 * 32 + 2 * 16 * 16 * 32 + 16 * 2 * 32 * 64,
    ),
    "normalised": (lambda: torch.nn.Sequential(torch.nn.BatchNorm2d(3)), (3, 8, 8), 0),
}


def factory(folder: Path, name: str) -> ModelSource:
    """A factory of HAND's entry in a file of its own, as a user would write it."""
    path = folder / "model.py"
    path.write_text(
        "import torch\n"
        "from tests.contract.test_inspect import HAND\n"
        "def factory():\n"
        "    torch.manual_seed(0)\n"
        f"    build, shape, _ = HAND[{name!r}]\n"
        "    module = build()\n"
        "    module.example_inputs = {'x': torch.randn(2, *shape)}\n"
        "    return module\n"
    )
    return ModelSource(f"{path}:factory")


@pytest.mark.parametrize("name", HAND)
def test_macs_and_parameters_of_torch(tmp_path: Path, name: str) -> None:
    build, _, macs = HAND[name]
    counts = sources.count(sources.load(factory(tmp_path, name)))
    assert counts.why is None
    assert counts.macs == macs
    assert counts.parameters == sum(p.numel() for p in build().parameters())


@pytest.mark.filterwarnings("ignore")  # torch.onnx's own, of its TorchScript exporter
@pytest.mark.parametrize("name", HAND)
def test_macs_of_the_same_in_onnx(tmp_path: Path, name: str) -> None:
    pytest.importorskip("onnxruntime", reason="pip install 'lepton-edge[onnx]'")
    build, shape, macs = HAND[name]
    path = tmp_path / "m.onnx"
    module, fused = build().eval(), torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with torch.no_grad():
            torch.onnx.export(
                module, (torch.randn(2, *shape),), path, dynamo=False, opset_version=17,
                input_names=["x"], dynamic_axes={"x": {0: "batch"}},
            )  # fmt: skip
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)
    counts = sources.count(sources.load(ModelSource(str(path))))
    assert counts.why is None
    assert counts.macs == macs


def test_macs_where_the_batch_is_fixed(tmp_path: Path) -> None:
    build, shape, macs = HAND["conv"]
    program = torch.export.export(build().eval(), (torch.zeros(4, *shape),))
    torch.export.save(program, tmp_path / "m.pt2")
    model = sources.load(ModelSource(str(tmp_path / "m.pt2")))
    assert model.signature.inputs[0].shape[0] == 4
    assert sources.count(model).macs == macs


def test_products_without_a_count_are_named(tmp_path: Path) -> None:
    path = tmp_path / "m.py"
    path.write_text(
        "import torch\n"
        "class M(torch.nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.bilinear = torch.nn.Bilinear(3, 4, 5)\n"
        "        self.example_inputs = {'x': torch.ones(1, 3), 'y': torch.ones(1, 4)}\n"
        "    def forward(self, x, y):\n"
        "        return self.bilinear(x, y)\n"
    )
    counts = sources.count(sources.load(ModelSource(f"{path}:M")))
    assert counts.macs is None
    assert "trilinear" in str(counts.why)
    onnx = pytest.importorskip("onnx", reason="pip install 'lepton-edge[onnx]'")
    value = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Einsum", ["x", "x"], ["y"], equation="bi,bj->bij")],
        "g",
        [value("x", 1, [1, 4])],
        [value("y", 1, [1, 4, 4])],
    )
    made = onnx.helper.make_model(
        graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=10
    )
    onnx.save(made, tmp_path / "e.onnx")
    counts = sources.count(sources.load(ModelSource(str(tmp_path / "e.onnx"))))
    assert (counts.macs, counts.why) == (None, "the graph has Einsum")


@pytest.fixture(scope="module")
def keras_net(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int, int]:
    """A folder with one net as .keras, .h5, SavedModel and .tflite; its parameters and MACs."""
    pytest.importorskip("tensorflow", reason="pip install 'lepton-edge[tensorflow]'")
    folder = tmp_path_factory.mktemp("net")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TensorFlow's own, at import and while saving
        import keras
        import tensorflow as tf

        layers = keras.layers
        image = keras.Input((9, 9, 3), name="image")
        value = layers.Conv2D(8, 3, 2, padding="same")(image)  # 5 x 5 x 8
        value = layers.DepthwiseConv2D(3, padding="same")(value)  # 5 x 5 x 8
        value = layers.Conv2DTranspose(4, 2, 2)(value)  # 10 x 10 x 4
        value = layers.Dense(6)(layers.Flatten()(value))
        model = keras.Model(image, value)
        model.save(folder / "m.keras")
        model.save(folder / "m.h5")
        model.export(folder / "saved", verbose=False)
        converter = tf.lite.TFLiteConverter.from_keras_model(model)
        (folder / "m.tflite").write_bytes(converter.convert())
    macs = 25 * 8 * 3 * 9 + 25 * 8 * 9 + 25 * 8 * 4 * 4 + 400 * 6
    parameters = (3 * 9 * 8 + 8) + (8 * 9 + 8) + (8 * 4 * 4 + 4) + (400 * 6 + 6)
    return folder, parameters, macs


@pytest.mark.filterwarnings("ignore")  # TensorFlow's own, while loading
@pytest.mark.parametrize("name", ["m.keras", "m.h5", "saved", "m.tflite"])
def test_macs_and_parameters_of_tensorflow(keras_net: tuple[Path, int, int], name: str) -> None:
    folder, parameters, macs = keras_net
    counts = sources.count(sources.load(ModelSource(str(folder / name))))
    assert counts.why is None
    assert counts.macs == macs
    if name != "m.tflite":  # its shapes and paddings are constants too
        assert counts.parameters == parameters


@pytest.mark.filterwarnings("ignore")  # TensorFlow's own, while loading
@pytest.mark.parametrize("name", ["m.keras", "m.h5", "saved"])
def test_limits_before_and_after_the_conversion(
    keras_net: tuple[Path, int, int], name: str
) -> None:
    """What the tables say that a layer becomes is in the file that TensorFlow writes."""
    path = keras_net[0] / name
    found = limits.run(ModelSource(str(path)).as_dict(), "coral-usb", None)
    assert found["framework"] == ("savedmodel" if name == "saved" else "keras")
    assert found["operators"]
    written = {each.name for each in _tflite.read(keras_net[0] / "m.tflite").operators}
    for row in found["operators"]:
        for alternatives in lowered(found["framework"], row["op"]) or []:
            if alternatives != ["ADD"]:  # a bias, inside the layer's operator in a .tflite
                assert written & set(alternatives), row
    assert found["summary"]["cpu"] == 0


def test_limits_of_a_pt2(tmp_path: Path) -> None:
    build, shape, _ = HAND["conv"]
    program = torch.export.export(build().eval(), (torch.zeros(4, *shape),))
    torch.export.save(program, tmp_path / "m.pt2")
    found = limits.run(ModelSource(str(tmp_path / "m.pt2")).as_dict(), "coral-usb", None)
    assert [row["op"] for row in found["operators"]] == ["conv2d"]
    assert found["summary"]["accelerator"] == 1
    assert "batch" in [each["what"] for each in found["limits"]]  # fixed at 4


@pytest.fixture(scope="module")
def cnn() -> dict[str, Any]:
    return inspection.inspect(
        ModelSource(f"{DEMO / 'cnn.py'}:factory", str(DEMO / "cnn.safetensors"))
    )


def test_the_whole_answer(cnn: dict[str, Any]) -> None:
    assert json.loads(json.dumps(cnn)) == cnn
    assert list(cnn) == ["source", "framework", "signature", "operators", "parameters", "macs",
                         "macs_unknown", "size_bytes", "targets"]  # fmt: skip
    convolutions = 9 * (1 * 16 + 16 * 32 + 32 * 32 + 32 * 64 + 64 * 64)
    norms = 2 * (16 + 32 + 32 + 64 + 64)
    assert cnn["parameters"] == convolutions + norms + 64 * 10 + 10
    assert cnn["operators"]["batch_norm"] == 5
    assert cnn["signature"]["inputs"] == [
        {"name": "image", "shape": [None, 1, 28, 28], "dtype": "float32"}
    ]
    assert cnn["size_bytes"] == (DEMO / "cnn.safetensors").stat().st_size


def test_the_size_without_a_file_of_weights(tmp_path: Path) -> None:
    found = job.run(factory(tmp_path, "normalised").as_dict())
    assert found["size_bytes"] == 4 * 3 * 4 + 8  # four float32 vectors of 3, one int64 counter


def test_targets_say_yes_or_why_not(cnn: dict[str, Any]) -> None:
    rows = {(row["format"], row["precision"]): row for row in cnn["targets"]}
    assert set(rows) == {(f, p) for f in plugins.names("converters") for p in PRECISIONS}
    for row in rows.values():
        assert row["ok"] == (row["reason"] is None)
        assert row["ok"] or row["reason"]
    assert "bf16" in rows["onnx", "bf16"]["reason"]


def test_a_library_that_is_not_there_is_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.util

    find = importlib.util.find_spec

    def without(name: str, package: str | None = None) -> Any:
        return None if name in ("openvino", "nncf") else find(name, package)

    monkeypatch.setattr(importlib.util, "find_spec", without)
    rows = {(row["format"], row["precision"]): row for row in job.targets("torch")}
    assert rows["openvino", "fp32"]["reason"] == "not installed: openvino"
    assert rows["openvino", "int8"]["reason"] == "not installed: openvino"
    assert rows["openvino", "int4-weights"]["reason"] == "not installed: openvino, nncf"
    assert rows["openvino", "bf16"]["reason"].startswith("OpenVINO computes in bf16")


def test_sizes_that_the_user_fixes_are_counted_in_onnx(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx", reason="pip install 'lepton-edge[onnx]'")
    make, value = onnx.helper, onnx.helper.make_tensor_value_info
    graph = make.make_graph(
        [make.make_node("MatMul", ["x", "w"], ["y"])],
        "g",
        [value("x", 1, ["N", "T", 4])],
        [value("y", 1, ["N", "T", 3])],
        [make.make_tensor("w", 1, [4, 3], np.zeros(12))],
    )
    path = tmp_path / "m.onnx"
    onnx.save(
        make.make_model(graph, opset_imports=[make.make_opsetid("", 17)], ir_version=10), path
    )
    assert sources.count(sources.load(ModelSource(str(path)))).macs == 12
    fixed = ModelSource(str(path), inputs=(TensorSpec.parse("x=?x5x4"),))
    assert sources.count(sources.load(fixed)).macs == 5 * 12


def test_free_sizes_are_found_and_examples_fit(tmp_path: Path) -> None:
    inputs = (TensorSpec.parse("image=?x3x?x?"),)
    model = sources.load(ModelSource(f"{ZOO}:unet", inputs=inputs))
    assert model.signature.outputs[0].shape == (None, 4, None, None)
    first, second = model.example(3), model.example(5)
    np.testing.assert_array_equal(first["image"], second["image"][:3])
    fixed = (TensorSpec.parse("series=4x24x6"),)
    model = sources.load(ModelSource(f"{ZOO}:gru", inputs=fixed))
    assert model.signature.outputs[0].shape == (4, 5)
    assert len(np.unique(model.example(4)["series"][:, 0, 0])) == 4
