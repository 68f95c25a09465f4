"""The contract kit over every installed runtime, on tiny real models."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from lepton_edge import errors, loading, plugins, testing
from lepton_edge.artifact import Artifact, open_artifact
from lepton_edge.model import ModelSource, Signature, TensorSpec

RNG = np.random.default_rng(0)
TABLE = RNG.standard_normal((16, 3)).astype(np.float32)
WEIGHT = RNG.standard_normal((8, 3)).astype(np.float32)
FEEDS = {
    "value": RNG.standard_normal((1, 8)).astype(np.float32),
    "ids": RNG.integers(0, 16, (1, 4)),
}


def expected(value: np.ndarray, ids: np.ndarray) -> dict[str, np.ndarray]:
    """The tiny model in numpy: two inputs of different types, two outputs."""
    codes = np.maximum(value @ WEIGHT, 0)
    return {"scores": codes + TABLE[ids].mean(axis=1), "codes": codes}


def write_onnx(path: Path) -> None:
    onnx = pytest.importorskip("onnx", reason="making the model needs onnx")
    from onnx import TensorProto, helper, numpy_helper

    nodes = [
        helper.make_node("MatMul", ["value", "weight"], ["product"]),
        helper.make_node("Relu", ["product"], ["codes"]),
        helper.make_node("Gather", ["table", "ids"], ["rows"]),
        helper.make_node("ReduceMean", ["rows"], ["mean"], axes=[1], keepdims=0),
        helper.make_node("Add", ["codes", "mean"], ["scores"]),
    ]

    def info(name: str, kind: int, size: int) -> object:
        return helper.make_tensor_value_info(name, kind, ["batch", size])

    graph = helper.make_graph(
        nodes,
        "tiny",
        [info("value", TensorProto.FLOAT, 8), info("ids", TensorProto.INT64, 4)],
        [info("scores", TensorProto.FLOAT, 3), info("codes", TensorProto.FLOAT, 3)],
        [numpy_helper.from_array(WEIGHT, "weight"), numpy_helper.from_array(TABLE, "table")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 9
    onnx.checker.check_model(model)
    onnx.save(model, path)


TORCH = """
import torch
from torch import nn

class Tiny(nn.Module):
    def __init__(self):
        super().__init__()
        self.example_inputs = {"value": torch.zeros(1, 8), "ids": torch.zeros(1, 4).long()}
        self.weight = nn.Parameter(torch.zeros(8, 3))
        self.table = nn.Parameter(torch.zeros(16, 3))

    def forward(self, value, ids):
        codes = torch.relu(value @ self.weight)
        return {"scores": codes + self.table[ids].mean(1), "codes": codes}

def factory():
    return Tiny()
"""


def case_onnx(folder: Path) -> testing.RuntimeCase:
    pytest.importorskip("onnxruntime")
    write_onnx(folder / "tiny.onnx")
    return _case(open_artifact(folder / "tiny.onnx"))


def case_openvino(folder: Path) -> testing.RuntimeCase:
    ov = pytest.importorskip("openvino")
    write_onnx(folder / "tiny.onnx")
    ov.save_model(
        ov.convert_model(folder / "tiny.onnx"), folder / "tiny.xml", compress_to_fp16=False
    )
    return _case(open_artifact(folder / "tiny.xml"))


def case_torch(folder: Path) -> testing.RuntimeCase:
    torch = pytest.importorskip("torch")
    safetensors = pytest.importorskip("safetensors.torch")
    (folder / "tiny.py").write_text(TORCH)
    weights = {"weight": torch.from_numpy(WEIGHT), "table": torch.from_numpy(TABLE)}
    safetensors.save_file(weights, folder / "tiny.safetensors")
    source = ModelSource(f"{folder / 'tiny.py'}:factory", str(folder / "tiny.safetensors"))
    return _case(loading.as_artifact(source), reads_file=False)


def case_null(folder: Path) -> testing.RuntimeCase:
    module = plugins.load("runtimes", "null")
    signature = Signature(
        (TensorSpec("value", (None, 8), "float32"), TensorSpec("ids", (None, 4), "int64")),
        (TensorSpec("scores", (None, 3), "float32"), TensorSpec("codes", (None, 3), "float32")),
    )
    zeros = {"scores": np.zeros((1, 3), np.float32), "codes": np.zeros((1, 3), np.float32)}
    return testing.RuntimeCase(
        module, module.write(folder, signature), FEEDS, zeros, constant=True, reads_file=False
    )


def _case(artifact: Artifact, *, reads_file: bool = True) -> testing.RuntimeCase:
    module = plugins.load("runtimes", artifact.format)
    return testing.RuntimeCase(module, artifact, FEEDS, expected(**FEEDS), reads_file=reads_file)


@pytest.fixture(scope="module", params=[case_onnx, case_openvino, case_torch, case_null])
def case(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[testing.RuntimeCase]:
    make: Callable[[Path], testing.RuntimeCase] = request.param
    yield make(tmp_path_factory.mktemp("runtime"))
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)  # the checks left theirs behind


@pytest.mark.parametrize("check", testing.RUNTIME_CHECKS, ids=lambda check: check.__name__)
def test_contract(case: testing.RuntimeCase, check: Callable[[testing.RuntimeCase], None]) -> None:
    check(case)


# TensorFlow takes one number of threads a process, and it makes the .tflite file: its checks run
# in a process of their own, the interpreters' too.
BESIDE_TENSORFLOW = Path(__file__).with_name("beside_tensorflow.py")


@pytest.mark.parametrize("name", ["reference", "ai_edge_litert", "tensorflow"])
def test_contract_beside_tensorflow(tmp_path: Path, name: str) -> None:
    if not {"tensorflow", "ai_edge_litert"} <= set(_installed()):
        pytest.skip("needs tensorflow and ai-edge-litert: pip install 'lepton-edge[all]'")
    done = subprocess.run(
        [sys.executable, BESIDE_TENSORFLOW, tmp_path, name], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert f"checked {name}" in done.stdout


def _installed() -> list[str]:
    import importlib.util

    names = ("tensorflow", "ai_edge_litert", "tflite_runtime")
    return [name for name in names if importlib.util.find_spec(name)]


def test_a_provider_that_runs_nothing_is_an_error(tmp_path: Path) -> None:
    """ONNX Runtime ships the Azure provider: it takes no node of an ordinary model."""
    ort = pytest.importorskip("onnxruntime")
    if "AzureExecutionProvider" not in ort.get_available_providers():
        pytest.skip("this onnxruntime has no second provider")
    write_onnx(tmp_path / "tiny.onnx")
    asked = {"provider": "AzureExecutionProvider"}
    with pytest.raises(errors.PlacementError, match="AzureExecutionProvider") as caught:
        loading.load(tmp_path / "tiny.onnx", options=asked)
    assert caught.value.exit_code == 5
    allowed = {**asked, "allow_fallback": True}
    with loading.load(tmp_path / "tiny.onnx", threads=1, options=allowed) as session:
        done, _, total = session.facts["placement"].partition(" ")[2].partition("/")
        assert (done, int(total) > 0) == ("0", True)


def test_a_provider_that_is_not_built_in_is_an_error(tmp_path: Path) -> None:
    ort = pytest.importorskip("onnxruntime")
    if "CUDAExecutionProvider" in ort.get_available_providers():
        pytest.skip("this onnxruntime has CUDA")
    write_onnx(tmp_path / "tiny.onnx")
    with pytest.raises(errors.PlacementError, match="CUDAExecutionProvider"):
        loading.load(tmp_path / "tiny.onnx", device="cuda")


def cpu_computes_in(folder: Path) -> set[str]:
    """What OpenVINO itself says it takes for each hint on this CPU."""
    core = pytest.importorskip("openvino").Core()
    model = core.read_model(folder / "tiny.xml")
    hint = "INFERENCE_PRECISION_HINT"
    return {
        core.compile_model(model, "CPU", {hint: name}).get_property(hint).to_string()
        for name in ("bf16", "f16")
    }


def test_openvino_computes_in_what_was_asked_for(tmp_path: Path) -> None:
    case = case_openvino(tmp_path)
    with loading.load(case.artifact, threads=1) as session:
        assert session.facts["precision_hint"] == "f32"
        assert set(session.facts["kernel_precisions"]) <= {"f32", "i32", "i64"}
    for hint in ("bf16", "f16"):
        options = {"precision_hint": hint}
        if hint not in cpu_computes_in(tmp_path):  # said, not replaced
            with pytest.raises(errors.PlacementError, match=hint):
                loading.load(case.artifact, options=options)
            continue
        with loading.load(case.artifact, options=options) as session:
            assert session.facts["precision_hint"] == hint
            assert hint in session.facts["kernel_precisions"]
    with pytest.raises(errors.UsageError, match="chooses the device"):
        loading.load(case.artifact, device="auto")


def test_openvino_without_its_weights_is_bad_input(tmp_path: Path) -> None:
    case = case_openvino(tmp_path)
    weights = tmp_path / "tiny.bin"
    weights.write_bytes(weights.read_bytes()[:10])
    with pytest.raises(errors.BadInput, match=r"tiny\.xml"):
        loading.load(case.artifact)
    weights.unlink()
    with pytest.raises(errors.BadInput, match=r"tiny\.bin"):
        loading.load(case.artifact)


def test_a_failure_inside_the_runtime_is_one_sentence(tmp_path: Path) -> None:
    """An id outside the table passes the checks of name, dtype and shape."""
    case = case_onnx(tmp_path)
    with case.open() as session:
        wrong = {**FEEDS, "ids": np.full((1, 4), 99)}
        with pytest.raises(errors.UsageError, match="ONNX Runtime failed on these inputs"):
            session.run(wrong)
        case.agrees(session.run(FEEDS), "run after a failure")


def test_a_sequential_keras_model_runs_as_the_reference(tmp_path: Path) -> None:
    """In a process where TensorFlow runs already: fine, unless another number is asked for."""
    if "tensorflow" not in _installed():
        pytest.skip("needs tensorflow: pip install 'lepton-edge[tensorflow]'")
    code = (
        "import sys, numpy as np, tensorflow as tf\n"
        "from lepton_edge import errors, loading\n"
        "layers = [tf.keras.Input((8,)), tf.keras.layers.Dense(4, name='scores')]\n"
        "model = tf.keras.Sequential(layers)\n"
        "model.save(sys.argv[1])\n"
        "value = np.ones((3, 8), np.float32)\n"
        "with loading.load(sys.argv[1]) as session:\n"
        "    found = session.run(value)['scores']\n"
        "assert np.allclose(found, model(value), atol=1e-6)\n"
        "try:\n"
        "    loading.load(sys.argv[1], threads=7)\n"
        "except errors.UsageError as error:\n"
        "    print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "m.keras"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "so it cannot use 7" in done.stdout
