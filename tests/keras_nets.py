"""Tiny Keras models and made-up data for the tests of training; factories for `file.py:name`.

The data: images [8, 8, 3] of four classes, told apart by their mean colours and brightness, under
the names that the models' inputs have.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import layers


def cnn(width: float = 1.0) -> Any:
    """Sequential, with a batch norm and a dropout; ends in logits."""
    return keras.Sequential(
        [
            keras.Input((8, 8, 3), name="image"),
            layers.Conv2D(round(16 * width), 3, padding="same", use_bias=False),
            layers.BatchNormalization(momentum=0.9),
            layers.ReLU(),
            layers.GlobalAveragePooling2D(),
            layers.Dropout(0.1),
            layers.Dense(4),
        ]
    )


def softmax(width: float = 1.0) -> Any:
    """Functional; ends in a softmax, and has a penalty of its own."""
    image = keras.Input((8, 8, 3), name="image")
    inner = layers.Conv2D(round(16 * width), 3, activation="relu", name="inner")(image)
    pooled = layers.GlobalAveragePooling2D()(inner)
    answer = layers.Dense(4, activation="softmax", kernel_regularizer="l2", name="answer")
    return keras.Model(image, answer(pooled))


def linear() -> Any:
    """One matrix and a bias: the twin of a torch.nn.Linear with the same values."""
    image = keras.Input((8, 8, 3), name="image")
    model = keras.Model(image, layers.Dense(4)(layers.Flatten()(image)))
    model.set_weights([start((192, 4)), start((4,))])
    return model


def start(shape: tuple[int, ...]) -> Any:
    """Values that both frameworks' twins begin with."""
    return np.random.default_rng(5).normal(0, 0.05, shape).astype(np.float32)


def start_values() -> Any:
    """No model."""
    return start((3,))


def gru() -> Any:
    """The rows of the image as a series."""
    image = keras.Input((8, 8, 3), name="image")
    series = layers.Reshape((8, 24))(image)
    return keras.Model(image, layers.Dense(4)(layers.GRU(8)(series)))


def parts() -> Any:
    """A dict of inputs and of outputs, neither in the order of its keys."""
    image, extra = keras.Input((8, 8, 3), name="image"), keras.Input((2,), name="extra")
    pooled = layers.GlobalAveragePooling2D()(image)
    joined = layers.Concatenate()([pooled, extra])
    outputs = {"size": layers.Dense(1)(joined), "kind": layers.Dense(4)(joined)}
    return keras.Model({"picture": image, "a": extra}, outputs)


def mean_colour() -> Any:
    """A regression: three numbers an image."""
    image = keras.Input((8, 8, 3), name="image")
    return keras.Model(image, layers.Dense(3)(layers.GlobalAveragePooling2D()(image)))


def pixels() -> Any:
    """Classes of every pixel, in bfloat16 by its own dtype policy, for batches of 32 alone."""
    image = keras.Input((8, 8, 3), batch_size=32, name="image")
    policy = "mixed_bfloat16"
    inner = layers.Conv2D(8, 5, padding="same", activation="relu", dtype=policy)(image)
    return keras.Model(image, layers.Conv2D(4, 3, padding="same", dtype=policy)(inner))


@keras.saving.register_keras_serializable()
class Own(layers.Layer):  # type: ignore[misc]
    """A layer of the user's own code."""

    def call(self, inputs: Any) -> Any:
        return inputs * 2


def own() -> Any:
    """With that layer."""
    image = keras.Input((8, 8, 3), name="image")
    return keras.Model(image, layers.Dense(4)(layers.Flatten()(Own()(image))))


def five() -> Any:
    """A teacher of another task: five classes."""
    image = keras.Input((8, 8, 3), name="image")
    return keras.Model(image, layers.Dense(5)(layers.Flatten()(image)))


def frozen() -> Any:
    """Nothing in it is trainable."""
    model = linear()
    model.trainable = False
    return model


def write_samples(path: Path, n: int, seed: int = 0, *, label: str = "class") -> Path:
    """An .npz of `image` [n, 8, 8, 3] and, for a name with parts in it, `extra` [n, 2].

    `label` is the `class`, that of all `pixels`, the `colour`, or `none`.
    """
    rng = np.random.default_rng(seed)
    kind = rng.integers(0, 4, n)
    colours = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1], [0.6, 0.6, 0.6]], np.float32)
    image = colours[kind][:, None, None] + rng.normal(0, 0.6, (n, 8, 8, 3)).astype(np.float32)
    pixels = np.broadcast_to(kind[:, None, None], (n, 8, 8))
    labels = {"class": kind, "pixels": pixels, "colour": colours[kind], "none": None}[label]
    given = {} if labels is None else {"label": labels}
    extra = {"extra": rng.normal(0, 1, (n, 2)).astype(np.float32)} if "parts" in path.stem else {}
    np.savez(path, image=image, **extra, **given)
    return path
