"""The converter's half of the contract kit; `lepton_edge.testing` is its public name."""

from __future__ import annotations

import inspect
import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from lepton_edge import errors, options, plugins
from lepton_edge._testing_require import agree, frozen_options, refuses, require
from lepton_edge.artifact import NAME, Artifact
from lepton_edge.model import Model
from lepton_edge.target import Target


def check_converter(
    module: ModuleType,
    model: Model,
    *,
    format: str,
    precision: str = "fp32",
    tolerance: float = 1e-4,
    given: Mapping[str, Any] | None = None,
    runtime: ModuleType | None = None,
    runtime_given: Mapping[str, Any] | None = None,
) -> None:
    """Converts `model` and checks the artefact, then runs it against the model on an example.

    `given` are the converter's options and `runtime_given` the runtime's, by default the one of
    the format's name. `tolerance` is a share of each output's range.
    """
    frozen_options(module)
    parameters = inspect.signature(module.convert).parameters
    wanted = ["model", "target", "out", "calibration", "options"]
    require(list(parameters) == wanted, f"convert takes {list(parameters)}, not {wanted}")
    _refusals_are_clauses(module, model, precision)
    built = options.build(module.Options, given or {})
    target = Target(format, precision)
    with tempfile.TemporaryDirectory(prefix="lepton-edge-") as name:
        out = Path(name)
        before = _state(model)
        artifact = module.convert(model, target, out, calibration=None, options=built)
        require(_state(model) == before, "the converter changed the model's signature")
        require(isinstance(artifact, Artifact), f"convert gave a {type(artifact).__name__}")
        _is_described(artifact, model, target, out)
        loaded = Artifact.load(artifact.save().folder)
        runner = runtime or plugins.load("runtimes", format)
        feeds = model.example(1)
        with runner.open_session(
            loaded,
            device="cpu",
            threads=1,
            options=options.build(runner.Options, runtime_given or {}),
        ) as session:
            agree(session.run(feeds), model.run(feeds), tolerance, f"{format} {precision}")
    if module.refuses(model.framework, "int8") is None:
        _int8_needs_data(module, model, format, built)


def _refusals_are_clauses(module: ModuleType, model: Model, precision: str) -> None:
    reason = module.refuses(model.framework, precision)
    require(reason is None, f"refuses({model.framework!r}, {precision!r}) says {reason!r}")
    reason = module.refuses("no-such-framework", precision)
    require(
        isinstance(reason, str) and bool(reason) and "\n" not in reason,
        f"an unknown framework is answered with {reason!r}, not with one clause",
    )


def _state(model: Model) -> str:
    return json.dumps(model.signature.as_dict())


def _is_described(artifact: Artifact, model: Model, target: Target, out: Path) -> None:
    stem = f"{model.source.stem}_{target.precision}"
    require(artifact.folder == out, f"the artefact is in {artifact.folder}, not in {out}")
    require(artifact.path.is_file(), f"there is no file {artifact.file!r}")
    require(
        artifact.path.stem == stem, f"the file is {artifact.file!r}, not {stem!r} with a suffix"
    )
    require(not (out / NAME).exists(), f"the converter wrote {NAME}, which the job does")
    require(
        (artifact.format, artifact.precision) == (target.format, target.precision),
        f"the artefact says {artifact.format} {artifact.precision}, not {target}",
    )
    require(artifact.signature is not None, "the artefact has no signature")
    assert artifact.signature is not None
    for kind in ("inputs", "outputs"):
        source = [spec.name for spec in getattr(model.signature, kind)]
        told = [spec.name for spec in getattr(artifact.signature, kind)]
        bound = [binding.name for binding in getattr(artifact, kind)]
        require(told == source, f"the signature's {kind} are {told}, the model's {source}")
        require(sorted(bound) == sorted(source), f"the {kind} bound are {bound}, not {source}")
    require(bool(artifact.steps), "the artefact does not tell the steps taken")
    require(all("step" in step for step in artifact.steps), "a step has no name")
    require(bool(artifact.versions), "the artefact does not tell the libraries' versions")


def _int8_needs_data(module: ModuleType, model: Model, format: str, built: Any) -> None:
    """int8 without calibration data is a `UsageError`, and nothing is written."""
    with tempfile.TemporaryDirectory(prefix="lepton-edge-") as name:
        out = Path(name)
        refuses(
            lambda: module.convert(
                model, Target(format, "int8"), out, calibration=None, options=built
            ),
            errors.UsageError,
            "int8 without calibration data",
        )
        left = [path.name for path in out.iterdir()]
        require(not left, f"a refused conversion left {left}")
