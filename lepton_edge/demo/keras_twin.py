"""The demo's network in Keras, with the weights of the PyTorch one: the same function, NHWC."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from lepton_edge.model import Array

WEIGHTS = Path(__file__).with_name("cnn.safetensors")
_BLOCKS = ((16, 1), (32, 2), (32, 1), (64, 2), (64, 1))  # channels, stride


def build(weights: Path = WEIGHTS) -> Any:
    """A `keras.Model`: float32 [N, 28, 28, 1] to logits [N, 10]."""
    import keras
    from safetensors.numpy import load_file

    given: dict[str, Array] = load_file(weights)
    image = keras.Input((28, 28, 1), name="image")
    value = image
    for channels, stride in _BLOCKS:
        # Keras' "same" pads unevenly at stride 2; PyTorch pads one pixel all round.
        value = keras.layers.ZeroPadding2D(1)(value)
        value = keras.layers.Conv2D(channels, 3, stride, use_bias=False)(value)
        value = keras.layers.BatchNormalization(epsilon=1e-5)(value)
        value = keras.layers.ReLU()(value)
    value = keras.layers.GlobalAveragePooling2D()(value)
    model = keras.Model(image, keras.layers.Dense(10, name="logits")(value), name="fashion_cnn")

    convolutions = [layer for layer in model.layers if isinstance(layer, keras.layers.Conv2D)]
    norms = [layer for layer in model.layers if isinstance(layer, keras.layers.BatchNormalization)]
    for index, (convolution, norm) in enumerate(zip(convolutions, norms, strict=True)):
        convolution.set_weights([given[f"features.{index}.0.weight"].transpose(2, 3, 1, 0)])
        names = ("weight", "bias", "running_mean", "running_var")
        norm.set_weights([given[f"features.{index}.1.{name}"] for name in names])
    model.get_layer("logits").set_weights([given["classifier.weight"].T, given["classifier.bias"]])
    return model


if __name__ == "__main__":
    build().save(sys.argv[1])
