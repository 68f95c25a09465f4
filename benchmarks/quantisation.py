"""The project's quantiser beside the backends' own libraries, in every int8 dialect.

    python benchmarks/quantisation.py --cifar10 FOLDER -o docs/quantisation.md

Sections: `zoo` (trained small networks of each family), `efficientnet` (ImageNet weights),
`hostile` (channels rescaled at random), `w4a8` (4-bit weights), `cost` (time and memory of the
calibration) and `latency`. Networks are trained here, on real data, and kept in the user's cache
folder with the results, so that a section can run on its own. Every conversion and every run is a
process of its own. The page's marked parts are replaced, the text around them stays.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
import quantisation_cost as cost
import quantisation_page as page
import quantisation_subjects as subjects

from lepton_edge import _cache, errors
from lepton_edge.artifact import replacing

Row = dict[str, Any]
QUICK_N = 300  # test images of the short form


def zoo(given: argparse.Namespace) -> Iterator[Row]:
    """Every family, every dialect, every contender."""
    for name in given.subjects or subjects.ZOO:
        yield from _rows(given, name, subjects.CONTENDERS)


def hostile(given: argparse.Namespace) -> Iterator[Row]:
    """The MobileNet as trained, then rescaled: the drop is against the same function."""
    for name in ("mobilenet_relu", "mobilenet_hostile"):
        yield from _rows(given, name, subjects.CONTENDERS)


def w4a8(given: argparse.Namespace) -> Iterator[Row]:
    """4-bit weights per channel, 8-bit activations, run by ONNX Runtime."""
    yield from _rows(given, "mobilenet_v2", subjects.FOUR_BITS)


def efficientnet(given: argparse.Namespace) -> Iterator[Row]:
    """EfficientNet-Lite0 on photographs and enlarged CIFAR-10 images: agreement with float."""
    yield from _rows(given, "efficientnet", subjects.CONTENDERS + subjects.MIXED)


def _rows(
    given: argparse.Namespace, name: str, contenders: tuple[subjects.Contender, ...]
) -> Iterator[Row]:
    try:
        subject = subjects.prepare(
            name, given.folder, cifar10=given.cifar10, n=given.n, quick=given.quick
        )
    except (errors.UsageError, errors.BackendMissing) as error:
        yield {"subject": name, "skipped": str(error)}
        return
    chosen = [each for each in contenders if each.backend in given.backends]
    for contender in chosen:
        if given.contenders and not any(part in contender.title for part in given.contenders):
            continue
        yield subjects.measure(subject, contender, given.folder)


def latency(given: argparse.Namespace) -> Iterator[Row]:
    """int8 of ours against the library's and float, interleaved in fresh processes."""
    for name in given.subjects or ("mobilenet_v2", "resnet", "efficientnet"):
        try:
            subject = subjects.prepare(
                name, given.folder, cifar10=given.cifar10, n=given.n, quick=given.quick
            )
        except (errors.UsageError, errors.BackendMissing) as error:
            yield {"subject": name, "skipped": str(error)}
            continue
        yield from subjects.latency(
            subject, given.backends, given.folder, threads=given.threads or 1, window=given.window
        )


SECTIONS: dict[str, Callable[[argparse.Namespace], Iterator[Row]]] = {
    "zoo": zoo,
    "efficientnet": efficientnet,
    "hostile": hostile,
    "w4a8": w4a8,
    "cost": cost.rows,
    "latency": latency,
}


def main() -> int:
    """A line a row on stderr while it runs, then the tables on stdout or into the page."""
    given = _arguments()
    try:
        return _run(given)
    except errors.EdgeError as error:
        print(error, file=sys.stderr)
        return error.exit_code


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--section", nargs="+", choices=SECTIONS, default=list(SECTIONS))
    parser.add_argument("--subjects", nargs="+", choices=subjects.KNOWN, metavar="NAME")
    parser.add_argument(
        "--backends", nargs="+", choices=subjects.BACKENDS, default=subjects.BACKENDS
    )
    parser.add_argument("--contenders", nargs="+", metavar="PART", help="of their titles")
    parser.add_argument("--cifar10", type=Path, metavar="FOLDER", help="with its two parquet files")
    parser.add_argument("--n", type=int, default=10_000, help="test images (default 10,000)")
    parser.add_argument(
        "--threads", type=int, default=0, help="default: 1 for latency, every core for cost"
    )
    parser.add_argument("--window", default="quick", help="of latency: quick, or RUNS,SECONDS")
    parser.add_argument("--quick", action="store_true", help=f"short training, n={QUICK_N}")
    parser.add_argument("--folder", type=Path, default=_cache.folder("quantisation"))
    parser.add_argument("-o", "--output", type=Path, help="the page whose parts are replaced")
    parser.add_argument(
        "--kept", action="store_true", help="show the kept results, measure nothing"
    )
    parser.add_argument("--json", action="store_true", help="print the rows as JSON")
    given = parser.parse_args()
    if given.quick:
        given.n = min(given.n, QUICK_N)
    return given


def _run(given: argparse.Namespace) -> int:
    if given.output:
        page.check(given.output, given.section)  # before hours of work
    given.folder.mkdir(parents=True, exist_ok=True)
    command = shlex.join(["python", "benchmarks/quantisation.py", *_said(sys.argv[1:])])
    kept = Results(given.folder / "results.json")
    for section in () if given.kept else given.section:
        for row in SECTIONS[section](given):
            kept.add(section, row, command)
            print(f"{section}: {page.line(row)}", file=sys.stderr, flush=True)
    shown = {name: kept.sections[name] for name in given.section if name in kept.sections}
    if given.json:
        print(json.dumps(shown))
    elif given.output:
        page.replace(given.output, shown)
    else:
        print("\n".join(page.table(name, each) for name, each in shown.items()))
    failed = [row for each in shown.values() for row in each["rows"] if row.get("failed")]
    return errors.GateFailed.exit_code if failed else 0


class Results:
    """The rows of every section so far, in a JSON file: a new row replaces the one it repeats."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.sections: dict[str, dict[str, Any]] = {}
        self.read()

    def read(self) -> None:
        if self.path.exists():
            self.sections = json.loads(self.path.read_text())

    def add(self, section: str, row: Row, command: str) -> None:
        self.read()  # another run may have written in between
        found = self.sections.setdefault(section, {"rows": []})
        found["machine"] = page.machine()
        row["command"], key = command, page.key(row)
        rows = found["rows"]
        place = [index for index, each in enumerate(rows) if page.key(each) == key]
        at = place[0] if place else len(rows)
        rows[at : at + 1] = [row]
        with replacing(self.path) as temporary:
            temporary.write_text(json.dumps(self.sections, indent=1))


def _said(arguments: list[str]) -> list[str]:
    """The arguments without this machine's paths, and without where the page goes."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("-o", "--output")
    parser.add_argument("--folder")
    parser.add_argument("--cifar10")
    hidden, rest = parser.parse_known_args(arguments)
    return [*rest, *(["--cifar10", "FOLDER"] if hidden.cifar10 else [])]


if __name__ == "__main__":
    sys.exit(main())
