"""Puts a `Model` together from a callable: shapes by running it, examples by varying one."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import ModuleType
from typing import Any

import numpy as np

from lepton_edge import errors
from lepton_edge.model import Array, Feeds, Model, ModelSource, Signature, TensorSpec, random_feeds
from lepton_edge.sources._check import first_line


def backend(name: str, library: str, extra: str) -> ModuleType:
    """The imported library; raises `BackendMissing` with the command that installs it."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise errors.BackendMissing(
            f"{library} is needed to open this model and cannot be imported ({error}).",
            next=f"pip install 'lepton-edge[{extra}]'.",
        ) from None


def onnx_failures(runtime: ModuleType) -> tuple[type[Exception], ...]:
    """What ONNX Runtime raises for a file that it cannot open or run."""
    own = runtime.capi.onnxruntime_pybind11_state
    return (
        *(own.InvalidProtobuf, own.InvalidGraph, own.InvalidArgument, own.NoSuchFile, own.Fail),
        *(own.NotImplemented, own.RuntimeException, own.NoModel, own.EPFail),
        *(UnicodeDecodeError, ValueError),  # names in the file that are no text; wrong feeds
    )


def vary(example: Mapping[str, Array], batch: int, seed: int = 0) -> dict[str, Array]:
    """`batch` rows: the example's first, then the example varied, with valid values (seeded).

    Floats get normal noise of the example's own spread. Integers are reordered along the last
    axis, so that ids stay in their vocabulary and masks keep their number of ones; a row of one
    integer is drawn between the least and the largest of the example.
    """
    rng = np.random.default_rng(seed)
    feeds: dict[str, Array] = {}
    for name, value in example.items():
        rows = [value[0]]
        spread = float(value.std()) if value.dtype.kind == "f" else 0.0
        for _ in range(1, batch):
            if value.dtype.kind == "f":
                noise = rng.standard_normal(value.shape[1:]) * (spread or 1.0)
                rows.append((value[0] + noise).astype(value.dtype))
            elif value[0].size > 1:
                rows.append(rng.permuted(value[0], axis=-1))
            else:
                low, high = int(value.min()), int(value.max())
                drawn = rng.integers(low, high + 1, value.shape[1:])
                rows.append(np.asarray(drawn).astype(value.dtype))
        feeds[name] = np.stack(rows)
    return feeds


def declared(source: ModelSource, own: Sequence[TensorSpec]) -> tuple[TensorSpec, ...]:
    """The file's own inputs, with the sizes that the user fixed for its free dimensions."""
    given = {spec.name: spec for spec in source.inputs}
    specs = []
    for spec in own:
        wanted = given.pop(spec.name, spec)
        fits = (
            wanted.dtype == spec.dtype
            and len(wanted.shape) == len(spec.shape)
            and all(b is None or a == b for a, b in zip(wanted.shape, spec.shape, strict=True))
        )
        if not fits:
            raise errors.UsageError(
                f"The input {wanted} does not fit the model.", next=f"The file has {spec}."
            )
        specs.append(wanted)
    if given:
        names = ", ".join(map(repr, given))
        expected = ", ".join(map(str, own))
        raise errors.UsageError(f"The model has no input {names}.", next=f"It has {expected}.")
    return tuple(specs)


def from_file(
    framework: str,
    source: ModelSource,
    native: Any,
    inputs: Sequence[TensorSpec],
    outputs: Sequence[TensorSpec],
    run: Callable[[Feeds], dict[str, Array]],
) -> Model:
    """A model whose file carries its own signature."""
    specs = declared(source, inputs)

    def example(batch: int) -> dict[str, Array]:
        return random_feeds(sized(specs), batch)

    return Model(framework, source, Signature(specs, tuple(outputs)), native, run, example)


def sized(specs: Sequence[TensorSpec]) -> tuple[TensorSpec, ...]:
    """Free dimensions behind the batch made 32 in images (rank 4 and more), else 8: to try with."""
    return tuple(
        TensorSpec(
            spec.name,
            (
                *spec.shape[:1],
                *(dim or (32 if len(spec.shape) > 3 else 8) for dim in spec.shape[1:]),
            ),
            spec.dtype,
        )
        for spec in specs
    )


def probed(
    framework: str,
    source: ModelSource,
    native: Any,
    run: Callable[[Feeds], dict[str, Array]],
    example: Mapping[str, Array],
    inputs: Sequence[TensorSpec],
) -> Model:
    """A model whose outputs are found by running it: on the example, then on other sizes of it.

    An output's dimension that changes with the batch, or with another free dimension, is free.
    Where no other batch can be run, the batch is fixed at the example's.
    """
    one = _attempt(run, example, source)
    specs = tuple(inputs)
    others: list[dict[str, Array]] = []
    if all(spec.shape[0] is None for spec in specs):
        fixed = len(next(iter(example.values())))
        tried = (vary(example, size) for size in (fixed + 2, fixed + 1, fixed - 1) if size)
        found = _first_that_runs(run, tried)
        if found is None:
            specs = Signature(specs, ()).with_batch(fixed).inputs
        else:
            others.append(found)
    free = {
        spec.name: [n for n, dim in enumerate(spec.shape) if n and dim is None] for spec in specs
    }
    if any(free.values()):
        found = _first_that_runs(run, (_rescaled(example, free, by) for by in (2.0, 0.5)))
        if found is None:
            raise errors.BadInput(
                f"{source.path!r} has inputs of free size, but runs only on"
                f" {', '.join(f'{name} {list(value.shape)}' for name, value in example.items())}.",
                next="Fix the sizes with --input name=1x3x224x224:float32.",
            )
        others.append(found)
    outputs = tuple(
        TensorSpec(
            name,
            tuple(
                None if any(other[name].shape[axis] != size for other in others) else size
                for axis, size in enumerate(value.shape)
            ),
            value.dtype.name,
        )
        for name, value in one.items()
    )
    return Model(
        framework,
        source,
        Signature(specs, outputs),
        native,
        run,
        lambda batch: vary(example, batch),
    )


def _rescaled(
    example: Mapping[str, Array], free: Mapping[str, Sequence[int]], by: float
) -> dict[str, Array]:
    """The example with its free dimensions twice as long (repeated), or half (cut)."""
    feeds = dict(example)
    for name, axes in free.items():
        for axis in axes:
            value = feeds[name]
            size = max(1, round(value.shape[axis] * by))
            feeds[name] = value.take(np.arange(size) % value.shape[axis], axis)
    return feeds


def _first_that_runs(
    run: Callable[[Feeds], dict[str, Array]], tried: Iterable[dict[str, Array]]
) -> dict[str, Array] | None:
    for feeds in tried:
        try:
            return run(feeds)
        except Exception:  # noqa: BLE001 - the user's own forward may raise anything
            continue
    return None


def _attempt(
    run: Callable[[Feeds], dict[str, Array]], example: Mapping[str, Array], source: ModelSource
) -> dict[str, Array]:
    try:
        return run(example)
    except errors.EdgeError:
        raise
    except Exception as error:
        shapes = {name: list(value.shape) for name, value in example.items()}
        raise errors.BadInput(
            f"{source.path!r} does not run on inputs of {shapes}: {first_line(error)}.",
            next="Name its inputs with --input name=1x3x224x224:float32.",
        ) from error
