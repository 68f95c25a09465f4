"""The networks, the contenders and one row of benchmarks/quantisation.py."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

import lepton_edge
from lepton_edge import errors, intervals, jobs, loading
from lepton_edge.artifact import Artifact
from lepton_edge.demo import SOURCE
from lepton_edge.model import Array, ModelSource
from lepton_edge.preprocess import Preprocess
from lepton_edge.samples import open_samples

sys.path.insert(0, str(Path(__file__).parent))
import quantisation_data as data
import quantisation_photos as photos

HERE = Path(__file__).parent
BACKENDS = ("onnx", "openvino", "tflite", "tensorrt")
TITLES = {
    "demo": "Fashion-MNIST CNN (the demo's)",
    "resnet": "CIFAR-10 ResNet",
    "mobilenet_v2": "CIFAR-10 MobileNetV2-like",
    "mobilenet_v3": "CIFAR-10 MobileNetV3-like",
    "lstm": "Fashion-MNIST rows, LSTM",
    "gru": "Fashion-MNIST rows, GRU",
    "transformer": "Fashion-MNIST rows, Transformer encoder",
    "bert": "Fashion-MNIST patches as words, BERT-like",
    "mobilenet_relu": "CIFAR-10 MobileNet with ReLU, as trained",
    "mobilenet_hostile": "the same, channels rescaled by 1 to 100",
    "efficientnet": "EfficientNet-Lite0",
}
ZOO = tuple(TITLES)[:8]
KNOWN = tuple(TITLES)
CALIBRATION_N = 256
PHOTOS_N = 1_000
_OWN_DATA = {"demo": "fashion", "mobilenet_hostile": "cifar10"}


@dataclass(frozen=True)
class Contender:
    """`convert` are options of the converter; else `peer` names a function of quantisation_peers.

    `precision` is for converters.
    """

    title: str
    backend: str
    convert: dict[str, Any] | None = None
    peer: str | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    precision: str = "int8"

    @property
    def format(self) -> str:
        return "onnx" if self.backend == "tensorrt" else self.backend


_TENSORRT = {
    "activation_type": "QInt8",
    "weight_type": "QInt8",
    "per_channel": True,
    "extra_options": {"ActivationSymmetric": True, "WeightSymmetric": True, "QuantizeBias": False},
}
OURS = "lepton-edge"
CONTENDERS = (
    Contender(OURS, "onnx", {}),
    Contender("onnxruntime, defaults", "onnx", peer="onnxruntime"),
    Contender("onnxruntime, our settings", "onnx", {"quantizer": "library"}),
    Contender(OURS, "openvino", {}),
    Contender("NNCF, defaults", "openvino", peer="nncf"),
    Contender("NNCF, our settings", "openvino", {"quantizer": "library"}),
    Contender(OURS, "tflite", {}),
    Contender("ai-edge-quantizer, defaults", "tflite", peer="ai_edge_quantizer"),
    Contender("ai-edge-quantizer, our settings", "tflite", {"quantizer": "library"}),
    Contender(OURS, "tensorrt", peer="own", settings={"dialect": "tensorrt"}),
    Contender(
        "onnxruntime, TensorRT's settings", "tensorrt", peer="onnxruntime", settings=_TENSORRT
    ),
)
MIXED = tuple(
    Contender(f"{OURS}, int8-mixed", backend, {}, precision="int8-mixed")
    for backend in ("onnx", "openvino", "tflite")
)
_PLAIN = {
    "rounding": "nearest",
    "compensate": False,
    "correct_bias": False,
    "equalize": False,
    "ranges": "minmax",
}
FOUR_BITS = (
    Contender(f"{OURS}, 4-bit weights", "onnx", peer="own",
              settings={"dialect": "ort_x86_vnni", "bits": 4}),
    Contender("min-max, nearest, 4-bit weights", "onnx", peer="own",
              settings={"dialect": "ort_x86_vnni", "bits": 4, **_PLAIN}),
)  # fmt: skip


@dataclass(frozen=True)
class Subject:
    """A trained network with its calibration and test data; `labelled` tells whether it has any."""

    name: str
    source: ModelSource
    calib: Path
    test: Path
    n: int
    preprocess: Preprocess | None = None
    labelled: bool = True


def prepare(name: str, folder: Path, *, cifar10: Path | None, n: int, quick: bool) -> Subject:
    """The subject, trained where its weights are not in `folder` yet.

    Raises `UsageError` where its data is not there and `BackendMissing` where a package is not.
    """
    place = folder / ("quick" if quick else "full") / name
    place.mkdir(parents=True, exist_ok=True)
    calib, test = place / f"calib-{CALIBRATION_N}.npz", place / f"test-{n}.npz"
    if name == "efficientnet":
        count = min(n, PHOTOS_N)
        test = place / f"test-{count}.npz"
        for path, names, split, size in (
            (calib, photos.CALIBRATION, "train", CALIBRATION_N),
            (test, photos.EVALUATION, "test", count),
        ):
            if not path.exists():
                value = photos.images(names, split, size, cifar10)
                order = np.random.default_rng(0).permutation(size) if path == calib else slice(None)
                data.save({"image": value[order]}, path)
        source = ModelSource(f"{HERE / 'quantisation_photos.py'}:factory", str(photos.weights()))
        return Subject(name, source, calib, test, count, photos.PREPROCESS, labelled=False)
    kind = _OWN_DATA.get(name) or _task(name)
    for path, split, size in ((calib, "train", CALIBRATION_N), (test, "test", n)):
        if not path.exists():
            data.save(data.load(kind, split, size, cifar10), path)
    if name == "demo":
        return Subject(name, SOURCE, calib, test, n)
    file = folder / ("quick" if quick else ".") / f"{name}.safetensors"
    if not file.exists():
        trained = "mobilenet_relu" if name == "mobilenet_hostile" else name
        options = ["--cifar10", str(cifar10)] if cifar10 else []
        options += ["--quick"] if quick else []
        _run("quantisation_train.py", trained, str(file.parent), *options)
    return Subject(
        name, ModelSource(f"{HERE / 'quantisation_nets.py'}:{name}", str(file)), calib, test, n
    )


def _task(name: str) -> str:
    return {"lstm": "rows", "gru": "rows", "transformer": "rows", "bert": "words"}.get(
        name, "cifar10"
    )


def made(subject: Subject, contender: Contender, folder: Path, *, kept: bool = False) -> Artifact:
    """The contender's artefact of the subject: built anew, or the last one where `kept`."""
    title = contender.title.replace(" ", "-").replace(",", "")
    out = folder / "artefacts" / subject.name / f"{contender.backend}-{title}"
    if kept and out.is_dir():
        found = Artifact.load(out)
        if found.source is None or found.source.get("sha256") == subject.source.sha256():
            return found
    if contender.convert is not None:
        return lepton_edge.convert(
            subject.source, to=contender.format, output=out, precision=contender.precision,
            calib=subject.calib, preprocess=subject.preprocess, options=contender.convert,
            verify=False,
        )  # fmt: skip
    assert contender.peer is not None
    shutil.rmtree(out, ignore_errors=True)
    job = {
        "how": contender.peer,
        "artifact": str(floats(subject, contender.format, folder).folder),
        "calib": str(subject.calib),
        "preprocess": subject.preprocess and subject.preprocess.as_dict(),
        "out": str(out),
        "settings": contender.settings,
    }
    _run("quantisation_peers.py", json.dumps(job))
    return Artifact.load(out)


def floats(subject: Subject, format: str, folder: Path) -> Artifact:
    """The float32 artefact that peers start from, made once."""
    out = folder / "artefacts" / subject.name / f"{format}-fp32-{subject.source.sha256()[:12]}"
    if out.is_dir():
        return Artifact.load(out)
    return lepton_edge.convert(
        subject.source, to=format, output=out, preprocess=subject.preprocess, verify=False
    )


def logits(subject: Subject, artifact: Artifact) -> Array:
    """The first output for every test sample, from a process of its own on one thread."""
    samples = open_samples(subject.test, preprocess=subject.preprocess)
    with tempfile.TemporaryDirectory() as out:
        found = jobs.call(
            "infer", subject=loading.as_json(artifact), out=out, n=subject.n,
            data=samples.as_dict(), threads=1,
        )  # fmt: skip
        value: Array = np.load(Path(out, next(iter(found["outputs"].values())))).astype(np.float64)
    return value


def measure(subject: Subject, contender: Contender, folder: Path) -> dict[str, Any]:
    """One row: what the contender's artefact keeps of the float network's answers."""
    row: dict[str, Any] = {
        "subject": subject.name,
        "title": TITLES[subject.name],
        "backend": contender.backend,
        "contender": contender.title,
        "n": subject.n,
    }
    begin = time.perf_counter()
    try:
        artifact = made(subject, contender, folder)
        row["seconds"] = time.perf_counter() - begin
        got = logits(subject, artifact)
    except errors.EdgeError as error:
        return {**row, "failed": f"{type(error).__name__}: {error}"}
    want = _reference(subject, folder)
    row |= {"bytes": artifact.size_bytes, **compared(want, got)}
    if subject.labelled:
        row |= scored(want, got, np.load(subject.test)["label"])
    else:
        half, close = len(want) // 2, undecided(want)
        row |= {
            "photographs": compared(want[:half], got[:half]),
            "enlarged": compared(want[half:], got[half:]),
            "undecided": [float(each.mean()) for each in (close[:half], close[half:])],
            "decided": compared(want[:half][~close[:half]], got[:half][~close[:half]]),
        }
    return row


def _reference(subject: Subject, folder: Path) -> Array:
    """The float network's logits by ONNX Runtime, kept for each set of weights and test data."""
    key = f"{subject.source.sha256()[:12]}-{subject.test.stem}"
    path = subject.test.parent / f"reference-{key}.npy"
    if not path.exists():
        np.save(path, logits(subject, floats(subject, "onnx", folder)))
    value: Array = np.load(path)
    return value


def compared(want: Array, got: Array) -> dict[str, float]:
    """SQNR in dB over all logits, and the share of samples with the same first class."""
    noise = float(((want - got) ** 2).sum())
    return {
        "sqnr_db": 10 * math.log10(float((want**2).sum()) / noise) if noise else math.inf,
        "agreement": float((want.argmax(1) == got.argmax(1)).mean()),
    }


def undecided(logits: Array) -> Array:
    """Which samples' first two classes are within 5 points of probability."""
    value = np.exp(logits - logits.max(axis=1, keepdims=True))
    value = np.sort(value / value.sum(axis=1, keepdims=True), axis=1)
    close: Array = value[:, -1] - value[:, -2] < 0.05
    return close


def scored(want: Array, got: Array, label: Array) -> dict[str, Any]:
    """Both accuracies and the paired drop with its 95 % interval, in points."""
    before, after = want.argmax(1) == label, got.argmax(1) == label
    lost, won = int((before & ~after).sum()), int((~before & after).sum())
    low, high = intervals.bootstrap_paired_rate(lost, won, len(label))
    return {
        "float_accuracy": float(before.mean()),
        "accuracy": float(after.mean()),
        "drop_pt": 100 * (lost - won) / len(label),
        "interval_pt": [100 * low, 100 * high],
    }


def latency(
    subject: Subject, backends: Sequence[str], folder: Path, *, threads: int, window: str
) -> Iterator[dict[str, Any]]:
    """Ours against the same backend's library and float, int8-mixed against int8, interleaved.

    The int8 artefacts are those that the accuracy sections left, where they did.
    """
    for backend in [each for each in backends if each != "tensorrt"]:
        ours, library = (
            made(subject, next(each for each in CONTENDERS if each.backend == backend
                               and bool(each.convert) == by_library and each.convert is not None),
                 folder, kept=True)
            for by_library in (False, True)
        )  # fmt: skip
        pairs = [
            ("int8", "the library's int8", library, ours),
            ("int8", "float32", floats(subject, backend, folder), ours),
        ]
        if subject.name == "efficientnet":
            mixed = next(each for each in MIXED if each.backend == backend)
            pairs.append(("int8-mixed", "int8", ours, made(subject, mixed, folder, kept=True)))
        for what, against, other, one in pairs:
            found = lepton_edge.compare(other, one, threads=threads, window=window)
            yield {
                "subject": subject.name,
                "title": TITLES[subject.name],
                "backend": backend,
                "contender": f"{what} against {against}",
                "compared": found.as_dict(),
            }


def _run(script: str, *arguments: str) -> None:
    done = subprocess.run(
        [sys.executable, str(HERE / script), *arguments],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise errors.WorkerFailed(f"{script} failed: {lines[-1][:200]}")
