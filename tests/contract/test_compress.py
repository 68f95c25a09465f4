"""Passes over real modules: pruning, sparsity, distillation, and what each refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("torch_pruning")
pytest.importorskip("accelerate")

from lepton_edge import errors, sources  # noqa: E402
from lepton_edge.compress import (  # noqa: E402
    Distil,
    Finetune,
    Prune,
    Sequence,
    Sparsify,
    Training,
)
from lepton_edge.model import Model, ModelSource  # noqa: E402
from lepton_edge.samples import Samples, open_samples  # noqa: E402
from tests import compress_nets, zoo  # noqa: E402

NETS, ZOO = Path(compress_nets.__file__), Path(zoo.__file__)
SHORT = Training(epochs=4, batch=32, lr=0.05)
# What can be pruned, and the share of MACs that is asked of it.
RATIOS = {
    **dict.fromkeys(("plain_cnn", "resnet", "inception", "mobilenet_v2", "mobilenet_v3"), 0.5),
    **dict.fromkeys(("unet", "ssd", "tcn", "two_tower", "dqn"), 0.5),
    **dict.fromkeys(("transformer_encoder", "bert", "gpt"), 0.2),  # their MLPs alone
}


def model(name: str = "cnn", file: Path = NETS) -> Model:
    return sources.load(ModelSource(f"{file}:{name}"))


def record(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / "compress.json").read_text())["steps"][-1]
    return found


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Samples:
    return open_samples(compress_nets.samples(tmp_path_factory.mktemp("data") / "train.npz"))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, data: Samples) -> Model:
    return Finetune(training=SHORT)(model(), data, out=tmp_path_factory.mktemp("net") / "net")


def accuracy(done: Model, samples: Samples) -> float:
    images = np.stack([each.inputs["image"] for each in samples])
    labels = np.array([each.label for each in samples])
    return float((done.run({"image": images})["output"].argmax(1) == labels).mean())


@pytest.mark.parametrize("name", RATIOS)
def test_every_family_is_pruned_and_opens_again(name: str, tmp_path: Path) -> None:
    before = model(name, ZOO)
    done = Prune(ratio=RATIOS[name], round_to=4)(before, out=tmp_path / "out")
    found = record(tmp_path / "out")
    assert found["after"]["macs"] <= (1 - RATIOS[name]) * 1.001 * found["before"]["macs"]
    assert found["after"]["parameters"] < found["before"]["parameters"]
    assert done.signature == before.signature
    removed = [row for row in found["rounds"][0]["layers"] if row["kept"] < row["channels"]]
    assert removed
    assert all(row["kept"] % 4 == 0 for row in removed)
    counts = sources.count(done)
    assert counts.parameters == found["after"]["parameters"]
    again = sources.load(done.source)
    feeds = before.example(2)
    for key, value in again.run(feeds).items():
        np.testing.assert_array_equal(value, done.run(feeds)[key])


@pytest.mark.parametrize("name", ["lstm", "gru"])
def test_recurrent_layers_are_refused_by_name(name: str, tmp_path: Path) -> None:
    with pytest.raises(errors.CannotConvert, match=rf"rnn \({name.upper()}\)"):
        Prune(ratio=0.5)(model(name, ZOO), out=tmp_path / "out")
    with pytest.raises(errors.CannotConvert, match="Nothing in this model can be pruned"):
        Prune(ratio=0.5, keep=("rnn",))(model(name, ZOO), out=tmp_path / "out")


def test_removed_channels_equal_channels_of_zero(tmp_path: Path) -> None:
    """The pruned network computes what the whole one does with those channels silenced."""
    before = model("plain")
    done = Prune(ratio=0.4, round_to=4)(before, out=tmp_path / "out")
    silent = before.native
    first, second = silent[0], silent[2]
    kept = [done.native[0].weight.shape[0], done.native[2].weight.shape[0]]
    with torch.no_grad():
        for layer, count in ((first, kept[0]), (second, kept[1])):
            other = {0: done.native[0], 1: done.native[2]}[0 if layer is first else 1]
            gone = [
                index
                for index in range(layer.weight.shape[0])
                if not any(float(layer.bias[index]) == float(b) for b in other.bias)
            ]
            assert len(gone) == layer.weight.shape[0] - count
            layer.weight[gone] = 0
            layer.bias[gone] = 0
    feeds = before.example(3)
    wanted = before.run(feeds)["output"]
    np.testing.assert_allclose(done.run(feeds)["output"], wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("importance", ["magnitude", "taylor", "bn-scale"])
@pytest.mark.parametrize("scope", ["global", "layer"])
def test_pruning_recovers_with_training(
    importance: Any, scope: Any, tmp_path: Path, trained: Model, data: Samples
) -> None:
    how = Prune(ratio=0.5, scope=scope, importance=importance, round_to=4, rounds=2, recovery=SHORT)
    done = how(trained, data, out=tmp_path / "out")
    found = record(tmp_path / "out")
    assert len(found["rounds"]) == 2
    assert found["after"]["macs"] <= 0.501 * found["before"]["macs"]
    assert accuracy(trained, data) > 0.9
    assert accuracy(done, data) > 0.85


def test_parameters_can_be_the_budget(tmp_path: Path) -> None:
    Prune(ratio=0.6, cost="parameters", round_to=2)(model(), out=tmp_path / "out")
    found = record(tmp_path / "out")
    assert found["after"]["parameters"] <= 0.42 * found["before"]["parameters"]


def test_a_forward_with_written_down_sizes_is_not_pruned(tmp_path: Path) -> None:
    with pytest.raises(errors.CannotConvert, match=r"conv: its forward does not run with fewer"):
        Prune(ratio=0.5)(model("hard_coded"), out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_tied_weights_stay_and_the_rest_is_pruned(tmp_path: Path) -> None:
    done = Prune(ratio=0.1, round_to=4)(model("tied"), out=tmp_path / "out")
    left = record(tmp_path / "out")["rounds"][0]["not_pruned"]
    assert any("shares its weights" in reason for reason in left.values())
    assert done.native.once.weight is done.native.again.weight
    assert tuple(done.native.once.weight.shape) == (16, 16, 3, 3)


def test_a_module_used_twice_keeps_its_two_sides_equal(tmp_path: Path) -> None:
    before = model("twice")
    try:
        done = Prune(ratio=0.3, round_to=4)(before, out=tmp_path / "out")
    except errors.CannotConvert as error:
        assert "shared" in str(error)  # noqa: PT017
        return
    assert done.native.shared.weight.shape[0] == done.native.shared.weight.shape[1]


@pytest.mark.parametrize("ratio", [0.0, 1.0, 1.5, -0.1, float("nan")])
def test_a_ratio_outside_0_and_1_is_refused(ratio: float) -> None:
    with pytest.raises(errors.UsageError, match="Pruning cannot remove"):
        Prune(ratio=ratio)
    with pytest.raises(errors.UsageError, match="Sparsity cannot be"):
        Sparsify(pattern="unstructured", ratio=ratio)


def test_what_cannot_be_reached_is_an_error_and_not_less(tmp_path: Path) -> None:
    with pytest.raises(errors.CannotConvert, match=r"can be removed in steps of 8 channels"):
        Prune(ratio=0.97)(model(), out=tmp_path / "out")
    with pytest.raises(errors.CannotConvert, match="Nothing in this model"):
        Prune(ratio=0.1)(model("linear"), out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_layers_to_keep_are_kept_and_named(tmp_path: Path) -> None:
    done = Prune(ratio=0.1, round_to=4, keep=("0",))(model(), out=tmp_path / "out")
    assert done.native[0].weight.shape[0] == 16
    assert "kept as asked" in record(tmp_path / "out")["rounds"][0]["not_pruned"]["0"]


def test_two_of_four_weights_are_zero_and_stay_zero(
    tmp_path: Path, trained: Model, data: Samples
) -> None:
    done = Sparsify(recovery=SHORT)(trained, data, out=tmp_path / "out")
    weight = done.native[3].weight.detach()
    fours = weight.movedim(1, -1).reshape(-1, 4)
    assert ((fours != 0).sum(1) <= 2).all()
    assert record(tmp_path / "out")["left"] == ["0.weight"]  # three input channels
    assert accuracy(done, data) > 0.85


def test_unstructured_sparsity_says_what_it_buys(tmp_path: Path, trained: Model) -> None:
    Sparsify(pattern="unstructured", ratio=0.8)(trained, out=tmp_path / "out")
    found = record(tmp_path / "out")
    assert found["sparsity"] == pytest.approx(0.8, abs=0.01)
    assert found["compressed_bytes"]["after"] < 0.6 * found["compressed_bytes"]["before"]
    assert "No runtime here runs it faster" in found["buys"]


def test_a_student_learns_from_unlabelled_samples(
    tmp_path: Path, trained: Model, data: Samples
) -> None:
    bare = open_samples(compress_nets.samples(tmp_path / "bare.npz", labels=False))
    student = model()
    how = Distil(teacher=trained.source, training=SHORT)
    done = how(student, bare, out=tmp_path / "out")
    assert accuracy(student, data) < 0.6
    assert accuracy(done, data) > 0.85
    assert record(tmp_path / "out")["labels"] is False


def test_a_narrower_student_with_features_and_attention(
    tmp_path: Path, trained: Model, data: Samples
) -> None:
    how = Distil(
        teacher=trained.source, width=0.5, features=("5:5",), attention=("2:2",), training=SHORT
    )
    done = how(model(), data, out=tmp_path / "out")
    assert done.native[0].weight.shape[0] == 8
    assert accuracy(done, data) > 0.7
    assert sources.load(done.source).native[0].weight.shape[0] == 8


@pytest.mark.parametrize("name", ["unet", "ssd", "lstm", "bert"])
def test_detection_segmentation_and_sequences_are_distilled(name: str, tmp_path: Path) -> None:
    teacher = model(name, ZOO)
    feeds = teacher.example(64)
    np.savez(tmp_path / "train.npz", **feeds)
    how = Distil(teacher=teacher.source, training=Training(epochs=4, batch=16, lr=0.02))
    twisted = f"import sys; sys.path.insert(0, {str(ZOO.parent)!r})\nimport torch, zoo\n"
    (tmp_path / "student.py").write_text(
        f"{twisted}def student():\n"
        f"    net = zoo.{name}()\n"
        "    torch.manual_seed(1)\n"
        "    for each in net.parameters():\n"
        "        each.data += 0.1 * each.data.std() * torch.randn_like(each)\n"
        "    return net\n"
    )
    student = model("student", tmp_path / "student.py")
    how(student, open_samples(tmp_path / "train.npz"), out=tmp_path / "out")
    result = record(tmp_path / "out")["result"]
    assert result["last_loss"] < result["first_loss"]


def test_a_teacher_of_another_task_is_refused(tmp_path: Path, data: Samples) -> None:
    other = ModelSource(f"{NETS}:five")
    with pytest.raises(errors.UsageError, match=r"The teacher's outputs are .*5"):
        Distil(teacher=other)(model(), data, out=tmp_path / "out")
    with pytest.raises(errors.UsageError, match="needs a teacher"):
        Distil()(model(), data, out=tmp_path / "out")
    with pytest.raises(errors.UsageError, match="does not take width"):
        Distil(width=0.5)(model("plain"), data, out=tmp_path / "out")
    with pytest.raises(errors.UsageError, match="Unknown module"):
        Distil(teacher=ModelSource(f"{NETS}:cnn"), features=("5:nose",))(
            model(), data, out=tmp_path / "out"
        )


def test_a_sequence_of_passes_is_a_pass(tmp_path: Path, trained: Model, data: Samples) -> None:
    passes = Sequence(
        (
            Prune(ratio=0.4, round_to=4, recovery=Training(steps=4)),
            Distil(teacher=trained.source, training=SHORT),
        )
    )
    done = passes(trained, data, out=tmp_path / "out")
    steps = json.loads((tmp_path / "out" / "compress.json").read_text())["steps"]
    assert [step["pass"] for step in steps] == ["finetune", "prune", "distil"]
    assert accuracy(done, data) > 0.85
    assert not [each for each in tmp_path.iterdir() if each.name.startswith(".out")]
    failing = Sequence((Finetune(training=Training(steps=2)), Prune(ratio=0.99)))
    with pytest.raises(errors.CannotConvert, match=r"after Finetune"):
        failing(trained, data, out=tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_a_pruned_model_moves_with_its_factory_and_knows_when_it_changed(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    (home / "net.py").write_text(NETS.read_text())
    done = Prune(ratio=0.4, round_to=4)(model("cnn", home / "net.py"), out=home / "out")
    moved = home.rename(tmp_path / "moved")
    source = ModelSource(
        done.source.path.replace(str(home), str(moved)),
        str(done.source.weights).replace(str(home), str(moved)),
    )
    feeds = done.example(2)
    again = sources.load(source)
    np.testing.assert_array_equal(again.run(feeds)["output"], done.run(feeds)["output"])
    twice = Prune(ratio=0.3, round_to=4)(again, out=moved / "twice")
    assert twice.native[3].weight.numel() < again.native[3].weight.numel()
    with (moved / "net.py").open("a") as file:
        file.write("\n# changed\n")
    with pytest.raises(errors.BadInput, match="sha256 differs"):
        sources.load(source)


def test_only_factories_are_compressed_and_nothing_foreign_is_overwritten(
    tmp_path: Path, trained: Model
) -> None:
    program = torch.export.export(trained.native, (torch.zeros(2, 3, 8, 8),))
    torch.export.save(program, tmp_path / "net.pt2")
    with pytest.raises(errors.CannotConvert, match="an exported graph"):
        Prune(ratio=0.5)(sources.load(ModelSource(str(tmp_path / "net.pt2"))), out=tmp_path / "o")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("years of work")
    with pytest.raises(errors.UsageError, match="thesis"):
        Prune(ratio=0.5, round_to=4)(trained, out=tmp_path / "mine")
    assert (tmp_path / "mine" / "thesis.tex").exists()
