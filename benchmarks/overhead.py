"""What the wrapper costs: each runtime called raw and through lepton-edge, side by side.

    python benchmarks/overhead.py [--runtime onnx ...] [--threads 1] [--seconds 10] [--json]

For each runtime a process of its own opens a tiny and a MobileNet-sized model twice, raw and
wrapped, with the same settings, and calls them at batch 1 in alternating rounds. The raw call is
what an expert would write. `difference` is the median over rounds of the difference between the
rounds' medians, with its 95 % interval; the bound is 5 us plus 1 % of the raw call. `ok` is yes
where the whole interval is within the bound, NO where it is beyond, else undecided: the machine is
too busy, give more --seconds. Exit code 1 unless every row says yes.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from lepton_edge import context, loading
from lepton_edge.intervals import bootstrap_median
from lepton_edge.model import ModelSource, Signature, TensorSpec

RUNTIMES = ("null", "onnx", "openvino", "tflite", "torch", "tensorflow")
MODELS = ("tiny", "mobilenet")
BOUND_US, BOUND_SHARE = 5.0, 0.01
ROUND_NS = 5_000_000  # of calls of one kind, about
SHAPES = {"tiny": (1, 8), "mobilenet": (1, 3, 224, 224)}
# Channels and stride of each depthwise-separable block: MobileNet 1.0 at 224, arXiv:1704.04861.
BLOCKS = [(64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2)]
BLOCKS += [(512, 1)] * 5 + [(1024, 2), (1024, 1)]


def tiny() -> Any:
    """A factory of lepton-edge: one linear layer, in PyTorch."""
    import torch
    from torch import nn

    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 4)).eval()
    model.example_inputs = {"image": torch.zeros(SHAPES["tiny"])}  # type: ignore[assignment]
    return model


def mobilenet() -> Any:
    """A factory of lepton-edge: MobileNet 1.0, 4.2 M parameters, random weights, in PyTorch."""
    import torch
    from torch import nn

    def conv(c_in: int, c_out: int, size: int, stride: int, groups: int = 1) -> list[nn.Module]:
        layer = nn.Conv2d(c_in, c_out, size, stride, size // 2, groups=groups, bias=False)
        return [layer, nn.BatchNorm2d(c_out), nn.ReLU6()]

    torch.manual_seed(0)
    layers, channels = conv(3, 32, 3, 2), 32
    for c_out, stride in BLOCKS:
        layers += conv(channels, channels, 3, stride, channels) + conv(channels, c_out, 1, 1)
        channels = c_out
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 1000)]
    model = nn.Sequential(*layers).eval()
    model.example_inputs = {"image": torch.zeros(SHAPES["mobilenet"])}  # type: ignore[assignment]
    return model


def build(kind: str, folder: Path) -> None:
    """Writes the files of `kind` into `folder`: NAME.onnx and .xml, or NAME.keras and .tflite."""
    for name in MODELS:
        if kind == "keras":
            _build_keras(name, folder)
        else:
            _build_onnx(name, folder)


def _build_onnx(name: str, folder: Path) -> None:
    import openvino as ov
    import torch

    path, model = folder / f"{name}.onnx", globals()[name]()
    with warnings.catch_warnings():
        # torch.onnx announces that its TorchScript exporter will go.
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.onnx.export(
            model,
            tuple(model.example_inputs.values()),
            path,
            input_names=["image"],
            output_names=["output"],
            opset_version=17,
            dynamo=False,
        )
    ov.save_model(ov.convert_model(path), path.with_suffix(".xml"), compress_to_fp16=False)


def _build_keras(name: str, folder: Path) -> None:
    import tensorflow as tf

    tf.keras.utils.set_random_seed(0)
    if name == "tiny":
        image = tf.keras.Input((8,))
        model = tf.keras.Model(image, tf.keras.layers.Dense(4)(image))
    else:
        model = tf.keras.applications.MobileNet(weights=None)
    model.save(folder / f"{name}.keras")
    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    (folder / f"{name}.tflite").write_bytes(converter.convert())


def raw_null(folder: Path, name: str, threads: int) -> Callable[[Any], Any]:
    return lambda _: np.zeros((1, 4), np.float32)


def raw_onnx(folder: Path, name: str, threads: int) -> Callable[[Any], Any]:
    import onnxruntime as ort

    settings = ort.SessionOptions()
    settings.intra_op_num_threads = threads
    settings.inter_op_num_threads = 1
    path = str(folder / f"{name}.onnx")
    session = ort.InferenceSession(path, settings, providers=["CPUExecutionProvider"])
    return lambda image: session.run(None, {"image": image})[0]


def raw_openvino(folder: Path, name: str, threads: int) -> Callable[[Any], Any]:
    import openvino as ov

    hints = {
        "INFERENCE_PRECISION_HINT": "f32",
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": "1",
        "INFERENCE_NUM_THREADS": threads,
    }
    compiled = ov.Core().compile_model(folder / f"{name}.xml", "CPU", hints)
    return lambda image: compiled(image)[0]


def raw_tflite(folder: Path, name: str, threads: int) -> Callable[[Any], Any]:
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(folder / f"{name}.tflite"), num_threads=threads)
    interpreter.allocate_tensors()
    index_in = interpreter.get_input_details()[0]["index"]
    index_out = interpreter.get_output_details()[0]["index"]

    def call(image: Any) -> Any:
        interpreter.set_tensor(index_in, image)
        interpreter.invoke()
        return interpreter.get_tensor(index_out)

    return call


def raw_torch(folder: Path, name: str, threads: int) -> Callable[[Any], Any]:
    import torch

    torch.set_num_threads(threads)
    model = globals()[name]()

    def call(image: Any) -> Any:
        with torch.inference_mode():
            return model(torch.from_numpy(image)).numpy()

    return call


def raw_tensorflow(folder: Path, name: str, threads: int) -> Callable[[Any], Any]:
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(threads)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    model = tf.keras.models.load_model(folder / f"{name}.keras")
    function = tf.function(lambda image: model(image, training=False))
    return lambda image: function(tf.constant(image)).numpy()


def subject(runtime: str, folder: Path, name: str) -> Any:
    """What `lepton_edge.load` opens for that runtime."""
    if runtime == "null":
        from lepton_edge.runtimes import null

        place = folder / f"null_{name}"
        place.mkdir(exist_ok=True)
        image = TensorSpec("image", SHAPES[name], "float32")
        return null.write(place, Signature((image,), (TensorSpec("y", (1, 4), "float32"),)))
    if runtime == "torch":
        return ModelSource(f"{Path(__file__).resolve()}:{name}")
    suffix = {"onnx": ".onnx", "openvino": ".xml", "tflite": ".tflite", "tensorflow": ".keras"}
    return str(folder / f"{name}{suffix[runtime]}")


def measure(runtime: str, folder: Path, threads: int, seconds: float) -> list[dict[str, Any]]:
    """Rows for one runtime, in this process."""
    rows = []
    for name in MODELS:
        shape = SHAPES[name]
        if runtime in ("tflite", "tensorflow") and len(shape) == 4:
            shape = (shape[0], shape[2], shape[3], shape[1])
        image = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
        raw = globals()[f"raw_{runtime}"](folder, name, threads)
        with loading.load(subject(runtime, folder, name), threads=threads) as session:
            key = session.signature.inputs[0].name
            given = {key: image}

            def wrapped(_: Any, run: Any = session.run, given: Any = given) -> Any:
                return run(given)

            found = next(iter(wrapped(image).values()))
            if not np.allclose(found, raw(image), rtol=1e-4, atol=1e-4):
                raise SystemExit(f"{runtime} {name}: raw and wrapped outputs differ")
            rows.append({"runtime": runtime, "model": name, **_times(raw, wrapped, image, seconds)})
            rows[-1]["facts"] = session.facts
    return rows


def _times(raw: Any, wrapped: Any, image: Any, seconds: float) -> dict[str, Any]:
    calls, rounds = _plan(raw, image, seconds)
    medians: dict[str, list[float]] = {"raw": [], "wrapped": []}
    kinds = [("raw", raw), ("wrapped", wrapped)]
    gc.collect()
    gc.disable()  # as timeit does
    for index in range(-2, rounds):  # two rounds to warm up
        # The order alternates, so that a drift of the clock falls on both.
        for kind, call in kinds if index % 2 else kinds[::-1]:
            median = _median_us(call, image, calls)
            if index >= 0:
                medians[kind].append(median)
    gc.enable()
    differences = np.subtract(medians["wrapped"], medians["raw"])
    raw_us = statistics.median(medians["raw"])
    bound = BOUND_US + BOUND_SHARE * raw_us
    low, high = bootstrap_median(differences)
    return {
        "raw_p50_us": raw_us,
        "wrapped_p50_us": statistics.median(medians["wrapped"]),
        "difference_us": float(np.median(differences)),
        "difference_interval_us": (low, high),
        "bound_us": bound,
        "ok": "yes" if high <= bound else "NO" if low > bound else "undecided",
        "n": rounds * calls,
    }


def _plan(call: Any, image: Any, seconds: float) -> tuple[int, int]:
    """Calls of each kind in a round, and rounds: slow calls take turns one by one."""
    begin = time.perf_counter_ns()
    for _ in range(5):
        call(image)
    call_ns = (time.perf_counter_ns() - begin) / 5
    calls = round(max(1, min(1000, ROUND_NS / call_ns)))
    return calls, max(30, round(seconds * 1e9 / (2 * calls * call_ns)))


def _median_us(call: Any, image: Any, calls: int) -> float:
    clock, samples = time.perf_counter_ns, []
    for _ in range(calls):
        begin = clock()
        call(image)
        samples.append(clock() - begin)
    return statistics.median(samples) / 1000


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runtime", action="append", choices=RUNTIMES)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=10.0, help="a row")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--child", nargs=2, metavar=("DO", "FOLDER"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        do, folder = given.child
        if do in ("onnx-files", "keras-files"):
            build(do.removesuffix("-files"), Path(folder))
        else:
            rows = measure(do, Path(folder), given.threads, given.seconds)
            (Path(folder) / f"{do}.json").write_text(json.dumps(rows))
        return 0
    runtimes = given.runtime or RUNTIMES
    facts = context.capture()
    rows = []
    with tempfile.TemporaryDirectory(prefix="lepton-edge-") as folder:
        builds = []
        if {"onnx", "openvino"} & set(runtimes):
            builds.append("onnx-files")
        if {"tflite", "tensorflow"} & set(runtimes):
            builds.append("keras-files")
        for do in (*builds, *runtimes):
            print(f"{do} ...", file=sys.stderr, flush=True)
            _child(do, folder, given)
            if do in RUNTIMES:
                rows += json.loads((Path(folder) / f"{do}.json").read_text())
    if given.json:
        print(json.dumps({"rows": rows, "context": facts, "threads": given.threads}, indent=1))
    else:
        _show(rows, facts, given)
    return 0 if all(row["ok"] == "yes" for row in rows) else 1


def _child(do: str, folder: str, given: argparse.Namespace) -> None:
    command = [sys.executable, __file__, "--child", do, folder]
    command += ["--threads", str(given.threads), "--seconds", str(given.seconds)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{do} failed:\n{done.stderr[-3000:]}")


def _show(rows: list[dict[str, Any]], facts: dict[str, Any], given: argparse.Namespace) -> None:
    print(
        f"{facts['cpu']['model']}, {facts['cpu']['cores']} cores, load"
        f" {facts['load']['average_1_min']:.2f}; {given.threads} thread(s), batch 1,"
        f" {given.seconds:g} s a row, Python {facts['versions']['python']}"
    )
    print(
        "| runtime | model | raw p50 us | wrapped p50 us | difference us (95 %) | bound us | ok |"
    )
    print("|---|---|---:|---:|---:|---:|---|")
    for row in rows:
        low, high = row["difference_interval_us"]
        print(
            f"| {row['runtime']} {row['facts']['version']} | {row['model']} |"
            f" {row['raw_p50_us']:.2f} | {row['wrapped_p50_us']:.2f} |"
            f" {row['difference_us']:.2f} ({low:.2f} to {high:.2f}) | {row['bound_us']:.2f} |"
            f" {row['ok']} |"
        )


if __name__ == "__main__":
    raise SystemExit(main())
