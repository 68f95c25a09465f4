"""The process that infers: one session, or one benchmark."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable, Mapping, Sequence

from lepton_edge import errors, timing
from lepton_edge.artifact import Artifact, Binding
from lepton_edge.model import Array, Signature, random_feeds
from lepton_edge.session import Session, batch_of

if TYPE_CHECKING:
    Answer = tuple[dict[str, Any], Sequence[Array]]

# ai-edge-litert begins with Python 3.9; tflite-runtime, which was before it, takes numpy 1 only.
PACKAGES = {
    "onnx": "onnxruntime",
    "openvino": "openvino",
    "tflite": "ai-edge-litert" if sys.version_info >= (3, 9) else "tflite-runtime 'numpy<2'",
}


class Work:
    """Each `op_` answers one kind of request."""

    def __init__(self) -> None:
        self.opened: Session | None = None

    def __enter__(self) -> Work:
        return self

    def __exit__(self, *_: object) -> None:
        if self.opened is not None:
            self.opened.close()

    def wait(self) -> bool:
        return True

    def op_open(self, *, arrays: Sequence[Array], **job: Any) -> Answer:
        self.opened = _opener(**job)()
        signature = self.opened.signature.as_dict()
        return {"facts": self.opened.facts, "signature": signature}, ()

    def op_build(
        self, *, arrays: Sequence[Array], folder: str, artifact: Mapping[str, Any], **job: Any
    ) -> Answer:
        """The file that the runtime `format` builds from the artefact's, and its record."""
        runtime = importlib.import_module("lepton_edge.runtimes." + job["format"])
        built, record = runtime.build(
            Path(folder) / artifact["file"], job["plan"], Path(job["cache"])
        )
        return {"record": record}, [built]

    def op_run(self, *, arrays: Sequence[Array]) -> Answer:
        """Arrays in the signature's order, both ways."""
        assert self.opened is not None
        signature = self.opened.signature
        feeds = {spec.name: array for spec, array in zip(signature.inputs, arrays)}
        results = self.opened.run(feeds)
        return {}, [results[spec.name] for spec in signature.outputs]

    def op_benchmark(
        self,
        *,
        arrays: Sequence[Array],
        runs: int,
        seconds: float,
        warmup_s: float,
        with_energy: bool,
        **job: Any,
    ) -> Answer:
        """`arrays`: the inputs in the signature's order, batch after batch; none are random."""

        def inputs(session: Session) -> list[dict[str, Array]]:
            specs = session.signature.inputs
            if not arrays:
                return [random_feeds(specs, batch_of(specs[0]) or 1)]
            return [
                {spec.name: array for spec, array in zip(specs, arrays[start:])}
                for start in range(0, len(arrays), len(specs))
            ]

        found, taken = timing.timed(
            _opener(**job),
            inputs,
            runs=runs,
            seconds=seconds,
            warmup_s=warmup_s,
            with_energy=with_energy,
        )
        return {"found": found}, [taken]


def _opener(
    *,
    folder: str,
    artifact: Mapping[str, Any],
    device: str,
    threads: int | None,
    options: Mapping[str, Any],
) -> Callable[[], Session]:
    """What opens the artefact; the host has read its artifact.json and checked the options."""
    signature = artifact["signature"]
    opened = Artifact(
        folder=Path(folder),
        file=artifact["file"],
        format=artifact["format"],
        precision=artifact["precision"],
        signature=Signature.from_dict(signature) if signature else None,
        inputs=tuple(map(Binding.from_dict, artifact["inputs"])),
        outputs=tuple(map(Binding.from_dict, artifact["outputs"])),
        files=artifact["files"],
        engine=artifact.get("engine"),
    )
    runtime = importlib.import_module("lepton_edge.runtimes." + opened.format)
    chosen = runtime.Options(
        **{key: tuple(v) if isinstance(v, list) else v for key, v in options.items()}
    )

    def load() -> Session:
        try:
            session: Session = runtime.open_session(
                opened, device=device, threads=threads, options=chosen
            )
        except errors.BackendMissing as error:
            # What is missing is the runtime itself; this package is not on the device.
            if opened.format in PACKAGES and "lepton-edge[" in (error.next or ""):
                package = PACKAGES[opened.format]
                error.next = f"On the device: {sys.executable} -m pip install {package}."
            raise
        return session

    return load
