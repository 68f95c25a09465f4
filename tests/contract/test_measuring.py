"""Parity, accuracy and latency through real runtimes, each job in a process of its own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from lepton_edge import accuracy, errors, jobs, latency, parity
from lepton_edge.artifact import Artifact
from lepton_edge.model import ModelSource, Signature, TensorSpec
from lepton_edge.samples import limit, open_samples
from lepton_edge.scores import Scores

onnx = pytest.importorskip("onnx", reason="needs lepton-edge[onnx]")
pytest.importorskip("onnxruntime", reason="needs lepton-edge[onnx]")

WEIGHTS = np.random.default_rng(0).normal(0, 1, (6, 3)).astype(np.float32)
ROWS = np.random.default_rng(1).normal(0, 1, (500, 6)).astype(np.float32)
TRUTH = (ROWS @ WEIGHTS).argmax(1)


def linear(folder: Path, weights: np.ndarray, *, batch: int | None = None) -> Artifact:
    """A saved ONNX artefact of rows @ weights."""
    from onnx import TensorProto, helper, numpy_helper

    dim = "n" if batch is None else batch
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["scores"])],
        "linear",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [dim, 6])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, [dim, 3])],
        [numpy_helper.from_array(weights.astype(np.float32), "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    folder.mkdir()
    onnx.save(model, folder / "linear.onnx")
    signature = Signature(
        (TensorSpec("x", (batch, 6), "float32"),), (TensorSpec("scores", (batch, 3), "float32"),)
    )
    return Artifact(folder, "linear.onnx", "onnx", signature=signature).save()


@pytest.fixture
def data(tmp_path):
    np.savez(tmp_path / "data.npz", rows=ROWS, label=TRUTH, classes=np.array(["a", "b", "c"]))
    return tmp_path / "data.npz"


@pytest.fixture
def source(tmp_path):
    """The same in PyTorch: the reference."""
    pytest.importorskip("torch", reason="needs lepton-edge[torch]")
    np.save(tmp_path / "w.npy", WEIGHTS)
    path = tmp_path / "model.py"
    path.write_text(
        "import numpy as np, torch\n"
        "def factory():\n"
        "    model = torch.nn.Linear(6, 3, bias=False)\n"
        f"    weights = np.load({str(tmp_path / 'w.npy')!r})\n"
        "    model.weight = torch.nn.Parameter(torch.from_numpy(weights.T.copy()))\n"
        "    model.example_inputs = {'x': torch.randn(1, 6)}\n"
        "    return model\n"
    )
    return ModelSource(f"{path}:factory")


@pytest.mark.parametrize("batch", [None, 1, 7])
def test_evaluate_streams_whole_and_padded_batches(tmp_path, data, batch):
    artifact = linear(tmp_path / "good", WEIGHTS, batch=batch)
    result = accuracy.evaluate(artifact, data, threads=1)
    assert (result.value, result.n) == (1.0, 500)
    assert [each.name for each in result.per_class] == ["a", "b", "c"]
    assert np.trace(np.array(result.confusion)) == 500
    rows = ROWS @ WEIGHTS
    for index, curve in enumerate(result.roc):
        ranked = rows[index == TRUTH, index][:, None] - rows[index != TRUTH, index][None]
        assert curve.auc == pytest.approx(np.mean(ranked > 0), abs=1e-6)  # Mann and Whitney's


def test_baseline_is_scored_once_and_kept(tmp_path, data):
    good = linear(tmp_path / "good", WEIGHTS)
    noisy = linear(tmp_path / "bad", WEIGHTS + np.random.default_rng(2).normal(0, 0.3, (6, 3)))
    kept = tmp_path / "base.scores.npz"
    base = accuracy.score(good, data, threads=1)
    base.save(kept)
    found = accuracy.evaluate(noisy, data, baseline=kept, max_drop="1pt", threads=1)
    assert found.status == "FAIL(accuracy)"
    assert found.drop == pytest.approx(1 - found.value)
    assert found.drop_interval[0] > 0.01
    assert found.p_value < 1e-6
    assert found == accuracy.judge(
        accuracy.score(noisy, data, threads=1), Scores.load(kept), max_drop="1pt"
    )
    part = limit(open_samples(data), 50)
    with pytest.raises(errors.UsageError, match="same samples"):
        accuracy.evaluate(noisy, part, baseline=kept, threads=1)


def test_bad_data_and_bad_models_come_back_as_typed_errors(tmp_path, data):
    good = linear(tmp_path / "good", WEIGHTS)
    np.savez(data, rows=ROWS, label=np.where(np.arange(500) == 499, 3, TRUTH))
    with pytest.raises(errors.BadInput, match="row 499 has the label 3"):
        accuracy.evaluate(good, data, threads=1)
    broken = ROWS.copy()
    broken[400, 2] = np.inf
    np.savez(data, rows=broken, label=TRUTH)
    with pytest.raises(errors.BadInput, match="row 400 has NaN or infinite"):
        accuracy.evaluate(good, data, threads=1)
    np.savez(data, rows=ROWS, label=TRUTH)
    nan = linear(tmp_path / "nan", WEIGHTS * np.nan)
    with pytest.raises(errors.GateFailed, match="NaN"):
        accuracy.evaluate(nan, data, threads=1)
    with pytest.raises(errors.UsageError, match="Write 1pt"):
        accuracy.evaluate(good, data, baseline=good, max_drop="one", threads=1)
    with pytest.raises(errors.UsageError, match="needs a baseline"):
        accuracy.evaluate(good, data, max_drop="1pt")


@pytest.mark.parametrize("batch", [None, 1, 7])
def test_verify_against_pytorch_on_data(tmp_path, data, source, batch):
    result = parity.verify(
        source, linear(tmp_path / "good", WEIGHTS, batch=batch), data=open_samples(data), threads=1
    )
    assert result.status == "PASS", result.reasons
    assert result.inputs == f"{data}, n=64"
    assert result.outputs[0].n == 64
    assert result.outputs[0].top1_agreement == 1


def test_verify_against_pytorch_on_examples(tmp_path, source):
    wrong = linear(tmp_path / "wrong", WEIGHTS * np.float32(1.01))
    result = parity.verify(source, wrong, n=20, threads=1)
    assert result.status == "FAIL(parity)"
    assert result.inputs == "example inputs (seeded random), n=20"
    assert result.outputs[0].n == 20


def test_an_onnx_file_is_a_source_with_examples_of_its_own(tmp_path):
    good, wrong = linear(tmp_path / "good", WEIGHTS), linear(tmp_path / "wrong", WEIGHTS + 1)
    source = ModelSource(str(good.path))
    assert parity.verify(source, good, n=8, threads=1).status == "PASS"
    assert parity.verify(source, wrong, n=8, threads=1).status == "FAIL(parity)"
    with pytest.raises(errors.UsageError, match="nothing to infer on"):
        jobs.call("infer", subject={"artifact": str(good.folder)}, out=str(tmp_path), n=4)


def test_benchmark_of_a_real_runtime(tmp_path, data):
    artifact = linear(tmp_path / "good", WEIGHTS, batch=4)
    found = latency.benchmark(artifact, window="50,0.05", warmup_s=0.05, threads=1, data=data)
    assert found.latency.batch == 4
    assert 0 < found.latency.min_ms <= found.latency.p50_ms <= found.latency.max_ms
    assert found.facts["threads"] == 1
    assert found.latency.load_ms > found.latency.p50_ms
