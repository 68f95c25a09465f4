"""Our placement and cached bytes against files that edgetpu_compiler wrote, as a Markdown table.

    python benchmarks/edgetpu_pairs.py FOLDER [FOLDER ...]

Each folder is searched for pairs X.tflite and X_edgetpu.tflite; the last line counts. Exit code 1
where an operator is placed otherwise than in the compiled file. The
files are no part of the project.
"""

from __future__ import annotations

import sys
from pathlib import Path

from lepton_edge import errors
from lepton_edge.devices import _tflite
from lepton_edge.devices.edgetpu import compiled, placement


def row(raw_path: Path, compiled_path: Path) -> tuple[int, int, str]:
    """Operators, those placed otherwise than by the compiler, and the line of the table."""
    raw, done = _tflite.read(raw_path), _tflite.read(compiled_path)
    predicted, facts = placement.predict(raw), compiled.describe(done)
    left = [r for r in predicted["operators"] if r["placement"] != "accelerator"]
    if facts.segments > 1:  # edgetpu_compiler -a: what waits for the CPU is mapped as well
        left = [r for r in left if r["rule"] != "one-segment"]
    wrong = len({r["index"] for r in left} ^ {*placement.left_to_cpu(raw, done)})
    cached = predicted["summary"]["cached_bytes"]
    cycles = "-" if facts.cycles is None else f"{facts.cycles:,}"
    cells = (
        raw_path.stem, len(raw.operators), len(raw.operators) - len(left),
        "NO" if wrong else "yes", f"{cached:,}", f"{facts.cached_bytes:,}",
        f"{cached / max(facts.cached_bytes, 1) - 1:+.1%}", f"{facts.streamed_bytes:,}",
        f"{facts.instruction_bytes:,}", cycles,
    )  # fmt: skip
    return len(raw.operators), wrong, "| " + " | ".join(map(str, cells)) + " |"


def main() -> int:
    print("| model | operators | mapped | as compiled | cached, predicted | compiled | error"
          " | streamed | instructions | cycles |")  # fmt: skip
    print("|---|---|---|---|---|---|---|---|---|---|")
    pairs = operators = misplaced = 0
    for folder in map(Path, sys.argv[1:]):
        for path in sorted(folder.rglob("*_edgetpu.tflite")):
            raw = path.with_name(path.name.replace("_edgetpu.tflite", ".tflite"))
            if not raw.is_file():
                continue
            try:
                count, wrong, line = row(raw, path)
            except errors.BadInput as error:  # the two lie beside each other by their names only
                print(f"{error}", file=sys.stderr)
                continue
            pairs, operators, misplaced = pairs + 1, operators + count, misplaced + wrong
            print(line)
    print(f"\n{operators - misplaced} of {operators} operators as compiled, in {pairs} pairs.")
    return 1 if misplaced else 0


if __name__ == "__main__":
    sys.exit(main())
