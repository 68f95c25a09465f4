"""Runs .tflite with one of three interpreters: ai_edge_litert, tflite_runtime, TensorFlow's own."""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from lepton_edge import errors
from lepton_edge.artifact import Artifact
from lepton_edge.model import Array, Signature, TensorSpec
from lepton_edge.runtimes import _common, _edgetpu
from lepton_edge.session import Session

# implementation: (module that holds Interpreter, distributions that bring it)
_HOMES = {
    "ai_edge_litert": ("ai_edge_litert.interpreter", ("ai-edge-litert",)),
    "tflite_runtime": ("tflite_runtime.interpreter", ("tflite-runtime",)),
    "tensorflow": ("tensorflow.lite.python.interpreter", ("tensorflow", "tensorflow-cpu")),
}


@dataclass(frozen=True)
class Options:
    """`auto` takes the first interpreter that is installed, in the order of this type.

    `xnnpack` keeps the interpreter's default delegate of fast CPU kernels; without it the built-in
    kernels run. The facts tell which interpreter ran and how many operators XNNPACK took.
    `delegate` is the library for the device `edgetpu` (`edgetpu:usb`, `edgetpu:pci:0`, ...), where
    `allow_fallback` lets the CPU run the operators that its compiler left.
    """

    implementation: Literal["auto", "ai_edge_litert", "tflite_runtime", "tensorflow"] = "auto"
    xnnpack: bool = True
    delegate: str = _edgetpu.LIBRARY
    allow_fallback: bool = False


def open_session(
    artifact: Artifact, *, device: str = "cpu", threads: int | None = None, options: Options
) -> Session:
    """Opens the file and allocates its tensors at the batch size that it was written with."""
    edgetpu, _, port = device.partition(":")
    if edgetpu != "edgetpu":
        _common.only_cpu(device, "tflite", ", or edgetpu for a file of edgetpu_compiler")
    name = _installed() if options.implementation == "auto" else options.implementation
    module, distributions = _HOMES[name]
    lite = _common.backend(
        module, library=name, extra="tensorflow" if name == "tensorflow" else "tflite"
    )
    _common.require_file(artifact.path)
    count = _common.thread_count(threads)
    resolver = (
        lite.OpResolverType.AUTO
        if options.xnnpack
        else lite.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    )
    delegates = []
    if edgetpu == "edgetpu":
        delegates = [_edgetpu.delegate(lite, module, options.delegate, port, artifact)]
    interpreter = _interpreter(lite, name, artifact, count, resolver, delegates)
    taken, total = _delegated(interpreter)
    placement = None if taken is None else f"XNNPACK {taken}/{total}"
    if delegates:
        placement = _edgetpu.placement(interpreter, artifact, options.allow_fallback)
    facts = {
        "runtime": "tflite",
        "implementation": name,
        "version": next(filter(None, map(_common.version_of, distributions)), None),
        "device": device,
        "threads": count,
        "xnnpack": None if taken is None else taken > 0,
        "precision": artifact.precision if artifact.files else None,
        "placement": placement,
    }
    return TfliteSession(artifact, interpreter, facts)


class TfliteSession(Session):
    def __init__(self, artifact: Artifact, interpreter: Any, facts: Mapping[str, Any]) -> None:
        inputs, outputs = interpreter.get_input_details(), interpreter.get_output_details()
        super().__init__(
            artifact,
            signature=Signature(tuple(map(_spec, inputs)), tuple(map(_spec, outputs))),
            file_inputs=[details["name"] for details in inputs],
            file_outputs=[details["name"] for details in outputs],
            facts=facts,
        )
        self._interpreter = interpreter
        self._inputs = tuple(details["index"] for details in inputs)
        self._outputs = tuple(details["index"] for details in outputs)
        self._shapes: list[tuple[int, ...]] | None = [
            tuple(details["shape"].tolist()) for details in inputs
        ]

    def _invoke(self, arrays: list[Array]) -> Sequence[Array]:
        interpreter = self._interpreter
        try:
            if [array.shape for array in arrays] != self._shapes:
                self._resize(arrays)
            for index, array in zip(self._inputs, arrays):
                interpreter.set_tensor(index, array)
            interpreter.invoke()
            # get_tensor copies: the interpreter's own memory is written again by each call.
            return [interpreter.get_tensor(index) for index in self._outputs]
        except (RuntimeError, ValueError) as error:
            self._shapes = None  # allocate again before the next call
            shapes = ", ".join(str(list(array.shape)) for array in arrays)
            raise errors.UsageError(
                f"The interpreter failed on inputs of shape {shapes}: {_common.first_line(error)}."
            ) from None

    def _resize(self, arrays: list[Array]) -> None:
        for index, array in zip(self._inputs, arrays):
            self._interpreter.resize_tensor_input(index, array.shape, strict=True)
        self._interpreter.allocate_tensors()
        self._shapes = [array.shape for array in arrays]

    def _release(self) -> None:
        self._interpreter = None


def _installed() -> str:
    for name in _HOMES:
        if importlib.util.find_spec(name) is not None:
            return name
    raise errors.BackendMissing(
        "No TFLite interpreter is installed.", next="pip install 'lepton-edge[tflite]'."
    )


def _interpreter(
    lite: Any, name: str, artifact: Artifact, threads: int, resolver: Any, delegates: Sequence[Any]
) -> Any:
    try:
        with warnings.catch_warnings():
            # TensorFlow's interpreter announces its own removal on every use.
            warnings.filterwarnings("ignore", message=r"\s*Warning: tf\.lite\.Interpreter")
            interpreter = lite.Interpreter(
                str(artifact.path),
                num_threads=threads,
                experimental_op_resolver_type=resolver,
                experimental_delegates=list(delegates),
            )
    except SystemError as error:
        raise errors.BackendMissing(
            f"{name} does not work in this environment: {_common.first_line(error)}.",
            next=f"It was built for numpy 1, and numpy {np.__version__} is installed:"
            " use ai-edge-litert.",
        ) from None
    except ValueError as error:
        raise errors.BadInput(
            f"{str(artifact.path)!r} is no valid TFLite file: {_common.first_line(error)}.",
            next="Convert the model again.",
        ) from None
    try:
        interpreter.allocate_tensors()
    except (RuntimeError, ValueError) as error:
        if _edgetpu.CUSTOM_OP in str(error):
            raise errors.PlacementError(
                f"{str(artifact.path)!r} is compiled for the Edge TPU and runs nowhere else.",
                next="Use --device edgetpu where there is one, or the file that was compiled.",
            ) from None
        raise errors.CannotConvert(
            f"{name} cannot run {str(artifact.path)!r}: {_common.first_line(error)}.",
            next="Use a newer interpreter, or convert without custom or Flex operators.",
        ) from None
    return interpreter


def _delegated(interpreter: Any) -> tuple[int | None, int]:
    """(operators that a delegate took, all operators); (None, 0) where nothing tells.

    The interpreter lists all operators, and one DELEGATE for each part that was taken: what lies
    between the inputs and the outputs of a DELEGATE is inside it.
    """
    details = getattr(interpreter, "_get_ops_details", None)
    if details is None:
        return None, 0
    everything = details()
    parts = [item for item in everything if item["op_name"] == "DELEGATE"]
    operators = [item for item in everything if item["op_name"] != "DELEGATE"]
    producer = {int(tensor): item for item in operators for tensor in item["outputs"]}
    taken = set()
    for part in parts:
        border = set(map(int, part["inputs"]))
        open_ends = [int(tensor) for tensor in part["outputs"]]
        while open_ends:
            tensor = open_ends.pop()
            if tensor in border or tensor not in producer or producer[tensor]["index"] in taken:
                continue
            taken.add(producer[tensor]["index"])
            open_ends.extend(map(int, producer[tensor]["inputs"]))
    return len(taken), len(operators)


def _spec(details: Mapping[str, Any]) -> TensorSpec:
    signature = details.get("shape_signature")
    dims = details["shape"] if signature is None or len(signature) == 0 else signature
    shape = tuple(None if dim < 0 else int(dim) for dim in dims)
    return TensorSpec(details["name"], shape, np.dtype(details["dtype"]).name)
