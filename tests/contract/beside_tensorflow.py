"""Runs the contract kit in a process with TensorFlow: `beside_tensorflow.py FOLDER NAME`.

NAME is `reference` for the tensorflow runtime on a .keras file, else an interpreter's name for the
tflite runtime on the same model, converted.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from lepton_edge import loading, plugins, testing
from lepton_edge.model import Array


def build() -> Any:
    """An image and ids in, two outputs."""
    layers = tf.keras.layers
    tf.keras.utils.set_random_seed(0)
    image = tf.keras.Input((6, 6, 2), name="image")
    ids = tf.keras.Input((4,), dtype="int32", name="ids")
    codes = layers.GlobalAveragePooling2D()(layers.Conv2D(3, 3, activation="relu")(image))
    rows = layers.GlobalAveragePooling1D()(layers.Embedding(16, 3)(ids))
    return tf.keras.Model([image, ids], [layers.Add()([codes, rows]), codes])


def check(folder: Path, name: str) -> None:
    """Raises AssertionError where the runtime breaks the contract."""
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    model, rng = build(), np.random.default_rng(0)
    image = rng.standard_normal((1, 6, 6, 2)).astype(np.float32)
    ids = rng.integers(0, 16, (1, 4)).astype(np.int32)
    wanted: list[Array] = [value.numpy() for value in model([image, ids])]
    is_reference = name == "reference"
    path = folder / ("tiny.keras" if is_reference else "tiny.tflite")
    if is_reference:
        model.save(path)
    else:
        path.write_bytes(tf.lite.TFLiteConverter.from_keras_model(model).convert())
    given = {} if is_reference else {"implementation": name}
    artifact = loading.as_artifact(str(path))
    with loading.load(artifact, threads=1, options=given) as session:
        facts, signature = session.facts, session.signature
        # Names are the converter's: the inputs differ in rank, the outputs in where they come from.
        feeds = {spec.name: image if len(spec.shape) == 4 else ids for spec in signature.inputs}
        first = session.run(feeds)[signature.outputs[0].name]
    if not is_reference:
        assert facts["implementation"] == name, facts
        assert facts["xnnpack"], facts
        assert facts["placement"].startswith("XNNPACK "), facts
    if np.abs(first - wanted[0]).max() > 1e-5:
        wanted.reverse()
    expected = dict(zip([spec.name for spec in signature.outputs], wanted, strict=True))
    module = plugins.load("runtimes", artifact.format)
    testing.check_runtime(
        module, artifact, feeds, expected, given=given, reads_file=not is_reference
    )


if __name__ == "__main__":
    check(Path(sys.argv[1]), sys.argv[2])
    print("checked", sys.argv[2])
