"""Estimates: costs read from files, intervals, and refusal where nothing was fitted."""

from __future__ import annotations

import csv
import itertools
import json
import os
from pathlib import Path

import numpy as np
import pytest

from lepton_edge import devices, errors
from lepton_edge.cli import devices as verb
from lepton_edge.devices import estimate
from lepton_edge.devices._cost import cost
from lepton_edge.devices._fitted import FITS
from lepton_edge.devices._kernels import Cost, Kernel

TABLE = Path(os.environ.get("LEPTON_EDGE_SHARED", "absent")) / "data" / "published_latency.csv"

onnx = pytest.importorskip("onnx", reason="needs onnx: pip install 'lepton-edge[onnx]'")


@pytest.fixture
def network(tmp_path: Path) -> Path:
    """Conv, folded norm, SiLU, depthwise, 1x1, addition, unfolded norm, pooling, dense."""
    helper, kind = onnx.helper, onnx.TensorProto.FLOAT

    def stored(name: str, *shape: int) -> onnx.TensorProto:
        count = 1
        for dim in shape:
            count *= dim
        return helper.make_tensor(name, kind, shape, [0.5] * count)

    norm = ["scale", "bias", "mean", "var"]
    nodes = [
        helper.make_node("Conv", ["x", "w0"], ["a"], pads=[1] * 4, strides=[2, 2]),
        helper.make_node("BatchNormalization", ["a", *norm], ["b"]),
        helper.make_node("Sigmoid", ["b"], ["c"]),
        helper.make_node("Mul", ["b", "c"], ["d"]),
        helper.make_node("Conv", ["d", "w1"], ["e"], pads=[1] * 4, group=8),
        helper.make_node("Conv", ["e", "w2"], ["f"]),
        helper.make_node("Add", ["f", "d"], ["g"]),
        helper.make_node("BatchNormalization", ["g", *norm], ["h"]),
        helper.make_node("GlobalAveragePool", ["h"], ["i"]),
        helper.make_node("Flatten", ["i"], ["j"]),
        helper.make_node("Gemm", ["j", "w3"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", kind, [1, 3, 16, 16])],
        [helper.make_tensor_value_info("y", kind, [1, 10])],
        [
            stored("w0", 8, 3, 3, 3),
            stored("w1", 8, 1, 3, 3),
            stored("w2", 8, 8, 1, 1),
            stored("w3", 8, 10),
            *(stored(name, 8) for name in norm),
        ],
    )
    path = tmp_path / "net.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]), path)
    return path


def test_a_kernel_is_counted_where_a_runtime_runs_one(network: Path) -> None:
    found = cost(network)
    assert [kernel.kind for kernel in found.kernels] == [
        "conv",
        "depthwise",
        "pointwise",
        "move",  # the addition
        "move",  # the normalisation after it
        "move",  # the pooling
        "dense",
    ]
    assert [kernel.macs for kernel in found.kernels] == [
        8 * 64 * 27,
        8 * 64 * 9,
        8 * 64 * 8,
        0,
        0,
        0,
        80,
    ]
    assert found.weights == 8 * 27 + 8 * 9 + 64 + 80
    assert (found.inputs, found.outputs) == (3 * 16 * 16, 10)


def _small(
    path: Path, nodes: list[onnx.NodeProto], given: list[int | str], stored: dict[str, list[int]],
    *more: onnx.TensorProto,
) -> Path:  # fmt: skip
    kind = onnx.TensorProto.FLOAT
    weights = [
        onnx.numpy_helper.from_array(np.ones(shape, np.float32), name)
        for name, shape in stored.items()
    ]
    graph = onnx.helper.make_graph(
        nodes,
        "small",
        [onnx.helper.make_tensor_value_info("x", kind, given)],
        [onnx.helper.make_tensor_value_info("y", kind, None)],
        [*weights, *more],
    )
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)]), path)
    return path


def test_arithmetic_with_constants_joins_a_kernel_that_computes(tmp_path: Path) -> None:
    node = onnx.helper.make_node
    nodes = [
        node("Pad", ["x", "pads"], ["p"]),  # the convolution's own
        node("Transpose", ["p"], ["x0"], perm=[0, 3, 1, 2]),  # layouts: no kernel
        node("Conv", ["x0", "w"], ["a"]),
        node("Transpose", ["a"], ["a0"], perm=[0, 2, 3, 1]),
        node("Mul", ["a0", "s"], ["b"]),  # joins the convolution
        node("Add", ["b", "s"], ["c"]),
        node("Concat", ["c", "a0"], ["d"], axis=3),
        node("Mul", ["d", "t"], ["e"]),  # a kernel: a concatenation computes nothing
        node("Add", ["e", "t"], ["f"]),  # joins that
        node("HardSwish", ["f"], ["g"]),  # a kernel
        node("Sigmoid", ["g"], ["h"]),
        node("Mul", ["g", "h"], ["i"]),  # with the sigmoid of itself: an activation
        node("Sigmoid", ["d"], ["j"]),
        node("Mul", ["i", "j"], ["y"]),  # a gate from elsewhere: a kernel
    ]
    stored = {"w": [4, 3, 1, 1], "s": [4], "t": [8]}
    pads = onnx.numpy_helper.from_array(np.array([0, 1, 1, 0, 0, 1, 1, 0]), "pads")
    found = cost(_small(tmp_path / "m.onnx", nodes, [1, 6, 6, 3], stored, pads))
    assert [kernel.kind for kernel in found.kernels] == ["pointwise", *["move"] * 4]
    assert found.kernels[1].read == found.kernels[1].written == 8 * 8 * 8


def test_sizes_that_the_graph_computes_are_known_or_refused(tmp_path: Path) -> None:
    pytest.importorskip("onnxslim", reason="needs lepton-edge[onnx]")
    node = onnx.helper.make_node
    half = [  # the first half of the channels, as torch's older exporter writes chunk()
        node("Shape", ["x"], ["shape"]),
        node("Gather", ["shape", "one"], ["channels"]),
        node("Add", ["channels", "one"], ["more"]),
        node("Div", ["more", "two"], ["some"]),
        node("Mul", ["some", "one"], ["end"]),
        node("Slice", ["x", "zero", "end", "one"], ["half"]),
        node("Conv", ["half", "w"], ["y"]),
    ]
    numbers = [
        onnx.numpy_helper.from_array(np.array([value]), name)
        for name, value in (("zero", 0), ("one", 1), ("two", 2))
    ]
    path = _small(tmp_path / "half.onnx", half, ["n", 8, 6, 6], {"w": [4, 4, 1, 1]}, *numbers)
    found = cost(path)
    assert [(kernel.kind, kernel.macs) for kernel in found.kernels] == [("pointwise", 4 * 4 * 36)]
    assert found.kernels[0].read == 4 * 36
    nodes = [node("NonZero", ["x"], ["places"]), node("Cast", ["places"], ["y"], to=1)]
    with pytest.raises(
        errors.BadInput, match=r"size of 'places' \(NonZero\) .* cannot be inferred"
    ):
        cost(_small(tmp_path / "places.onnx", nodes, [1, 4], {}))


def test_an_open_size_beyond_the_batch_is_refused(tmp_path: Path) -> None:
    nodes = [onnx.helper.make_node("Gemm", ["x", "w"], ["y"])]
    open_batch = _small(tmp_path / "batch.onnx", nodes, ["n", 4], {"w": [4, 2]})
    assert cost(open_batch).macs == 8
    nodes = [onnx.helper.make_node("MatMul", ["x", "w"], ["y"])]
    open_time = _small(tmp_path / "time.onnx", nodes, ["n", "time", 4], {"w": [4, 2]})
    with pytest.raises(errors.BadInput, match=r"Dimension 1 of the input 'x' .* has no size"):
        cost(open_time)


def test_an_estimate_has_an_interval_a_tier_and_its_basis(network: Path) -> None:
    found = devices.predict(network, devices.load("jetson-nano"), "fp16")
    low, high = found.interval_ms
    assert 0 < low < found.latency_ms < high
    assert found.tier == "calibrated"
    assert found.basis["rows"] == FITS["jetson-nano", "fp16"].rows


def test_a_device_without_a_fit_of_its_own_is_a_prior(network: Path) -> None:
    four = devices.predict(network, devices.load("raspberry-pi-4"), "fp32")
    five = devices.predict(network, devices.load("raspberry-pi-5"), "fp32")
    assert (four.tier, five.tier) == ("calibrated", "prior")
    assert four.latency_ms / five.latency_ms == pytest.approx(0.154 / 0.058, rel=1e-3)
    wider = (five.interval_ms[1] / five.latency_ms) / (four.interval_ms[1] / four.latency_ms)
    assert wider >= 1 - 1e-9


def test_int8_costs_a_cpu_less_and_is_a_prior_with_an_interval_as_wide(network: Path) -> None:
    whole = devices.predict(network, devices.load("raspberry-pi-4"), "fp32")
    small = devices.predict(network, devices.load("raspberry-pi-4"), "int8")
    assert (whole.tier, small.tier) == ("calibrated", "prior")
    assert whole.latency_ms / 4 < small.latency_ms < whole.latency_ms
    wider = (small.interval_ms[1] / small.latency_ms) / (whole.interval_ms[1] / whole.latency_ms)
    assert wider >= 1 - 1e-9


def test_more_work_costs_more() -> None:
    fit = FITS["jetson-orin-nx", "fp16"]
    small = Cost((Kernel("conv", 10**9, 10**6, 10**6, 10**6),), 1, 1)
    large = Cost(small.kernels * 3, 1, 1)
    assert fit.latency_ms(estimate.general_features(large)) == pytest.approx(
        3 * fit.latency_ms(estimate.general_features(small))
    )


def test_parameters_over_the_cache_are_streamed() -> None:
    cached = Cost((Kernel("conv", 0, 6_000_000, 1, 1),), 1, 1)
    streamed = Cost((Kernel("conv", 0, 9_000_000, 1, 1),), 1, 1)
    assert estimate.edgetpu_features(cached)["mb_streamed"] == 0
    assert estimate.edgetpu_features(streamed)["mb_streamed"] > 2


@pytest.mark.parametrize(("device", "precision"), sorted(FITS))
def test_every_fit_is_of_a_device_that_there_is_and_says_how_good_it_is(
    device: str, precision: str
) -> None:
    fit = FITS[device, precision]
    assert device in devices.names()
    assert all(weight > 0 for _, weight in fit.features)
    assert fit.log_error > 0
    if fit.tier == "calibrated":  # else another device's fit, which its own rows only judge
        assert fit.rows >= 10
        assert len(fit.families) >= 2


@pytest.mark.skipif(
    not TABLE.exists(), reason="set LEPTON_EDGE_SHARED to a folder with data/published_latency.csv"
)
def test_the_shipped_fit_is_what_the_benchmark_makes(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("scipy", reason="needs scipy to fit")
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    import fit_devices

    with TABLE.open(newline="") as file:
        table = list(csv.DictReader(file))
    for target, again, pairs in itertools.islice(fit_devices.fitted(table), 3):
        shipped = FITS[target.device, target.precision]
        assert len(pairs) == shipped.rows
        for name, weight in shipped.features:
            assert again[name] == pytest.approx(weight, rel=0.02)


def test_work_that_no_fit_has_seen_is_refused_not_counted_as_nothing(tmp_path: Path) -> None:
    node = onnx.helper.make_node
    lstm = [node("LSTM", ["x", "w", "r"], ["y"], hidden_size=2)]
    path = _small(tmp_path / "l.onnx", lstm, [5, 1, 4], {"w": [1, 8, 4], "r": [1, 8, 2]})
    with pytest.raises(errors.UsageError, match="has LSTM, and no estimate knows"):
        cost(path)
    foreign = [node("Special", ["x"], ["y"], domain="of.ours")]
    with pytest.raises(errors.UsageError, match="has Special"):
        cost(_small(tmp_path / "f.onnx", foreign, [1, 4], {}))
    zeros = ["s", "z", "w", "s", "z", "s", "z"]
    quantised = [
        node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        node("QLinearConv", ["q", *zeros], ["c"]),
        node("DequantizeLinear", ["c", "s", "z"], ["y"]),
    ]
    integers = [
        onnx.numpy_helper.from_array(np.array(0, np.uint8), "z"),
        onnx.numpy_helper.from_array(np.ones((4, 3, 1, 1), np.uint8), "w"),
    ]
    path = _small(tmp_path / "q.onnx", quantised, [1, 3, 8, 8], {"s": []}, *integers)
    assert cost(path).macs == 4 * 3 * 64


def test_nothing_is_guessed_where_nothing_was_fitted(network: Path) -> None:
    with pytest.raises(errors.UsageError, match="no estimate for jetson-thor in fp16"):
        devices.predict(network, devices.load("jetson-thor"), "fp16")
    with pytest.raises(errors.UsageError, match=r"Did you mean 'fp16'\?"):
        devices.predict(network, devices.load("jetson-nano"), "fp17")
    with pytest.raises(errors.UsageError, match=r"The Edge TPU takes \.tflite"):
        devices.predict(network, devices.load("coral-usb"), "int8")


def test_a_damaged_file_is_told(tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    path.write_bytes(b"\xff" * 64)
    with pytest.raises(errors.BadInput, match="is damaged"):
        devices.predict(path, devices.load("jetson-nano"), "fp16")
    with pytest.raises(errors.BadInput, match="neither"):
        devices.predict(tmp_path / "net.pt", devices.load("jetson-nano"), "fp16")


def test_the_command_prints_json_or_text(network: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = {"name": "predict", "model": str(network), "device": "jetson-nano"}
    assert verb.command(**given, precision="fp16", json=True) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["status"] == "ESTIMATED"
    assert found["interval_ms"][0] < found["latency_ms"] < found["interval_ms"][1]
    assert verb.command(**given, precision="fp16") == 0
    text = capsys.readouterr().out
    assert "80% interval" in text
    assert "on a family left out" in text
    assert verb.command(**{**given, "device": "raspberry-pi-5"}, precision="int8") == 0
    assert "judged by 3 published measurements" in capsys.readouterr().out  # none went into it


def test_the_command_says_what_it_misses() -> None:
    with pytest.raises(errors.UsageError, match="needs a model and a device"):
        verb.command("predict")
    with pytest.raises(errors.UsageError, match="takes neither a model nor --device"):
        verb.command("coral-usb", "model.tflite")
