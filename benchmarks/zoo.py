"""Converts the zoo (tests/zoo.py) to every format and compares each result with its source.

    python benchmarks/zoo.py -o docs/zoo.md

A cell is a family, a format and a batch (1 or dynamic), in float32, converted and verified by
`lepton_edge.convert` in worker processes on 64 inputs; a dynamic batch is run with batches and
with a single input. A cell agrees (max abs error <= 1e-4 of the output's range), or its conversion
is refused with exit code 7, naming the operator and the next step; anything else is a failure.
Exit code 3 where a cell failed or fewer than 95 % of the cells with batch 1 agree.
"""

from __future__ import annotations

import argparse
import json
import re
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import lepton_edge
from lepton_edge import errors
from lepton_edge.measurement import Parity

ROOT = Path(__file__).resolve().parents[1]
ZOO = ROOT / "tests" / "zoo.py"
FORMATS = ("onnx", "openvino", "tflite")
BATCHES = ("1", "dynamic")
DEFAULT, OTHER = "torchscript", "dynamo"  # exporters of torch.onnx
ENOUGH = 0.95


@dataclass(frozen=True)
class Cell:
    """`outcome` is agrees, refused (exit code 7) or failed; `worst` is max abs over the range."""

    family: str
    framework: str
    format: str
    batch: str
    exporter: str | None
    outcome: str
    worst: float | None
    seconds: float
    message: str | None = None

    @property
    def short(self) -> str:
        if self.outcome == "agrees":
            return f"{self.worst:.1e}"
        operator = re.search(r"operators? ([\w.:]+)", self.message or "")
        return f"{self.outcome}{': ' + operator[1] if operator else ''}"


def measure(
    family: str, source: str, format: str, batch: str, exporter: str | None, extra: dict[str, str]
) -> Cell:
    """One cell; an error of ours is an outcome, not the end of the run."""
    framework = "Keras" if source.endswith(".keras") else "PyTorch"
    options = {"batch": batch, **extra, **({"exporter": exporter} if exporter else {})}
    begin = time.perf_counter()
    worst, message = None, None
    try:
        with tempfile.TemporaryDirectory() as folder:
            model = lepton_edge.ModelSource(source)
            artifact = lepton_edge.convert(
                model, to=format, output=Path(folder, "artifact"), options=options
            )
            parities = [Parity.from_dict(artifact.parity or {})]
            if batch == "dynamic":
                parities.append(lepton_edge.verify(model, artifact, n=1))
        worst = max(output.relative for parity in parities for output in parity.outputs)
        reasons = [reason for parity in parities for reason in parity.reasons]
        outcome = "failed" if reasons else "agrees"
        message = "; ".join(reasons) or None
    except errors.CannotConvert as error:
        outcome, message = "refused", str(error)
    except errors.EdgeError as error:
        outcome, message = "failed", f"exit code {error.exit_code}: {error}"
    seconds = time.perf_counter() - begin
    return Cell(family, framework, format, batch, exporter, outcome, worst, seconds, message)


def cells(arguments: argparse.Namespace, folder: Path) -> Iterator[Cell]:
    """Every cell that was asked for, in the order of the table."""
    names = _names()
    sources = [(family, f"{ZOO}:{name}") for family, name in names["torch"].items()]
    if arguments.keras:
        sources += [
            (family, _keras(name, folder / f"{name}.keras"))
            for family, name in names["keras"].items()
        ]
    known = {family for family, _ in sources}
    for family in arguments.families or ():
        if family not in known:
            raise errors.unknown("family", family, known)
    for family, source in sources:
        if arguments.families and family not in arguments.families:
            continue
        for format in arguments.formats:
            python = arguments.onnx2tf_python if format == "tflite" else None
            extra = {"onnx2tf_python": python} if python else {}
            exporters: tuple[str | None, ...] = (None,)
            if arguments.exporters and format == "onnx" and not source.endswith(".keras"):
                exporters = (None, OTHER)
            for batch in BATCHES:
                for exporter in exporters:
                    yield measure(family, source, format, batch, exporter, extra)


def _names() -> dict[str, dict[str, str]]:
    """The zoo's families, read in a process of its own: this one stays without torch."""
    code = "import json, zoo; print(json.dumps({'torch': zoo.FAMILIES, 'keras': zoo.KERAS}))"
    found: dict[str, dict[str, str]] = json.loads(_python(code))
    return found


def _keras(name: str, path: Path) -> str:
    _python(f"import zoo, pathlib; zoo.save_keras({name!r}, pathlib.Path({str(path)!r}))")
    return str(path)


def _python(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ZOO.parent, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise errors.WorkerFailed(f"The zoo did not load: {done.stderr.splitlines()[-1]}")
    return done.stdout


def table(found: list[Cell], command: str) -> str:
    """The Markdown page: the table, the counts, and every message that is not an agreement."""
    usual = [cell for cell in found if cell.exporter is None]
    columns = list(dict.fromkeys((cell.format, cell.batch) for cell in usual))
    lines = [
        "# Which model families convert, and how exactly",
        "",
        f"Written by `{command}`. Every cell is converted in float32 and run beside its source on"
        " 64 seeded inputs. A number is the largest absolute error over the range of the source's"
        " output, where at most 1e-4 is allowed; `refused` is exit code 7, and the messages are"
        " below the table.",
        "",
        f"| family | {' | '.join(f'{format}, batch {batch}' for format, batch in columns)} |",
        "|---" * (len(columns) + 1) + "|",
    ]
    by_place = {(c.family, c.framework, c.format, c.batch): c for c in usual}
    for family, framework in dict.fromkeys((cell.family, cell.framework) for cell in usual):
        row = [by_place.get((family, framework, *column)) for column in columns]
        name = family if framework == "PyTorch" else f"{family} ({framework})"
        lines.append(f"| {name} | {' | '.join(cell.short if cell else '-' for cell in row)} |")
    lines += ["", *summary(usual), ""]
    if any(cell.exporter for cell in found):
        lines += [*_exporters(found), ""]
    messages = [cell for cell in found if cell.message]
    if messages:
        lines += ["## What was said", ""]
        for cell in messages:
            place = f"{cell.family}, {cell.framework}, {cell.format}, batch {cell.batch}"
            place += f", {cell.exporter}" if cell.exporter else ""
            lines.append(f"- {place}: {cell.outcome}. {_public(cell.message or '')}")
        lines.append("")
    return "\n".join(lines)


def summary(found: list[Cell]) -> list[str]:
    """One line a batch: how many cells agree, were refused, failed."""
    lines = []
    for batch in BATCHES:
        here = [cell for cell in found if cell.batch == batch]
        if not here:
            continue
        count = {
            outcome: sum(cell.outcome == outcome for cell in here)
            for outcome in ("agrees", "refused", "failed")
        }
        share = 100 * count["agrees"] / len(here)
        lines.append(
            f"Batch {batch}: {count['agrees']} of {len(here)} cells agree ({share:.1f} %),"
            f" {count['refused']} refused, {count['failed']} failed."
        )
    return ["\n\n".join(lines)]


def _exporters(found: list[Cell]) -> list[str]:
    """Both exporters of torch.onnx side by side: error and seconds of each cell."""
    lines = [
        "## The two exporters of torch.onnx",
        "",
        "Seconds are of the whole cell (three processes: convert, run the source, run the result)"
        " on the machine that wrote this page.",
        "",
        f"| family | batch | {DEFAULT} | s | {OTHER} | s |",
        "|---|---|---|---|---|---|",
    ]
    by_place = {
        (c.family, c.batch, c.exporter): c
        for c in found
        if c.format == "onnx" and c.framework == "PyTorch"
    }
    for other in (cell for cell in found if cell.exporter == OTHER):
        usual = by_place[other.family, other.batch, None]
        lines.append(
            f"| {other.family} | {other.batch} | {usual.short} | {usual.seconds:.1f} |"
            f" {other.short} | {other.seconds:.1f} |"
        )
    return lines


def _public(message: str) -> str:
    """A message without this machine's paths."""
    return message.replace(f"{ROOT}/", "").replace(str(Path.home()), "~")


def main() -> int:
    """Prints a line a cell on stderr, then the page (or JSON) on stdout or into the file."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--families", nargs="+", metavar="NAME")
    parser.add_argument("--formats", nargs="+", choices=FORMATS, default=FORMATS)
    parser.add_argument("--exporters", action="store_true", help="both exporters of torch.onnx")
    parser.add_argument("--keras", action="store_true", help="the Keras twins as well")
    parser.add_argument("--onnx2tf-python", metavar="PATH")
    parser.add_argument("-o", "--output", type=Path, help="write the page there")
    parser.add_argument("--json", action="store_true", help="print JSON on stdout")
    arguments = parser.parse_args()
    found = []
    with tempfile.TemporaryDirectory() as folder:
        for cell in cells(arguments, Path(folder)):
            found.append(cell)
            place = f"{cell.family} ({cell.framework}) {cell.format} batch {cell.batch}"
            print(
                f"{place} {cell.exporter or ''}: {cell.short} ({cell.seconds:.1f} s)",
                file=sys.stderr,
                flush=True,
            )
    page = table(found, shlex.join(["python", "benchmarks/zoo.py", *sys.argv[1:]]))
    if arguments.output:
        arguments.output.write_text(page)
    if arguments.json:
        print(json.dumps({"cells": [asdict(cell) for cell in found]}))
    elif not arguments.output:
        print(page)
    usual = [cell for cell in found if cell.exporter is None]
    ones = [cell for cell in usual if cell.batch == "1"]
    agree = sum(cell.outcome == "agrees" for cell in ones)
    failed = any(cell.outcome == "failed" for cell in usual)
    return errors.GateFailed.exit_code if failed or agree < ENOUGH * len(ones) else 0


if __name__ == "__main__":
    sys.exit(main())
