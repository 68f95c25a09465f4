"""Checks of training Keras models, all in one process with TensorFlow: `keras_training FOLDER`.

Writes `checks.json`: the name of each check and its traceback, or null. Those of `check_*` are
independent of each other.
"""

from __future__ import annotations

import json
import re
import sys
import traceback
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lepton_edge import errors, sources
from lepton_edge.compress import Distil, Finetune, Prune, Sparsify, Training
from lepton_edge.jobs import compress as job
from lepton_edge.model import Model, ModelSource
from lepton_edge.samples import Samples, open_samples
from tests import keras_nets

NETS = Path(keras_nets.__file__)
SHORT: dict[str, Any] = {"epochs": 4, "batch": 32, "lr": 0.05}
# The run that a test kills and resumes; this process has it uninterrupted.
KILLED: dict[str, Any] = {
    "epochs": 12, "batch": 32, "lr": 0.05, "checkpoint_steps": 3, "log_steps": 1,
    "augment": ["flip", "crop"], "holdout": 0.1, "patience": 12, "optimizer": "adam",
}  # fmt: skip


def source(net: str) -> ModelSource:
    return ModelSource(f"{NETS}:{net}")


def model(net: str) -> Model:
    return sources.load(source(net))


def samples(folder: Path, name: str = "train", n: int = 256, **given: Any) -> Samples:
    path = folder / f"{name}.npz"
    return open_samples(path if path.exists() else keras_nets.write_samples(path, n, **given))


def weights(found: Model) -> list[Any]:
    return list(found.native.get_weights())


def same(one: Model, two: Model) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(weights(one), weights(two), strict=True))


def accuracy(found: Model, folder: Path, output: str | None = None) -> float:
    """Top-1 on images that were not trained on."""
    keras_nets.write_samples(folder / "parts-test.npz", 200, seed=1)
    with np.load(folder / "parts-test.npz") as test:
        feeds = {spec.name: test[spec.name] for spec in found.signature.inputs}
        values = found.run(feeds)
        (value,) = values.values() if output is None else [values[output]]
        return float((value.argmax(1) == test["label"]).mean())


def record(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / "compress.json").read_text())["steps"][-1]
    return found


def tune(net: str, out: Path, data: Samples, *, output: str | None = None, **how: Any) -> Model:
    return Finetune(output=output, training=Training(**{**SHORT, **how}))(model(net), data, out=out)


def refused(what: type[errors.EdgeError], said: str, do: Any) -> None:
    with pytest.raises(what, match=re.escape(said)):
        do()


def check_sequential_learns_and_is_repeatable(folder: Path) -> None:
    data, before = samples(folder), accuracy(model("cnn"), folder)
    how = {"augment": ("flip", "crop"), "label_smoothing": 0.1, "epochs": 8}
    one, two, other = (
        tune("cnn", folder / f"cnn-{n}", data, seed=seed, **how)
        for n, seed in ((1, 0), (2, 0), (3, 1))
    )
    assert accuracy(one, folder) > max(0.9, before + 0.2)
    assert same(one, two)
    assert not same(one, other)
    assert one.signature == model("cnn").signature


def check_factories_and_files_are_the_same_model(folder: Path) -> None:
    rows = np.random.default_rng(0).normal(0, 1, (3, 8, 8, 3)).astype(np.float32)
    made = model("cnn")
    assert made.framework == "keras"
    made.native.set_weights([each + 0.5 for each in weights(made)])
    made.native.save_weights(folder / "moved.weights.h5")
    made.native.save(folder / "moved.h5")
    wanted = made.run({"image": rows})["dense"]
    for other in (
        ModelSource(f"{NETS}:cnn", str(folder / "moved.weights.h5")),
        ModelSource(str(folder / "moved.h5")),
    ):
        found = sources.load(other)
        assert found.signature == made.signature
        assert np.allclose(found.run({"image": rows})["dense"], wanted, atol=1e-6)
    assert same(model("cnn"), model("cnn"))  # without weights, a factory starts from one seed
    wrong = ModelSource(f"{NETS}:softmax", str(folder / "moved.weights.h5"))
    refused(errors.BadInput, "do not fit the model", lambda: sources.load(wrong))
    refused(errors.BadInput, "not a keras.Model", lambda: model("start_values"))
    done = Finetune(training=Training(**SHORT))(
        sources.load(ModelSource(str(folder / "moved.h5"))), samples(folder), out=folder / "of-h5"
    )
    assert accuracy(done, folder) > 0.9


def check_functional_with_softmax(folder: Path) -> None:
    done = tune("softmax", folder / "softmax", samples(folder))
    assert accuracy(done, folder) > 0.9
    found = record(folder / "softmax")["result"]
    # The penalty of the layer is in the loss, and the logarithm of the softmax is not taken twice.
    assert found["last_loss"] < 0.6 * found["first_loss"]
    rows = np.zeros((2, 8, 8, 3), np.float32)
    assert np.allclose(done.run({"image": rows})["answer"].sum(1), 1, atol=1e-5)


def check_gru(folder: Path) -> None:
    done = tune("gru", folder / "gru", samples(folder), optimizer="adam", lr=0.02, epochs=8)
    assert accuracy(done, folder) > 0.9


def check_dict_of_inputs_and_one_of_two_outputs(folder: Path) -> None:
    data = samples(folder, "parts")
    shapes = {spec.name: spec.shape for spec in model("parts").signature.outputs}
    assert shapes == {"kind": (None, 4), "size": (None, 1)}
    refused(errors.UsageError, "has 2 outputs", lambda: tune("parts", folder / "x", data))
    refused(
        errors.UsageError, "Did you mean 'kind'",
        lambda: tune("parts", folder / "x", data, output="kinds"),
    )  # fmt: skip
    done = tune("parts", folder / "parts-out", data, output="kind", lr=0.2)
    assert accuracy(done, folder, "kind") > 0.9
    before, after = (
        {each.shape: each for each in weights(found)} for found in (model("parts"), done)
    )
    assert not np.array_equal(before[5, 4], after[5, 4])
    assert np.array_equal(before[5, 1], after[5, 1])  # no gradient, and no decay either


def check_regression(folder: Path) -> None:
    tune("mean_colour", folder / "mse", samples(folder, "colour", label="colour"), lr=0.2)
    assert record(folder / "mse")["result"]["last_loss"] < 0.1


def check_classes_of_pixels_in_bfloat16_with_a_fixed_batch(folder: Path) -> None:
    data = samples(folder, "pixels", label="pixels")
    tune("pixels", folder / "pixels-out", data, lr=0.1)
    found = record(folder / "pixels-out")["result"]
    assert found["last_loss"] < 0.8 * found["first_loss"]
    for how, said in (({"batch": 16}, "batches of 32 alone"), ({"holdout": 0.2}, "fixed batch")):
        refused(
            errors.UsageError, said,
            lambda how=how: tune("pixels", folder / "x", data, **how),
        )  # fmt: skip


def check_layers_of_own_code(folder: Path) -> None:
    refused(
        errors.CannotConvert, "'Own', whose code is not in Keras",
        lambda: tune("own", folder / "x", samples(folder)),
    )  # fmt: skip


def check_labels_that_do_not_fit(folder: Path) -> None:
    colours, bare = samples(folder, "colour", label="colour"), samples(folder, "bare", label="none")
    out = folder / "x"
    refused(errors.UsageError, "have the shape [3]", lambda: tune("cnn", out, colours))
    refused(errors.UsageError, "have no labels", lambda: tune("cnn", out, bare))
    refused(errors.UsageError, "go from 0 to 3", lambda: tune("mean_colour", out, samples(folder)))
    refused(errors.UsageError, "No weight", lambda: tune("frozen", out, samples(folder)))
    assert not out.exists()


def check_hold_out_stops_early_with_the_best_weights(folder: Path) -> None:
    how = {"holdout": 0.25, "patience": 2, "epochs": 60, "lr": 0.5, "schedule": "constant"}
    done = tune("cnn", folder / "early", samples(folder), **how)
    found = record(folder / "early")["result"]
    assert found["stopped_early"]
    assert found["epochs"] < 60
    assert accuracy(done, folder) > 0.9
    rates = events(folder / "early.training" / "logs")
    held = rates["held-out/loss"]
    assert len(held) == found["epochs"]
    assert np.isclose(min(held.values()), found["best"], rtol=1e-5)
    assert min(held, key=held.__getitem__) == sorted(held)[-3]  # two epochs without a better one


def events(folder: Path) -> dict[str, dict[int, float]]:
    """Scalars by tag and step."""
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

    found: dict[str, dict[int, float]] = {}
    for file in sorted(folder.iterdir()):
        for event in EventFileLoader(str(file)).Load():
            for value in event.summary.value:
                number = value.tensor.float_val[0] if value.HasField("tensor") else 0.0
                found.setdefault(value.tag, {})[event.step] = number
    return found


def check_events_and_schedule(folder: Path) -> None:
    how = {"steps": 20, "warmup": 0.25, "log_steps": 1}
    tune("linear", folder / "events", samples(folder), **how)
    found = events(folder / "events.training" / "logs")
    assert set(found) == {f"train/{k}" for k in ("loss", "accuracy", "learning_rate", "sparsity")}
    training = Training(**{**SHORT, **how})
    rates = found["train/learning_rate"]
    assert sorted(rates) == list(range(1, 21))
    for step, rate in rates.items():
        assert np.isclose(rate, training.lr * training.rate(step - 1, 20), rtol=1e-5), step


def check_loss_that_is_not_finite(folder: Path) -> None:
    how: dict[str, Any] = {
        "lr": 1e38,
        "clip": None,
        "checkpoint_steps": 1,
        "warmup": 0.0,
        "momentum": 0.0,
    }
    refused(
        errors.UsageError, "The last good checkpoint is kept at",
        lambda: tune("linear", folder / "nan", samples(folder), **how),
    )  # fmt: skip
    with np.load(folder / "nan.training" / "checkpoint.npz") as kept:
        assert all(np.isfinite(kept[key]).all() for key in kept.files if "variables" in key)
    last = {"lr": 1e30, "clip": None, "warmup": 0.0, "steps": 2}
    refused(  # the last step breaks the weights, and no loss tells
        errors.UsageError, "weights were no longer finite at step 2",
        lambda: tune("linear", folder / "x", samples(folder), **last),
    )  # fmt: skip
    assert not (folder / "nan").exists()
    refused(
        errors.UsageError, "unfinished training",
        lambda: tune("linear", folder / "nan", samples(folder), **how),
    )  # fmt: skip
    data = samples(folder)
    again = Finetune(training=Training(**{**SHORT, "lr": 0.01}))
    refused(
        errors.UsageError, "other settings",
        lambda: again(model("linear"), data, out=folder / "nan", resume=True),
    )  # fmt: skip


def check_passes_for_torch_alone(folder: Path) -> None:
    for each in (Prune(ratio=0.5), Sparsify()):
        refused(
            errors.CannotConvert, "is a Keras model",
            lambda each=each: each(model("cnn"), None, out=folder / "x"),
        )  # fmt: skip


def teacher(folder: Path, net: str, data: Samples, **how: Any) -> ModelSource:
    """A trained one, as a file."""
    out = folder / f"teacher-{net}"
    if not out.exists():
        tune(net, out, data, **how)
    return ModelSource(str(out / f"{out.name}.keras"))


def distil(net: str, out: Path, data: Samples, how: dict[str, Any] = SHORT, **given: Any) -> Model:
    return Distil(training=Training(**how), **given)(model(net), data, out=out)


def check_distil_from_unlabelled_samples(folder: Path) -> None:
    """The student ends in a softmax, the teacher in logits."""
    data, bare = samples(folder), samples(folder, "bare", label="none")
    given = teacher(folder, "cnn", data, epochs=8)
    done = distil("softmax", folder / "student", bare, {**SHORT, "epochs": 8}, teacher=given)
    assert accuracy(done, folder) > 0.9
    found = record(folder / "student")
    assert not found["labels"]
    assert found["result"]["last_loss"] < 0.5 * found["result"]["first_loss"]


def check_distil_into_half_the_width(folder: Path) -> None:
    data = samples(folder)
    path = folder / "wide.weights.h5"
    tuned = sources.load(teacher(folder, "cnn", data, epochs=8))
    tuned.native.save_weights(path)
    wide = sources.load(ModelSource(f"{NETS}:cnn", str(path)))
    out = folder / "half"
    done = Distil(width=0.5, training=Training(**SHORT))(wide, data, out=out)
    assert done.native.count_params() < 0.6 * wide.native.count_params()
    assert accuracy(done, folder) > 0.9
    assert record(out)["labels"]
    assert same(sources.load(wide.source), wide)  # the teacher is as it was


def check_distil_several_outputs(folder: Path) -> None:
    """With none named, each output is the teacher's; inputs are a dict."""
    data = samples(folder, "parts")
    given = teacher(folder, "parts", data, output="kind", lr=0.2)
    with np.load(keras_nets.write_samples(folder / "parts-test.npz", 200, seed=1)) as test:
        rows = {name: test[name] for name in ("image", "extra")}

    def far(found: Model) -> list[float]:
        values, wanted = found.run(rows), sources.load(given).run(rows)
        return [float(np.abs(values[name] - wanted[name]).mean()) for name in ("kind", "size")]

    start = model("parts")
    start.native.set_weights([each + 0.5 for each in weights(start)])
    start.native.save(folder / "start.keras")
    student = sources.load(ModelSource(str(folder / "start.keras")))
    how = Training(**{**SHORT, "lr": 0.1, "epochs": 12, "clip": None, "weight_decay": 0.0})
    done = Distil(teacher=given, weight=1.0, training=how)(student, data, out=folder / "several")
    for before, after in zip(far(student), far(done), strict=True):
        assert after < 0.3 * before
    named = Distil(teacher=given, output="kind", training=how)
    named(student, data, out=folder / "one-output")
    assert record(folder / "one-output")["result"]["last_loss"] < 1


def check_distil_by_features_and_attention(folder: Path) -> None:
    data = samples(folder, "bare", label="none")
    given = teacher(folder, "softmax", samples(folder))
    done = distil(
        "cnn", folder / "features", data, {**SHORT, "epochs": 8}, teacher=given,
        features=("conv2d:inner",), attention=("re_lu:inner",),
    )  # fmt: skip
    assert accuracy(done, folder) > 0.9
    found = record(folder / "features")["result"]
    assert found["last_loss"] < 0.6 * found["first_loss"]


def check_teachers_that_do_not_fit(folder: Path) -> None:
    data, out = samples(folder), folder / "x"
    for net, said in (("five", "[5]"), ("parts", "teacher's inputs are")):
        refused(
            errors.UsageError, said,
            lambda net=net: distil("cnn", out, data, teacher=source(net)),
        )  # fmt: skip
    torch = ModelSource(f"{NETS.with_name('compress_nets.py')}:cnn")
    cases: dict[str, dict[str, Any]] = {
        "no Keras model": {"teacher": torch},
        "needs a teacher": {},
        "does not take width": {"width": 0.5},
        "is no smaller": {"width": 0.99},
        "Unknown layer 'inner'": {"teacher": source("softmax"), "features": ("inner:inner",)},
        "need images": {"teacher": source("softmax"), "attention": ("dense:answer",)},
    }
    for said, given in cases.items():
        net = "gru" if "does not take" in said else "cnn"
        refused(
            errors.UsageError, said, lambda net=net, given=given: distil(net, out, data, **given)
        )
    file = sources.load(teacher(folder, "cnn", data, epochs=8))
    refused(
        errors.UsageError, "width cannot be scaled",
        lambda: Distil(width=0.5)(file, data, out=out),
    )  # fmt: skip
    assert not out.exists()


def check_steps_are_those_of_torch(folder: Path) -> None:
    """Leaves the twin's weights and settings for the test, which trains it in torch."""
    (folder / "twins.json").write_text(json.dumps({k: {**SHORT, **v} for k, v in STEPS.items()}))
    for name, how in STEPS.items():
        done = tune("linear", folder / f"twin-{name}", samples(folder), **how)
        np.savez(folder / f"twin-{name}.npz", *weights(done))


STEPS: dict[str, dict[str, Any]] = {
    "sgd": {"optimizer": "sgd", "momentum": 0.0, "weight_decay": 0.1, "clip": 0.5},
    "momentum": {"schedule": "constant", "warmup": 0.0, "weight_decay": 0.1},
    "adam": {"optimizer": "adam", "lr": 0.01, "weight_decay": 0.1, "label_smoothing": 0.1},
    "adamw": {"optimizer": "adamw", "lr": 0.01, "weight_decay": 0.5},
}


def check_uninterrupted(folder: Path) -> None:
    """Leaves the weights that a run must end with that is killed, and the job of that run."""
    given: dict[str, Any] = {
        "name": "finetune", "source": source("cnn").as_dict(), "options": {}, "training": KILLED,
        "samples": samples(folder).as_dict(),
    }  # fmt: skip
    whole, cut = folder / "whole", folder / "cut"
    job.run(**given, out=str(whole), work=f"{whole}.training")
    killed = {"do": "compress", **given, "out": str(cut), "work": f"{cut}.training"}
    (folder / "killed.json").write_text(json.dumps(killed))


def main(folder: Path) -> None:
    found: dict[str, str | None] = {}
    for name, check in CHECKS.items():
        try:
            check(folder)
            found[name] = None
        except Exception:  # noqa: BLE001 - the test shows it
            found[name] = traceback.format_exc()
        (folder / "checks.json").write_text(json.dumps(found))
    assert "torch" not in sys.modules


CHECKS = {
    name.removeprefix("check_"): value
    for name, value in list(globals().items())
    if name.startswith("check_")
}

if __name__ == "__main__":
    main(Path(sys.argv[1]))
