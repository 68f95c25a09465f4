"""Keras models and SavedModel folders to float .tflite by tf.lite."""

from __future__ import annotations

import re
import warnings
from pathlib import Path
from typing import Any

from lepton_edge import errors
from lepton_edge.converters._tflite_bind import first_line
from lepton_edge.model import Model


def write(model: Model, file: Path, batch: int | None) -> dict[str, Any]:
    """Writes the float32 file; returns the step for artifact.json.

    The batch is fixed while tracing, so that shapes in the graph are constants: recurrent layers
    then become TFLite's fused operators, and the runtime's delegate can take the whole graph.
    """
    try:
        import tensorflow as tf
    except ImportError:
        raise errors.BackendMissing(
            "TensorFlow is not installed.", next="pip install 'lepton-edge[tensorflow]'."
        ) from None
    names = [spec.name for spec in model.signature.inputs]
    keeper: Any
    with warnings.catch_warnings():
        # TensorFlow announces tf.lite's move to LiteRT, and Keras how it matches inputs by name.
        warnings.simplefilter("ignore")
        if model.framework == "savedmodel":
            keeper = tf.saved_model.load(str(model.native))
            call = keeper.signatures["serving_default"]

            def forward(*values: Any) -> Any:
                return call(**dict(zip(names, values, strict=True)))
        else:
            native = model.native
            # The model itself as the keeper makes a file full of NaN (Keras 3.15, TensorFlow 2.21).
            keeper = tf.Module()
            keeper.held = [variable.value for variable in native.variables]
            order = [each.name for each in native.inputs]

            def forward(*values: Any) -> Any:
                named = dict(zip(names, values, strict=True))
                given = [named[name] for name in order]
                return native(given[0] if len(given) == 1 else named, training=False)

        try:
            traced = tf.function(forward).get_concrete_function(
                *(
                    tf.TensorSpec((batch, *spec.shape[1:]), spec.dtype, name=spec.name)
                    for spec in model.signature.inputs
                )
            )
            converter = tf.lite.TFLiteConverter.from_concrete_functions([traced], keeper)
            content = converter.convert()
        except MemoryError:
            raise
        except Exception as error:
            raise _cannot(error, batch) from error
    file.write_bytes(content)
    return {
        "step": "tf.lite.TFLiteConverter.from_concrete_functions",
        "batch": "dynamic" if batch is None else batch,
    }


def _cannot(error: Exception, batch: int | None) -> errors.CannotConvert:
    operators = operators_in(str(error))
    what = f"the operators {', '.join(operators)}" if operators else first_line(error)
    after = (
        "Use --option batch=1."
        if batch is None
        else "Replace them in the model (for a recurrent layer, unroll=True)."
    )
    return errors.CannotConvert(f"tf.lite cannot express {what}.", next=after)


def operators_in(text: str) -> list[str]:
    """The TensorFlow operators that a ConverterError names."""
    found = re.findall(r"'tf\.(\w+)' op (?:is neither|requires)", text)
    for group in re.findall(r"(?:Flex|Custom) ops: ([\w, ]+)", text):
        found += [name.strip().removeprefix("Flex") for name in group.split(",")]
    return list(dict.fromkeys(filter(None, found)))
