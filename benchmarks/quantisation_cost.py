"""Seconds and peak memory of calibrating a MobileNetV2 at 224 x 224, each tool in its process.

The images are Fashion-MNIST's, enlarged eight times and streamed, the same for every tool. `ours`
is the statistics that serve every dialect; the others are whole quantisations by their library,
which cannot be asked for less. Peak memory is the process's (ru_maxrss), libraries and model
included.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

import lepton_edge
from lepton_edge.calibration import Data, Tuning
from lepton_edge.demo import data as fashion
from lepton_edge.model import Array, ModelSource

HERE = Path(__file__).parent
MODEL = ModelSource(f"{HERE / 'quantisation_nets.py'}:mobilenet_v2_full")
RUNS = (
    ("ours", 64), ("ours", 300), ("ours", 1000),
    ("ours_whole", 300),
    ("nncf_default", 64), ("nncf_default", 300), ("nncf_histogram", 300),
    ("ort_minmax", 64), ("ort_minmax", 300),
    ("ort_entropy", 16), ("ort_entropy", 32), ("ort_entropy", 64),
)  # fmt: skip
QUICK = (("ours", 16), ("ort_minmax", 16))
TITLES = {
    "ours": "lepton-edge, statistics for every dialect",
    "ours_whole": "lepton-edge, the whole quantisation for onnxruntime",
    "nncf_default": "NNCF on ONNX, defaults",
    "nncf_histogram": "NNCF on ONNX, histograms",
    "ort_minmax": "onnxruntime, min-max",
    "ort_entropy": "onnxruntime, entropy",
}


def rows(given: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """One row a run; the float model is exported once."""
    folder = given.folder / "artefacts" / "cost"
    if not folder.is_dir():
        lepton_edge.convert(MODEL, to="onnx", output=folder, verify=False)
    model = lepton_edge.open_artifact(folder).path
    for tool, n in QUICK if given.quick else RUNS:
        done = subprocess.run(
            [sys.executable, __file__, tool, str(n), str(model), str(given.threads)],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        row = {"contender": TITLES[tool], "samples": n}
        if done.returncode:
            yield {**row, "failed": (done.stderr.strip().splitlines() or ["no word"])[-1][:200]}
        else:
            yield {**row, **json.loads(done.stdout.splitlines()[-1])}


def images(n: int) -> Iterator[Array]:
    """float32 [1, 3, 224, 224] each."""
    small, _ = fashion.read(fashion.fetch(), "train")
    for image in small[:n]:
        large = np.repeat(np.repeat(image, 8, axis=0), 8, axis=1).astype(np.float32) / 127.5 - 1
        yield np.broadcast_to(large, (1, 3, 224, 224)).copy()


def ours(model: Path, n: int, threads: int) -> None:
    from lepton_edge.calibration import load
    from lepton_edge.calibration.onnx_quantizer import Work

    options = Tuning(calibration_threads=threads)
    Work(model, _data(n), load("ort_x86_vnni"), options, cache=None)


def ours_whole(model: Path, n: int, threads: int) -> None:
    from lepton_edge.calibration import load, quantize_onnx

    with tempfile.TemporaryDirectory() as folder:
        options = Tuning(calibration_threads=threads)
        quantize_onnx(model, Path(folder, "out.onnx"), _data(n), load("ort_x86_vnni"), options)


def _data(n: int) -> Data:
    return Data(lambda: ({"image": image} for image in images(n)), f"enlarged {n}")


def _nncf(model: Path, n: int, **settings: Any) -> None:
    import nncf
    import onnx

    data = nncf.Dataset(list(range(n)), _Lazy(n))
    nncf.quantize(onnx.load(model), data, subset_size=n, **settings)


class _Lazy:
    """NNCF asks for items in order; each pass over them starts the stream anew."""

    def __init__(self, n: int) -> None:
        self.n = n

    def __call__(self, index: int) -> dict[str, Array]:
        if index == 0:
            self.stream = images(self.n)
        return {"image": next(self.stream)}


def nncf_default(model: Path, n: int, threads: int) -> None:
    _nncf(model, n)


def nncf_histogram(model: Path, n: int, threads: int) -> None:
    from nncf.quantization.advanced_parameters import AdvancedQuantizationParameters
    from nncf.quantization.range_estimator import RangeEstimatorParametersSet

    ranges = AdvancedQuantizationParameters(
        activations_range_estimator_params=RangeEstimatorParametersSet.HISTOGRAM
    )
    _nncf(model, n, advanced_parameters=ranges)


def _ort(model: Path, n: int, method: str) -> None:
    import onnx
    from onnxruntime import quantization
    from onnxruntime.quantization import shape_inference

    class Reader(quantization.CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.stream = images(n)

        def get_next(self) -> dict[str, Array] | None:
            value = next(self.stream, None)
            return None if value is None else {"image": value}

    with tempfile.TemporaryDirectory() as folder:
        prepared = Path(folder, "prepared.onnx")
        shape_inference.quant_pre_process(onnx.load(model), prepared, auto_merge=True)
        quantization.quantize_static(
            prepared, Path(folder, "out.onnx"), Reader(),
            calibrate_method=quantization.CalibrationMethod[method],
        )  # fmt: skip


def ort_minmax(model: Path, n: int, threads: int) -> None:
    _ort(model, n, "MinMax")


def ort_entropy(model: Path, n: int, threads: int) -> None:
    _ort(model, n, "Entropy")


def main() -> None:
    """The child: prints seconds (of the work, not of the imports) and peak memory."""
    tool, n, model, threads = sys.argv[1:]
    warnings.simplefilter("ignore")  # the libraries' own deprecations
    make: dict[str, Callable[[Path, int, int], None]] = {
        each.__name__: each
        for each in (ours, ours_whole, nncf_default, nncf_histogram, ort_minmax, ort_entropy)
    }
    begin = time.perf_counter()
    make[tool](Path(model), int(n), int(threads))
    seconds = time.perf_counter() - begin
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"seconds": seconds, "peak_bytes": peak}))


if __name__ == "__main__":
    main()
