"""Cross-layer equalisation: the same function, and a network made hostile by scaling recovers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

onnx = pytest.importorskip("onnx", reason="pip install 'lepton-edge[onnx]'")
ort = pytest.importorskip("onnxruntime", reason="pip install 'lepton-edge[onnx]'")

from onnx import TensorProto, helper, numpy_helper  # noqa: E402

from lepton_edge import calibration  # noqa: E402
from lepton_edge.calibration import dialects, equalize, onnx_quantizer  # noqa: E402
from lepton_edge.calibration.graph import Graph, prepare, separate_weights  # noqa: E402


def _w(*shape: int) -> np.ndarray:
    value = np.random.default_rng(shape).standard_normal(shape) / np.sqrt(np.prod(shape[1:]))
    return (value * 1.4).astype(np.float32)


def _node(op: str, inputs: str, output: str, **attributes: Any) -> Any:
    return helper.make_node(op, inputs.split(), output.split(), name=output, **attributes)


def _blocks(activation: str) -> tuple[list[Any], dict[str, np.ndarray]]:
    """Two inverted residual blocks, the second with a skip, a pool and a Gemm."""
    extra = " zero six" if activation == "Clip" else ""
    nodes = [
        _node("Conv", "x e1 eb", "a1"),
        _node(activation, "a1" + extra, "a2"),
        _node("Conv", "a2 d1 db", "a3", group=16, pads=[1, 1, 1, 1]),
        _node(activation, "a3" + extra, "a4"),
        _node("Conv", "a4 p1", "a5"),
        _node("Conv", "a5 e2", "b1"),
        _node(activation, "b1" + extra, "b2"),
        _node("Conv", "b2 p2", "b3"),
        _node("Add", "b3 a5", "c"),
        _node("Conv", "c h", "c1"),
        _node(activation, "c1" + extra, "c2"),
        _node("GlobalAveragePool", "c2", "g"),
        _node("Reshape", "g shape", "flat"),
        _node("Gemm", "flat fc fb", "y", transB=1),
    ]
    weights = {
        "e1": _w(16, 3, 1, 1),
        "eb": _w(16) * 0.1,
        "d1": _w(16, 1, 3, 3),
        "db": _w(16) * 0.2,
        "p1": _w(8, 16, 1, 1),
        "e2": _w(24, 8, 1, 1),
        "p2": _w(8, 24, 1, 1),
        "h": _w(32, 8, 1, 1),
        "fc": _w(10, 32),
        "fb": _w(10),
        "shape": np.array([0, -1], np.int64),
        "zero": np.float32(0),
        "six": np.float32(6),
    }
    return nodes, weights


def _save(path: Path, nodes: list[Any], weights: dict[str, np.ndarray]) -> Path:
    model = helper.make_model(
        helper.make_graph(
            nodes,
            "g",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, 12, 12])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
            [numpy_helper.from_array(value, name) for name, value in weights.items()],
        ),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=8,
    )
    onnx.save(model, str(path))
    return path


def _hostile(weights: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The same function: channels of inner tensors multiplied by up to 100 and divided after."""
    rng, found = np.random.default_rng(0), dict(weights)

    def factor(size: int) -> np.ndarray:
        return np.exp(rng.uniform(0, np.log(100), size)).astype(np.float32)

    one, two, stream, three, four = (factor(n) for n in (16, 16, 8, 24, 32))
    found["e1"] = weights["e1"] * one[:, None, None, None]
    found["eb"] = weights["eb"] * one
    found["d1"] = weights["d1"] * (two / one)[:, None, None, None]
    found["db"] = weights["db"] * two
    found["p1"] = weights["p1"] * stream[:, None, None, None] / two[None, :, None, None]
    found["e2"] = weights["e2"] * three[:, None, None, None] / stream[None, :, None, None]
    found["p2"] = weights["p2"] * stream[:, None, None, None] / three[None, :, None, None]
    found["h"] = weights["h"] * four[:, None, None, None] / stream[None, :, None, None]
    found["fc"] = weights["fc"] / four
    return found


def _data(n: int = 32, seed: int = 0) -> calibration.Data:
    def feeds() -> Iterator[dict[str, np.ndarray]]:
        rng = np.random.default_rng(seed)
        for _ in range(n // 8):
            yield {"x": rng.standard_normal((8, 3, 12, 12)).astype(np.float32)}

    return calibration.Data(feeds, f"{n} {seed}")


def _run(model: bytes) -> np.ndarray:
    options = ort.SessionOptions()
    options.log_severity_level = 3
    session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return np.concatenate([session.run(None, feed)[0] for feed in _data(64, 9).feeds()])


def _equalized(path: Path) -> tuple[Graph, list[dict[str, Any]]]:
    graph = prepare(path)
    anchors = [node.name for node in graph.nodes if node.op_type in ("Conv", "Gemm")]
    separate_weights(graph, anchors, with_bias=True)
    rows = onnx_quantizer.equalize_channels(graph, _data(), calibration.Tuning())
    return graph, [equalize.record(row.group.tensors[0], row.factor) for row in rows]


def test_the_function_stays_the_same(tmp_path: Path) -> None:
    nodes, weights = _blocks("Relu")
    path = _save(tmp_path / "m.onnx", nodes, _hostile(weights))
    graph, rows = _equalized(path)
    assert len(rows) == 5  # two tensors of the first block, the stream, and one each of the others
    assert max(row["most"] for row in rows) > 20
    wanted, got = _run(path.read_bytes()), _run(graph.build().SerializeToString())
    assert got == pytest.approx(wanted, abs=1e-4 * float(np.abs(wanted).max()))


def test_relu6_is_left_alone(tmp_path: Path) -> None:
    path = _save(tmp_path / "m.onnx", *_blocks("Clip"))
    found = equalize.groups(prepare(path))
    assert [group.tensors[0] for group in found] == ["a5"]  # the linear stream only


@pytest.mark.parametrize("name", ["ort_x86_vnni", "tensorrt"])
def test_a_hostile_network_recovers(tmp_path: Path, name: str) -> None:
    nodes, weights = _blocks("Relu")
    tame = _save(tmp_path / "tame.onnx", nodes, weights)
    hostile = _save(tmp_path / "hostile.onnx", nodes, _hostile(weights))
    wanted = _run(tame.read_bytes())
    assert _run(hostile.read_bytes()) == pytest.approx(wanted, abs=1e-3)

    def sqnr_db(path: Path, **options: Any) -> float:
        out = tmp_path / "q.onnx"
        calibration.quantize_onnx(
            path, out, _data(), dialects.load(name), calibration.Tuning(**options)
        )
        error = _run(out.read_bytes()) - wanted
        return float(10 * np.log10((wanted**2).sum() / (error**2).sum()))

    assert sqnr_db(hostile, equalize=False, rounding="nearest", correct_bias=False) < 25
    assert sqnr_db(hostile) > sqnr_db(tame) - 1.5


def test_a_channel_that_fires_late_does_not_take_the_grid(tmp_path: Path) -> None:
    """On the few samples that are equalised on it is a thousandth; one later image fires it."""
    nodes, weights = _blocks("Relu")
    weights["e1"][0], weights["eb"][0] = 0, 1e-3
    weights["e1"][0, 0] = 5

    def feeds() -> Iterator[dict[str, np.ndarray]]:
        rng = np.random.default_rng(1)
        for index in range(2 * onnx_quantizer.EQUALIZE_SAMPLES // 8):
            x = rng.standard_normal((8, 3, 12, 12)).astype(np.float32)
            x[:, 0] *= index >= onnx_quantizer.EQUALIZE_SAMPLES // 8
            yield {"x": x}

    path = _save(tmp_path / "m.onnx", nodes, weights)
    data, dialect = calibration.Data(feeds, "late"), calibration.load("ort_x86_vnni")
    work = onnx_quantizer.Work(path, data, dialect, calibration.Tuning(), cache=None)
    most = work.stats.tensors["a2"].channel_max
    assert most[0] < 2 * most[1:].max()
    assert max(row["most"] for row in work.equalized if row["tensor"].startswith("a")) < 100
    wanted, got = _run(path.read_bytes()), _run(work.graph.build().SerializeToString())
    assert got == pytest.approx(wanted, abs=1e-4 * float(np.abs(wanted).max()))
