"""`load`: opens an artefact, an exported file or a model's source as a `Session`.

A subject is what can be loaded; as JSON, for jobs, it is `{"artifact": path}` or
`{"model": {...}}`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lepton_edge import errors, options, plugins, remote, sources
from lepton_edge.artifact import NAME, SUFFIXES, Artifact, open_artifact
from lepton_edge.model import ModelSource, TensorSpec
from lepton_edge.samples import Samples, open_samples
from lepton_edge.session import Session

Subject = str | Path | ModelSource | Artifact


def load(
    subject: Subject,
    *,
    weights: str | None = None,
    inputs: Sequence[TensorSpec] = (),
    device: str = "cpu",
    threads: int | None = None,
    options: Mapping[str, Any] | None = None,
    on: str | None = None,
) -> Session:
    """An open `Session` on `subject`; checksums of an artefact are verified first.

    `subject` is an artefact's folder, an exported file, or a model that PyTorch or TensorFlow runs
    as the reference (`weights` and `inputs` as in `ModelSource`). `options` are the runtime's. `on`
    opens an artefact on another machine: `ssh://user@host[:port]`.
    """
    artifact = as_artifact(subject, weights=weights, inputs=inputs)
    given = options or {}
    if on is not None:
        return remote.open_session(artifact, on, device=device, threads=threads, given=given)
    return open_session(artifact, device=device, threads=threads, given=given)


def open_session(
    artifact: Artifact, *, device: str, threads: int | None, given: Mapping[str, Any]
) -> Session:
    if not plugins.exists("runtimes", artifact.format):
        raise errors.BackendMissing(
            f"Nothing here runs the format {artifact.format!r} of {str(artifact.path)!r}.",
            next=f"There are runtimes for {', '.join(plugins.names('runtimes'))}.",
        )
    runtime = plugins.load("runtimes", artifact.format)
    built = options.build(runtime.Options, given, what=f"{artifact.format} runtime option")
    session: Session = runtime.open_session(artifact, device=device, threads=threads, options=built)
    return session


def as_artifact(
    subject: Subject, *, weights: str | None = None, inputs: Sequence[TensorSpec] = ()
) -> Artifact:
    """The artefact that `subject` is, or the one that stands for a model's source."""
    if isinstance(subject, Artifact):
        return subject
    if isinstance(subject, ModelSource):
        if is_exported(subject.path):
            return open_artifact(subject.path)
        return _of_source(subject)
    if is_exported(subject):
        if weights or inputs:
            raise errors.UsageError(
                f"{str(subject)!r} is an exported file: it takes no weights and no inputs."
            )
        return open_artifact(subject)
    return _of_source(ModelSource(str(subject), weights, tuple(inputs)))


def is_exported(path: str | Path) -> bool:
    """Whether `path` names an artefact's folder or an exported file, rather than a source."""
    path = Path(path)
    return (path / NAME).exists() or path.suffix in SUFFIXES.values()


def _of_source(source: ModelSource) -> Artifact:
    framework = sources.framework_of(source)
    format = "tensorflow" if framework in ("keras", "savedmodel") else "torch"
    return Artifact(folder=source.file.parent, file=source.file.name, format=format, model=source)


def as_json(subject: Subject) -> dict[str, Any]:
    """The subject as text that `from_json` in another process turns into the same artefact."""
    if isinstance(subject, Artifact):
        if subject.model is not None:
            return {"model": subject.model.as_dict()}
        return {"artifact": str(subject.path)}
    if isinstance(subject, ModelSource) and not is_exported(subject.path):
        return {"model": subject.as_dict()}
    path = subject.path if isinstance(subject, ModelSource) else str(subject)
    if is_exported(path):
        return {"artifact": path}
    return {"model": ModelSource(path).as_dict()}


def from_json(given: Mapping[str, Any]) -> Artifact:
    """Raises `UsageError` for anything that `as_json` did not write."""
    if set(given) == {"artifact"}:
        return open_artifact(given["artifact"])
    if set(given) == {"model"}:
        return as_artifact(ModelSource.from_dict(given["model"]))
    raise errors.UsageError(f"A subject is an artifact or a model, not {sorted(given)}.")


def prepare(samples: Samples, *subjects: Subject) -> Samples:
    """The samples with the preprocessing of the first subject that carries one.

    Samples that have a preprocessing already keep it.
    """
    if samples.as_dict().get("preprocess") is not None:
        return samples
    for subject in subjects:
        if not str(subject).endswith(".scores.npz") and (own := as_artifact(subject).preprocess):
            return open_samples(samples, preprocess=own)
    return samples
