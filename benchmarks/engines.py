"""Which engines tensorrt_rtx builds of the test zoo, without a GPU: families by precision by GPU.

    python benchmarks/engines.py [--family NAME ...] [--gpu 8.0 8.6 ...] [-o docs/tensorrt.md]

A cell says how many MB the engine has, or why there is none. Nothing is run: that needs the GPU.
The graph that an engine is built from is compared with its source by onnxruntime; `check` is that
difference, of the output's range (fp32, fp16), or the SQNR on the calibration samples (int8). The
library has packages without dependencies of their own: see `lepton-edge doctor`.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from lepton_edge import errors, options, sources
from lepton_edge._tensorrt import library
from lepton_edge.converters import tensorrt
from lepton_edge.model import ModelSource
from lepton_edge.samples import open_samples
from lepton_edge.target import Target

sys.path.insert(0, str(Path(__file__).parents[1]))
from tests import zoo

PRECISIONS = ("fp32", "fp16", "int8")
BEGIN, END = "<!-- table: benchmarks/engines.py -->", "<!-- end -->"


def cell(name: str, precision: str, gpu: str) -> tuple[str, str]:
    """(size or reason, check) of one engine."""
    model = sources.load(ModelSource(f"{zoo.__file__}:{name}"))
    with tempfile.TemporaryDirectory() as folder:
        out, data = Path(folder, "out"), Path(folder, "calibration.npz")
        out.mkdir()
        np.savez(data, **model.example(64))
        chosen: dict[str, Any] = {"compute_capability": gpu}
        try:
            artifact = tensorrt.convert(
                model,
                Target("tensorrt", precision),
                out,
                calibration=open_samples(str(data)),
                options=options.build(tensorrt.Options, chosen),
            )
        except errors.EdgeError as error:
            return f"no: {error.message}", ""
        check = next(step for step in artifact.steps if step["step"] == "check")
        told = check.get("sqnr_db")
        return f"{artifact.size_bytes / 1e6:.2f}", (
            f"{told:.1f} dB" if told is not None else f"{check['max_relative_difference']:.0e}"
        )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--family", nargs="+", default=list(dict.fromkeys(zoo.FAMILIES.values())))
    parser.add_argument("--gpu", nargs="+", default=["8.0", "8.6", "8.9", "12.0"])
    parser.add_argument("-o", "--output", type=Path)
    given = parser.parse_args()
    name, module = library.find()
    lines = [
        f"{name} {module.__version__}; MB of each engine for compute capability"
        f" {', '.join(given.gpu)}; `check`: see above.",
        "",
        "| family | " + " | ".join(f"{p} MB | check" for p in PRECISIONS) + " |",
        "|---|" + "---:|---:|" * len(PRECISIONS),
    ]
    failed = 0
    for family in given.family:
        cells = []
        for precision in PRECISIONS:
            found = [cell(family, precision, gpu) for gpu in given.gpu]
            failed += sum(size.startswith("no") for size, _ in found)
            sizes = " / ".join(dict.fromkeys(size for size, _ in found))
            cells += [sizes, next((check for _, check in found if check), "")]
        lines.append(f"| {family} | " + " | ".join(cells) + " |")
        print(lines[-1], file=sys.stderr, flush=True)
    total = len(given.family) * len(PRECISIONS) * len(given.gpu)
    lines += ["", f"{total - failed} of {total} engines built."]
    table = "\n".join(lines)
    print(table)
    if given.output:
        text = given.output.read_text()
        head, _, rest = text.partition(BEGIN)
        _, _, tail = rest.partition(END)
        given.output.write_text(f"{head}{BEGIN}\n{table}\n{END}{tail}")
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
