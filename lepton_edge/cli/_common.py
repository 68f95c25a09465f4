"""What the verbs share: their options, how a result is printed, how a model is named."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from lepton_edge import errors
from lepton_edge.model import ModelSource, TensorSpec
from lepton_edge.preprocess import Preprocess

Model = Annotated[
    str,
    typer.Argument(
        help="A model (.onnx .tflite .keras .h5 .pt2 .pt, a SavedModel folder, or file.py:factory),"
        " or an artefact's folder.",
        metavar="MODEL",
        show_default=False,
    ),
]
Weights = Annotated[
    str | None,
    typer.Option(
        help="Weights for file.py:factory: .safetensors, or .pth (weights only);"
        " Keras: .weights.h5."
    ),
]
Inputs = Annotated[
    list[str] | None,
    typer.Option(
        "--input", help="An input's signature, name=1x3x224x224:float32; ? is any size. Repeatable."
    ),
]
Data = Annotated[
    str | None,
    typer.Option(help="Evaluation data: .npz, .parquet, a folder of class folders, file.py:func."),
]
Calib = Annotated[
    str | None, typer.Option(help="Calibration data, in the same forms; never the same samples.")
]
PreprocessText = Annotated[
    str | None,
    typer.Option(
        "--preprocess",
        help="Raw sample to model input: 'resize=256 crop=224 scale=1/255 mean=.485,.456,.406"
        " std=.229,.224,.225 layout=NCHW dtype=float32'.",
    ),
]
Device = Annotated[str, typer.Option(help="Where the runtime computes.")]
On = Annotated[
    str | None,
    typer.Option(
        metavar="ADDRESS",
        help="Use another machine: ssh://user@host[:port][?python=PATH&folder=PATH], which needs"
        " Python 3.8, numpy and one runtime; or time on adb://SERIAL[?benchmark_model=PATH].",
    ),
]
DevicesFolder = Annotated[str | None, typer.Option(help="A folder with TOML profiles of your own.")]
Wait = Annotated[bool, typer.Option("--wait", help="Wait for a device that is in use.")]
Threads = Annotated[int | None, typer.Option(min=1, help="Runtime threads.")]
TimeLimit = Annotated[float, typer.Option(min=1, help="Seconds that one job may take.")]
MemoryLimit = Annotated[int | None, typer.Option(min=64, help="Megabytes that one job may use.")]
OptionTexts = Annotated[
    list[str] | None,
    typer.Option("--option", help="key=value for the converter or runtime. Repeatable."),
]
Metric = Annotated[
    str, typer.Option(help="top1, top5, mae, mse, miou, or file.py:function (one score a sample).")
]
OutputName = Annotated[
    str | None,
    typer.Option("--output-name", help="The output that is scored, where there are several."),
]
Seed = Annotated[int, typer.Option(help="Seed of everything random.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document and nothing else.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show tracebacks and the workers' logs.")]


def source(model: str, weights: str | None, inputs: Iterable[str] | None) -> ModelSource:
    """The model as named on the command line."""
    return ModelSource(model, weights, tuple(map(TensorSpec.parse, inputs or ())))


def subject(model: str, weights: str | None, inputs: Iterable[str] | None) -> ModelSource | Path:
    """An artefact's folder or exported file as a path, anything else as a model."""
    from lepton_edge.artifact import NAME, SUFFIXES

    path = Path(model)
    if (path / NAME).exists() or path.suffix in SUFFIXES.values():
        if weights or inputs:
            raise errors.UsageError(
                f"{model!r} is an exported file: it takes no --weights and no --input."
            )
        return path
    return source(model, weights, inputs)


def preprocess(text: str | None) -> Preprocess | None:
    return Preprocess.parse(text) if text is not None else None


def pairs(texts: Iterable[str] | None) -> dict[str, str]:
    """`key=value` options as a dict."""
    given: dict[str, str] = {}
    for text in texts or ():
        key, equals, value = text.partition("=")
        if not equals:
            raise errors.UsageError(f"Cannot read --option {text!r}.", next="Write key=value.")
        given[key] = value
    return given


def split(text: str) -> list[str]:
    """A comma-separated list without empty items."""
    return [item.strip() for item in text.split(",") if item.strip()]


def address(on: str | None, wait: bool) -> str | None:
    """The device as named on the command line, checked before anything else is done."""
    from lepton_edge.devices.transports import Address

    if on is None:
        if wait:
            raise errors.UsageError("--wait is for a device.", next="Name it with --on.")
        return None
    found = Address.parse(on)
    return replace(found, wait=wait or found.wait).text()


def emit(document: dict[str, Any], as_json: bool, text: Callable[[], str]) -> int:
    """Prints the document or its text form; the exit code is the document's own."""
    if as_json:
        json.dump(document, sys.stdout, indent=1, allow_nan=False)
        print()
    else:
        print(text())
    return int(document.get("exit_code", 0))


def note(message: str) -> None:
    """A line of progress, on stderr."""
    print(message, file=sys.stderr, flush=True)


def aligned(rows: Iterable[tuple[str, Any]]) -> str:
    """`key  value` lines with the values in one column."""
    rows = [(key, str(value)) for key, value in rows]
    width = max((len(key) for key, _ in rows), default=0)
    return "\n".join(f"{key:<{width}}  {value}" for key, value in rows)


def samples(data: str | None, preprocess: Preprocess | None) -> Any:
    """The data set named on the command line, or None."""
    from lepton_edge.samples import open_samples

    return None if data is None else open_samples(data, preprocess=preprocess)


def describe(subject: ModelSource | Path) -> dict[str, Any]:
    """The `artifact` object of the JSON documents, for an artefact or a model."""
    from lepton_edge import loading

    return loading.as_artifact(subject).describe()
