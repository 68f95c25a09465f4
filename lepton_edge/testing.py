"""The contract kit: checks a converter or a runtime, ours or yours, as a user will use it.

    from lepton_edge import testing
    testing.check_runtime(my_runtime, artifact, feeds, expected)
    testing.check_converter(my_converter, sources.load(ModelSource("m.py:factory")), format="mine")

`RUNTIME_CHECKS` are the single checks, for `pytest.mark.parametrize`. Each raises `AssertionError`
that says what was asked and what came. The kit needs no test framework, and works under
`python -O`.
"""

from __future__ import annotations

import copy
import dataclasses
import inspect
import json
import shutil
import tempfile
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial, wraps
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from lepton_edge import errors, options
from lepton_edge._testing_converter import check_converter
from lepton_edge._testing_require import agree, frozen_options, refuses, require
from lepton_edge.artifact import Artifact
from lepton_edge.model import Array, Feeds
from lepton_edge.session import Session

__all__ = ["FACTS", "RUNTIME_CHECKS", "RuntimeCase", "check_converter", "check_runtime"]

FACTS = ("runtime", "version", "device", "threads", "precision", "placement")


@dataclass(frozen=True)
class RuntimeCase:
    """A runtime's module with an artefact, inputs that it accepts, and the outputs they must give.

    `tolerance` is a share of each expected output's range. `constant` says that the outputs do not
    depend on the inputs, `reads_file` that a damaged file must be noticed.
    """

    module: ModuleType
    artifact: Artifact
    feeds: Feeds
    expected: Mapping[str, Array]
    tolerance: float = 1e-4
    device: str = "cpu"
    given: Mapping[str, Any] = field(default_factory=dict)
    constant: bool = False
    reads_file: bool = True

    def open(
        self,
        *,
        artifact: Artifact | None = None,
        device: str | None = None,
        threads: int | None = 1,
    ) -> Session:
        session: Session = self.module.open_session(
            artifact or self.artifact,
            device=device or self.device,
            threads=threads,
            options=options.build(self.module.Options, self.given),
        )
        require(isinstance(session, Session), f"open_session gave a {type(session).__name__}")
        return session

    def agrees(self, outputs: Feeds, what: str) -> None:
        agree(outputs, self.expected, self.tolerance, what)

    def other_feeds(self) -> dict[str, Array]:
        """Inputs of the same shapes with other content: floats moved, other types reversed."""
        return {
            name: (value * 0.5 + 0.25).astype(value.dtype)
            if value.dtype.kind == "f"
            else np.ascontiguousarray(value[..., ::-1])
            for name, value in self.feeds.items()
        }


def check_runtime(
    module: ModuleType,
    artifact: Artifact,
    feeds: Feeds,
    expected: Mapping[str, Array],
    *,
    tolerance: float = 1e-4,
    device: str = "cpu",
    given: Mapping[str, Any] | None = None,
    constant: bool = False,
    reads_file: bool = True,
) -> None:
    """Runs every check of `RUNTIME_CHECKS`; see `RuntimeCase` for the arguments."""
    case = RuntimeCase(
        module, artifact, feeds, expected, tolerance, device, given or {}, constant, reads_file
    )
    for check in RUNTIME_CHECKS:
        check(case)


def options_are_data(case: RuntimeCase) -> None:
    """`Options` is a frozen dataclass with defaults, `open_session` has the seam's arguments."""
    frozen_options(case.module)
    parameters = inspect.signature(case.module.open_session).parameters
    wanted = ["artifact", "device", "threads", "options"]
    require(list(parameters) == wanted, f"open_session takes {list(parameters)}, not {wanted}")


def signature_is_known(case: RuntimeCase) -> None:
    """The session tells names, dtypes and shapes, and its outputs have them."""
    with case.open() as session:
        told = {spec.name: spec for spec in session.signature.inputs}
        require(set(told) == set(case.feeds), f"inputs {sorted(told)}, not {sorted(case.feeds)}")
        names = {spec.name: spec for spec in session.signature.outputs}
        require(
            set(names) == set(case.expected),
            f"outputs {sorted(names)}, not {sorted(case.expected)}",
        )
        for name, value in session.run(case.feeds).items():
            spec = names[name]
            require(
                value.dtype == np.dtype(spec.dtype) and value.ndim == len(spec.shape),
                f"output {name!r} is {value.dtype}{list(value.shape)}, the signature says {spec}",
            )


def outputs_agree(case: RuntimeCase) -> None:
    """The outputs are the expected ones; one input may come without its name."""
    with case.open() as session:
        case.agrees(session.run(case.feeds), "run")
        if len(case.feeds) == 1:
            case.agrees(session.run(next(iter(case.feeds.values()))), "run on a bare array")


def names_decide(case: RuntimeCase) -> None:
    """The order in which inputs are given changes nothing."""
    with case.open() as session:
        backwards = dict(reversed(list(case.feeds.items())))
        case.agrees(session.run(backwards), "run with the inputs in reverse order")


def wrong_inputs_are_named(case: RuntimeCase) -> None:
    """A wrong name, dtype or shape is a `UsageError` that says what was expected."""
    with case.open() as session:
        for spec in session.signature.inputs:
            value = case.feeds[spec.name]
            rest = {name: other for name, other in case.feeds.items() if name != spec.name}
            dtype = np.dtype("float64" if value.dtype != np.float64 else "float32")
            wrong: dict[str, Mapping[str, Any]] = {
                "a missing input": rest,
                "a wrong name": {**rest, f"no_{spec.name}": value},
                "an input too many": {**case.feeds, f"no_{spec.name}": value},
                "a wrong dtype": {**rest, spec.name: value.astype(dtype)},
                "no array": {**rest, spec.name: value.tolist()},
                "a dimension too many": {**rest, spec.name: value[None]},
            }
            for axis, size in enumerate(spec.shape):
                if size is not None:
                    longer = np.concatenate([value, value.take([0], axis)], axis)
                    wrong[f"a wrong size of dimension {axis}"] = {**rest, spec.name: longer}
            for what, feeds in wrong.items():
                error = refuses(partial(session.run, feeds), errors.UsageError, what)
                require(str(spec) in str(error), f"{what} is answered without {spec}: {error}")
        case.agrees(session.run(case.feeds), "run after refused inputs")


def same_in_same_out(case: RuntimeCase) -> None:
    """Two runs, and two sessions, give the same bits with one thread."""
    with case.open() as first, case.open() as second:
        known = first.run(case.feeds)
        for outputs in (first.run(case.feeds), second.run(case.feeds)):
            for name, value in outputs.items():
                require(
                    np.array_equal(value, known[name], equal_nan=value.dtype.kind == "f"),
                    f"output {name!r} differs between two runs on the same inputs",
                )


def outputs_stay(case: RuntimeCase) -> None:
    """Outputs are the caller's: later calls do not change them, writing to them does no harm."""
    with case.open() as session:
        kept = session.run(case.feeds)
        copies = copy.deepcopy(kept)
        later = session.run(case.other_feeds())
        changed = any(not np.array_equal(later[name], copies[name]) for name in copies)
        require(changed or case.constant, "the outputs do not depend on the inputs")
        for name, value in kept.items():
            require(
                np.array_equal(value, copies[name], equal_nan=value.dtype.kind == "f"),
                f"output {name!r} changed when the session ran again: it is the runtime's own"
                " memory and must be copied",
            )
            require(value.flags.writeable, f"output {name!r} is read-only")
            value.fill(0)
        case.agrees(session.run(case.feeds), "run after writing to earlier outputs")
    case.agrees(copies, "the first outputs")


def inputs_stay(case: RuntimeCase) -> None:
    """Inputs are not written to, may be read-only or strided, and share no memory with outputs."""
    with case.open() as session:
        feeds = copy.deepcopy(dict(case.feeds))
        for value in feeds.values():
            value.flags.writeable = False
        case.agrees(session.run(feeds), "run on read-only inputs")
        feeds = {name: np.repeat(value, 2, axis=-1)[..., ::2] for name, value in feeds.items()}
        case.agrees(session.run(feeds), "run on inputs that are not contiguous")
        feeds = copy.deepcopy(dict(case.feeds))
        outputs = session.run(feeds)
        for name, value in feeds.items():
            require(np.array_equal(value, case.feeds[name]), f"input {name!r} was written to")
            for other, output in outputs.items():
                require(
                    not np.shares_memory(value, output),
                    f"output {other!r} shares memory with input {name!r}",
                )


def batches_are_handled(case: RuntimeCase) -> None:
    """A free batch takes any size, up and down; a fixed one refuses another size."""
    with case.open() as session:
        if any(not spec.shape for spec in session.signature.inputs):
            return
        free = all(spec.shape[0] is None for spec in session.signature.inputs)
        sizes = (3, 1, 2) if free else (2,)
        for size in sizes:
            tiled = {name: np.concatenate([value] * size) for name, value in case.feeds.items()}
            if not free:
                refuses(partial(session.run, tiled), errors.UsageError, "another batch")
                continue
            wanted = {name: np.concatenate([value] * size) for name, value in case.expected.items()}
            agree(session.run(tiled), wanted, case.tolerance, f"{size} times the batch")


def closing_is_final(case: RuntimeCase) -> None:
    """`close` may be called twice, `with` closes, and a closed session says so."""
    session = case.open()
    with session as entered:
        require(entered is session, "`with` gave another session")
    session.close()
    session.close()
    refuses(lambda: session.run(case.feeds), errors.UsageError, "run after close")


def threads_are_respected(case: RuntimeCase) -> None:
    """The facts tell the threads that were asked for; fewer than one is refused."""
    with case.open(threads=1) as session:
        require(session.facts["threads"] == 1, f"1 thread became {session.facts['threads']}")
    try:
        with case.open(threads=2) as session:
            require(session.facts["threads"] == 2, f"2 threads became {session.facts['threads']}")
            case.agrees(session.run(case.feeds), "run with 2 threads")
    except errors.UsageError:
        pass  # a framework that takes one number a process may say so
    refuses(lambda: case.open(threads=0), errors.UsageError, "0 threads")


def facts_are_there(case: RuntimeCase) -> None:
    """The facts have the keys of `FACTS`, and are JSON."""
    with case.open() as session:
        missing = [key for key in FACTS if key not in session.facts]
        require(not missing, f"the facts lack {missing}")
        for key in ("runtime", "version", "threads"):
            require(bool(session.facts[key]), f"the fact {key!r} is empty")
        require(session.facts["device"] == case.device, "the fact 'device' is not what was asked")
        require(
            json.loads(json.dumps(session.facts)) == session.facts, "the facts do not survive JSON"
        )


def unknown_devices_are_refused(case: RuntimeCase) -> None:
    """A device that is not there is an error, never another device."""
    kinds = (errors.UsageError, errors.PlacementError, errors.BackendMissing)
    refuses(lambda: case.open(device="no-such-device"), kinds, "an unknown device")


def damaged_files_are_refused(case: RuntimeCase) -> None:
    """A missing, empty, cut or foreign file is a `BadInput` that names the file."""
    if not case.reads_file:
        return
    with tempfile.TemporaryDirectory(prefix="lepton-edge-") as name:
        folder = Path(name) / "artifact"
        shutil.copytree(case.artifact.folder, folder)
        artifact = dataclasses.replace(case.artifact, folder=folder)
        whole = artifact.path.read_bytes()
        damages = {"an empty file": b"", "a cut file": whole[: len(whole) // 2], "text": b"hello\n"}
        for what, content in damages.items():
            artifact.path.write_bytes(content)
            error = refuses(lambda: case.open(artifact=artifact), errors.BadInput, what)
            require(artifact.file in str(error), f"{what} is answered without its name: {error}")
        artifact.path.unlink()
        refuses(lambda: case.open(artifact=artifact), errors.BadInput, "a missing file")


def sessions_are_apart(case: RuntimeCase) -> None:
    """Sessions in several threads do not disturb each other (one session is for one thread)."""
    failures: list[BaseException] = []

    def work(session: Session) -> None:
        try:
            for _ in range(20):
                case.agrees(session.run(case.feeds), "run beside another thread")
                session.run(case.other_feeds())
        except (AssertionError, errors.EdgeError) as error:
            failures.append(error)

    sessions = [case.open() for _ in range(2)]
    threads = [threading.Thread(target=work, args=(session,)) for session in sessions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for session in sessions:
        session.close()
    require(not failures, f"two sessions in two threads: {next(iter(failures), None)}")


Check = Callable[[RuntimeCase], None]


def _on_copies(check: Check) -> Check:
    """The check on arrays of its own, so that a runtime that writes to them spoils no other."""

    @wraps(check)
    def checked(case: RuntimeCase) -> None:
        arrays = copy.deepcopy((dict(case.feeds), dict(case.expected)))
        check(dataclasses.replace(case, feeds=arrays[0], expected=arrays[1]))

    return checked


_CHECKS: tuple[Check, ...] = (
    options_are_data,
    signature_is_known,
    outputs_agree,
    names_decide,
    wrong_inputs_are_named,
    same_in_same_out,
    outputs_stay,
    inputs_stay,
    batches_are_handled,
    closing_is_final,
    threads_are_respected,
    facts_are_there,
    unknown_devices_are_refused,
    damaged_files_are_refused,
    sessions_are_apart,
)
RUNTIME_CHECKS: tuple[Check, ...] = tuple(map(_on_copies, _CHECKS))
