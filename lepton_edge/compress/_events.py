"""TensorBoard event files of scalars, written without TensorFlow (which tensorboard would load)."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from lepton_edge import errors


class Events:
    """One file of scalars in `folder`; steps at or after `purge` of earlier files are dropped."""

    def __init__(self, folder: Path, *, purge: int | None = None) -> None:
        try:
            from tensorboard.compat.proto import event_pb2, summary_pb2
            from tensorboard.summary.writer.record_writer import RecordWriter
        except ImportError as error:
            raise errors.BackendMissing(
                f"tensorboard is needed to log a training and cannot be imported ({error}).",
                next="pip install 'lepton-edge[train]' (Keras: 'lepton-edge[train-keras]').",
            ) from None
        self._event, self._summary = event_pb2.Event, summary_pb2.Summary
        folder.mkdir(parents=True, exist_ok=True)
        stamp = f"{time.time():.6f}.{os.getpid()}"
        self._file: Any = (folder / f"events.out.tfevents.{stamp}").open("wb")
        self._records: Any = RecordWriter(self._file)
        self._write(file_version="brain.Event:2")
        if purge is not None:
            session = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
            self._write(step=purge, session_log=session)

    def add(self, step: int, **scalars: float) -> None:
        """Appends scalars of one step and flushes them."""
        values = [
            self._summary.Value(tag=tag, simple_value=value) for tag, value in scalars.items()
        ]
        self._write(step=step, summary=self._summary(value=values))
        self._file.flush()

    def close(self) -> None:
        self._file.close()

    def _write(self, **fields: Any) -> None:
        event = self._event(wall_time=time.time(), **fields)
        self._records.write(event.SerializeToString())
