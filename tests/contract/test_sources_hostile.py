"""Files that a framework made and someone changed: cut, swapped, or with code inside that must
not run. Each payload would leave a mark; the mark must be missing."""

from __future__ import annotations

import json
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lepton_edge import demo, errors, sources
from lepton_edge.model import ModelSource, TensorSpec

torch = pytest.importorskip("torch", reason="pip install 'lepton-edge[torch]'")


class Small(torch.nn.Module):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(4, 3)

    def forward(self, x: Any) -> Any:
        return self.linear(x.reshape(x.shape[0] * 1, 4)).softmax(-1)


@pytest.fixture(scope="module")
def pt2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pt2") / "m.pt2"
    free = ({0: torch.export.Dim("batch", min=1, max=64)},)
    program = torch.export.export(Small().eval(), (torch.zeros(3, 4),), dynamic_shapes=free)
    torch.export.save(program, path)
    return path


def changed(given: Path, made: Path, change: Callable[[Any], None], **more: bytes) -> Path:
    """A copy of the archive with its program changed, and with more members."""
    with zipfile.ZipFile(given) as old, zipfile.ZipFile(made, "w") as new:
        for name in old.namelist():
            content = old.read(name)
            if name.endswith("models/model.json"):
                program = json.loads(content)
                change(program)
                content = json.dumps(program).encode()
            new.writestr(name, content)
        for name, content in more.items():
            new.writestr(name, content)
    return made


def refused(path: Path | str, word: str, weights: Path | None = None, **inputs: str) -> str:
    specs = tuple(TensorSpec.parse(f"{name}={text}") for name, text in inputs.items())
    source = ModelSource(str(path), None if weights is None else str(weights), specs)
    with pytest.raises(errors.BadInput, match=word) as caught:
        sources.load(source)
    assert "\n" not in caught.value.message
    return str(caught.value)


def nothing(program: Any) -> None:
    """Leaves the program as it is."""


def test_a_copy_without_a_change_opens(pt2: Path, tmp_path: Path) -> None:
    model = sources.load(ModelSource(str(changed(pt2, tmp_path / "same.pt2", nothing))))
    assert model.signature.inputs == (TensorSpec("x", (None, 4), "float32"),)
    assert sources.count(model).macs == 12


def test_python_in_the_sizes_of_a_pt2(pt2: Path, tmp_path: Path) -> None:
    mark = tmp_path / "ran"

    def change(program: Any) -> None:
        size = program["graph_module"]["graph"]["tensor_values"]["x"]["sizes"][0]["as_expr"]
        size["expr_str"] = (
            f"__import__('pathlib').Path({str(mark)!r}).touch() or {size['expr_str']}"
        )

    refused(changed(pt2, tmp_path / "bad.pt2", change), "arithmetic on sizes")
    assert not mark.exists()


@pytest.mark.parametrize(
    "guard",
    [
        "__import__('pathlib').Path('MARK').touch() is None",
        "open('MARK', 'w') is not None",
        "L['x'].size.__self__.__class__ is not None",
        "torch.os.system('touch MARK') == 0",
        "(lambda: 1)() == 1",
        '1, "") or open("MARK", "w") #',
    ],
)
def test_python_in_the_guards_of_a_pt2(pt2: Path, tmp_path: Path, guard: str) -> None:
    mark = tmp_path / "ran"

    def change(program: Any) -> None:
        program["guards_code"] = [guard.replace("MARK", str(mark))]

    refused(changed(pt2, tmp_path / "bad.pt2", change), "arithmetic on sizes")
    assert not mark.exists()


def test_guards_that_torch_writes_are_kept(tmp_path: Path) -> None:
    class Guarded(torch.nn.Module):  # type: ignore[misc]
        def forward(self, x: Any, y: Any) -> Any:
            x = x + 1 if x.shape[0] > 2 else x
            return torch.cat([x, y], 1)[:, ::2].reshape(x.shape[0], -1)

    auto = torch.export.Dim.AUTO
    program = torch.export.export(
        Guarded(),
        (torch.zeros(4, 6), torch.zeros(4, 6)),
        dynamic_shapes=({0: auto, 1: auto}, {0: auto, 1: auto}),
    )
    assert program._guards_code
    torch.export.save(program, tmp_path / "m.pt2")
    model = sources.load(ModelSource(str(tmp_path / "m.pt2")))
    assert [spec.shape for spec in model.signature.inputs] == [(None, None)] * 2
    assert model.signature.outputs[0].shape == (None, None)
    ones = np.ones((5, 7), np.float32)
    assert model.run({"x": ones, "y": ones})["output"].shape == (5, 7)


@pytest.mark.parametrize(
    "target",
    ["torch.os.system", "torch.load", "torch.ops.load_library", "torch.ops.aten.from_file.default",
     "torch.ops.aten.save.default", "torch.ops.mine.run.default", "#ext:op",
     "torch.ops.higher_order.aoti_call_delegate", "_operator.methodcaller", "math.__loader__"],
)  # fmt: skip
def test_an_operator_that_is_none(pt2: Path, tmp_path: Path, target: str) -> None:
    def change(program: Any) -> None:
        program["graph_module"]["graph"]["nodes"][-1]["target"] = target

    refused(changed(pt2, tmp_path / "bad.pt2", change), "the operator")


def test_names_and_trees_that_carry_code(pt2: Path, tmp_path: Path) -> None:
    def name(program: Any) -> None:
        program["graph_module"]["module_call_graph"][0]["signature"]["forward_arg_names"] = [
            "x=open('f')"
        ]

    def tree(program: Any) -> None:
        signature = program["graph_module"]["module_call_graph"][0]["signature"]
        context = {"default_factory_module": "this", "default_factory_name": "s"}
        signature["in_spec"] = json.dumps(
            [1, {"type": "collections.defaultdict", "context": json.dumps(context),
                 "children_spec": []}]
        )  # fmt: skip

    refused(changed(pt2, tmp_path / "a.pt2", name), "the name")
    refused(changed(pt2, tmp_path / "b.pt2", tree), "the container")


def test_compiled_code_in_a_pt2(pt2: Path, tmp_path: Path) -> None:
    for name in ("m/data/aotinductor/model/x.so", "m/data/aotinductor/model/x.cpp", "m/data/a.pkl"):
        refused(changed(pt2, tmp_path / "bad.pt2", nothing, **{name: b"\x7fELF"}), "is code")


def test_a_pt2_cut_or_changed_anywhere(pt2: Path, tmp_path: Path) -> None:
    whole, bad = pt2.read_bytes(), tmp_path / "bad.pt2"
    for size in range(0, len(whole), len(whole) // 40):
        bad.write_bytes(whole[:size])
        refused(bad, "bad.pt2")
    with zipfile.ZipFile(pt2) as archive:
        (info,) = (one for one in archive.infolist() if one.filename.endswith("model.json"))
    content = bytearray(whole)
    content[info.header_offset + 400] ^= 1
    bad.write_bytes(content)
    refused(bad, "CRC")


def test_a_pt2_with_other_inputs_than_tensors(tmp_path: Path) -> None:
    class Keyword(torch.nn.Module):  # type: ignore[misc]
        def forward(self, x: Any, *, by: Any) -> Any:
            return x * by

    class Listed(torch.nn.Module):  # type: ignore[misc]
        def forward(self, xs: Any) -> Any:
            return xs[0] + xs[1]

    x = torch.ones(2, 3)
    for module, arguments, named in (
        (Keyword(), (x,), {"by": x}),
        (Listed(), ([x, x],), {}),
        (Keyword(), (x,), {"by": 3}),
    ):
        path = tmp_path / "m.pt2"
        torch.export.save(torch.export.export(module, arguments, named), path)
        assert "by position" in refused(path, "keyword arguments, containers or plain numbers")


def test_torchscript_that_writes_a_file(tmp_path: Path) -> None:
    code, mark = tmp_path / "script.py", tmp_path / "ran"
    code.write_text(
        "import torch\nclass S(torch.nn.Module):\n    def forward(self, x: torch.Tensor):\n"
        f"        torch.save(x, {str(mark)!r})\n        return x\n"
    )
    from lepton_edge._user_code import load_function

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # torch.jit
        torch.jit.save(torch.jit.script(load_function(code, "S")()), tmp_path / "m.pt")
    refused(tmp_path / "m.pt", "opens files", x="?x3")
    assert not mark.exists()


def test_weights_that_are_damaged_or_hold_code(tmp_path: Path) -> None:
    for name, content in (("w.safetensors", b"{}" * 20), ("w.pth", b"\x80\x04."), ("v.pth", b"")):
        (tmp_path / name).write_bytes(content)
        refused(demo.SOURCE.path, name.partition(".")[0], tmp_path / name)
    whole = Path(str(demo.SOURCE.weights)).read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(whole[: len(whole) // 2])
    refused(demo.SOURCE.path, "cut.safetensors", tmp_path / "cut.safetensors")
    torch.save({"a": 3}, tmp_path / "n.pth")
    refused(demo.SOURCE.path, "no state_dict", tmp_path / "n.pth")
    refused(demo.SOURCE.path, "no file", tmp_path / "absent.pth")


@pytest.fixture(scope="module")
def keras(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `mark` as the file that a payload would write."""
    pytest.importorskip("tensorflow", reason="pip install 'lepton-edge[tensorflow]'")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TensorFlow's own, at import and while saving
        return _made_by_keras(tmp_path_factory.mktemp("keras"))


def _made_by_keras(folder: Path) -> Path:
    import keras
    import tensorflow as tf

    mark = str(folder / "mark")

    def model(layer: Any) -> Any:
        given = keras.Input((4,), name="x")
        return keras.Model(given, layer(given))

    for name in ("lambda.keras", "lambda.h5"):
        code = lambda value: (open(mark, "w").close(), value)[1]  # noqa: E731
        model(keras.layers.Lambda(code, output_shape=(4,))).save(folder / name)
    Own = type("Own", (keras.layers.Layer,), {"call": lambda self, value: value + 1})
    model(Own()).save(folder / "own.keras")
    model(keras.layers.Dense(3)).save(folder / "sound.keras")
    model(keras.layers.Dense(3)).save(folder / "sound.h5")
    model(keras.layers.Dense(3)).export(folder / "saved", verbose=False)

    class Writes(tf.Module):  # type: ignore[misc]
        @tf.function(input_signature=[tf.TensorSpec([None, 4], tf.float32, name="x")])  # type: ignore[untyped-decorator]
        def serve(self, x: Any) -> Any:
            tf.io.write_file(mark, tf.constant("ran"))
            return {"y": x * 2}

    module = Writes()
    tf.saved_model.save(module, folder / "writes", signatures={"serving_default": module.serve})
    model(keras.layers.TFSMLayer(str(folder / "writes"), call_endpoint="serving_default")).save(
        folder / "wrapped.keras"
    )
    (folder / "mark").unlink(missing_ok=True)
    return folder


@pytest.mark.filterwarnings("ignore")  # TensorFlow's own, while loading
@pytest.mark.parametrize(
    ("name", "word"),
    [
        ("lambda.keras", "Lambda layer"),
        ("lambda.h5", "Lambda layer"),
        ("own.keras", "'Own', whose code is not in Keras"),
        ("wrapped.keras", "TFSMLayer layer"),
        ("writes", "WriteFile"),
    ],
)
def test_code_in_models_of_tensorflow(keras: Path, name: str, word: str) -> None:
    refused(keras / name, word)
    assert not (keras / "mark").exists()


@pytest.mark.filterwarnings("ignore")  # TensorFlow's own, while loading
def test_models_of_tensorflow_that_are_cut(keras: Path, tmp_path: Path) -> None:
    for name in ("sound.keras", "sound.h5"):
        assert sources.load(ModelSource(str(keras / name))).signature.inputs[0].name == "x"
        whole = (keras / name).read_bytes()
        for part in (0.2, 0.6, 0.95):
            (tmp_path / name).write_bytes(whole[: int(part * len(whole))])
            refused(tmp_path / name, name)
    graph = keras / "saved" / "saved_model.pb"
    whole = graph.read_bytes()
    graph.write_bytes(whole[: len(whole) // 2])
    refused(keras / "saved", "SavedModel")
    graph.write_bytes(whole)
    for file in (keras / "saved" / "variables").iterdir():
        file.unlink()
    refused(keras / "saved", "SavedModel")


@pytest.mark.parametrize("place", ["../secret.bin", "ABSOLUTE", "link.bin", "absent.bin"])
def test_onnx_weights_outside_of_the_folder(tmp_path: Path, place: str) -> None:
    onnx = pytest.importorskip("onnx", reason="pip install 'lepton-edge[onnx]'")
    folder = tmp_path / "model"
    folder.mkdir()
    (tmp_path / "secret.bin").write_bytes(np.arange(16, dtype=np.float32).tobytes())
    (folder / "link.bin").symlink_to(tmp_path / "secret.bin")
    weights = onnx.TensorProto(name="w", data_type=1, dims=[4, 4], data_location=1)
    place = place.replace("ABSOLUTE", str(tmp_path / "secret.bin"))
    weights.external_data.add(key="location", value=place)
    make, value = onnx.helper, onnx.helper.make_tensor_value_info
    graph = make.make_graph(
        [make.make_node("MatMul", ["x", "w"], ["y"])],
        "g",
        [value("x", 1, ["N", 4])],
        [value("y", 1, ["N", 4])],
        [weights],
    )
    proto = make.make_model(graph, opset_imports=[make.make_opsetid("", 17)], ir_version=10)
    (folder / "m.onnx").write_bytes(proto.SerializeToString())
    refused(folder / "m.onnx", "External data")
