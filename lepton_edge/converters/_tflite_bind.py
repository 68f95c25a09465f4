"""Finds where the source's tensors live in a .tflite file, by running both on one example.

Converters rename, reorder and transpose tensors. Names are only a hint about what to try first;
what decides is that the outputs agree.
"""

from __future__ import annotations

import itertools
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lepton_edge import errors
from lepton_edge.artifact import Binding
from lepton_edge.model import Array, Model, TensorSpec

AGREES = 1e-3  # of the output's range: far above rounding in float32, far below a wrong tensor
_MOST_RUNS = 64

Permute = tuple[int, ...] | None


@dataclass(frozen=True)
class Tensor:
    """One input or output of the file; `aliases` are its name and the signature's name for it."""

    name: str
    aliases: tuple[str, ...]
    shape: tuple[int, ...]
    dtype: str
    scale: float = 0.0
    zero_point: int = 0


def interpreter(file: Path, threads: int = 1) -> Any:
    """An ai_edge_litert Interpreter; `BackendMissing` or `BadInput` where that cannot be."""
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ImportError:
        raise errors.BackendMissing(
            "ai-edge-litert is not installed.", next="pip install 'lepton-edge[tflite]'."
        ) from None
    try:
        return Interpreter(str(file), num_threads=threads)
    except (ValueError, RuntimeError) as error:
        raise errors.BadInput(f"{str(file)!r} does not open: {first_line(error)}.") from None


def tensors(file: Path) -> tuple[list[Tensor], list[Tensor]]:
    """The file's inputs and outputs in the interpreter's order; -1 is a dimension of any size."""
    opened = interpreter(file)
    inputs, outputs = opened.get_input_details(), opened.get_output_details()
    aliases: dict[int, list[str]] = {}
    if len(opened.get_signature_list()) == 1:
        runner = opened.get_signature_runner()
        for named in (runner.get_input_details(), runner.get_output_details()):
            for name, details in named.items():
                aliases.setdefault(details["index"], []).append(name)

    def tensor(details: Mapping[str, Any]) -> Tensor:
        signature = details["shape_signature"]
        shape = signature if len(signature) else details["shape"]
        scale, zero_point = details["quantization"]
        return Tensor(
            details["name"],
            (details["name"], *aliases.get(details["index"], ())),
            tuple(shape.tolist()),
            np.dtype(details["dtype"]).name,
            float(scale),
            int(zero_point),
        )

    return [tensor(each) for each in inputs], [tensor(each) for each in outputs]


def run(file: Path, feeds: Mapping[str, Array]) -> list[Array]:
    """The outputs in the interpreter's order, for arrays under the file's own tensor names."""
    opened = interpreter(file)
    details = {each["name"]: each for each in opened.get_input_details()}
    for name, value in feeds.items():
        if tuple(details[name]["shape"].tolist()) != value.shape:
            opened.resize_tensor_input(details[name]["index"], value.shape, strict=True)
    opened.allocate_tensors()
    for name, value in feeds.items():
        opened.set_tensor(details[name]["index"], value)
    opened.invoke()
    return [opened.get_tensor(each["index"]) for each in opened.get_output_details()]


def bind(
    model: Model, file: Path, batch: int, *, writer: str
) -> tuple[tuple[Binding, ...], tuple[Binding, ...]]:
    """Bindings of inputs and outputs, checked on `model.example(batch)`.

    `CannotConvert` where the file lacks an input or fails to run at that batch; `GateFailed` where
    several bindings are possible and with none of them the file agrees with the source.
    """
    example = model.example(batch)
    reference = model.run(example)
    try:
        inputs, outputs = tensors(file)
    except errors.BadInput as error:
        if model.framework == "tflite":
            raise
        named = re.search(r"opcode '(\w+)'|ops: (\w+)", error.message)
        operator = f"the operator {named[1] or named[2]}" if named else "this model"
        raise errors.CannotConvert(
            f"{writer} wrote a file that the interpreter does not open, because of {operator}:"
            f" {error.message.partition('does not open: ')[2]}",
            next="Replace the operator in the model, or convert to ONNX.",
        ) from None
    choices = list(itertools.islice(_assignments(model, inputs, example, writer), _MOST_RUNS))
    closest: dict[str, float] = {}
    for chosen in choices:
        feeds = {
            tensor.name: _permuted(example[spec.name], permute)
            for spec, (tensor, permute) in zip(model.signature.inputs, chosen, strict=True)
        }
        try:
            results = run(file, feeds)
        except (RuntimeError, ValueError) as error:
            if len(choices) > 1:
                continue
            raise errors.CannotConvert(
                f"{writer} wrote a file that does not run at batch {batch}: {first_line(error)}.",
                next="Use --option batch=1.",
            ) from None
        matched = _match(model.signature.outputs, reference, outputs, results, closest)
        certain = len(choices) == 1 and _certain(model.signature.outputs, reference, results)
        if matched is not None or certain:
            if matched is None:  # one way to bind them: whether they agree is for parity to say
                matched = [(tensor, None) for tensor in outputs]
            return (
                tuple(
                    Binding(spec.name, tensor.name, permute)
                    for spec, (tensor, permute) in zip(model.signature.inputs, chosen, strict=True)
                ),
                tuple(
                    Binding(spec.name, tensor.name, permute)
                    for spec, (tensor, permute) in zip(
                        model.signature.outputs, matched, strict=True
                    )
                ),
            )
    worst = ", ".join(f"{name} by {value:.2g}" for name, value in closest.items())
    raise errors.GateFailed(
        f"The file that {writer} wrote differs from its source on an example: of its range,"
        f" {worst or 'no output has the right shape'}.",
        next="Convert from another form of the model (PyTorch, Keras, ONNX).",
    )


def _assignments(
    model: Model, inputs: Sequence[Tensor], example: Mapping[str, Array], writer: str
) -> Iterator[tuple[tuple[Tensor, Permute], ...]]:
    """Every way to give each source input its own tensor of the file, likely ways first."""
    options = []
    for position, spec in enumerate(model.signature.inputs):
        fits = [
            (tensor, permute)
            for tensor in inputs
            if tensor.dtype == spec.dtype
            for permute in _permutes(example[spec.name].shape, tensor.shape)
        ]
        named = [fit for fit in fits if {spec.name, f"args_{position}"} & set(fit[0].aliases)]
        if not fits:
            have = ", ".join(f"{each.name} {each.dtype}{list(each.shape)}" for each in inputs)
            raise errors.CannotConvert(
                f"{writer} wrote no input for {spec}: the file has {have or 'none'}.",
                next="Leave out inputs that no output depends on, or change their dtype.",
            )
        options.append(sorted(named or fits, key=lambda fit: fit[1] is not None))
    found = False
    for chosen in itertools.product(*options):
        if len({tensor.name for tensor, _ in chosen}) == len(chosen) == len(inputs):
            found = True
            yield chosen
    if not found:
        names = [spec.name for spec in model.signature.inputs]
        raise errors.CannotConvert(
            f"{writer} wrote the inputs {[each.name for each in inputs]} for {names}.",
            next="Leave out inputs that no output depends on.",
        )


def _permutes(source: tuple[int, ...], file: tuple[int, ...]) -> list[Permute]:
    """Which of the two layouts in use (as it is, channels last) turn `source` into `file`."""
    if len(source) != len(file):
        return []
    layouts: list[Permute] = [None]
    if len(source) > 2:
        layouts += [(0, *range(2, len(source)), 1)]
    return [
        permute
        for permute in layouts
        if all(
            want in (-1, source[axis])
            for want, axis in zip(file, permute or range(len(source)), strict=True)
        )
        # The file's batch of 1 can be resized; every other dimension must be as it is.
        or (
            file[0] == 1
            and all(
                want in (-1, source[axis])
                for want, axis in list(zip(file, permute or range(len(source)), strict=True))[1:]
            )
        )
    ]


def _match(
    wanted: Sequence[TensorSpec],
    reference: Mapping[str, Array],
    outputs: Sequence[Tensor],
    results: Sequence[Array],
    closest: dict[str, float],
) -> list[tuple[Tensor, Permute]] | None:
    """For each source output the file's tensor that agrees with it, or None if one has none."""
    free = list(range(len(outputs)))
    matched = []
    for position, spec in enumerate(wanted):
        expected = reference[spec.name]
        likely = sorted(
            free or range(len(outputs)),
            key=lambda i, spec=spec, position=position: (
                spec.name not in outputs[i].aliases,
                f"output_{position}" not in outputs[i].aliases,
                i != position,
            ),
        )
        for index in likely:
            for permute in _permutes(expected.shape, results[index].shape):
                got = results[index]
                if permute is not None:
                    got = got.transpose(np.argsort(permute))
                if got.shape != expected.shape or got.dtype != expected.dtype:
                    continue
                error = _relative(expected, got)
                closest[spec.name] = min(error, closest.get(spec.name, np.inf))
                if error <= AGREES:
                    matched.append((outputs[index], permute))
                    break
            else:
                continue
            if index in free:
                free.remove(index)
            break
        else:
            return None
    return matched


def _certain(
    wanted: Sequence[TensorSpec], reference: Mapping[str, Array], results: Sequence[Array]
) -> bool:
    """Whether there is one output of the right shape and dtype, so that nothing is to choose."""
    if len(wanted) != 1 or len(results) != 1:
        return False
    expected = reference[wanted[0].name]
    return results[0].dtype == expected.dtype and _permutes(expected.shape, results[0].shape) == [
        None
    ]


def _relative(expected: Array, got: Array) -> float:
    """Largest difference over the larger of the range and the largest magnitude."""
    expected, got = expected.astype(np.float64), got.astype(np.float64)
    scale = max(np.ptp(expected), np.abs(expected).max()) if expected.size else 1.0
    with warnings.catch_warnings(), np.errstate(invalid="ignore"):
        error = float(np.abs(expected - got).max() / (scale or 1.0)) if expected.size else 0.0
    return error if np.isfinite(error) else float("inf")


def _permuted(value: Array, permute: Permute) -> Array:
    return value if permute is None else np.ascontiguousarray(value.transpose(permute))


def first_line(error: BaseException) -> str:
    """A library's message as one clause."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines or [type(error).__name__])[0].rstrip(".")[:300]
