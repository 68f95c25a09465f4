"""The Q/DQ writer against onnxruntime: structure in each dialect, closeness, determinism."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lepton_edge import errors

onnx = pytest.importorskip("onnx", reason="pip install 'lepton-edge[onnx]'")
ort = pytest.importorskip("onnxruntime", reason="pip install 'lepton-edge[onnx]'")

from onnx import TensorProto, helper, numpy_helper  # noqa: E402

from lepton_edge import calibration  # noqa: E402
from lepton_edge.calibration import dialects, graph, patches  # noqa: E402
from lepton_edge.calibration.grid import Grid  # noqa: E402
from lepton_edge.converters import _qdq  # noqa: E402

DIALECTS = [name for name in dialects.names() if dialects.load(name).container == "onnx"]


def _f(*shape: int, scale: float = 1.0) -> np.ndarray:
    fan = max(1, int(np.prod(shape[1:])))
    # Seeded by its shape, so that no test depends on which ran before it.
    return (np.random.default_rng(shape).standard_normal(shape) * scale / np.sqrt(fan)).astype(
        np.float32
    )


def _save(
    path: Path,
    nodes: list[Any],
    weights: dict[str, np.ndarray],
    inputs: dict[str, list[Any]],
    outputs: list[str],
) -> Path:
    model = helper.make_model(
        helper.make_graph(
            nodes,
            "g",
            [helper.make_tensor_value_info(k, TensorProto.FLOAT, v) for k, v in inputs.items()],
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
            [numpy_helper.from_array(value, name) for name, value in weights.items()],
        ),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=8,
    )
    onnx.save(model, str(path))
    return path


def _node(op: str, inputs: str, output: str, **attributes: Any) -> Any:
    return helper.make_node(op, inputs.split(), output.split(), name=output, **attributes)


@pytest.fixture
def cnn(tmp_path: Path) -> Path:
    """conv-relu, depthwise-relu6, linear conv + skip, pool, concat, global pool, Gemm."""
    weights = {
        "w1": _f(8, 3, 3, 3),
        "b1": _f(8),
        "w2": _f(8, 1, 3, 3) * np.geomspace(0.05, 20, 8).astype(np.float32)[:, None, None, None],
        "b2": _f(8),
        "w3": _f(8, 8, 1, 1),
        "w4": _f(6, 8, 1, 1),
        "w5": _f(10, 14),
        "b5": _f(10),
        "zero": np.float32(0),
        "six": np.float32(6),
        "shape": np.array([0, -1], np.int64),
    }
    nodes = [
        _node("Conv", "x w1 b1", "c1", pads=[1, 1, 1, 1]),
        _node("Relu", "c1", "r1"),
        _node("Conv", "r1 w2 b2", "c2", pads=[1, 1, 1, 1], group=8),
        _node("Clip", "c2 zero six", "r2"),
        _node("Conv", "r2 w3", "c3"),
        _node("Add", "c3 r1", "a"),
        _node("MaxPool", "a", "m", kernel_shape=[2, 2], strides=[2, 2]),
        _node("Conv", "m w4", "c4"),
        _node("Concat", "c4 m", "k", axis=1),
        _node("GlobalAveragePool", "k", "p"),
        _node("Reshape", "p shape", "flat"),
        _node("Gemm", "flat w5 b5", "y", transB=1),
    ]
    return _save(tmp_path / "cnn.onnx", nodes, weights, {"x": ["N", 3, 16, 16]}, ["y"])


def _images(n: int = 24, seed: int = 1) -> calibration.Data:
    def feeds() -> Iterator[dict[str, np.ndarray]]:
        rng = np.random.default_rng(seed)
        for _ in range(n // 4):
            yield {"x": rng.standard_normal((4, 3, 16, 16)).astype(np.float32)}

    return calibration.Data(feeds, f"normal {n} {seed}")


def _run(model: Path | bytes, feeds: dict[str, np.ndarray]) -> np.ndarray:
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    if _qdq.has_vnni("cpu") is False:  # its integer kernels saturate, which no dialect here is for
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    session = ort.InferenceSession(
        model if isinstance(model, bytes) else str(model),
        options,
        providers=["CPUExecutionProvider"],
    )
    return session.run(None, feeds)[0]


def _sqnr_db(wanted: np.ndarray, got: np.ndarray) -> float:
    return float(10 * np.log10((wanted**2).sum() / ((wanted - got) ** 2).sum()))


def _constants(path: Path) -> dict[str, np.ndarray]:
    model = onnx.load(str(path))
    return {item.name: numpy_helper.to_array(item) for item in model.graph.initializer}


@pytest.mark.parametrize("name", DIALECTS)
def test_outputs_stay_close_in_every_dialect(cnn: Path, tmp_path: Path, name: str) -> None:
    out = tmp_path / "q.onnx"
    record = calibration.quantize_onnx(cnn, out, _images(), dialects.load(name))
    onnx.checker.check_model(onnx.load(str(out)), full_check=True)
    feeds = next(iter(_images(64, seed=9).feeds()))
    assert _sqnr_db(_run(cnn, feeds), _run(out, feeds)) > 28
    assert record["samples"] == 24
    assert len(record["layers"]) == 5


@pytest.mark.parametrize("name", DIALECTS)
def test_the_same_arguments_give_the_same_bytes(cnn: Path, tmp_path: Path, name: str) -> None:
    outs = [tmp_path / "1.onnx", tmp_path / "2.onnx"]
    for out in outs:
        calibration.quantize_onnx(cnn, out, _images(), dialects.load(name))
    assert outs[0].read_bytes() == outs[1].read_bytes()


def test_tensorrt_gets_symmetric_grids_float_biases_and_a_quantised_skip(
    cnn: Path, tmp_path: Path
) -> None:
    out = tmp_path / "q.onnx"
    calibration.quantize_onnx(cnn, out, _images(), dialects.load("tensorrt"))
    constants = _constants(out)
    zeros = [value for name, value in constants.items() if name.endswith("_zero")]
    assert zeros
    assert all(value.dtype == np.int8 and not value.any() for value in zeros)
    model = onnx.load(str(out))
    producers = {node.output[0]: node.op_type for node in model.graph.node}
    add = next(node for node in model.graph.node if node.op_type == "Add")
    assert [producers[name] for name in add.input] == ["Conv", "DequantizeLinear"]
    for node in model.graph.node:
        if node.op_type in ("Conv", "Gemm"):
            assert [producers.get(n) for n in node.input[:2]] == ["DequantizeLinear"] * 2
            assert node.input[2] in constants
            assert constants[node.input[2]].dtype == np.float32
    assert {node.op_type for node in model.graph.node} >= {"Relu", "Clip"}


def test_onnxruntime_runs_it_in_integers(cnn: Path, tmp_path: Path) -> None:
    out, optimised = tmp_path / "q.onnx", tmp_path / "o.onnx"
    calibration.quantize_onnx(cnn, out, _images(), dialects.load("ort_x86_vnni"))
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(optimised)
    options.log_severity_level = 3
    ort.InferenceSession(str(out), options, providers=["CPUExecutionProvider"])
    ops = Counter(node.op_type for node in onnx.load(str(optimised)).graph.node)
    assert ops["QLinearConv"] == 4
    assert ops["QGemm"] == ops["QLinearAdd"] == ops["QLinearConcat"] == 1
    assert ops["QLinearGlobalAveragePool"] == 1
    assert not {"Conv", "Gemm", "Relu", "Clip", "Add"} & set(ops)
    assert ops["QuantizeLinear"] == 1


def test_codes_of_each_dialect_stay_in_its_range(cnn: Path, tmp_path: Path) -> None:
    for name in DIALECTS:
        out = tmp_path / f"{name}.onnx"
        dialect = dialects.load(name)
        calibration.quantize_onnx(cnn, out, _images(), dialect)
        for key, value in _constants(out).items():
            if key.endswith("_weight_q"):
                assert value.dtype == np.int8
                assert np.abs(value.astype(int)).max() <= dialect.weight.qmax, (name, key)
            if key.endswith("_bias_q"):
                assert value.dtype == np.int32
                assert dialect.bias == "int32"


def test_joined_tensors_share_one_grid_in_openvino(cnn: Path, tmp_path: Path) -> None:
    out = tmp_path / "q.onnx"
    calibration.quantize_onnx(cnn, out, _images(), dialects.load("openvino"))
    model = onnx.load(str(out))
    by_output = {node.output[0]: node for node in model.graph.node}
    concat = next(node for node in model.graph.node if node.op_type == "Concat")
    scales = {by_output[name].input[1] for name in concat.input}
    assert len(scales) == 1


@pytest.mark.parametrize(("off", "lost_db"), [("rounding", 0.5), ("correct_bias", 0.3)])
def test_each_correction_can_be_switched_and_helps(
    cnn: Path, tmp_path: Path, off: str, lost_db: float
) -> None:
    values: dict[str, Any] = {"rounding": "nearest", "correct_bias": False}
    feeds = {"x": np.concatenate([f["x"] for f in _images(64, seed=9).feeds()])}
    wanted, found = _run(cnn, feeds), []
    coarse = replace(  # 4-bit weights: there is something to correct
        dialects.load("ort_x86_vnni"), weight=Grid(bits=4, symmetric=True, narrow=True)
    )
    for options in (
        calibration.Tuning(),
        calibration.Tuning(**{off: values[off]}),
    ):
        record = calibration.quantize_onnx(cnn, tmp_path / "q.onnx", _images(128), coarse, options)
        assert record["options"][off] == getattr(options, off)
        found.append(_sqnr_db(wanted, _run(tmp_path / "q.onnx", feeds)))
    assert found[0] > found[1] + lost_db


def test_statistics_are_kept_and_used_again(cnn: Path, tmp_path: Path) -> None:
    passes: list[int] = []
    inner = _images()

    def feeds() -> Iterator[dict[str, np.ndarray]]:
        passes.append(1)
        yield from inner.feeds()

    data = calibration.Data(feeds, inner.fingerprint)
    options = calibration.Tuning(rounding="nearest", correct_bias=False)
    cache = tmp_path / "cache"
    cache.mkdir()
    records = []
    for name in ("ort_x86_vnni", "openvino", "tensorrt", "ort_arm"):
        out = tmp_path / f"{name}.onnx"
        dialect = dialects.load(name)
        records.append(calibration.quantize_onnx(cnn, out, data, dialect, options, cache=cache))
        if name == "ort_x86_vnni":
            seen = len(passes)  # one for the channels' balance, one for the statistics
            assert seen <= 2
        assert len(passes) == seen
    assert len({record["statistics"] for record in records}) == 1
    other = calibration.quantize_onnx(cnn, out, _images(28), dialect, options, cache=cache)
    assert other["statistics"] != records[0]["statistics"]


def test_a_transformer_keeps_softmax_norm_and_residuals_in_float(tmp_path: Path) -> None:
    weights = {"w": _f(16, 16), "b": _f(16), "v": _f(16, 16), "g": np.ones(16, np.float32)}
    nodes = [
        _node("MatMul", "x w", "m1"),
        _node("Add", "m1 b", "q"),
        _node("Softmax", "q", "s"),
        _node("MatMul", "s v", "m2"),
        _node("Add", "m2 x", "r"),
        _node("LayerNormalization", "r g", "n"),
        _node("MatMul", "n w", "y"),
    ]
    path = _save(tmp_path / "t.onnx", nodes, weights, {"x": ["N", 5, 16]}, ["y"])

    def feeds() -> Iterator[dict[str, np.ndarray]]:
        for seed in range(8):
            yield {"x": np.random.default_rng(seed).standard_normal((4, 5, 16)).astype(np.float32)}

    out = tmp_path / "q.onnx"
    record = calibration.quantize_onnx(
        path, out, calibration.Data(feeds, "t"), dialects.load("ort_x86_vnni")
    )
    assert record["float_nodes"]["r"] == "residual stream before a normalisation"
    model = onnx.load(str(out))
    users = {name: node.op_type for node in model.graph.node for name in node.input}
    assert users["q"] == "Softmax"
    assert users["r"] == "LayerNormalization"
    test = {"x": np.random.default_rng(99).standard_normal((8, 5, 16)).astype(np.float32)}
    assert _sqnr_db(_run(path, test), _run(out, test)) > 35


def test_a_large_bias_widens_its_scale_and_does_not_overflow(tmp_path: Path) -> None:
    weights = {
        "w": _f(4, 3, 1, 1, scale=1e-6),
        "b": np.full(4, 50, np.float32),
        "v": _f(2, 4, 1, 1),
    }
    nodes = [_node("Conv", "x w b", "c"), _node("Conv", "c v", "y")]
    path = _save(tmp_path / "b.onnx", nodes, weights, {"x": ["N", 3, 16, 16]}, ["y"])
    out = tmp_path / "q.onnx"
    record = calibration.quantize_onnx(path, out, _images(), dialects.load("ort_x86_vnni"))
    assert record["bias_scales_widened"] == ["c"]
    assert np.abs(_constants(out)["c_bias_q"].astype(np.int64)).max() < 2**30
    feeds = next(iter(_images().feeds()))
    assert _sqnr_db(_run(path, feeds), _run(out, feeds)) > 40


def test_bad_requests_say_what_to_do(cnn: Path, tmp_path: Path) -> None:
    out, dialect = tmp_path / "q.onnx", dialects.load("ort_x86_vnni")
    with pytest.raises(errors.UsageError, match="empty"):
        calibration.quantize_onnx(cnn, out, calibration.Data(lambda: [], "none"), dialect)
    with pytest.raises(errors.UsageError, match="node 'c9'"):
        calibration.quantize_onnx(
            cnn, out, _images(), dialect, calibration.Tuning(keep_float=("c9",))
        )
    damaged = tmp_path / "damaged.onnx"
    damaged.write_bytes(cnn.read_bytes()[:200])
    with pytest.raises(errors.EdgeError):
        calibration.quantize_onnx(damaged, out, _images(), dialect)
    plain = _save(
        tmp_path / "plain.onnx", [_node("Relu", "x", "y")], {}, {"x": ["N", 3, 16, 16]}, ["y"]
    )
    with pytest.raises(errors.CannotConvert, match="no operator"):
        calibration.quantize_onnx(plain, out, _images(), dialect)
    assert not out.exists()
    calibration.quantize_onnx(cnn, out, _images(), dialect)
    with pytest.raises(errors.CannotConvert, match="quantised already"):
        calibration.quantize_onnx(out, tmp_path / "twice.onnx", _images(), dialect)


@pytest.mark.parametrize(
    "attributes",
    [
        {},
        {"pads": [1, 0, 2, 1], "strides": [2, 1]},
        {"dilations": [2, 2], "group": 2},
        {"group": 4, "auto_pad": "SAME_UPPER", "strides": [2, 2]},
        {"auto_pad": "SAME_LOWER"},
    ],
)
def test_rows_of_patches_times_the_weight_are_the_convolution(
    tmp_path: Path, attributes: dict[str, Any]
) -> None:
    groups = attributes.get("group", 1)
    weight = _f(8, 4 // groups, 3, 2)
    path = _save(
        tmp_path / "c.onnx",
        [_node("Conv", "x w", "y", **attributes)],
        {"w": weight},
        {"x": [2, 4, 9, 8]},
        ["y"],
    )
    x = np.random.default_rng(0).standard_normal((2, 4, 9, 8)).astype(np.float32)
    node = graph.prepare(path).nodes[0]
    (rows,) = patches.rows(node, (x,), weight.shape, 10**6, 0)
    assert patches.matrix_shape(node, weight.shape) == rows.shape[::2]
    out = rows @ patches.to_matrix(node, weight, 0).transpose(0, 2, 1)  # groups, places, outputs
    wanted = _run(path, {"x": x})
    got = out.transpose(1, 0, 2).reshape(2, *wanted.shape[2:], 8).transpose(0, 3, 1, 2)
    assert got == pytest.approx(wanted, abs=1e-5)
