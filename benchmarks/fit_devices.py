"""Fits what work costs on each device to published latencies, and says how well that holds.

    python benchmarks/fit_devices.py published_latency.csv [--write] [--rows] [--plot fit.svg]

The table is no part of the project: columns device, model, dtype, input, ms, source. Each
architecture is written down in fit_architectures.py and its neighbours, and fit_targets.py says
which row is of which. Errors are of families left out: a family's rows are predicted by a fit that
saw none of them. --write stores the fits in lepton_edge/devices/_fitted.py, which `lepton-edge
devices predict` reads.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import sys
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

from lepton_edge.devices.estimate import LEVEL, Fit

sys.path.insert(0, str(Path(__file__).parent))
import fit_plot
from fit_targets import SCALED, TARGETS, Features, Target

OUT = Path(__file__).parents[1] / "lepton_edge" / "devices" / "_fitted.py"


@dataclass(frozen=True)
class Row:
    name: str
    family: str
    ms: float
    features: Features


def rows_of(target: Target, table: list[dict[str, str]]) -> list[Row]:
    """The published rows of that device whose architecture is written down."""
    found = []
    for row in table:
        key = (row["model"], row["input"])
        if row["device"] not in target.rows or row["dtype"] != target.dtype:
            continue
        if target.runtime not in row["runtime"] or target.threads not in ("", row["threads"]):
            continue
        if key in target.models:
            family, make = target.models[key]
            found.append(Row(f"{row['model']}@{row['input']}", family, float(row["ms"]), make()))
    return found


def fit(rows: list[Row], target: Target) -> dict[str, float]:
    """The cost of each feature that brings predictions nearest in ratio, each family weighing 1."""
    names = list(target.start)
    features = np.array([[row.features[name] for name in names] for row in rows])
    observed = np.log([row.ms for row in rows])
    counts = {row.family: sum(other.family == row.family for other in rows) for row in rows}
    weights = np.array([1 / counts[row.family] for row in rows])
    weights /= weights.sum()
    start = np.log([target.start[name] for name in names])

    def loss(logs: NDArray[np.float64]) -> float:
        error = np.log(features @ np.exp(logs)) - observed
        smooth = np.sqrt(error**2 + 0.02**2)  # the absolute error, with a slope at 0
        return float(weights @ smooth + target.pull * np.mean((logs - start) ** 2))

    found = minimize(loss, start, method="L-BFGS-B", options={"maxiter": 2000})
    return dict(zip(names, np.exp(found.x).tolist(), strict=True))


def together(
    targets: list[Target], rows: Mapping[str, list[Row]]
) -> tuple[Target, list[Row], dict[str, list[Row]]]:
    """Devices that share costs as one fit: a cost that is a device's own bears its name."""
    start = {
        _own(name, target): value for target in targets for name, value in target.start.items()
    }
    mixed = {
        target.device: [
            dataclasses.replace(
                row,
                features={
                    **dict.fromkeys(start, 0.0),
                    **{_own(name, target): row.features[name] for name in target.start},
                },
            )
            for row in rows[target.device]
        ]
        for target in targets
    }
    one = dataclasses.replace(targets[0], start=start)
    return one, [row for device in mixed.values() for row in device], mixed


def _own(name: str, target: Target) -> str:
    return name if name in target.shares else f"{name}@{target.device}"


def predicted(costs: Mapping[str, float], row: Row) -> float:
    return sum(cost * row.features[name] for name, cost in costs.items())


def left_out(rows: list[Row], target: Target) -> list[tuple[Row, float]]:
    """Every row with its prediction by a fit that saw no row of its family."""
    made = []
    for family in sorted({row.family for row in rows}):
        costs = fit([row for row in rows if row.family != family], target)
        made += [(row, predicted(costs, row)) for row in rows if row.family == family]
    return made


def fitted(
    table: list[dict[str, str]],
) -> Iterator[tuple[Target, dict[str, float], list[tuple[Row, float]]]]:
    """Each target with its costs, and its rows with what was predicted without their family."""
    groups: dict[frozenset[str] | str, list[Target]] = {}
    for target in TARGETS:
        groups.setdefault(target.shares or target.device, []).append(target)
    for targets in groups.values():
        own = {target.device: rows_of(target, table) for target in targets}
        one, rows, mixed = together(targets, own)
        costs = fit(rows, one)
        pairs = {id(row): value for row, value in left_out(rows, one)}
        for target in targets:
            yield (
                target,
                {name: costs[_own(name, target)] for name in target.start},
                [
                    (row, pairs[id(twin)])
                    for row, twin in zip(own[target.device], mixed[target.device], strict=True)
                ],
            )


def spread(errors: list[float]) -> float:
    """The conformal quantile: of n errors, the ceil((n + 1) LEVEL)-th."""
    ordered = sorted(errors)
    return ordered[min(len(ordered), int(np.ceil((len(ordered) + 1) * LEVEL))) - 1]


def coverage(pairs: list[tuple[Row, float]]) -> float:
    """The share of rows inside an interval made from the errors of the other families alone."""
    inside = 0
    for row, value in pairs:
        others = [abs(np.log(v / r.ms)) for r, v in pairs if r.family != row.family]
        inside += bool(abs(np.log(value / row.ms)) <= spread(others))
    return inside / len(pairs)


def describe(target: Target, pairs: list[tuple[Row, float]], given: argparse.Namespace) -> None:
    """One line of the table, and every row where asked."""
    errors = [float(abs(np.log(value / row.ms))) for row, value in pairs]
    median = float(np.median([abs(value / row.ms - 1) for row, value in pairs]))
    families = {row.family for row, _ in pairs}
    own = target.start and len(families) > 1  # else the fit is another device's
    holds = f"{coverage(pairs):.0%} (x{np.exp(spread(errors)):.2f})" if own else "-"
    print(
        f"{target.device:22} {target.precision:5} {len(pairs):4} {len(families):8}"
        f"  {median:6.1%}  x{np.exp(np.quantile(errors, 0.9)):.2f}  x{np.exp(max(errors)):.2f}"
        f"  {holds}"
    )
    if given.rows:
        for row, value in pairs:
            print(f"    {row.name:34} {row.ms:8.2f} {value:8.2f} {value / row.ms:6.2f}")


def made(
    costs: Mapping[str, float], pairs: list[tuple[Row, float]], target: Target, bound: float = 0.0
) -> Fit:
    """The fit as the package stores it; its interval is at least `bound`."""
    errors = [float(abs(np.log(value / row.ms))) for row, value in pairs]
    return Fit(
        features=tuple(costs.items()),
        log_error=max(bound, spread(errors)),
        median_error=float(np.median([abs(value / row.ms - 1) for row, value in pairs])),
        p90_factor=float(np.exp(np.quantile(errors, 0.9))),
        rows=len(pairs),
        families=tuple(sorted({row.family for row, _ in pairs})),
        source=target.source,
        tier="prior" if bound else "calibrated",
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("table", type=Path, help="published latencies, CSV")
    parser.add_argument("--write", action="store_true", help="store the fits in the package")
    parser.add_argument("--rows", action="store_true", help="print every row")
    parser.add_argument("--plot", type=Path, help="write predicted against published as SVG")
    given = parser.parse_args()
    with given.table.open(newline="") as file:
        table = list(csv.DictReader(file))
    fits: dict[tuple[str, str], Fit] = {}
    shown: dict[str, list[tuple[Row, float]]] = {}
    print(f"{'device':22} {'':5} rows families  median  p90    worst  {LEVEL:.0%} interval holds")
    for target, costs, pairs in fitted(table):
        fits[target.device, target.precision] = made(costs, pairs, target)
        shown[f"{target.device} {target.precision}"] = pairs
        describe(target, pairs, given)
    priors = []
    for scaled in SCALED:
        base = fits[scaled.base]
        costs = scaled.costs(dict(base.features))
        pairs = [(row, predicted(costs, row)) for row in rows_of(scaled.target, table)]
        priors.append((scaled.target, base, costs, pairs))
        shown[f"{scaled.target.device} {scaled.target.precision}"] = pairs
        describe(scaled.target, pairs, given)
    # A few rows of one family say little: no prior is taken to be better than the priors are.
    least = spread([abs(np.log(value / row.ms)) for *_, pairs in priors for row, value in pairs])
    for target, base, costs, pairs in priors:
        bound = max(base.log_error, least)
        fits[target.device, target.precision] = made(costs, pairs, target, bound)
    print(f"The last {len(priors)} are scaled fits: intervals of x{np.exp(least):.2f} or more.")
    if given.write:
        OUT.write_text(_module(fits))
    if given.plot:
        given.plot.write_text(fit_plot.scatter(shown))
    return 0


def _module(fits: Mapping[tuple[str, str], Fit]) -> str:
    lines = [
        '"""Fits of published latencies, written by benchmarks/fit_devices.py: do not edit."""',
        "",
        "from __future__ import annotations",
        "",
        "from lepton_edge.devices.estimate import Fit",
        "",
        "FITS: dict[tuple[str, str], Fit] = {",
    ]
    for key, item in fits.items():
        lines += [f"    {key!r}: Fit(", "        features=("]
        lines += [f"            ({name!r}, {cost:.5g})," for name, cost in item.features]
        lines += ["        ),"]
        for name in ("log_error", "median_error", "p90_factor"):
            lines.append(f"        {name}={getattr(item, name):.4f},")
        lines += [f"        rows={item.rows},", f"        families={item.families!r},"]
        lines += ["        source=("]
        lines += [
            f"            {part!r}"
            for part in textwrap.wrap(item.source, 80, drop_whitespace=False)
        ]
        lines += ["        ),", f"        tier={item.tier!r},", "    ),"]
    return "\n".join([*lines, "}", ""]).replace("'", '"')


if __name__ == "__main__":
    sys.exit(main())
