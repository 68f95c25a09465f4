"""One pass over a float ONNX graph: every asked tensor's statistics, one batch in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lepton_edge import errors
from lepton_edge.calibration.graph import Graph, session
from lepton_edge.calibration.statistics import Statistics, TensorStats
from lepton_edge.model import Array

if TYPE_CHECKING:
    import onnx

CHUNK_BYTES = 128 << 20  # of tensors fetched from the runtime at once
Feeds = Mapping[str, Array]


@dataclass(frozen=True)
class Data:
    """Calibration data under the graph's input names: `feeds()` starts a new pass each time.

    `fingerprint` names the content with its preprocessing, for reuse of statistics.
    """

    feeds: Callable[[], Iterable[Feeds]]
    fingerprint: str


def observe(graph: Graph, data: Data, tensors: Sequence[str], *, threads: int = 1) -> Statistics:
    """Statistics of `tensors` (float activations or inputs of `graph`) over all of `data`.

    Raises `UsageError` where the data is empty. Where the tensors of one batch are larger than
    CHUNK_BYTES, the batch runs once for each part of them.
    """
    result = Statistics({name: TensorStats(_axis(graph.rank(name))) for name in tensors})
    inside = [name for name in tensors if name not in graph.inputs]
    runner = session(with_outputs(graph, inside), threads=threads)
    parts: list[list[str]] = []
    for feeds in data.feeds():
        batch = next(iter(feeds.values())).shape[0]
        for name in tensors:
            if name in graph.inputs:
                result.tensors[name].update(feeds[name])
        if not parts:
            parts = _parts(runner, feeds, inside)
        for part in parts:
            for name, value in zip(part, runner.run(part, dict(feeds)), strict=True):
                result.tensors[name].update(value)
        result.n += batch
    if result.n == 0:
        raise errors.UsageError("The calibration data is empty.", next="Give 100 or more samples.")
    return result


def _axis(rank: int | None) -> int | None:
    """Channels come second in images (ONNX is NCHW), last in sequences and matrices."""
    if rank is None or rank < 2:
        return None
    return 1 if rank >= 4 else rank - 1


def _parts(runner: object, feeds: Feeds, names: Sequence[str]) -> list[list[str]]:
    """`names` split so that one part stays under CHUNK_BYTES for a batch like `feeds`."""
    sizes: dict[str, int] = {}
    for start in range(0, len(names), 8):
        some = list(names[start : start + 8])
        values = runner.run(some, dict(feeds))  # type: ignore[attr-defined]
        sizes.update({name: value.nbytes for name, value in zip(some, values, strict=True)})
    parts: list[list[str]] = []
    room = 0
    for name in names:
        if not parts or sizes[name] > room:
            parts.append([])
            room = CHUNK_BYTES
        parts[-1].append(name)
        room -= sizes[name]
    return parts


def with_outputs(graph: Graph, names: Iterable[str]) -> onnx.ModelProto:
    """The graph's model with `names` as its outputs."""
    from onnx import TensorProto, helper

    model = graph.build()
    del model.graph.output[:]
    for name in dict.fromkeys(names):
        model.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, None))
    return model


def cut(feeds: Iterable[Feeds], n: int, *, skip: int = 0) -> Iterator[Feeds]:
    """Whole batches that hold `n` samples together or a few more, after the first `skip`."""
    seen = 0
    for item in feeds:
        if seen >= skip + n:
            return
        if seen >= skip:
            yield item
        seen += next(iter(item.values())).shape[0]
