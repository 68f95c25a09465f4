"""The Edge TPU's rules, on graphs of a few operators written here with the .tflite schema."""

from __future__ import annotations

import dataclasses
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lepton_edge import devices, errors
from lepton_edge.cli import inspect as verb
from lepton_edge.devices import Fact

flatbuffers = pytest.importorskip("flatbuffers", reason="needs flatbuffers to write .tflite files")
pytest.importorskip("ai_edge_litert", reason="needs ai-edge-litert for the .tflite schema")
with warnings.catch_warnings():  # the generated module is not ours
    warnings.simplefilter("ignore")
    from ai_edge_litert import schema_py_generated as schema

CORAL = devices.load("coral-usb")


@dataclass
class File:
    """A .tflite in the making: tensors and operators are added, then it is written."""

    model: Any = field(default_factory=schema.ModelT)

    def __post_init__(self) -> None:
        graph = schema.SubGraphT()
        graph.tensors, graph.operators, graph.inputs, graph.outputs = [], [], [], []
        self.model.version, self.model.subgraphs = 3, [graph]
        self.model.operatorCodes, self.model.buffers = [], [schema.BufferT()]
        self.graph = graph

    def tensor(self, *shape: int, dtype: str = "INT8", values: Any = None, scale: int = 1) -> int:
        tensor = schema.TensorT()
        tensor.shape, tensor.type = list(shape), getattr(schema.TensorType, dtype)
        tensor.name = f"t{len(self.graph.tensors)}".encode()
        if dtype in ("INT8", "UINT8") and scale:
            tensor.quantization = schema.QuantizationParametersT()
            tensor.quantization.scale = [0.5] * scale
            tensor.quantization.zeroPoint = [0] * scale
        if values is not None:
            buffer = schema.BufferT()
            kind = {"INT8": "i1", "INT32": "<i4"}[dtype]
            buffer.data = np.broadcast_to(np.asarray(values, kind), shape).tobytes()
            self.model.buffers.append(buffer)
            tensor.buffer = len(self.model.buffers) - 1
        self.graph.tensors.append(tensor)
        return len(self.graph.tensors) - 1

    def add(
        self, name: str, inputs: list[int], outputs: list[int], version: int = 1, **options: Any
    ) -> None:
        code = schema.OperatorCodeT()
        custom = not hasattr(schema.BuiltinOperator, name)
        code.builtinCode = 32 if custom else getattr(schema.BuiltinOperator, name)
        code.deprecatedBuiltinCode = min(code.builtinCode, 127)
        code.customCode = name.encode() if custom else None
        code.version = version
        self.model.operatorCodes.append(code)
        operator = schema.OperatorT()
        operator.opcodeIndex = len(self.model.operatorCodes) - 1
        operator.inputs, operator.outputs = inputs, outputs
        if "kind" in options:
            kind = options.pop("kind")
            operator.builtinOptionsType = getattr(schema.BuiltinOptions, kind)
            operator.builtinOptions = getattr(schema, f"{kind}T")()
            for key, value in options.items():
                assert hasattr(operator.builtinOptions, key)
                setattr(operator.builtinOptions, key, value)
        self.graph.operators.append(operator)

    def conv(
        self,
        data: int,
        out: int,
        channels: tuple[int, int],
        taps: tuple[int, int] = (1, 1),
        **options: Any,
    ) -> None:
        weights = self.tensor(channels[1], *taps, channels[0], values=3)
        bias = self.tensor(channels[1], dtype="INT32", values=7)
        given = {"dilationWFactor": 1, "dilationHFactor": 1, **options}
        self.add("CONV_2D", [data, weights, bias], [out], kind="Conv2DOptions", **given)

    def write(self, folder: Path) -> Path:
        builder = flatbuffers.Builder(1024)
        builder.Finish(self.model.Pack(builder), b"TFL3")
        path = folder / "model.tflite"
        path.write_bytes(bytes(builder.Output()))
        return path

    def placed(self, folder: Path) -> dict[str, Any]:
        return devices.placement(self.write(folder), CORAL)


def rows(found: dict[str, Any]) -> list[tuple[str, str]]:
    return [(row["op"], row["placement"]) for row in found["operators"]]


def test_a_plain_convolution_is_mapped(tmp_path: Path) -> None:
    file = File()
    file.conv(file.tensor(1, 8, 8, 4), file.tensor(1, 8, 8, 16), (4, 16))
    found = file.placed(tmp_path)
    assert rows(found) == [("CONV_2D", "accelerator")]
    assert found["summary"]["compiles"] is True
    # 16 channels of 4 bytes of bias and 4 weights.
    assert found["summary"]["cached_bytes"] == 16 * 8


def test_the_command_says_what_the_chip_keeps(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = File()
    file.conv(file.tensor(1, 8, 8, 4), file.tensor(1, 8, 8, 16), (4, 16))
    assert verb.command(str(file.write(tmp_path)), device="coral-usb") == 0
    shown = capsys.readouterr().out
    assert "predicted: 128 bytes on the chip, 0 bytes sent for every inference" in shown


@pytest.mark.parametrize(
    ("shape", "held"), [((1, 1001), 251 * 192), ((1, 4096), 0), ((1, 4, 1344, 16), 0)]
)
def test_a_softmax_of_whole_blocks_holds_no_table(
    shape: tuple[int, ...], held: int, tmp_path: Path
) -> None:
    file = File()
    file.add("SOFTMAX", [file.tensor(*shape)], [file.tensor(*shape)])
    assert file.placed(tmp_path)["summary"]["cached_bytes"] == held


def test_a_depthwise_layer_of_one_channel_is_laid_out_as_a_convolution(tmp_path: Path) -> None:
    file = File()
    weights, bias = file.tensor(1, 7, 7, 8, values=3), file.tensor(8, dtype="INT32", values=7)
    options = {"dilationWFactor": 1, "dilationHFactor": 1, "depthMultiplier": 8}
    file.add(
        "DEPTHWISE_CONV_2D", [file.tensor(1, 8, 8, 1), weights, bias], [file.tensor(1, 8, 8, 8)],
        kind="DepthwiseConv2DOptions", **options,
    )  # fmt: skip
    assert file.placed(tmp_path)["summary"]["cached_bytes"] == 16 * (4 + 49 * 4)


@pytest.mark.parametrize(
    ("rule", "build"),
    [
        ("eight-bit", lambda f: f.conv(f.tensor(1, 8, 8, 4, dtype="FLOAT32"), out(f), (4, 16))),
        ("quantised", lambda f: f.conv(f.tensor(1, 8, 8, 4, scale=0), out(f), (4, 16))),
        (
            "three-dimensions",
            lambda f: f.add("ADD", [f.tensor(2, 8, 8, 4)] * 2, [f.tensor(2, 8, 8, 4)]),
        ),
        (
            "equal-dilation",
            lambda f: f.conv(f.tensor(1, 8, 8, 4), out(f), (4, 16), (3, 3), dilationWFactor=2),
        ),
        (
            "constant-parameters",
            lambda f: f.add(
                "PRELU", [f.tensor(1, 8, 8, 4), f.tensor(1, 1, 4)], [f.tensor(1, 8, 8, 4)]
            ),
        ),
        (
            "no-fused-activation",
            lambda f: f.add(
                "MAX_POOL_2D",
                [f.tensor(1, 8, 8, 4)],
                [f.tensor(1, 4, 4, 4)],
                kind="Pool2DOptions",
                fusedActivationFunction=1,
            ),
        ),
        (
            "softmax-size",
            lambda f: f.add("SOFTMAX", [f.tensor(1, 16_385)], [f.tensor(1, 16_385)]),
        ),
        (
            "transpose-size",
            lambda f: f.add(
                "TRANSPOSE",
                [f.tensor(1, 40, 40, 64), f.tensor(4, dtype="INT32", values=[0, 3, 1, 2])],
                [f.tensor(1, 64, 40, 40)],
            ),
        ),
        (
            "reshape-size",
            lambda f: f.add("RESHAPE", [f.tensor(1, 6400, 3, 15)], [f.tensor(1, 19200, 15)]),
        ),
        (
            "reshape-size",
            lambda f: f.add("RESHAPE", [f.tensor(1, 80, 80, 255)], [f.tensor(1, 6400, 3, 85)]),
        ),
        (
            "not-on-batch",
            lambda f: f.add(
                "SPLIT",
                [f.tensor(1, dtype="INT32", values=[0]), f.tensor(2, 64, 32)],
                [f.tensor(1, 64, 32), f.tensor(1, 64, 32)],
            ),
        ),
        (
            "not-on-batch",
            lambda f: f.add(
                "TILE",
                [f.tensor(1, 1, 1, 8), f.tensor(4, dtype="INT32", values=[2, 1, 1, 1])],
                [f.tensor(2, 1, 1, 8)],
            ),
        ),
        (
            "mean-depth-multiple-of-4",
            lambda f: f.add(
                "MEAN",
                [f.tensor(1, 8, 8, 6), f.tensor(1, dtype="INT32", values=[-1])],
                [f.tensor(1, 8, 8, 1)],
            ),
        ),
        (
            "not-on-batch",
            lambda f: f.add(
                "PAD",
                [f.tensor(1, 8, 8, 4), f.tensor(4, 2, dtype="INT32", values=1)],
                [f.tensor(3, 10, 10, 6)],
            ),
        ),
        (
            "not-on-batch",
            lambda f: f.add(
                "SPLIT",
                [f.tensor(1, dtype="INT32", values=[0]), f.tensor(2, 8, 8, 4)],
                [f.tensor(1, 8, 8, 4), f.tensor(1, 8, 8, 4)],
            ),
        ),
        (
            "strides-1",
            lambda f: f.add(
                "STRIDED_SLICE",
                [
                    f.tensor(1, 8, 8, 4),
                    *(f.tensor(4, dtype="INT32", values=v) for v in ([0] * 4, [1, 8, 8, 4])),
                    f.tensor(4, dtype="INT32", values=[1, 2, 2, 1]),
                ],
                [f.tensor(1, 4, 4, 4)],
                kind="StridedSliceOptions",
            ),
        ),
        (
            "alpha-1d",
            lambda f: f.add(
                "PRELU",
                [f.tensor(1, 8, 8, 4), f.tensor(8, 8, 4, values=1)],
                [f.tensor(1, 8, 8, 4)],
            ),
        ),
        (
            "constant-input-zero-pad",
            lambda f: f.add(
                "CONCATENATION",
                [f.tensor(1, 8, 8, 4), f.tensor(1, 8, 8, 4, values=5)],
                [f.tensor(1, 8, 8, 8)],
                kind="ConcatenationOptions",
                axis=3,
            ),
        ),
        (
            "resize-size",
            lambda f: f.add(
                "RESIZE_BILINEAR",
                [f.tensor(1, 256, 256, 32), f.tensor(2, dtype="INT32", values=512)],
                [f.tensor(1, 512, 512, 32)],
            ),
        ),
        (
            "supported-operators",
            lambda f: f.add("HARD_SWISH", [f.tensor(1, 8, 8, 4)], [f.tensor(1, 8, 8, 4)]),
        ),
        (
            "supported-operators",
            lambda f: f.add("PosenetDecoderOp", [f.tensor(1, 8, 8, 4)], [f.tensor(1, 8)]),
        ),
    ],
)
def test_each_rule_sends_the_operator_to_the_cpu(rule: str, build: Any, tmp_path: Path) -> None:
    file = File()
    build(file)
    found = file.placed(tmp_path)
    (row,) = found["operators"]
    assert (row["placement"], row["rule"]) == ("cpu", rule)
    assert row["reason"].endswith(".")
    assert found["summary"]["compiles"] is False


@pytest.mark.parametrize(("lines", "values"), [(6, 1), (1, None)])
def test_attention_needs_runtime_14(lines: int, values: int | None, tmp_path: Path) -> None:
    """Several rows of output, or two computed tensors, in one multiplication."""
    file = File()
    weights = file.tensor(4, 8) if values is None else file.tensor(4, 8, values=values)
    file.add("FULLY_CONNECTED", [file.tensor(lines, 8), weights, -1], [file.tensor(lines, 4)])
    assert rows(file.placed(tmp_path)) == [("FULLY_CONNECTED", "accelerator")]
    older = dataclasses.replace(
        CORAL, facts=dataclasses.replace(CORAL.facts, runtime_version=Fact(13, "a source"))
    )
    (row,) = devices.placement(tmp_path / "model.tflite", older)["operators"]
    assert (row["placement"], row["rule"]) == (
        "cpu", "constant-parameters" if values is None else "output-1d",
    )  # fmt: skip


def out(file: File) -> int:
    return file.tensor(1, 8, 8, 16)


@pytest.mark.parametrize(
    "build",
    [
        lambda f: f.add(
            "RESIZE_BILINEAR",
            [f.tensor(1, 64, 64, 32), f.tensor(2, dtype="INT32", values=128)],
            [f.tensor(1, 128, 128, 32)],
        ),
        lambda f: f.add(
            "MEAN",
            [f.tensor(1, 8, 8, 6), f.tensor(2, dtype="INT32", values=[1, 2])],
            [f.tensor(1, 6)],
        ),
        lambda f: f.add(
            "CONCATENATION",
            [f.tensor(1, 8, 8, 4), f.tensor(1, 8, 8, 4, values=0)],
            [f.tensor(1, 8, 8, 8)],
            kind="ConcatenationOptions",
            axis=3,
        ),
        lambda f: f.add(
            "PAD",
            [
                f.tensor(1, 8, 8, 4),
                f.tensor(4, 2, dtype="INT32", values=[[0, 0], [1, 1], [1, 1], [0, 0]]),
            ],
            [f.tensor(1, 10, 10, 4)],
        ),
        lambda f: f.conv(f.tensor(1, 8, 8, 4), out(f), (4, 16), (3, 1), dilationHFactor=4),
        lambda f: f.add("SOFTMAX", [f.tensor(1, 16_384)], [f.tensor(1, 16_384)]),
        lambda f: f.add("SOFTMAX", [f.tensor(1, 4, 1344, 16)], [f.tensor(1, 4, 1344, 16)]),
        lambda f: f.add("RESHAPE", [f.tensor(1, 400, 3, 85)], [f.tensor(1, 1200, 85)]),
        lambda f: f.add("RESHAPE", [f.tensor(1, 40, 40, 255)], [f.tensor(1, 1600, 3, 85)]),
        lambda f: f.add(
            "TRANSPOSE",
            [f.tensor(1, 32, 32, 68), f.tensor(4, dtype="INT32", values=[0, 3, 1, 2])],
            [f.tensor(1, 68, 32, 32)],
        ),
        lambda f: f.add(
            "TILE",
            [f.tensor(1, 1, 1, 8), f.tensor(4, dtype="INT32", values=[1, 3, 3, 1])],
            [f.tensor(1, 3, 3, 8)],
        ),
        lambda f: f.add(
            "SPLIT",
            [f.tensor(1, dtype="INT32", values=[0]), f.tensor(1, 96, 64, 1)],
            [f.tensor(1, 96, 64, 1)],
        ),
        lambda f: f.add("QUANTIZE", [f.tensor(1, 8, dtype="UINT8")], [f.tensor(1, 8)]),
    ],
)
def test_what_keeps_the_rules_is_mapped(build: Any, tmp_path: Path) -> None:
    file = File()
    build(file)
    (row,) = file.placed(tmp_path)["operators"]
    assert row["placement"] == "accelerator"


def test_what_waits_for_the_cpu_stays_there_and_a_free_branch_does_not(tmp_path: Path) -> None:
    file = File()
    data, left, cut, after, right, end = (file.tensor(1, 8, 8, 4) for _ in range(6))
    file.conv(data, left, (4, 4))
    file.add("HARD_SWISH", [left], [cut])
    file.add("RELU", [cut], [after])
    file.conv(data, right, (4, 4))  # listed after the cut, yet it needs nothing of it
    file.add("ADD", [after, right], [end])
    found = file.placed(tmp_path)
    assert rows(found) == [
        ("CONV_2D", "accelerator"),
        ("HARD_SWISH", "cpu"),
        ("RELU", "cpu"),
        ("CONV_2D", "accelerator"),
        ("ADD", "cpu"),
    ]
    assert "waits for operator 1 (HARD_SWISH)" in found["operators"][2]["reason"]
    assert found["summary"]["accelerator"] == 2


def test_a_quantize_of_a_float_input_does_not_block_the_rest(tmp_path: Path) -> None:
    file = File()
    data, quantised = file.tensor(1, 8, 8, 4, dtype="FLOAT32"), file.tensor(1, 8, 8, 4)
    hidden, result = file.tensor(1, 8, 8, 16), file.tensor(1, 8, 8, 16, dtype="FLOAT32")
    file.add("QUANTIZE", [data], [quantised])
    file.conv(quantised, hidden, (4, 16))
    file.add("DEQUANTIZE", [hidden], [result])
    assert rows(file.placed(tmp_path)) == [
        ("QUANTIZE", "cpu"),
        ("CONV_2D", "accelerator"),
        ("DEQUANTIZE", "cpu"),
    ]


def test_tensorflows_own_operators_run_nowhere(tmp_path: Path) -> None:
    file = File()
    file.add("FlexErf", [file.tensor(1, 8)], [file.tensor(1, 8)])
    assert rows(file.placed(tmp_path)) == [("FlexErf", "unsupported")]


def test_a_version_that_the_compiler_cannot_read_refuses_the_file(tmp_path: Path) -> None:
    file = File()
    file.add("QUANTIZE", [file.tensor(1, 8, dtype="UINT8")], [file.tensor(1, 8)], version=3)
    found = file.placed(tmp_path)
    assert found["summary"]["compiles"] is False
    assert "reads it up to version 2" in found["summary"]["reason"]


def test_a_free_size_refuses_the_file_and_a_free_batch_does_not(tmp_path: Path) -> None:
    file = File()
    data = file.tensor(1, 8, 8, 4)
    file.graph.tensors[data].shapeSignature = [-1, 8, 8, 4]
    file.add("RELU", [data], [file.tensor(1, 8, 8, 4)])
    assert rows(file.placed(tmp_path)) == [("RELU", "accelerator")]
    file.graph.tensors[data].shapeSignature = [1, -1, 8, 4]
    found = file.placed(tmp_path)
    assert rows(found) == [("RELU", "cpu")]
    assert "1x?x8x4" in found["operators"][0]["reason"]


def test_parameters_over_the_chips_memory_are_streamed_by_whole_layers(tmp_path: Path) -> None:
    file = File()
    one, two, three = file.tensor(1, 2048), file.tensor(1, 2048), file.tensor(1, 2048)
    for data, result in ((one, two), (two, three)):
        weights = file.tensor(2048, 2048, values=1)
        file.add("FULLY_CONNECTED", [data, weights, -1], [result])
    summary = file.placed(tmp_path)["summary"]
    assert summary["cached_bytes"] == summary["streamed_bytes"] == 2048 * 2048


@pytest.mark.parametrize("end", [4, 40, 200, 400])
def test_a_cut_file_is_damaged_not_a_crash(end: int, tmp_path: Path) -> None:
    file = File()
    file.conv(file.tensor(1, 8, 8, 4), file.tensor(1, 8, 8, 16), (4, 16))
    path = file.write(tmp_path)
    path.write_bytes(path.read_bytes()[:end])
    with pytest.raises(errors.BadInput):
        devices.placement(path, CORAL)


def test_noise_in_the_file_is_damage_or_another_graph_never_a_crash(tmp_path: Path) -> None:
    file = File()
    file.conv(file.tensor(1, 8, 8, 4), file.tensor(1, 8, 8, 16), (4, 16))
    path = file.write(tmp_path)
    good = path.read_bytes()
    rng = np.random.default_rng(0)
    refused = 0
    for _ in range(300):
        bad = bytearray(good)
        for at in rng.integers(8, len(bad), 8):
            bad[at] = rng.integers(256)
        path.write_bytes(bytes(bad))
        try:
            devices.placement(path, CORAL)
        except errors.BadInput:
            refused += 1
    assert refused > 50


def test_what_is_no_tflite_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(b"\x08\x08" + bytes(64))
    with pytest.raises(errors.BadInput, match="is not a"):
        devices.placement(path, CORAL)
    with pytest.raises(errors.BadInput, match="Cannot read"):
        devices.placement(tmp_path / "absent.tflite", CORAL)
