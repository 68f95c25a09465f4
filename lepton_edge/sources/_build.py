"""Puts a `Model` together from a callable: shapes by running it, examples by varying one."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from types import ModuleType
from typing import Any

import numpy as np

from lepton_edge import errors
from lepton_edge.model import Array, Feeds, Model, ModelSource, Signature, TensorSpec, random_feeds


def backend(name: str, library: str, extra: str) -> ModuleType:
    """The imported library; raises `BackendMissing` with the command that installs it."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise errors.BackendMissing(
            f"{library} is needed to open this model and cannot be imported ({error}).",
            next=f"pip install 'lepton-edge[{extra}]'.",
        ) from None


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
        fixed = specs[0].shape[0] if specs and specs[0].shape else None
        return random_feeds(specs, batch if fixed is None else fixed)

    return Model(framework, source, Signature(specs, tuple(outputs)), native, run, example)


def probed(
    framework: str,
    source: ModelSource,
    native: Any,
    run: Callable[[Feeds], dict[str, Array]],
    example: Mapping[str, Array],
    inputs: Sequence[TensorSpec],
) -> Model:
    """A model whose outputs are found by running it on the example, at two batch sizes.

    A dimension that changes with the batch is free. Where a batch of two cannot be run, the batch
    is fixed at the example's.
    """
    one = _attempt(run, example, source)
    specs = tuple(inputs)
    other: dict[str, Array] | None = None
    if all(spec.shape and spec.shape[0] is None for spec in specs):
        try:
            other = run(vary(example, 3))
        except (RuntimeError, ValueError, TypeError, IndexError, AssertionError):
            fixed = len(next(iter(example.values())))
            specs = Signature(specs, ()).with_batch(fixed).inputs
    outputs = tuple(
        TensorSpec(
            name,
            tuple(
                None if other is not None and size != again else size
                for size, again in zip(value.shape, (other or one)[name].shape, strict=True)
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


def _attempt(
    run: Callable[[Feeds], dict[str, Array]], example: Mapping[str, Array], source: ModelSource
) -> dict[str, Array]:
    try:
        return run(example)
    except (RuntimeError, ValueError, TypeError, IndexError, AssertionError) as error:
        shapes = {name: list(value.shape) for name, value in example.items()}
        first = str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
        raise errors.BadInput(
            f"{source.path!r} does not run on inputs of {shapes}: {first}.",
            next="Name its inputs with --input name=1x3x224x224:float32.",
        ) from None
