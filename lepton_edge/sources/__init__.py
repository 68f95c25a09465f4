"""How a trained model is opened: one file a framework, found by the name of the framework.

A model file is untrusted input. `framework_of` looks at the name and at the content without loading
any framework; each framework's file then loads without unpickling anything. The one exception is
`file.py:factory`, which is the user's own code and is run.
"""

from __future__ import annotations

from lepton_edge import errors, plugins
from lepton_edge.model import Model, ModelSource
from lepton_edge.sources import _check, _factory
from lepton_edge.sources._counts import Counts
from lepton_edge.sources._spread import input_spread

__all__ = ["SUFFIXES", "WEIGHTS", "Counts", "count", "framework_of", "input_spread", "load"]

SUFFIXES = {
    ".onnx": "onnx",
    ".tflite": "tflite",
    ".keras": "keras",
    ".h5": "keras",
    ".hdf5": "keras",
    ".pt2": "torch.export",
    ".pt": "torchscript",
}
WEIGHTS = {"torch": (".safetensors", ".pth", ".pt"), "keras": (".h5",)}


def framework_of(source: ModelSource) -> str:
    """`torch torch.export torchscript keras savedmodel onnx tflite`, by name and content.

    Raises `BadInput` for a file that is missing, damaged or not what its name says, `UsageError`
    for a Python file without a factory.
    """
    path, file = source.path, source.file
    if not file.exists():
        raise errors.BadInput(f"There is no file {str(file)!r}.")
    if file.suffix == ".py":
        if not path.rpartition(":")[2].isidentifier():
            raise errors.UsageError(
                f"{path!r} does not say which function makes the model.",
                next=f"Write {file}:factory.",
            )
        framework = _factory.framework_of(file, path.rpartition(":")[2])
        if source.weights is not None and not source.weights.endswith(WEIGHTS[framework]):
            raise errors.BadInput(
                f"{source.weights!r} is no file of weights"
                f" for a {'PyTorch' if framework == 'torch' else 'Keras'} factory.",
                next="Give .safetensors, or a .pth saved from a state_dict."
                if framework == "torch"
                else "Give .weights.h5, saved by model.save_weights.",
            )
        return framework
    if source.weights is not None:
        raise errors.UsageError(f"{path!r} has its own weights.", next="Leave out --weights.")
    if file.is_dir():
        _check.saved_model(file)
        return "savedmodel"
    known = SUFFIXES.get(file.suffix.lower())
    if known is None:
        raise errors.BadInput(
            f"{path!r} is no kind of model that is known here.",
            next=f"Give a file that ends in {', '.join(SUFFIXES)}, a SavedModel folder, or"
            " file.py:factory.",
        )
    _check.CONTENT[file.suffix.lower()](file)
    return known


def load(source: ModelSource) -> Model:
    """The model with its framework loaded; see `Model`."""
    module = plugins.load("sources", framework_of(source).replace(".", "_"))
    model: Model = module.load(source)
    return model


def count(model: Model) -> Counts:
    """The model's operators, parameters and MACs; see `Counts`."""
    module = plugins.load("sources", model.framework.replace(".", "_"))
    found: Counts = module.count(model)
    return found
