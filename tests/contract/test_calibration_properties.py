"""Whatever a network's weights and activations are, what is written obeys its dialect."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

onnx = pytest.importorskip("onnx", reason="pip install 'lepton-edge[onnx]'")
ort = pytest.importorskip("onnxruntime", reason="pip install 'lepton-edge[onnx]'")

from onnx import TensorProto, helper, numpy_helper  # noqa: E402

from lepton_edge import calibration  # noqa: E402
from lepton_edge.calibration import dialects  # noqa: E402

DIALECTS = [name for name in dialects.names() if dialects.load(name).container == "onnx"]
# Nothing, denormal, tiny, ordinary, large, and so large that products overflow float32.
SIZES = st.sampled_from([0.0, 1e-42, 1e-20, 1.0, 1e4, 1e25])
INPUTS = st.sampled_from(["normal", "constant", "zero", "denormal", "outlier"])


def _network(sizes: tuple[float, float, float], signs: bool) -> Any:
    """Two convolutions of one input, joined, and a third after a Relu; every weight has a size."""
    rng = np.random.default_rng(0)
    weights = {
        name: (rng.standard_normal(shape) * size).astype(np.float32)
        for name, shape, size in zip(
            ("w1", "w2", "w3"), ((4, 3, 3, 3), (4, 3, 1, 1), (5, 8, 1, 1)), sizes, strict=True
        )
    }
    if not signs:
        weights = {name: np.abs(value) for name, value in weights.items()}
    nodes = [
        helper.make_node("Conv", ["x", "w1"], ["a"], "a", pads=[1, 1, 1, 1]),
        helper.make_node("Conv", ["x", "w2"], ["b"], "b"),
        helper.make_node("Concat", ["a", "b"], ["k"], "k", axis=1),
        helper.make_node("Relu", ["k"], ["r"], "r"),
        helper.make_node("Conv", ["r", "w3"], ["y"], "y"),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, 6, 6])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def _inputs(kind: str) -> np.ndarray:
    value = np.random.default_rng(1).standard_normal((8, 3, 6, 6))
    if kind == "constant":
        value = np.full_like(value, 0.7)
    elif kind == "zero":
        value = np.zeros_like(value)
    elif kind == "denormal":
        value = value * 1e-42
    elif kind == "outlier":
        value[3, 1, 2, 2] = 1e6
    return value.astype(np.float32)


def _session(model: Any) -> Any:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    return ort.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


@settings(max_examples=60)
@given(
    sizes=st.tuples(SIZES, SIZES, SIZES),
    signs=st.booleans(),
    kind=INPUTS,
    name=st.sampled_from(DIALECTS),
    learned=st.booleans(),
)
def test_any_network_is_written_by_the_rules(
    sizes: tuple[float, float, float], signs: bool, kind: str, name: str, learned: bool
) -> None:
    dialect, x = dialects.load(name), _inputs(kind)
    model = _network(sizes, signs)

    def feeds() -> Iterator[dict[str, np.ndarray]]:
        yield from ({"x": part} for part in np.split(x, 4))

    with tempfile.TemporaryDirectory() as folder:
        source, out = Path(folder, "float.onnx"), Path(folder, "int8.onnx")
        onnx.save(model, str(source))
        options = calibration.Tuning(
            rounding="learned" if learned else "nearest", calibration_threads=1
        )
        data = calibration.Data(feeds, kind)
        calibration.quantize_onnx(source, out, data, dialect, options)
        written = onnx.load(str(out))
    constants = {item.name: numpy_helper.to_array(item) for item in written.graph.initializer}
    producers = {each.output[0]: each for each in written.graph.node}
    for node in written.graph.node:
        if node.op_type not in ("QuantizeLinear", "DequantizeLinear"):
            continue
        scale, zero = constants[node.input[1]], constants[node.input[2]]
        assert np.isfinite(scale).all()
        assert (scale > 0).all()
        if zero.dtype == np.int32:
            assert dialect.bias == "int32"
        elif node.input[0] in constants or dialect.activation.symmetric:
            assert not zero.any()
        else:
            assert zero.dtype.name == dialect.activation.storage
    for value in constants.values():
        assert value.dtype.kind != "f" or np.isfinite(value).all()
    if "Concat" in dialect.same_scale:
        join = next(node for node in written.graph.node if node.op_type == "Concat")
        sources = [producers[each] for each in join.input]
        if all(each.op_type == "DequantizeLinear" for each in sources):
            assert len({each.input[1] for each in sources}) == 1
    with np.errstate(all="ignore"):
        wanted, got = (_session(each).run(None, {"x": x})[0] for each in (model, written))
    if np.isfinite(wanted).all():
        assert np.isfinite(got).all()
