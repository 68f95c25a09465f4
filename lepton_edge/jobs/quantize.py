"""The job `quantize`: training in the integers of a dialect, to an ONNX or TFLite artefact."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import lepton_edge
from lepton_edge import errors, sources
from lepton_edge.artifact import Artifact
from lepton_edge.compress.quantize import QuantizedTraining
from lepton_edge.converters import _float_onnx as floats
from lepton_edge.converters import _onnx_graph as graphs
from lepton_edge.converters import _qdq, _tflite_int8, tflite
from lepton_edge.jobs import compress
from lepton_edge.model import Model, ModelSource
from lepton_edge.preprocess import Preprocess
from lepton_edge.samples import Samples, fingerprint, limit, open_samples
from lepton_edge.target import Target

RANGES = 512  # training samples that the ranges of activations come from, where none are given


def run(
    *,
    source: Mapping[str, Any],
    options: Mapping[str, Any],
    training: Mapping[str, Any],
    samples: Mapping[str, Any],
    calib: Mapping[str, Any] | None,
    preprocess: Mapping[str, Any] | None,
    batch: int | None,
    out: str,
    work: str,
    resume: bool = False,
) -> dict[str, Any]:
    """Writes the artefact's folder `out`, which is there and empty; returns the pass's record.

    `batch` is fixed in the file; None leaves it free.
    """
    folder, given = Path(out), ModelSource.from_dict(source)
    made = compress.build("quantize", options, training)
    data = open_samples(samples)
    ranges = limit(data, RANGES, seed=0) if calib is None else open_samples(calib)
    model = sources.load(given)
    how = {"work": Path(work), "key": given.sha256(), "resume": resume}
    write = _tflite if made.container == "tflite" else _onnx
    artifact = write(made, model, data, ranges, folder, batch, how)
    spec = Preprocess.from_dict(preprocess) if preprocess is not None else None
    record = artifact.steps[-1]
    artifact = replace(
        artifact,
        preprocess=spec,
        steps=(*artifact.steps[:-1], {"step": "int8", "tool": "lepton-edge", **record}),
        source={**given.as_dict(), "framework": model.framework, "sha256": given.sha256()},
        calibration={"n": len(ranges), "fingerprint": fingerprint(ranges), "ranges": "auto"},
        versions={
            "lepton-edge": lepton_edge.__version__,
            **artifact.versions,
            **floats.versions("accelerate"),
        },
    ).save()
    return {"artifact": artifact.describe(), "record": record}


def _onnx(
    made: QuantizedTraining,
    model: Model,
    data: Samples,
    ranges: Samples,
    folder: Path,
    batch: int | None,
    how: Mapping[str, Any],
) -> Artifact:
    """Trains the ONNX graph; its artefact, whose last step is the record."""
    import onnx

    exported = floats.export(
        model, folder, batch="dynamic", opset=None, exporter=None, simplify="onnxslim"
    )
    plain, file = folder / ".float.onnx", folder / f"{model.source.stem}_int8.onnx"
    floats.save(exported.proto, plain)
    calibration = _qdq.calibration_data(ranges, exported.signature)
    try:
        record = made(plain, exported.signature, data, calibration, out=file, **how)
    finally:
        for part in folder.glob(".float.onnx*"):
            part.unlink()
    proto = onnx.load(str(file))
    signature = floats.signature_for(model, "dynamic" if batch is None else batch)
    graphs.set_shapes(proto, signature)
    floats.run(proto, model.example(batch or 1))
    floats.save(proto, file)
    return Artifact(
        folder=folder,
        file=file.name,
        format="onnx",
        precision="int8",
        signature=signature,
        inputs=floats.bindings(signature.inputs),
        outputs=floats.bindings(signature.outputs),
        steps=(*exported.steps, _record(record)),
        versions=exported.versions,
    )


def _tflite(
    made: QuantizedTraining,
    model: Model,
    data: Samples,
    ranges: Samples,
    folder: Path,
    batch: int | None,
    how: Mapping[str, Any],
) -> Artifact:
    """Trains the graph of the float .tflite; its artefact, whose last step is the record."""
    if batch is None:
        raise errors.UsageError(
            "A .tflite of trained integers has a fixed batch.", next="Give a batch size."
        )
    file = folder / f"{model.source.stem}_int8.tflite"
    with tempfile.TemporaryDirectory() as place:
        target = Target("tflite", "fp32")
        plain = tflite.convert(model, target, Path(place), options=tflite.Options(batch=batch))
        before, bound = Path(place, plain.file), (plain.inputs, plain.outputs)
        calibration = _tflite_int8.calibration_data(before, model.signature, plain.inputs, ranges)
        record = made(before, model.signature, data, calibration, out=file, bindings=bound, **how)
        inputs, outputs = tflite.rebound(model.signature, *bound, before, file)
    return replace(
        plain,
        folder=folder,
        file=file.name,
        precision="int8",
        inputs=inputs,
        outputs=outputs,
        steps=(*plain.steps, _record(record)),
        versions={**plain.versions, **floats.versions("ai-edge-quantizer")},
    )


def _record(record: Mapping[str, Any]) -> dict[str, Any]:
    """The record as JSON keeps it."""
    kept: dict[str, Any] = json.loads(json.dumps(record, default=str))
    return kept
