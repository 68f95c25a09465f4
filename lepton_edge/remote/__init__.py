"""Artefacts on a device: `open_session`, `benchmark`, and `reserve` for runs of several parts.

`on` is an address (`lepton_edge.devices.transports`). The artefact and one file of Python travel by
their sha256, once; a connection holds the device for itself. An Android device (`adb://serial`) is
only timed, by `benchmark_model` (android.py).
"""

from __future__ import annotations

import contextlib
import dataclasses
import secrets
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lepton_edge import errors, options, plugins
from lepton_edge.artifact import Artifact
from lepton_edge.devices.transports import Address
from lepton_edge.model import Array
from lepton_edge.remote import android, bundle
from lepton_edge.remote.connection import Connection
from lepton_edge.remote.journal import Journal
from lepton_edge.remote.session import RemoteSession, machine
from lepton_edge.session import Session

Held = Connection | android.Device
__all__ = [
    "Address",
    "Connection",
    "Held",
    "Journal",
    "benchmark",
    "build",
    "keep_outputs",
    "machine",
    "needs_outputs",
    "open_session",
    "prove_android",
    "reserve",
]


def open_session(
    artifact: Artifact, on: str, *, device: str, threads: int | None, given: Mapping[str, Any]
) -> Session:
    """The artefact, open on the device; `close` gives the device back."""
    needs_outputs(on)
    chosen = _options(artifact, given)
    connection = Connection(Address.parse(on), f"inference of {artifact.path.name}")
    try:
        return RemoteSession(connection, artifact, device=device, threads=threads, options=chosen)
    except BaseException:
        connection.close()
        raise


def needs_outputs(on: str) -> None:
    """Raises `UsageError` where a device only times, on inputs of its own."""
    address = Address.parse(on)
    if address.scheme == "adb":
        raise errors.UsageError(
            f"{str(address)!r} gives no outputs: benchmark_model times a model on inputs of its"
            " own.",
            next="Use benchmark or compare there; measure accuracy here, or --on ssh:// a board"
            " with the same kind of processor.",
        )


def keep_outputs(session: Session) -> None:
    """Where the session is on a device: a run that is cut off finds there what it has got."""
    if isinstance(session, RemoteSession):
        session.keep()


def benchmark(
    artifact: Artifact,
    on: str,
    feeds: Sequence[Mapping[str, Array]],
    *,
    device: str,
    threads: int | None,
    given: Mapping[str, Any],
    runs: int,
    seconds: float,
    warmup_s: float,
    with_energy: bool,
    limits: Mapping[str, Any],
) -> tuple[dict[str, Any], Array]:
    """`timing.timed` on the device, in a fresh process there.

    `limits` are its `limit_s` and `memory_mb`. `feeds` are in the signature's order; without them
    the inputs are random.

    The context is the device's, with `device` telling where it was and how wrong its clock is. An
    Android device tells no single runs: `blocks` of them, and an empty array.
    """
    address, purpose = Address.parse(on), f"benchmark of {artifact.path.name}"
    if address.scheme == "adb":
        if limits["memory_mb"] or with_energy:
            raise errors.UsageError(
                "benchmark_model on an Android device has no limit of memory and no power sensor.",
                next="Leave out --memory-limit and --energy.",
            )
        with android.Device(address, purpose) as phone:
            there = android.benchmark(
                phone, artifact, accelerator=device, threads=threads, given=given, runs=runs,
                seconds=seconds, warmup_s=warmup_s, limit_s=limits["limit_s"],
            )  # fmt: skip
        return there, np.zeros(0, np.int64)
    job = {"device": device, "threads": threads, "options": _options(artifact, given)}
    amount = {
        "runs": runs, "seconds": seconds, "warmup_s": warmup_s, "with_energy": with_energy,
    }  # fmt: skip
    arrays = [array for each in feeds for array in each.values()]
    with Connection(address, purpose) as connection:
        request = {"op": "benchmark", **connection.place(artifact), **job, **limits, **amount}
        answer, (taken,) = connection.call(request, arrays)
        found = answer["found"]
        found["facts"]["on"] = str(connection.address)
        found["facts"]["machine"] = machine(connection.about)
        found["context"]["device"] = {
            "address": str(connection.address),
            "python": connection.about["python"],
            "clock_offset_s": connection.about["clock_offset_s"],
        }
    return found, taken


def prove_android(on: str, graph: Path) -> str:
    """One inference of `benchmark_model` there, in words; raises why it does not run."""
    with android.Device(Address.parse(on), "a probe") as phone:
        return android.prove(phone, graph)


def build(
    artifact: Artifact, on: str, format: str, plan: Mapping[str, Any], *, limit_s: float
) -> tuple[Array, dict[str, Any]]:
    """What the runtime of `format` builds there from the artefact's file, and its record."""
    with Connection(Address.parse(on), f"building of {artifact.path.name}") as connection:
        job = {"format": format, "plan": dict(plan), "limit_s": limit_s}
        request = {"op": "build", **connection.place(artifact), **job}
        found, (built,) = connection.call(request)
    return built, found["record"]


@contextlib.contextmanager
def reserve(on: str, purpose: str) -> Iterator[Held]:
    """Holds the device for a run of several parts, which have the connection's address."""
    address = dataclasses.replace(Address.parse(on), token=secrets.token_hex(8))
    held = android.Device if address.scheme == "adb" else Connection
    with held(address, purpose) as connection:
        yield connection


def _options(artifact: Artifact, given: Mapping[str, Any]) -> dict[str, Any]:
    """The runtime's options, checked here; raises `UsageError` for what does not travel."""
    if artifact.model is not None:
        raise errors.UsageError(
            f"{artifact.model.path!r} is a {artifact.format} model, which no device runs.",
            next="Convert it first, and name the artefact.",
        )
    if artifact.format not in bundle.RUNTIMES:
        raise errors.UsageError(
            f"What runs {artifact.format!r} does not travel to a device.",
            next=f"There are {', '.join(bundle.RUNTIMES)}.",
        )
    runtime = plugins.load("runtimes", artifact.format)
    built: Any = options.build(runtime.Options, given, what=f"{artifact.format} runtime option")
    return dataclasses.asdict(built)
