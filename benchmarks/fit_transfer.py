"""Learns how latencies of two devices go together, from networks that were published on both.

    python benchmarks/fit_transfer.py published_latency.csv [--write]

t = factor * t_sibling ** exponent, a line through the logarithms; where fewer than 20
networks or three families are on both, the exponent is 1. Errors are of families left out, or
of single networks where there is one family. "With the model": t = factor * t_sibling * the ratio
of the model's estimates by fit_devices.py, which saw neither the family. --write stores
lepton_edge/devices/_transfers.py.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import itertools
import re
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lepton_edge.devices.transfer import ByModel, Transfer

sys.path.insert(0, str(Path(__file__).parent))
import fit_devices

OUT = Path(__file__).parents[1] / "lepton_edge" / "devices" / "_transfers.py"
_ENGINE = "tensorrt (engine execute)"
_CPU = "tflite 2.18 xnnpack"
_TRTUTILS = "github.com/justincdavis/trtutils, engine execution; the power mode is not stated"
_TSUKAMOTO = "github.com/NobuoTsukamoto/benchmarks: LiteRT 2.18 with XNNPACK, 4 threads"
# Groups of devices that were measured the same way: profile to (published name, runtime, threads).
GROUPS = (
    (_TRTUTILS, ("fp16",), {
        "jetson-xavier-nx": ("jetson-xavier-nx-8gb(JP5)", _ENGINE, ""),
        "jetson-orin-nano": ("jetson-orin-nano-8gb(JP5)", _ENGINE, ""),
        "jetson-orin-nx": ("jetson-orin-nx-16gb(JP6)", _ENGINE, ""),
        "jetson-agx-orin": ("jetson-agx-orin-64gb(JP6)", _ENGINE, ""),
    }),
    (_TSUKAMOTO, ("fp32", "int8"), {
        "raspberry-pi-4": ("raspi4(64bit)", _CPU, "4"),
        "raspberry-pi-5": ("raspi5", _CPU, "4"),
        "intel-n100": ("intel-n100", _CPU, "4"),
    }),
)  # fmt: skip
_LEAST_ROWS, _LEAST_FAMILIES = 20, 3
_LEAST_SPREAD = 1.3  # no interval is narrower where only single networks could be left out
Network = tuple[str, str]


def family(network: Network) -> str:
    """yolov8n and yolov8m, densenet121 and densenet201 are of one family."""
    name = re.sub(r"[-_ ]?(lite)?\d*(\.\d+)?$", "", network[0].lower())
    return re.sub(r"^(yolo(?:v\d+|x)).*", r"\1", network[0].lower()) if "yolo" in name else name


def published(
    table: list[dict[str, str]], precision: str, device: str, runtime: str, threads: str
) -> dict[Network, float]:
    """The median of what was published for each network on that device."""
    found: dict[Network, list[float]] = {}
    for row in table:
        if (row["device"], row["runtime"], row["dtype"]) == (device, runtime, precision) and (
            row["threads"] == threads
        ):
            found.setdefault((row["model"], row["input"]), []).append(float(row["ms"]))
    return {network: float(np.median(values)) for network, values in found.items()}


def line(x: NDArray[np.float64], y: NDArray[np.float64], sloped: bool) -> tuple[float, float]:
    """Offset and slope of ln t over ln t_sibling."""
    if not sloped:
        return float(np.median(y - x)), 1.0
    slope = float(np.polyfit(x, y, 1)[0])
    return float(np.median(y - slope * x)), slope


def learn(
    first: dict[Network, float], second: dict[Network, float], source: str
) -> tuple[Transfer, NDArray[np.float64]] | None:
    """The transfer, and the signed errors of what was left out; None with fewer than 3 networks."""
    networks = sorted(set(first) & set(second))
    if len(networks) < 3:
        return None
    x = np.log([first[network] for network in networks])
    y = np.log([second[network] for network in networks])
    families = sorted({family(network) for network in networks})
    sloped = len(networks) >= _LEAST_ROWS and len(families) >= _LEAST_FAMILIES
    groups = [family(n) if len(families) > 1 else str(n) for n in networks]
    errors = np.empty(len(networks))
    for group in set(groups):
        out = np.array([name == group for name in groups])
        offset, slope = line(x[~out], y[~out], sloped)
        errors[out] = offset + slope * x[out] - y[out]
    spread = fit_devices.spread(np.abs(errors).tolist())
    if len(families) < _LEAST_FAMILIES:
        spread = max(spread, np.log(_LEAST_SPREAD))
    offset, slope = line(x, y, sloped)
    return (
        Transfer(
            factor=float(np.exp(offset)),
            exponent=slope,
            log_error=float(spread),
            median_error=float(np.median(np.abs(np.exp(errors) - 1))),
            rows=len(networks),
            families=tuple(families),
            range_ms=(float(np.exp(x.min())), float(np.exp(x.max()))),
            source=source,
        ),
        errors,
    )


Estimates = Mapping[str, tuple[fit_devices.Row, float]]


def by_model(first: Estimates, second: Estimates) -> tuple[ByModel, NDArray[np.float64]] | None:
    """The same with the ratio of estimates that did not see the family; None with too few rows."""
    names = sorted(set(first) & set(second))
    families = np.array([first[name][0].family for name in names])
    if len(names) < _LEAST_ROWS or len(set(families)) < _LEAST_FAMILIES:
        return None
    rest = np.array(
        [
            np.log(second[name][0].ms / second[name][1] / (first[name][0].ms / first[name][1]))
            for name in names
        ]
    )
    errors = np.empty(len(names))
    for group in set(families):
        errors[families == group] = np.median(rest[families != group]) - rest[families == group]
    return (
        ByModel(
            factor=float(np.exp(np.median(rest))),
            log_error=fit_devices.spread(np.abs(errors).tolist()),
            median_error=float(np.median(np.abs(np.exp(errors) - 1))),
            rows=len(names),
            families=tuple(sorted({str(each) for each in families})),
        ),
        errors,
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("table", type=Path, help="published latencies, CSV")
    parser.add_argument("--write", action="store_true", help="store them in the package")
    given = parser.parse_args()
    with given.table.open(newline="") as file:
        table = list(csv.DictReader(file))
    estimates: dict[tuple[str, str], Estimates] = {
        (target.device, target.precision): {row.name: (row, value) for row, value in pairs}
        for target, _, pairs in fit_devices.fitted(table)
    }
    lines = []
    print(f"{'':60} median  p90   {fit_devices.LEVEL:.0%}  | with the model")
    for source, precisions, group in GROUPS:
        for (a, from_a), (b, from_b) in itertools.permutations(group.items(), 2):
            for precision in precisions:
                found = learn(
                    published(table, precision, *from_a),
                    published(table, precision, *from_b),
                    source,
                )
                if found is None:
                    continue
                transfer, errors = found
                with_model = by_model(
                    estimates.get((a, precision), {}), estimates.get((b, precision), {})
                )
                if with_model is not None:
                    transfer = dataclasses.replace(transfer, by_model=with_model[0])
                lines.append(f"    {(a, b, precision)!r}: {transfer!r},")
                print(
                    f"{a:17} {b:17} {precision:5} {transfer.rows:4} networks"
                    f" {len(transfer.families)}  {_errors(transfer, errors)}"
                    + (f"  | {_errors(*with_model)}" if with_model else "")
                )
    if given.write:
        OUT.write_text(_module(lines))
    return 0


def _errors(learned: Transfer | ByModel, errors: NDArray[np.float64]) -> str:
    p90 = np.quantile(np.exp(np.abs(errors)), 0.9)
    return f"{learned.median_error:6.1%}  x{p90:.2f}  x{np.exp(learned.log_error):.2f}"


def _module(lines: list[str]) -> str:
    text = re.sub(r"\d+\.\d{5,}", lambda number: f"{float(number[0]):.5g}", "\n".join(lines))
    return "\n".join(
        [
            '"""Learned transfers, written by benchmarks/fit_transfer.py: do not edit."""',
            "",
            "from __future__ import annotations",
            "",
            "from lepton_edge.devices.transfer import ByModel, Transfer",
            "",
            "TRANSFERS: dict[tuple[str, str, str], Transfer] = {",
            text.replace("'", '"'),
            "}",
            "",
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
