"""Runs a graph piece by piece over stored batches, so that no batch is computed twice.

Between two steps only the tensors that later nodes read are kept, on disk; in memory there is one
batch of them. A quantised network keeps its integer codes, a quarter of the floats.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from lepton_edge.calibration.graph import read_by, session
from lepton_edge.model import Array

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto, ValueInfoProto


class Stepper:
    """Steps through `model` from one of `targets` to the next, in their order.

    `constants` may be changed between steps, nodes may not."""

    def __init__(
        self,
        model: ModelProto,
        constants: dict[str, Array],
        targets: Sequence[str],
        folder: Path,
        *,
        threads: int = 1,
    ) -> None:
        self.targets = list(targets)
        self.model, self.constants, self.folder, self.threads = model, constants, folder, threads
        self.waiting: list[NodeProto] = list(model.graph.node)
        self.live: set[str] = set()
        self.batches = 0
        self._files: dict[str, str] = {}
        folder.mkdir()

    def start(self, feeds: Iterator[Mapping[str, Array]]) -> None:
        """Stores the graph's inputs."""
        for batch in feeds:
            for name, value in batch.items():
                self._store(name, self.batches, value)
                self.live.add(name)
            self.batches += 1

    def advance(self, target: str) -> Iterator[Array]:
        """Computes `target`, the next of the targets, and yields its batches.

        What no later node reads, and is no later target, is deleted when the batches are used up.
        """
        if self.targets.pop(0) != target:
            raise ValueError(f"{target} is not the next target")
        nodes = self._ancestors(target)
        inside = {name for node in nodes for name in node.output}
        chosen = {id(node) for node in nodes}
        after = [node for node in self.waiting if id(node) not in chosen]
        needed = {name for node in after for name in read_by(node)} | set(self.targets)
        wanted = sorted(name for name in inside if name in needed or name == target)
        sources = sorted(
            {name for node in nodes for name in read_by(node) if name in self.live} - {""}
        )
        runner = (
            session(self._piece(nodes, sources, wanted), level="none", threads=self.threads)
            if nodes
            else None
        )
        for index in range(self.batches):
            if runner is None:
                yield self._load(target, index)
                continue
            feeds = {name: self._load(name, index) for name in sources}
            values = dict(zip(wanted, runner.run(wanted, feeds), strict=True))
            for name, value in values.items():
                if name in needed:
                    self._store(name, index, value)
            yield values[target]
        self.waiting = after
        self.live |= {name for name in wanted if name in needed}
        for name in sorted(self.live - needed - {target}):
            for index in range(self.batches):
                self._path(name, index).unlink(missing_ok=True)
            self.live.discard(name)

    def _ancestors(self, target: str) -> list[NodeProto]:
        wanted, chosen = {target} - self.live, []
        for node in reversed(self.waiting):
            if any(name in wanted for name in node.output):
                chosen.append(node)
                wanted.update(
                    name
                    for name in read_by(node)
                    if name and name not in self.constants and name not in self.live
                )
        return chosen[::-1]

    def _piece(
        self, nodes: Sequence[NodeProto], sources: Sequence[str], wanted: Sequence[str]
    ) -> ModelProto:
        from onnx import helper, numpy_helper

        used = sorted({n for node in nodes for n in read_by(node) if n in self.constants})
        graph = helper.make_graph(
            list(nodes),
            "piece",
            [
                helper.make_tensor_value_info(
                    name, helper.np_dtype_to_tensor_dtype(self._load(name, 0).dtype), None
                )
                for name in sources
            ],
            [_untyped(name) for name in wanted],
            [numpy_helper.from_array(self.constants[name], name) for name in used],
        )
        return helper.make_model(
            graph, opset_imports=self.model.opset_import, ir_version=self.model.ir_version
        )

    def _path(self, name: str, index: int) -> Path:
        key = self._files.setdefault(name, str(len(self._files)))
        return self.folder / f"{key}.{index}.npy"

    def _store(self, name: str, index: int, value: Array) -> None:
        np.save(self._path(name, index), value)

    def _load(self, name: str, index: int) -> Array:
        value: Array = np.load(self._path(name, index))
        return value


def _untyped(name: str) -> ValueInfoProto:
    from onnx import ValueInfoProto

    return ValueInfoProto(name=name)
