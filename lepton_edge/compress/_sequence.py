"""A sequence of passes is a pass."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from lepton_edge import errors
from lepton_edge.compress._training import training_folder
from lepton_edge.model import Model
from lepton_edge.samples import Samples


class Pass(Protocol):
    """Model -> Model; see `Prune`, `Distil` and `Finetune`."""

    def __call__(
        self,
        model: Model,
        training: Samples | Iterable[Any] | None,
        *,
        out: Path,
        work: Path | None = None,
        resume: bool = False,
    ) -> Model: ...


@dataclass(frozen=True)
class Sequence:
    """Each pass takes what the one before it made; only the last one's output stays."""

    passes: tuple[Pass, ...]

    def __call__(
        self,
        model: Model,
        training: Samples | Iterable[Any] | None,
        *,
        out: Path,
        work: Path | None = None,
        resume: bool = False,
    ) -> Model:
        """A failure names the passes that had already run."""
        if not self.passes:
            raise errors.UsageError("A sequence of passes has at least one.")
        home = training_folder(out, work)
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as folder:
            for index, each in enumerate(self.passes):
                last = index == len(self.passes) - 1
                place = out if last else Path(folder, f"{index}")
                try:
                    model = each(model, training, out=place, work=home / str(index), resume=resume)
                except errors.EdgeError as error:
                    done = [type(one).__name__ for one in self.passes[:index]]
                    if done:
                        error.args = (f"{error.message} (after {', '.join(done)})",)
                        error.message = error.args[0]
                    raise
        return model
