"""The job `quantize`: training in the integers of a dialect, to an ONNX artefact."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lepton_edge
from lepton_edge import sources
from lepton_edge.artifact import Artifact
from lepton_edge.converters import _float_onnx as floats
from lepton_edge.converters import _onnx_graph as graphs
from lepton_edge.converters import _qdq
from lepton_edge.jobs import compress
from lepton_edge.model import ModelSource
from lepton_edge.preprocess import Preprocess
from lepton_edge.samples import fingerprint, limit, open_samples

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
    exported = floats.export(
        model, folder, batch="dynamic", opset=None, exporter=None, simplify="onnxslim"
    )
    plain, file = folder / ".float.onnx", folder / f"{given.stem}_int8.onnx"
    floats.save(exported.proto, plain)
    try:
        record = made(
            plain,
            exported.signature,
            data,
            _qdq.calibration_data(ranges, exported.signature),
            out=file,
            work=Path(work),
            key=given.sha256(),
            resume=resume,
        )
    finally:
        for part in folder.glob(".float.onnx*"):
            part.unlink()
    import onnx

    proto = onnx.load(str(file))
    signature = floats.signature_for(model, "dynamic" if batch is None else batch)
    graphs.set_shapes(proto, signature)
    floats.run(proto, model.example(batch or 1))
    floats.save(proto, file)
    spec = Preprocess.from_dict(preprocess) if preprocess is not None else None
    artifact = Artifact(
        folder=folder,
        file=file.name,
        format="onnx",
        precision="int8",
        signature=signature,
        inputs=floats.bindings(signature.inputs),
        outputs=floats.bindings(signature.outputs),
        preprocess=spec,
        steps=(*exported.steps, {"step": "int8", "tool": "lepton-edge", **_record(record)}),
        source={**given.as_dict(), "framework": model.framework, "sha256": given.sha256()},
        calibration={"n": len(ranges), "fingerprint": fingerprint(ranges), "ranges": "auto"},
        versions={
            "lepton-edge": lepton_edge.__version__,
            **exported.versions,
            **floats.versions("accelerate"),
        },
    ).save()
    return {"artifact": artifact.describe(), "record": _record(record)}


def _record(record: Mapping[str, Any]) -> dict[str, Any]:
    """The record as JSON keeps it."""
    kept: dict[str, Any] = json.loads(json.dumps(record, default=str))
    return kept
