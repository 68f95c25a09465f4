"""Our placement and cached bytes against files that edgetpu_compiler wrote, as a Markdown table.

    python benchmarks/edgetpu_pairs.py FOLDER [FOLDER ...]

Each folder is searched for pairs X.tflite and X_edgetpu.tflite. Exit code 1 where an operator is
placed otherwise than in the compiled file. The files are no part of the project.
"""

from __future__ import annotations

import sys
from pathlib import Path

from lepton_edge import errors
from lepton_edge.devices import _tflite
from lepton_edge.devices.edgetpu import compiled, placement


def row(raw_path: Path, compiled_path: Path) -> tuple[bool, str]:
    raw, done = _tflite.read(raw_path), _tflite.read(compiled_path)
    predicted, facts = placement.predict(raw), compiled.describe(done)
    left = [r["index"] for r in predicted["operators"] if r["placement"] != "accelerator"]
    same = left == placement.left_to_cpu(raw, done)
    cached = predicted["summary"]["cached_bytes"]
    cycles = "-" if facts.cycles is None else f"{facts.cycles:,}"
    cells = (
        raw_path.stem, len(raw.operators), len(raw.operators) - len(left),
        "yes" if same else "NO", f"{cached:,}", f"{facts.cached_bytes:,}",
        f"{cached / max(facts.cached_bytes, 1) - 1:+.1%}", f"{facts.streamed_bytes:,}",
        f"{facts.instruction_bytes:,}", cycles,
    )  # fmt: skip
    return same, "| " + " | ".join(map(str, cells)) + " |"


def main() -> int:
    print("| model | operators | mapped | as compiled | cached, predicted | compiled | error"
          " | streamed | instructions | cycles |")  # fmt: skip
    print("|---|---|---|---|---|---|---|---|---|---|")
    exact = True
    for folder in map(Path, sys.argv[1:]):
        for path in sorted(folder.rglob("*_edgetpu.tflite")):
            raw = path.with_name(path.name.replace("_edgetpu.tflite", ".tflite"))
            if not raw.is_file():
                continue
            try:
                same, line = row(raw, path)
            except errors.BadInput as error:  # the two lie beside each other by their names only
                print(f"{error}", file=sys.stderr)
                continue
            exact &= same
            print(line)
    return 0 if exact else 1


if __name__ == "__main__":
    sys.exit(main())
