"""Training of a Keras model by Keras' own `fit`, one call an epoch.

The order of the samples and their augmentation depend on the seed and the step's number alone, and
the random state of layers is part of the checkpoint, so that a run that was killed goes on to the
same weights as one that was not.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from lepton_edge import errors
from lepton_edge.compress import _checkpoint
from lepton_edge.compress._data import Table
from lepton_edge.compress._keras_objectives import Objective
from lepton_edge.compress._plan import (
    Log,
    Plan,
    Result,
    improved,
    mean,
    out_of_memory,
    refuse_not_finite,
    weights_not_finite,
)
from lepton_edge.compress._training import Training
from lepton_edge.model import Array


def fit(
    native: Any,
    objective: Objective,
    data: Table,
    training: Training,
    work: Path,
    *,
    key: str = "",
    resume: bool = False,
) -> Result:
    """Trains the trainable weights of `native` in place; see `_train.fit`.

    TensorFlow's operators are made deterministic, which stays so in this process. Raises
    `UsageError` for a loss that is not finite: the last good checkpoint stays in `work`.
    """
    keras.utils.set_random_seed(training.seed)
    tf.config.experimental.enable_op_determinism()
    _seed_layers(native, training.seed)
    objective.prepare(native, data)
    return _Run(native, objective, Plan.of(data, training, key), training, work).run(resume)


def _seed_layers(native: Any, seed: int) -> None:
    """Dropout and the like begin with the seed, whatever the file that they come from holds."""
    states = [each for each in native.variables if each.path.endswith("seed_generator_state")]
    for index, state in enumerate(states):
        state.assign([seed, index])


class _Trainee(keras.Model):  # type: ignore[misc]
    """The model and what its objective trains beside it; one step of `fit`."""

    def __init__(self, native: Any, objective: Objective, training: Training) -> None:
        super().__init__()
        self.native, self.beside = native, list(objective.layers)
        self.goal, self.how = objective, training
        self.built = True
        if not native.trainable_variables:
            raise errors.UsageError(
                "No weight of the model is trainable.", next="Set trainable of its layers."
            )
        optimizer = _optimizer(training)
        kept = [each for each in self.trainable_variables if not _decays(each)]
        if training.optimizer == "adamw" and kept:
            optimizer.exclude_from_weight_decay(var_list=kept)
        optimizer.build(self.trainable_variables)
        self.compile(optimizer=optimizer, jit_compile=False)

    def call(self, inputs: Any, training: bool = False) -> Any:
        return self.native(inputs, training=training)

    def train_step(self, data: Any) -> dict[str, Any]:
        with tf.GradientTape() as tape:
            loss, accuracy = self.loss_of(data, training=True)
        weights = self.trainable_variables
        found = tape.gradient(loss, [each.value for each in weights])
        pairs = [
            (tf.convert_to_tensor(gradient), weight)
            for gradient, weight in zip(found, weights, strict=True)
            if gradient is not None
        ]
        gradients = [gradient for gradient, _ in pairs]
        if self.how.clip is not None:
            gradients, _ = tf.clip_by_global_norm(gradients, self.how.clip)
        if self.how.optimizer != "adamw":  # as an L2 penalty, as torch's SGD and Adam have it
            gradients = [
                gradient + self.how.weight_decay * tf.cast(weight.value, gradient.dtype)
                if _decays(weight)
                else gradient
                for gradient, (_, weight) in zip(gradients, pairs, strict=True)
            ]
        self.optimizer.apply(gradients, [weight for _, weight in pairs])
        return {"loss": loss, "accuracy": accuracy}

    def loss_of(self, data: Any, training: bool) -> tuple[Any, Any]:
        """The objective and the penalties of the model's own layers."""
        inputs, labels = data if len(data) == 2 else (data[0], None)
        loss, accuracy = self.goal(self.native, inputs, labels, training)
        penalties = [tf.cast(each, tf.float32) for each in self.native.losses]
        return tf.add_n([loss, *penalties]), accuracy


def _decays(weight: Any) -> bool:
    """Matrices and kernels; the bias of a GRU has two rows and is none."""
    return len(weight.shape) > 1 and "bias" not in weight.name


def _optimizer(training: Training) -> Any:
    """`Training.optimizer_of` in Keras' terms."""
    if training.optimizer == "sgd":
        nesterov = training.momentum > 0
        return keras.optimizers.SGD(training.lr, momentum=training.momentum, nesterov=nesterov)
    if training.optimizer == "adam":
        return keras.optimizers.Adam(training.lr, epsilon=1e-8)
    return keras.optimizers.AdamW(training.lr, weight_decay=training.weight_decay, epsilon=1e-8)


class _Run(keras.callbacks.Callback):  # type: ignore[misc]
    """The epochs; as Keras' callback, what is done before and after each step."""

    def __init__(
        self, native: Any, objective: Objective, plan: Plan, training: Training, work: Path
    ) -> None:
        super().__init__()
        self.native, self.plan, self.training, self.work = native, plan, training, work
        self.trainee = _Trainee(native, objective, training)
        self.optimizer = self.trainee.optimizer
        self.result, self.steps = Result(), 0
        self.best: list[Array] | None = None
        self.since_best = 0
        self.judge = tf.function(
            lambda data: self.trainee.loss_of(data, training=False),
            autograph=False,
            reduce_retracing=True,
        )

    def run(self, resume: bool) -> Result:
        self._start(resume)
        plan = self.plan
        self.log = Log(self.work, plan.total, self.steps)
        try:
            for epoch in range(self.steps // plan.per_epoch, plan.epochs):
                if self.result.stopped_early:
                    break
                self._epoch(epoch)
        except tf.errors.ResourceExhaustedError:
            raise out_of_memory(plan.batch) from None
        finally:
            self.log.close()
        if self.best is not None:
            self.native.set_weights(self.best)
        elif not _finite(self.native.get_weights()):  # by the last step, whose loss was finite
            raise weights_not_finite(self.steps, plan.total)
        _checkpoint.remove(self.work)
        return self.result

    def _start(self, resume: bool) -> None:
        if not resume:
            return _checkpoint.refuse(self.work)
        state = _checkpoint.load(self.work, self.plan.key, _checkpoint.ARRAYS)
        if state is None:
            return None
        for variable, value in zip(self._variables(), state["variables"], strict=True):
            variable.assign(value)
        self.best, self.since_best = state["best"], state["since_best"]
        self.result.losses, self.result.best = state["losses"], state["best_loss"]
        self.result.resumed_at = self.steps = state["step"]
        return None

    def _variables(self) -> list[Any]:
        return [*self.trainee.variables, *self.optimizer.variables]

    def _epoch(self, epoch: int) -> None:
        plan = self.plan
        end = min((epoch + 1) * plan.per_epoch, plan.total)
        self.trainee.fit(
            self._batches(epoch, self.steps, end),
            steps_per_epoch=end - self.steps,
            callbacks=[self],
            verbose=0,
            shuffle=False,
        )
        self._validate()
        self.result.steps, self.result.epochs = self.steps, epoch + 1
        if self.steps < plan.total and not self.result.stopped_early:
            self._checkpoint()

    def _batches(self, epoch: int, start: int, end: int) -> Iterator[tuple[Any, ...]]:
        """Numpy batches of that epoch, from the step `start` on."""
        plan, training = self.plan, self.training
        skip = start - epoch * plan.per_epoch
        found = plan.data.epoch(epoch, training.seed, plan.batch, skip)
        for step, (inputs, labels) in zip(range(start, end), found, strict=False):
            if training.augment:
                rng = np.random.default_rng((training.seed, step, 2))
                inputs = tuple(augmented(each, training.augment, rng) for each in inputs)
            yield (inputs,) if labels is None else (inputs, labels)

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        rate = self.training.lr * self.training.rate(self.steps, self.plan.total)
        self.optimizer.learning_rate.assign(rate)

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        plan, training, loss = self.plan, self.training, float(logs["loss"])
        rate = float(self.optimizer.learning_rate)
        refuse_not_finite(loss, self.steps, plan.total, rate, self.work)
        self.result.losses.append(loss)
        self.steps += 1
        if self.steps % training.log_steps == 0 or self.steps == plan.total:
            recent = self.result.losses[-training.log_steps :]
            accuracy = float(logs["accuracy"])
            self.log.step(
                self.steps, recent, accuracy=accuracy, learning_rate=rate, sparsity=self._zeros()
            )
        # At an epoch's end it is written with the held-out loss.
        inside = self.steps % plan.per_epoch and self.steps < plan.total
        if inside and self.steps % training.checkpoint_steps == 0:
            self._checkpoint()

    def _zeros(self) -> float:
        """The share of zeros among matrices and kernels."""
        weights = [each.numpy() for each in self.native.trainable_variables if _decays(each)]
        size = sum(each.size for each in weights)
        return sum(int((each == 0).sum()) for each in weights) / max(1, int(size))

    def _validate(self) -> None:
        """The held-out loss; keeps the best weights, and says when to stop."""
        if self.plan.held is None:
            return
        parts = []
        for inputs, labels in self.plan.held.in_order(self.plan.batch):
            data = (inputs,) if labels is None else (inputs, labels)
            loss, accuracy = self.judge(tf.nest.map_structure(tf.convert_to_tensor, data))
            rows = len(inputs[0])
            parts.append({"loss": float(loss), "accuracy": float(accuracy), "rows": rows})
        found = mean(parts)
        self.log.held_out(self.steps, **found)
        patience = self.training.patience
        self.since_best = improved(self.result, found["loss"], patience, self.since_best)
        if self.since_best == 0:
            self.best = self.native.get_weights()

    def _checkpoint(self) -> None:
        """Written only while every weight is finite."""
        state = [np.asarray(each) for each in self._variables()]
        if not _finite(state):
            raise weights_not_finite(self.steps, self.plan.total)
        _checkpoint.save(
            self.work,
            {
                "variables": state,
                "step": self.steps,
                "losses": self.result.losses,
                "best": self.best,
                "best_loss": self.result.best,
                "since_best": self.since_best,
            },
            self.plan.key,
            _checkpoint.ARRAYS,
        )


def _finite(values: Iterable[Array]) -> bool:
    return all(bool(np.isfinite(each).all()) for each in values)


def augmented(value: Array, how: tuple[str, ...], rng: np.random.Generator) -> Array:
    """A batch of images [N, H, W, C], each changed on its own; see `Training`."""
    if value.ndim != 4 or value.dtype.kind != "f":
        return value
    n, height, width, _ = value.shape
    if "flip" in how:
        mirrored = np.less(rng.random(n), 0.5)
        value = np.where(mirrored[:, None, None, None], value[:, :, ::-1], value)
    if "crop" in how:
        pad = max(1, min(height, width) // 8)
        wide = np.pad(value, ((0, 0), (pad, pad), (pad, pad), (0, 0)), mode="reflect")
        y, x = rng.integers(0, 2 * pad + 1, (2, n))
        rows = (y[:, None] + np.arange(height))[:, :, None]
        columns = (x[:, None] + np.arange(width))[:, None, :]
        value = wide[np.arange(n)[:, None, None], rows, columns]
    return value
