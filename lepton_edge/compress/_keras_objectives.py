"""Losses of Keras models: `objective(native, inputs, labels, training) -> (loss, accuracy)`.

They are those of `_objectives`, with the channels of images last. `prepare` looks at the data and
at the model's answers once, before training begins.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, Protocol

import keras
import numpy as np
import tensorflow as tf

from lepton_edge import errors
from lepton_edge.compress._data import Table
from lepton_edge.sources._keras_run import given, named

Loss = Literal["auto", "cross-entropy", "mse"]
LOOKED_AT = 64  # samples


class Objective(Protocol):
    @property
    def layers(self) -> Sequence[Any]:
        """What is trained beside the model."""

    def prepare(self, native: Any, data: Table) -> None:
        """`UsageError` for labels or outputs that do not fit, before training begins."""

    def __call__(self, native: Any, inputs: Any, labels: Any, training: bool) -> tuple[Any, Any]:
        """The mean loss of a batch and the share of right answers, scalars."""


def answers(native: Any, inputs: Any, training: bool = False) -> dict[str, Any]:
    """The model's outputs by name, of inputs in the signature's order."""
    return named(native, native(given(native, inputs), training=training))


def probabilities(value: Any) -> bool:
    """Whether the model ends in a softmax: its answers are at least 0 and add up to 1."""
    sums = np.asarray(value, np.float32).sum(-1)
    return bool((np.asarray(value) >= 0).all() and np.allclose(sums, 1, atol=1e-3))


def logits(value: Any, are_probabilities: bool) -> Any:
    value = tf.cast(value, tf.float32)
    return tf.math.log(tf.maximum(value, 1e-8)) if are_probabilities else value


def chosen(outputs: Mapping[str, Any], output: str | None) -> str:
    """The name of the output: the one that was asked for, or the only one."""
    if output is None and len(outputs) > 1:
        raise errors.UsageError(
            f"The model has {len(outputs)} outputs.",
            next=f"Name the one to train with output=, of {', '.join(outputs)}.",
        )
    if output is not None and output not in outputs:
        raise errors.unknown("output", output, outputs)
    return output or next(iter(outputs))


class Task:
    """Cross-entropy for integer labels, mean squared error for arrays of the output's shape."""

    layers: Sequence[Any] = ()

    def __init__(self, output: str | None = None, loss: Loss = "auto", smoothing: float = 0.0):
        self.output, self.loss, self.smoothing = output, loss, smoothing
        self.name = ""
        self.classes = self.softmax = False

    def prepare(self, native: Any, data: Table) -> None:
        if data.labels is None:
            raise errors.UsageError(
                "The training samples have no labels, and this training needs them.",
                next="Give labelled samples, or distil from a teacher.",
            )
        outputs = answers(native, first(native, data))
        self.name = chosen(outputs, self.output)
        value, labels = outputs[self.name].numpy(), data.labels
        shape = list(value.shape[1:])
        integers = labels.dtype.kind == "i"
        self.classes = self.loss == "cross-entropy" or (self.loss == "auto" and integers)
        if not self.classes:
            if shape != list(labels.shape[1:]):
                raise errors.UsageError(
                    f"The labels have the shape {list(labels.shape[1:])}, the output {shape}.",
                    next="Name another output with output=, or give labels of its shape.",
                )
            return
        if not integers or shape[:-1] != list(labels.shape[1:]):
            raise errors.UsageError(
                f"Labels of {labels.dtype} {list(labels.shape[1:])} are no classes of the output"
                f" {shape}.",
                next="Give class indices, or loss=mse.",
            )
        if int(labels.min()) < 0 or int(labels.max()) >= shape[-1]:
            raise errors.UsageError(
                f"The labels go from {int(labels.min())} to {int(labels.max())}; the output has"
                f" {shape[-1]} classes.",
                next="Labels are class indices that begin at 0.",
            )
        self.softmax = probabilities(value)

    def __call__(self, native: Any, inputs: Any, labels: Any, training: bool) -> tuple[Any, Any]:
        return self.of(answers(native, inputs, training), labels)

    def of(self, outputs: Mapping[str, Any], labels: Any) -> tuple[Any, Any]:
        value = tf.cast(outputs[self.name], tf.float32)
        if not self.classes:
            return tf.reduce_mean((value - tf.cast(labels, tf.float32)) ** 2), tf.constant(0.0)
        scores = tf.nn.log_softmax(logits(value, self.softmax))
        picked = tf.gather(scores, labels, axis=-1, batch_dims=len(labels.shape))
        right = tf.cast(tf.argmax(scores, -1) == labels, tf.float32)
        # Smoothing: that share of the truth is spread over all classes.
        loss = -(1 - self.smoothing) * tf.reduce_mean(picked)
        return loss - self.smoothing * tf.reduce_mean(scores), tf.reduce_mean(right)


def first(native: Any, data: Table) -> tuple[Any, ...]:
    """A few samples, as tensors in the signature's order."""
    rows = native.inputs[0].shape[0] or LOOKED_AT
    inputs, _ = data.rows(np.arange(min(rows, len(data))))
    return tuple(map(tf.convert_to_tensor, inputs))


class Distillation:
    """`weight` parts of the teacher's answer, the rest the labels' loss; see `_objectives`.

    `features` and `attention` are pairs of names of layers (student, teacher).
    """

    def __init__(
        self,
        teacher: Any,
        task: Task,
        *,
        temperature: float,
        weight: float,
        features: Sequence[tuple[str, str]] = (),
        attention: Sequence[tuple[str, str]] = (),
        feature_weight: float = 1.0,
    ) -> None:
        self.teacher, self.task = teacher, task
        self.temperature, self.weight = temperature, weight
        self.features, self.attention = features, attention
        self.feature_weight = feature_weight
        self.layers: list[Any] = []
        self.softmax = (False, False)
        self.labelled = False
        self.order: list[int] = []
        self.probes: tuple[Any, Any] = (None, None)

    def prepare(self, native: Any, data: Table) -> None:
        inputs = first(native, data)
        self.order = _order(native, self.teacher)
        ours = answers(native, inputs)
        theirs = _under(ours, answers(self.teacher, self._theirs(inputs)))
        shapes, others = (
            {name: list(value.shape[1:]) for name, value in each.items()} for each in (ours, theirs)
        )
        if shapes != others:
            raise errors.UsageError(
                f"The teacher's outputs are {others}, the student's {shapes}.",
                next="Give a teacher of the same task, with the same names and shapes.",
            )
        one = self.task.output is not None or len(ours) == 1
        self.labelled = data.labels is not None and (one or self.weight < 1)
        if self.labelled:
            self.task.prepare(native, data)
        if one:
            self.task.name = chosen(ours, self.task.output)
            self.softmax = (
                probabilities(ours[self.task.name]),
                probabilities(theirs[self.task.name]),
            )
        pairs = [*self.features, *self.attention]
        self.probes = (
            _Probe(native, [mine for mine, _ in pairs]),
            _Probe(self.teacher, [other for _, other in pairs]),
        )
        _, mine = self.probes[0](inputs)
        _, other = self.probes[1](self._theirs(inputs))
        for index, (a, b) in enumerate(zip(mine, other, strict=True)):
            self._check_pair(pairs[index], a, b, index >= len(self.features))

    def _check_pair(self, pair: tuple[str, str], a: Any, b: Any, attention: bool) -> None:
        if attention:
            if len(a.shape) != 4 or len(b.shape) != 4:
                raise errors.UsageError(
                    f"Attention maps need images, {pair[0]!r} gives {list(a.shape)} and"
                    f" {pair[1]!r} {list(b.shape)}.",
                    next="Match them with features instead.",
                )
            return
        if len(a.shape) != len(b.shape) or (len(a.shape) == 3 and a.shape[1] != b.shape[1]):
            raise errors.UsageError(
                f"{pair[0]!r} gives {list(a.shape)}, the teacher's {pair[1]!r} {list(b.shape)};"
                " they cannot be matched."
            )
        # A 1x1 convolution, where these are images: a product over the last axis either way.
        layer = keras.layers.Dense(b.shape[-1])
        layer.build(a.shape)
        self.layers.append(layer)

    def __call__(self, native: Any, inputs: Any, labels: Any, training: bool) -> tuple[Any, Any]:
        target, theirs = self.probes[1](self._theirs(inputs))
        outputs, ours = self.probes[0](inputs, training)
        target = {name: tf.stop_gradient(value) for name, value in _under(outputs, target).items()}
        loss = self._answers(outputs, target)
        for index, (a, b) in enumerate(zip(ours, theirs, strict=True)):
            loss += self.feature_weight * self._pair(index, a, tf.stop_gradient(b))
        if labels is None or not self.labelled:
            return loss, self._agreement(outputs, target)
        own, accuracy = self.task.of(outputs, labels)
        return self.weight * loss + (1 - self.weight) * own, accuracy

    def _theirs(self, inputs: Sequence[Any]) -> tuple[Any, ...]:
        return tuple(inputs[index] for index in self.order)

    def _answers(self, outputs: Mapping[str, Any], target: Mapping[str, Any]) -> Any:
        name = self.task.name
        if not name:
            pairs = [
                (tf.cast(outputs[key], tf.float32), tf.cast(value, tf.float32))
                for key, value in target.items()
                if value.dtype.is_floating
            ]
            parts = [
                tf.reduce_mean((mine - other) ** 2)
                / tf.maximum(tf.math.reduce_variance(other), 1e-6)
                for mine, other in pairs
            ]
            return tf.add_n(parts) / len(parts)
        mine, other = (tf.cast(each[name], tf.float32) for each in (outputs, target))
        if mine.shape[-1] == 1:  # one number a sample: there are no classes to compare
            return tf.reduce_mean((mine - other) ** 2)
        student, teacher = (
            tf.nn.log_softmax(logits(value, softmax) / self.temperature)
            for value, softmax in zip((mine, other), self.softmax, strict=True)
        )
        divergence = tf.reduce_sum(tf.exp(teacher) * (teacher - student), -1)
        return tf.reduce_mean(divergence) * self.temperature**2

    def _agreement(self, outputs: Mapping[str, Any], target: Mapping[str, Any]) -> Any:
        """The share of top answers in which both agree; 0 where there are no classes."""
        if not self.task.name:
            return tf.constant(0.0)
        mine, other = (tf.argmax(each[self.task.name], -1) for each in (outputs, target))
        return tf.reduce_mean(tf.cast(mine == other, tf.float32))

    def _pair(self, index: int, a: Any, b: Any) -> Any:
        a, b = tf.cast(a, tf.float32), tf.cast(b, tf.float32)
        if len(a.shape) == 4 and a.shape[1:3] != b.shape[1:3]:
            b = tf.image.resize(b, a.shape[1:3], method="area")
        if index >= len(self.features):
            maps = [tf.reduce_mean(each**2, -1) for each in (a, b)]
            flat = [tf.reshape(each, (-1, each.shape[1] * each.shape[2])) for each in maps]
            unit = [tf.math.l2_normalize(each, 1) for each in flat]
            return tf.reduce_mean(tf.reduce_sum((unit[0] - unit[1]) ** 2, 1))
        error = tf.reduce_mean((self.layers[index](a) - b) ** 2)
        return error / tf.maximum(tf.math.reduce_variance(b), 1e-6)


class _Probe:
    """A model with the outputs of some of its layers."""

    def __init__(self, native: Any, layers: Sequence[str]) -> None:
        known = {layer.name: layer for layer in native.layers}
        for name in layers:
            if name not in known:
                raise errors.unknown("layer", name, known)
        self.native, self.watched = native, None
        if layers:
            outputs = native.outputs if isinstance(native, keras.Sequential) else native.output
            try:
                inner = [known[name].output for name in layers]
            except AttributeError as error:  # a layer that is called more than once
                raise errors.UsageError(f"{str(error).splitlines()[0]}") from None
            self.watched = keras.Model(native.inputs, {"outputs": outputs, "inner": inner})

    def __call__(self, inputs: Any, training: bool = False) -> tuple[dict[str, Any], list[Any]]:
        if self.watched is None:
            return answers(self.native, inputs, training), []
        found = self.watched(list(inputs), training=training)
        return named(self.native, found["outputs"]), found["inner"]


def _order(native: Any, teacher: Any) -> list[int]:
    """Where the student has each input of the teacher: by name, or by place where names differ."""
    ours, theirs = ({each.name: each for each in model.inputs} for model in (native, teacher))
    names = list(theirs) if set(ours) == set(theirs) else list(ours)
    fits = len(ours) == len(theirs) and all(
        mine is None or other is None or mine == other
        for name, value in zip(names, theirs.values(), strict=True)
        for mine, other in zip(ours[name].shape, value.shape, strict=False)
    )
    if not fits:
        shapes = ({name: list(each.shape[1:]) for name, each in m.items()} for m in (theirs, ours))
        raise errors.UsageError(
            "The teacher's inputs are {}, the student's {}.".format(*shapes),
            next="Give a teacher that takes the same samples.",
        )
    return [list(ours).index(name) for name in names]


def _under(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> dict[str, Any]:
    """The teacher's outputs under the student's names: layers of one output may be called anything.

    Several are told apart by their names, and stay as they are.
    """
    if len(ours) == len(theirs) == 1:
        return dict(zip(ours, theirs.values(), strict=True))
    return dict(theirs)
