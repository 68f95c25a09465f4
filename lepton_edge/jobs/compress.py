"""The job `compress`: one pass over a PyTorch model, in one process or in several."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from lepton_edge import errors, plugins, sources
from lepton_edge import options as knobs
from lepton_edge.compress import Training
from lepton_edge.compress._form import RECORD
from lepton_edge.model import ModelSource
from lepton_edge.samples import open_samples

RANK = "RANK"  # torchrun's environment variables; accelerate reads them


def build(do: str, options: Mapping[str, Any], training: Mapping[str, Any]) -> Any:
    """The pass of that name with its options, texts converted; unknown ones are `UsageError`."""
    cls = plugins.load("compress", do).PASS
    given = dict(options)
    teacher = given.pop("teacher", None)
    made = knobs.build(cls, given)
    if teacher is not None:
        made = replace(made, teacher=ModelSource.from_dict(teacher))
    name = next(each.name for each in fields(cls) if each.name in ("training", "recovery"))
    defaults = {each.name: getattr(getattr(made, name), each.name) for each in fields(Training)}
    how = knobs.build(Training, {**defaults, **training}, what="training option")
    return replace(made, **{name: how})


def run(
    *,
    name: str,
    source: Mapping[str, Any],
    options: Mapping[str, Any],
    training: Mapping[str, Any],
    samples: Mapping[str, Any] | None,
    out: str,
    work: str,
    resume: bool = False,
    processes: int = 1,
) -> dict[str, Any]:
    """`{"source": what was written, "record": what was done}`."""
    others = []
    if processes > 1 and RANK not in os.environ:
        job = {
            "do": "compress", "name": name, "source": source, "options": options,
            "training": training, "samples": samples, "work": work, "resume": resume,
            "processes": processes,
        }  # fmt: skip
        others = _start(job, out, processes)
    try:
        made = build(name, options, training)
        model = sources.load(ModelSource.from_dict(source))
        data = None if samples is None else open_samples(samples)
        if data is None and processes > 1:
            raise errors.UsageError("Several processes need training samples to share.")
        done = made(model, data, out=Path(out), work=Path(work), resume=resume)
    except RuntimeError:
        _report(others)
        raise
    finally:
        for each in others:
            each.kill()
            each.wait()
        if others:  # each wrote what this one writes
            for place in Path(work).glob("rank*"):
                shutil.rmtree(place)
    record = json.loads(done.source.file.with_name(RECORD).read_text())["steps"][-1]
    return {"source": done.source.as_dict(), "record": record}


def _start(job: Mapping[str, Any], out: str, processes: int) -> list[subprocess.Popen[bytes]]:
    """The other processes; this one is the first. Each writes its model to a place of its own."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    group = {"WORLD_SIZE": str(processes), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    started = []
    for rank in range(1, processes):
        environment = {**os.environ, **group, RANK: str(rank), "LOCAL_RANK": str(rank)}
        process = subprocess.Popen(
            [sys.executable, "-m", "lepton_edge.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
        )
        assert process.stdin is not None
        place = str(Path(job["work"], f"rank{rank}"))
        process.stdin.write(json.dumps({**job, "out": place}).encode())
        process.stdin.close()
        started.append(process)
    os.environ.update({**group, RANK: "0", "LOCAL_RANK": "0"})
    return started


def _report(others: list[subprocess.Popen[bytes]]) -> None:
    """Raises the error of a process that failed first, where one says so."""
    for each in others:
        if each.poll() is None or each.stdout is None:
            continue
        answer = json.loads(each.stdout.read() or b"{}")
        if "error" in answer:
            raise errors.from_dict(answer["error"])
