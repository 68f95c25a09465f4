"""The contract kit passes a good runtime and catches each kind of broken one."""

from __future__ import annotations

import ast
import dataclasses
import io
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from lepton_edge import errors, testing
from lepton_edge.artifact import Artifact
from lepton_edge.model import Array, Signature, TensorSpec
from lepton_edge.session import Session

SIGNATURE = Signature(
    (TensorSpec("left", (None, 4), "float32"), TensorSpec("right", (None, 4), "float32")),
    (TensorSpec("difference", (None, 4), "float32"), TensorSpec("left", (None, 4), "float32")),
)


@dataclass(frozen=True)
class Options:
    gain: float = 1.0


class Difference(Session):
    """A real runtime on numpy: (left - right) x what the file holds, and a copy of left."""

    def __init__(self, artifact: Artifact, weight: Array, facts: Mapping[str, Any]) -> None:
        super().__init__(
            artifact,
            signature=SIGNATURE,
            file_inputs=self.order,
            file_outputs=["difference", "left"],
            facts=facts,
        )
        self.weight = weight
        self.buffer = np.empty((1, 4), np.float32)
        self.calls = 0

    order: Sequence[str] = ("left", "right")

    def _invoke(self, arrays: list[Array]) -> Sequence[Array]:
        return [(arrays[0] - arrays[1]) * self.weight, arrays[0].copy()]

    def _release(self) -> None:
        self.weight = np.empty(0)


def runtime(
    session: type[Difference] = Difference, options: type = Options, **replaced: Any
) -> ModuleType:
    """A runtime's module; `replaced` are parts of its conduct that a test breaks."""

    def open_session(
        artifact: Artifact, *, device: str = "cpu", threads: int | None = None, options: Any
    ) -> Session:
        if device != "cpu" and not replaced.get("any_device"):
            raise errors.UsageError(f"No device {device!r}.")
        if threads is not None and threads < 1:
            raise errors.UsageError("Threads must be 1 or more.")
        try:
            weight = np.load(io.BytesIO(artifact.path.read_bytes()))["weight"]
        except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
            if not replaced.get("opens_anything"):
                raise errors.BadInput(f"{artifact.file!r} is damaged: {error}.") from None
            weight = np.float32(1)
        facts = {
            "runtime": "numpy",
            "version": np.__version__,
            "device": device,
            "threads": 1 if replaced.get("one_thread") else threads or 1,
            "precision": None,
            "placement": None,
        }
        return session(artifact, weight, replaced.get("facts", lambda given: given)(facts))

    module = ModuleType("difference")
    vars(module).update(open_session=open_session, Options=options)
    return module


class Aliasing(Difference):
    def _invoke(self, arrays: list[Array]) -> Sequence[Array]:
        if self.buffer.shape != arrays[0].shape:
            self.buffer = np.empty_like(arrays[0])
        np.subtract(arrays[0], arrays[1], out=self.buffer)
        self.buffer *= self.weight
        return [self.buffer, arrays[0].copy()]


class IgnoresNames(Difference):
    order = ("right", "left")  # but `_invoke` takes the first for the left one


class PassesThrough(Difference):
    def _invoke(self, arrays: list[Array]) -> Sequence[Array]:
        return [super()._invoke(arrays)[0], arrays[0]]


class WritesInputs(Difference):
    def _invoke(self, arrays: list[Array]) -> Sequence[Array]:
        outputs = super()._invoke(arrays)
        if arrays[0].flags.writeable:
            arrays[0] += 1
        return outputs


class Wavers(Difference):
    def _invoke(self, arrays: list[Array]) -> Sequence[Array]:
        self.calls += 1
        difference, left = super()._invoke(arrays)
        return [difference * np.float32(1 + 1e-6 * self.calls), left]


class FirstOfBatch(Difference):
    def _invoke(self, arrays: list[Array]) -> Sequence[Array]:
        return [value[:1] for value in super()._invoke(arrays)]


class ReadOnly(Difference):
    def _invoke(self, arrays: list[Array]) -> Sequence[Array]:
        outputs = super()._invoke(arrays)
        outputs[0].flags.writeable = False
        return outputs


class NeedsContiguous(Difference):
    def _invoke(self, arrays: list[Array]) -> Sequence[Array]:
        flat = [
            np.frombuffer(value.base if value.base is not None else value, np.float32)
            for value in arrays
        ]
        size = arrays[0].size
        plain = [value[:size].reshape(arrays[0].shape) for value in flat]
        return super()._invoke(plain)


class Constant(Difference):
    def _invoke(self, arrays: list[Array]) -> Sequence[Array]:
        return [np.ones_like(value) for value in super()._invoke(arrays)]


@dataclass
class Thawed:
    gain: float = 1.0


@dataclass(frozen=True)
class Needy:
    gain: float


BROKEN: dict[str, tuple[ModuleType, str, str]] = {
    "memory of its own": (runtime(Aliasing), "outputs_stay", "must be copied"),
    "names ignored": (runtime(IgnoresNames), "outputs_agree", "is off by"),
    "input handed out": (runtime(PassesThrough), "inputs_stay", "shares memory with input"),
    "input written": (runtime(WritesInputs), "inputs_stay", "was written to"),
    "not repeatable": (runtime(Wavers), "same_in_same_out", "differs between two runs"),
    "batch cut": (runtime(FirstOfBatch), "batches_are_handled", "has shape"),
    "read-only outputs": (runtime(ReadOnly), "outputs_stay", "read-only"),
    "strides ignored": (runtime(NeedsContiguous), "inputs_stay", "not contiguous"),
    "inputs unused": (runtime(Constant), "outputs_stay", "do not depend on the inputs"),
    "options change": (runtime(options=Thawed), "options_are_data", "not frozen"),
    "options needed": (runtime(options=Needy), "options_are_data", "no defaults"),
    "threads ignored": (runtime(one_thread=True), "threads_are_respected", "2 threads became 1"),
    "another device": (
        runtime(any_device=True),
        "unknown_devices_are_refused",
        "an unknown device was accepted",
    ),
    "damage unnoticed": (
        runtime(opens_anything=True),
        "damaged_files_are_refused",
        "an empty file was accepted",
    ),
    "facts missing": (
        runtime(facts=lambda facts: {"threads": facts["threads"]}),
        "facts_are_there",
        "the facts lack",
    ),
    "facts not JSON": (
        runtime(facts=lambda facts: {**facts, "shape": (1, 2)}),
        "facts_are_there",
        "do not survive JSON",
    ),
}


@pytest.fixture
def case(tmp_path: Path) -> testing.RuntimeCase:
    np.savez(tmp_path / "weight.npz", weight=np.float32(3))
    rng = np.random.default_rng(0)
    feeds = {name: rng.standard_normal((1, 4)).astype(np.float32) for name in ("left", "right")}
    expected = {"difference": 3 * (feeds["left"] - feeds["right"]), "left": feeds["left"]}
    artifact = Artifact(tmp_path, "weight.npz", "difference")
    return testing.RuntimeCase(runtime(), artifact, feeds, expected)


def failing(case: testing.RuntimeCase) -> dict[str, str]:
    """The checks that fail, with what they say."""
    found = {}
    for check in testing.RUNTIME_CHECKS:
        try:
            check(case)
        except AssertionError as error:
            found[check.__name__] = str(error)
    return found


def test_a_good_runtime_passes(case: testing.RuntimeCase) -> None:
    testing.check_runtime(case.module, case.artifact, case.feeds, case.expected)


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_runtime_is_caught(case: testing.RuntimeCase, kind: str) -> None:
    module, check, message = BROKEN[kind]
    broken = dataclasses.replace(case, module=module)
    if check == "options_are_data":
        with pytest.raises(AssertionError, match=message):
            testing.RUNTIME_CHECKS[0](broken)
        return
    found = failing(broken)
    assert check in found, found
    assert message in found[check]


def test_sessions_that_share_memory_are_caught(case: testing.RuntimeCase) -> None:
    shared: dict[str, list[Array]] = {}

    class Shares(Difference):
        def _invoke(self, arrays: list[Array]) -> Sequence[Array]:
            shared["inputs"] = [value.copy() for value in arrays]
            for _ in range(200):  # long enough for the other thread to step in
                sum(range(500))
            return super()._invoke(shared["inputs"])

    broken = dataclasses.replace(case, module=runtime(Shares))
    checks = {check.__name__: check for check in testing.RUNTIME_CHECKS}
    with pytest.raises(AssertionError, match="two sessions in two threads"):
        checks["sessions_are_apart"](broken)


def test_wrong_expected_values_are_caught(case: testing.RuntimeCase) -> None:
    wrong = {name: value + np.float32(0.01) for name, value in case.expected.items()}
    with pytest.raises(AssertionError, match="is off by"):
        testing.check_runtime(case.module, case.artifact, case.feeds, wrong)
    with pytest.raises(AssertionError, match="outputs"):
        testing.check_runtime(
            case.module, case.artifact, case.feeds, {"difference": case.expected["difference"]}
        )
    nothing = {name: value * np.nan for name, value in case.expected.items()}
    with pytest.raises(AssertionError, match="nan"):
        testing.check_runtime(case.module, case.artifact, case.feeds, nothing)


def test_the_kit_uses_no_assert_statement() -> None:
    """It must also work under `python -O`, and needs no test framework."""
    assert testing.__file__ is not None
    found = list(ast.walk(ast.parse(Path(testing.__file__).read_text())))
    assert not [node for node in found if isinstance(node, ast.Assert)]
    names = {alias.name for node in found if isinstance(node, ast.Import) for alias in node.names}
    assert "pytest" not in names


def test_every_check_is_listed_once() -> None:
    checks: list[Callable[[testing.RuntimeCase], None]] = list(testing.RUNTIME_CHECKS)
    assert len({check.__name__ for check in checks}) == len(checks) == 15
    assert all(check.__doc__ for check in checks)
