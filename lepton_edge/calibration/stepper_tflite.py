"""Runs a .tflite file from one tensor to the next over all samples, with what is live on disk.

The float network and the network quantised so far go side by side in this way; the kernels are the
interpreter's own, so that the quantised one has the arithmetic of the file that is being made.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from lepton_edge.calibration.graph_tflite import Graph, Op, interpreter
from lepton_edge.model import Array


class Stepper:
    """Steps through `graph` from one of the tensors `targets` to the next, in their order.

    Constants of the graph may be changed between steps, as long as no operator has read them.
    """

    def __init__(
        self, graph: Graph, targets: Sequence[int], folder: Path, *, threads: int = 1
    ) -> None:
        self.graph, self.targets, self.folder = graph, list(targets), folder
        self.threads, self.batches = threads, 0
        self.waiting = list(graph.ops)
        self.live: set[int] = set()
        folder.mkdir()

    def start(self, feeds: Iterable[Mapping[str, Array]]) -> None:
        """Stores the inputs; `feeds` are under the file's tensor names."""
        names = {self.graph.name(index): index for index in self.graph.inputs}
        for batch in feeds:
            for name, value in batch.items():
                np.save(self._path(names[name], self.batches), value)
            self.batches += 1
        self.live = set(names.values())

    def advance(self, target: int) -> Iterator[Array]:
        """Computes `target`, the next of the targets, and yields its batches.

        What nothing later needs is deleted when the batches are used up.
        """
        if self.targets.pop(0) != target:
            raise ValueError(f"{self.graph.name(target)} is not the next target")
        ops = self._ancestors(target)
        chosen = {op.index for op in ops}
        after = [op for op in self.waiting if op.index not in chosen]
        needed = {index for op in after for index in op.inputs} | set(self.targets)
        made = {index for op in ops for index in op.outputs}
        wanted = sorted(index for index in made if index in needed or index == target)
        sources = sorted({index for op in ops for index in op.inputs if index in self.live})
        if ops:
            runner = interpreter(self.graph.piece(ops, sources, wanted), self.threads)
            places = [
                [item["index"] for item in side]
                for side in (runner.get_input_details(), runner.get_output_details())
            ]
        for batch in range(self.batches):
            if not ops:
                yield self._load(target, batch)
                continue
            for index, place in zip(sources, places[0], strict=True):
                runner.set_tensor(place, self._load(index, batch))
            runner.reset_all_variables()
            runner.invoke()
            for index, place in zip(wanted, places[1], strict=True):
                value = runner.get_tensor(place)
                if index in needed:
                    np.save(self._path(index, batch), value)
                if index == target:
                    found = value
            yield found
        self.waiting = after
        self.live |= {index for index in wanted if index in needed}
        for index in sorted(self.live - needed):
            for batch in range(self.batches):
                self._path(index, batch).unlink()
            self.live.discard(index)

    def _ancestors(self, target: int) -> list[Op]:
        wanted, chosen = {target} - self.live, []
        for op in reversed(self.waiting):
            if any(index in wanted for index in op.outputs):
                chosen.append(op)
                wanted.update(index for index in op.inputs if index not in self.live)
        return chosen[::-1]

    def _path(self, index: int, batch: int) -> Path:
        return self.folder / f"{index}.{batch}.npy"

    def _load(self, index: int, batch: int) -> Array:
        value: Array = np.load(self._path(index, batch))
        return value
