"""A Keras model: .keras, .h5, or `file.py:factory`, which is the user's own code and is run.

Files are loaded in safe mode: a Lambda layer is code and is refused. A factory takes no arguments
and returns a built `keras.Model`; its weights come from .h5, or are those that it starts with.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lepton_edge import errors
from lepton_edge._user_code import load_function, raised
from lepton_edge.model import Model, ModelSource
from lepton_edge.sources import _build, _check, _keras_run, _tensorflow
from lepton_edge.sources._count_keras import count

__all__ = ["count", "load", "made"]


def load(source: ModelSource) -> Model:
    """`native` is the `keras.Model`; outputs have the names of the layers that make them."""
    _tensorflow.library()
    native = made(source) if source.file.suffix == ".py" else _read(source)
    if not getattr(native, "inputs", None):
        how = "returned" if source.file.suffix == ".py" else "saved"
        raise errors.BadInput(
            f"{source.path!r} was {how} before it was built: it has no inputs.",
            next=f"Call the model once on data before it is {how}.",
        )
    return _keras_run.model_of(source, native)


def made(source: ModelSource, arguments: Mapping[str, Any] | None = None) -> Any:
    """What the factory makes. Keras' session is cleared and seeded before, so that two calls give
    the same names and first weights.
    """
    keras = _build.backend("keras", "Keras", "tensorflow")
    keras.utils.clear_session()
    factory = load_function(source.file, source.path.rpartition(":")[2])
    keras.utils.set_random_seed(0)
    try:
        native = factory(**(arguments or {}))
    except (Exception, SystemExit) as error:
        if arguments and isinstance(error, TypeError) and "argument" in str(error):
            names = ", ".join(arguments)
            raise errors.UsageError(
                f"{source.path!r} does not take {names}.",
                next=f"Give its function a parameter {names}, or name a student of its own.",
            ) from None
        raise raised(source.path, error) from error
    if not isinstance(native, keras.Model):
        raise errors.BadInput(
            f"{source.path!r} returns a {type(native).__name__}, not a keras.Model."
        )
    if source.weights is not None and not arguments:
        _put_weights(native, Path(source.weights))
    return native


def _put_weights(native: Any, path: Path) -> None:
    if not path.is_file():
        raise errors.BadInput(f"There is no file {str(path)!r}.")
    try:
        native.load_weights(path)
    except (ValueError, TypeError, OSError, KeyError, AttributeError, RuntimeError) as error:
        raise errors.BadInput(
            f"The weights {str(path)!r} do not fit the model: {_check.first_line(error)}."
        ) from None


def _read(source: ModelSource) -> Any:
    keras = _build.backend("keras", "Keras", "tensorflow")
    try:
        return keras.saving.load_model(source.file, compile=False, safe_mode=True)
    except (ValueError, TypeError, OSError, KeyError, AttributeError, RuntimeError) as error:
        raise _refused(source, error) from None


def _refused(source: ModelSource, error: Exception) -> errors.BadInput:
    """Keras' reason, by what its message is about; it tells no kinds of failure apart."""
    text = str(error)
    code = re.search(r"`?(Lambda|TFSMLayer|TorchModuleWrapper|JaxLayer|FlaxLayer)`?", text)
    if code or "lambda" in text:
        return errors.BadInput(
            f"{source.path!r} has a {code[1] if code else 'Lambda'} layer, which is code from a"
            " file and is not run.",
            next="Replace it by layers of Keras and save again.",
        )
    custom = re.search(r"Could not locate (?:class|function) '(\w+)'", text)
    if custom:
        return errors.BadInput(
            f"{source.path!r} has the layer or function {custom[1]!r}, whose code is not in Keras.",
            next="Save the model as a SavedModel, by model.export(folder), and give the folder.",
        )
    return _check.damaged(source.file, _check.first_line(error), "Keras")
