"""Quantises one float artefact as a library does by default, in a process of its own.

    python benchmarks/quantisation_peers.py '{"how": "onnxruntime", "artifact": FOLDER,
                                              "calib": "calib.npz", "out": FOLDER, ...}'

`how` names a function below. The result is an artefact whose file was made by the library, so that
it is run by the same code as everything else. `own` is the project's quantiser without a
converter, for what converters do not offer: the TensorRT dialect in ONNX, 4-bit weights.
"""

from __future__ import annotations

import json
import sys
import tempfile
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from lepton_edge import calibration
from lepton_edge.artifact import Artifact
from lepton_edge.calibration.grid import Grid
from lepton_edge.converters import _qdq
from lepton_edge.model import Array
from lepton_edge.preprocess import Preprocess
from lepton_edge.samples import Samples, feeds, open_samples


def batches(artifact: Artifact, samples: Samples, rows: int = 1) -> Iterator[dict[str, Array]]:
    """Feeds under the names and in the layout of the artefact's file."""
    assert artifact.signature is not None
    for batch in feeds(samples, artifact.signature, rows):
        yield {each.tensor: each.to_file(batch[each.name]) for each in artifact.inputs}


def onnxruntime(artifact: Artifact, samples: Samples, out: Path, **settings: Any) -> str:
    """`quantize_static` after its own pre-processing, as its documentation advises."""
    import onnx
    from onnxruntime import quantization
    from onnxruntime.quantization import shape_inference

    class Reader(quantization.CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.batches = batches(artifact, samples)

        def get_next(self) -> dict[str, Array] | None:
            return next(self.batches, None)

    kinds = {key: quantization.QuantType[value] for key, value in settings.items() if "type" in key}
    file = "peer.onnx"
    with tempfile.TemporaryDirectory() as folder:
        prepared = Path(folder, "prepared.onnx")
        shape_inference.quant_pre_process(onnx.load(artifact.path), prepared, auto_merge=True)
        quantization.quantize_static(prepared, out / file, Reader(), **{**settings, **kinds})
    return file


def nncf(artifact: Artifact, samples: Samples, out: Path, **settings: Any) -> str:
    """`nncf.quantize` of the OpenVINO model, its subset size raised to all of the samples."""
    import nncf as library
    import openvino

    model = openvino.Core().read_model(artifact.path)
    data = library.Dataset(list(batches(artifact, samples)))
    done = library.quantize(model, data, subset_size=len(samples), **settings)
    openvino.save_model(done, out / "peer.xml", compress_to_fp16=False)
    return "peer.xml"


def ai_edge_quantizer(artifact: Artifact, samples: Samples, out: Path) -> str:
    """The recipe static_wi8_ai8 with its own calibration; inputs and outputs stay float."""
    from ai_edge_litert.interpreter import Interpreter
    from ai_edge_quantizer import algorithm_manager, qtyping, quantizer, recipe

    worker = quantizer.Quantizer(artifact.path.read_bytes())
    worker.load_quantization_recipe(recipe.static_wi8_ai8())
    for operation in (qtyping.TFLOperationName.INPUT, qtyping.TFLOperationName.OUTPUT):
        worker.update_quantization_recipe(
            ".*", operation, None, algorithm_key=algorithm_manager.AlgorithmName.NO_QUANTIZE
        )
    opened = Interpreter(model_path=str(artifact.path))
    key = next(iter(opened.get_signature_list()))
    names = {each["index"]: each["name"] for each in opened.get_input_details()}
    arguments = {
        names[details["index"]]: name
        for name, details in opened.get_signature_runner(key).get_input_details().items()
    }
    data = [
        {arguments[tensor]: value for tensor, value in batch.items()}
        for batch in batches(artifact, samples)
    ]
    worker.quantize(worker.calibrate({key: data})).export_model(str(out / "peer.tflite"))
    return "peer.tflite"


def own(
    artifact: Artifact, samples: Samples, out: Path, *, dialect: str, bits: int = 8, **tuning: Any
) -> str:
    """The project's quantiser in `dialect`, its weights of `bits`."""
    assert artifact.signature is not None
    target = calibration.load(dialect)
    if bits != target.weight.bits:
        target = replace(target, weight=Grid(bits=bits, symmetric=True, narrow=True))
    data = _qdq.calibration_data(samples, artifact.signature)
    options = calibration.Tuning(**tuning)
    calibration.quantize_onnx(artifact.path, out / "own.onnx", data, target, options)
    return "own.onnx"


def main() -> None:
    warnings.simplefilter("ignore")  # the libraries' own deprecations
    job = json.loads(sys.argv[1])
    artifact, out = Artifact.load(Path(job["artifact"])), Path(job["out"])
    prepared = Preprocess.from_dict(job["preprocess"]) if job.get("preprocess") else None
    samples = open_samples(job["calib"], preprocess=prepared)
    out.mkdir(parents=True)
    make = {each.__name__: each for each in (onnxruntime, nncf, ai_edge_quantizer, own)}
    file = make[job["how"]](artifact, samples, out, **job.get("settings", {}))
    steps = ({"step": "int8", "tool": job["how"], **job.get("settings", {})},)
    outputs = artifact.outputs
    if file.endswith(".tflite"):
        outputs = tuple(replace(each, tensor=_renamed(each.tensor, out / file)) for each in outputs)
    replace(
        artifact, folder=out, file=file, precision="int8", steps=steps, parity=None, outputs=outputs
    ).save()


def _renamed(tensor: str, file: Path) -> str:
    """What ai_edge_quantizer calls a float output behind an int8 one: NAME_dequant."""
    from ai_edge_litert.interpreter import Interpreter

    names = [each["name"] for each in Interpreter(model_path=str(file)).get_output_details()]
    return next(name for name in (tensor, f"{tensor}_dequant") if name in names)


if __name__ == "__main__":
    main()
