"""Training in TFLite's integers: what is trained is what is written, and what kernels compute."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
for needed in ("ai_edge_litert", "ai_edge_quantizer", "litert_torch", "accelerate", "safetensors"):
    pytest.importorskip(needed)

from safetensors.torch import load_file, save_file  # noqa: E402

from lepton_edge import errors, latency, sources  # noqa: E402
from lepton_edge.artifact import Artifact, Binding  # noqa: E402
from lepton_edge.calibration.graph_tflite import Graph, interpreter  # noqa: E402
from lepton_edge.calibration.observe_onnx import Data  # noqa: E402
from lepton_edge.compress import Training  # noqa: E402
from lepton_edge.compress._tflite_compare import compare  # noqa: E402
from lepton_edge.compress._tflite_module import TfliteModule, trainable  # noqa: E402
from lepton_edge.compress.quantize import QuantizedTraining  # noqa: E402
from lepton_edge.compression import finetune, finetune_int8  # noqa: E402
from lepton_edge.converters import _tflite_int8, tflite  # noqa: E402
from lepton_edge.model import ModelSource, Signature  # noqa: E402
from lepton_edge.samples import Samples, open_samples  # noqa: E402
from lepton_edge.target import Target  # noqa: E402
from tests import compress_nets, zoo  # noqa: E402

NETS, ZOO = Path(compress_nets.__file__), Path(zoo.__file__)
FEW = Training(steps=3, batch=8, optimizer="adam", lr=0.01)


@dataclass(frozen=True)
class Float:
    """A float .tflite of the zoo, how its tensors are bound, and samples."""

    file: Path
    signature: Signature
    bindings: tuple[tuple[Binding, ...], tuple[Binding, ...]]
    samples: Samples

    @property
    def data(self) -> Data:
        return _tflite_int8.calibration_data(
            self.file, self.signature, self.bindings[0], self.samples
        )

    def train(self, folder: Path, samples: Any = None, **given: Any) -> dict[str, Any]:
        resume = given.pop("resume", False)
        return QuantizedTraining(**{"dialect": "tflite", "training": FEW, **given})(
            self.file,
            self.signature,
            self.samples if samples is None else samples,
            self.data,
            out=folder / "int8.tflite",
            work=folder / "work",
            bindings=self.bindings,
            resume=resume,
        )


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The float file of a network of the zoo; each is converted once."""

    @cache
    def write(name: str) -> Float:
        folder = tmp_path_factory.mktemp(name)
        model = sources.load(ModelSource(f"{ZOO}:{name}"))
        made = tflite.convert(model, Target("tflite", "fp32"), folder, options=tflite.Options())
        np.savez(folder / "data.npz", **model.example(24))
        samples = open_samples(folder / "data.npz")
        return Float(folder / made.file, model.signature, (made.inputs, made.outputs), samples)

    return write


@pytest.mark.parametrize(
    "name", ["plain_cnn", "resnet", "mobilenet_v2", "mobilenet_v3", "inception"]
)
def test_the_float_module_computes_what_the_interpreter_does(name: str, plain: Any) -> None:
    made = plain(name)
    graph = Graph(made.file.read_bytes())
    module = TfliteModule(graph, graph, *made.bindings)
    batch = next(iter(made.data.feeds()))
    runner = interpreter(made.file.read_bytes(), 1)
    (given,) = runner.get_input_details()
    (value,) = batch.values()
    runner.set_tensor(given["index"], value)
    runner.invoke()
    with torch.inference_mode():
        (found,) = module(torch.from_numpy(np.concatenate([value, value]))).values()
    wanted = runner.get_tensor(runner.get_output_details()[0]["index"])
    for row in found.numpy():
        np.testing.assert_allclose(row, wanted[0], rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize(
    "name", ["unet", "ssd", "tcn", "lstm", "transformer_encoder", "bert", "gpt", "two_tower"]
)
def test_each_copy_of_the_file_has_samples_of_its_own(name: str, plain: Any) -> None:
    """Two batches at once, of all that the zoo is made of but plain convolutional networks."""
    made = plain(name)
    graph = Graph(made.file.read_bytes())
    module = TfliteModule(graph, graph, *made.bindings)
    batches = [batch for batch, _ in zip(made.data.feeds(), range(2), strict=False)]
    values = {
        index: torch.from_numpy(np.stack([batch[graph.name(index)] for batch in batches]))
        for index in graph.inputs
    }
    with torch.inference_mode():
        found = module.run(values)
    runner = interpreter(made.file.read_bytes(), 1)
    for copy, batch in enumerate(batches):
        for given in runner.get_input_details():
            runner.set_tensor(given["index"], batch[given["name"]])
        runner.invoke()
        for index, item in zip(graph.outputs, runner.get_output_details(), strict=True):
            wanted = runner.get_tensor(item["index"])
            np.testing.assert_allclose(found[index][copy].numpy(), wanted, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize(
    ("name", "weights", "share"),
    [("unet", 7, 0.99), ("bert", 9, 0.999), ("lstm", 5, 0.999), ("transformer_encoder", 6, 0.999)],
)
def test_integers_of_attention_recurrence_and_segmentation(
    name: str, weights: int, share: float, plain: Any, tmp_path: Path
) -> None:
    """Recurrent layers are unrolled and read one weight many times; it is trained once.

    XNNPACK rounds the ties of a bilinear resize up.
    """
    equal = plain(name).train(tmp_path)["equal"]
    assert equal["weights"] == weights
    assert equal["activations_equal"] > share, equal
    assert all(each["largest_step"] <= 1 for each in equal["activations"].values())
    stored = Graph((tmp_path / "int8.tflite").read_bytes())
    trained = {op.inputs[1] for op in stored.ops if op.kind in ("FULLY_CONNECTED", "CONV_2D")}
    assert {stored.dtype(weight) for weight in trained} == {"INT8"}


@pytest.mark.parametrize("name", ["plain_cnn", "resnet", "mobilenet_v2"])
@pytest.mark.parametrize("dialect", ["tflite", "edgetpu"])
def test_integers_written_are_those_trained(
    name: str, dialect: str, plain: Any, tmp_path: Path
) -> None:
    """With learned steps for the Edge TPU, whose file has no float tensor."""
    found = plain(name).train(tmp_path, dialect=dialect, learned_step=dialect == "edgetpu")
    equal = found["equal"]
    assert equal["weights"] == equal["biases"] >= 4
    assert equal["activations_equal"] > 0.999, equal
    assert equal["network_equal"] > 0.99, equal
    assert all(each["largest_step"] <= 1 for each in equal["activations"].values())
    stored = Graph((tmp_path / "int8.tflite").read_bytes())
    for op in stored.ops:
        if op.kind in ("MAX_POOL_2D", "RESHAPE", "TRANSPOSE", "PAD"):
            before, after = stored.grid(op.inputs[0]), stored.grid(op.outputs[0])
            assert before is not None
            assert after is not None
            assert (before.scale, before.zero_point) == (after.scale, after.zero_point)


def test_the_check_finds_an_integer_that_was_not_trained(plain: Any, tmp_path: Path) -> None:
    from lepton_edge.calibration import dialects, tflite_quantizer, write_tflite
    from lepton_edge.calibration.tuning import Tuning

    made, dialect = plain("plain_cnn"), dialects.load("tflite")
    tuning = Tuning(calibration_threads=1)
    work = tflite_quantizer.Work(made.file, made.data, dialect, tuning, float_io=True, cache=None)
    graph = Graph(work.nearest())
    layers = trainable(work.graph, graph, write_tflite.pairs(work.graph, graph), dialect)
    module = TfliteModule(graph, work.graph, *made.bindings, layers=layers, dialect=dialect)
    module.write(tmp_path / "right.tflite")
    compare(tmp_path / "right.tflite", module, made.data)
    for place in (1, 2):  # the weight, the bias
        wrong = Graph((tmp_path / "right.tflite").read_bytes())
        op = next(op for op in wrong.ops if op.kind == "CONV_2D")
        codes = wrong.constant(op.inputs[place]).copy()
        codes.flat[0] ^= 1
        wrong.set_constant(op.inputs[place], codes)
        (tmp_path / "wrong.tflite").write_bytes(wrong.to_bytes())
        with pytest.raises(errors.EdgeError, match="is not what was trained"):
            compare(tmp_path / "wrong.tflite", module, made.data)


def test_what_cannot_be_trained_is_refused_before(plain: Any, tmp_path: Path) -> None:
    made = plain("plain_cnn")
    graph = Graph(made.file.read_bytes())
    graph.ops[0] = replace(graph.ops[0], kind="CUMSUM")
    with pytest.raises(errors.CannotConvert, match="in the loop has no CUMSUM"):
        TfliteModule(graph, graph, *made.bindings)
    with pytest.raises(errors.UsageError, match="weights of 8 bits, not 4"):
        QuantizedTraining(dialect="tflite", weight_bits=4)
    with pytest.raises(errors.UsageError, match="trained integers are in tflite"):
        finetune_int8(
            f"{NETS}:cnn", tmp_path / "out", train=tmp_path, options={"dialect": "tflite"},
            to=("onnx",),
        )  # fmt: skip


@pytest.mark.filterwarnings("ignore")  # Keras warns about its own saving
def test_a_keras_model_is_trained_to_an_artefact_of_integers(tmp_path: Path) -> None:
    for needed in ("tensorflow", "keras"):
        pytest.importorskip(needed)
    source = ModelSource(str(zoo.save_keras("keras_cnn", tmp_path / "cnn.keras")))
    np.savez(tmp_path / "data.npz", **sources.load(source).example(24))
    made = finetune_int8(
        source, tmp_path / "int8", train=tmp_path / "data.npz", options={"dialect": "edgetpu"},
        training={"steps": 3, "batch": 8},
    )  # fmt: skip
    equal = made.record["equal"]
    assert equal["weights"] == equal["biases"] >= 3
    assert equal["activations_equal"] > 0.999, equal
    assert {each.dtype for each in (*made.artifact.inputs, *made.artifact.outputs)} == {"int8"}
    found = latency.benchmark(made.artifact, window="30,0", threads=1)
    assert found.latency.p50_ms > 0


class _Cut(list[Any]):
    """Batches that end in an error the first time, after `last` of them."""

    def __init__(self, batches: list[Any], last: int) -> None:
        super().__init__(batches)
        self.last: int | None = last

    def __iter__(self) -> Iterator[Any]:
        for index, batch in enumerate(super().__iter__()):
            if index == self.last:
                self.last = None
                raise KeyboardInterrupt
            yield batch


def test_a_run_that_was_cut_off_goes_on_to_the_same_file(plain: Any, tmp_path: Path) -> None:
    made = plain("plain_cnn")
    rng = np.random.default_rng(0)
    batches = [torch.from_numpy(rng.standard_normal((8, 3, 32, 32), np.float32)) for _ in range(6)]
    how = Training(steps=6, batch=8, optimizer="adam", lr=0.01, checkpoint_steps=2)
    (tmp_path / "whole").mkdir()
    (tmp_path / "cut").mkdir()
    made.train(tmp_path / "whole", list(batches), training=how)
    cut = _Cut(batches, 5)
    with pytest.raises(KeyboardInterrupt):
        made.train(tmp_path / "cut", cut, training=how)
    assert not (tmp_path / "cut" / "int8.tflite").exists()
    done = made.train(tmp_path / "cut", cut, training=how, resume=True)
    assert done["result"]["resumed_at"] == 4
    files = [(tmp_path / name / "int8.tflite").read_bytes() for name in ("whole", "cut")]
    assert files[0] == files[1]


def test_training_brings_back_what_plain_int8_loses(tmp_path: Path) -> None:
    """Channels rescaled by 1 to 1000, not balanced: small ones are lost to their tensor's grid."""
    train = open_samples(compress_nets.samples(tmp_path / "train.npz", 384))
    test = open_samples(compress_nets.samples(tmp_path / "test.npz", 400, seed=1))
    made = finetune(
        ModelSource(f"{NETS}:plain"), tmp_path / "float", train=train,
        training={"epochs": 6, "batch": 32, "lr": 0.05},
    )  # fmt: skip
    state = load_file(str(made.source.weights))
    factor = torch.logspace(0, 3, 16)
    for name in ("0", "2"):
        state[f"{name}.weight"] = state[f"{name}.weight"] * factor[:, None, None, None]
        state[f"{name}.bias"] = state[f"{name}.bias"] * factor
    state["2.weight"] = state["2.weight"] / factor[:, None, None]
    state["6.weight"] = state["6.weight"] / factor.repeat_interleave(4)
    save_file(state, tmp_path / "hostile.safetensors")
    source = ModelSource(f"{NETS}:plain", str(tmp_path / "hostile.safetensors"))
    options = {"dialect": "tflite", "equalize": False}
    short = finetune_int8(
        source, tmp_path / "short", train=train, data=test, options=options,
        training={"steps": 1, "lr": 1e-9},
    )  # fmt: skip
    long = finetune_int8(
        source, tmp_path / "long", train=train, data=test, options=options,
        training={"epochs": 10, "batch": 32, "lr": 0.1},
    )  # fmt: skip
    assert short.accuracy is not None
    assert long.accuracy is not None
    print(f"plain int8 {short.accuracy.value:.4f}, trained {long.accuracy.value:.4f}")
    assert short.accuracy.drop is not None
    assert short.accuracy.drop > 0.1
    assert long.accuracy.value > short.accuracy.value + 0.05
    artifact = Artifact.load(tmp_path / "long")
    assert artifact.format == "tflite"
    assert artifact.steps[-1]["equal"]["activations_equal"] > 0.999
