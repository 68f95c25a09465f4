"""`lepton-edge demo`: the whole way on real data, from a trained model to a report."""

from __future__ import annotations

import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lepton_edge import errors
from lepton_edge.cli import _common as common
from lepton_edge.cli.benchmark import Window

if TYPE_CHECKING:
    from lepton_edge.study import Case

_TORCH = [
    (format, precision)
    for format in ("onnx", "openvino", "tflite")
    for precision in ("fp32", "fp16", "int8")
]
_KERAS = [("onnx", "fp32"), ("openvino", "fp32"), ("tflite", "fp32"), ("tflite", "int8")]


def command(
    output: Annotated[Path, typer.Option("--output", "-o", help="Where all of it goes.")] = Path(
        "demo-report"
    ),
    data_folder: Annotated[
        Path | None,
        typer.Option(help="A folder with Fashion-MNIST's four .gz files, instead of fetching it."),
    ] = None,
    max_drop: Annotated[str, typer.Option(help="The accuracy that may be lost.")] = "1pt",
    window: Window = "quick",
    threads: common.Threads = 1,
    json: common.Json = False,
    debug: common.Debug = False,
) -> int:
    """Convert a trained CNN to thirteen artefacts, verify, evaluate and benchmark each, and report.

    The CNN ships with the package; the 10,000 test images are Fashion-MNIST's, fetched once from
    Debian's package or the official address, checked, and kept in the cache folder.
    """
    from lepton_edge import demo, loading, report, study
    from lepton_edge.demo import data as images
    from lepton_edge.report import text

    started = time.perf_counter()
    folder = output / "artefacts"
    calib, test = images.write_npz(images.fetch(data_folder), output / "data")
    cases = _cases(output)
    common.note(f"converting to {len(cases)} targets, each verified on real images ...")
    converted = study.convert_all(
        cases, folder, calib=str(calib), data=str(test), classes=images.CLASSES, say=common.note
    )
    source = replace(loading.as_artifact(demo.SOURCE), preprocess=demo.NCHW)
    subjects = [study.of_artifact(source, "torch fp32", is_baseline=True), *converted]
    common.note("evaluating each on 10,000 test images ...")
    subjects = study.score_all(subjects, data=str(test), metric="top1", say=common.note)
    common.note(f"benchmarking each in a process of its own ({window}) ...")
    subjects = study.time_all(
        subjects, data=str(test), window=window, threads=threads or 1, say=common.note
    )
    result = study.report(
        subjects,
        title="Fashion-MNIST CNN: every format and precision",
        command=f"lepton-edge demo --max-drop {max_drop} --window {window} --threads {threads}",
        data=str(test),
        max_drop=max_drop,
        notes=(f"{threads} thread(s), batch 1; int8 calibrated on 512 training images",),
    )
    written = report.write(result, output)
    elapsed = time.perf_counter() - started
    common.note(f"{elapsed:.0f} s; open {written['html']}")
    failed = [row for row in result.rows if row.status.startswith(("FAIL", "ERROR", "UNDECIDED"))]
    code = errors.GateFailed.exit_code if failed else 0
    document = {
        "status": failed[0].status if failed else "PASS",
        "exit_code": code,
        "elapsed_s": round(elapsed, 1),
        "reports": {form: str(path) for form, path in written.items()},
        "rows": [row.as_dict() for row in result.rows] if json else [],
    }
    if json:
        return common.emit(document, True, str)
    text.show(result, sys.stdout)
    return code


def _cases(output: Path) -> list[Case]:
    """PyTorch to nine targets, and a Keras twin with the same weights to four."""
    from lepton_edge import demo
    from lepton_edge.demo import keras_twin
    from lepton_edge.model import ModelSource
    from lepton_edge.study import Case

    twin = output / "fashion_cnn.keras"
    common.note("building the Keras twin ...")
    done = subprocess.run(
        [sys.executable, keras_twin.__file__, str(twin)], capture_output=True, text=True
    )
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise errors.BackendMissing(
            f"The Keras twin could not be built: {last}.",
            next="pip install 'lepton-edge[all]'.",
        )
    keras = ModelSource(str(twin))
    cases = [
        Case(f"{format} {precision}", demo.SOURCE, "torch", format, precision, demo.NCHW)
        for format, precision in _TORCH
    ]
    cases += [
        Case(f"keras {format} {precision}", keras, "keras", format, precision, demo.NHWC)
        for format, precision in _KERAS
    ]
    return cases
