"""Fits what work costs on each device to published latencies, and says how well that holds.

    python benchmarks/fit_devices.py published_latency.csv [--write] [--rows] [--plot fit.svg]

The table is no part of the project: columns device, model, dtype, input, ms, source. Each
architecture is written down in fit_architectures.py and its neighbours. Errors are of families
left out: a family's rows are predicted by a fit that saw none of them. --write stores the fits in
lepton_edge/devices/_fitted.py, which `lepton-edge devices predict` reads.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import sys
import textwrap
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

from lepton_edge import devices
from lepton_edge.devices._cost import Cost
from lepton_edge.devices.estimate import LEVEL, Fit, edgetpu_features, general_features

sys.path.insert(0, str(Path(__file__).parent))
import fit_architectures as nets
import fit_detectors as detectors
import fit_inception as inception
import fit_mobile as mobile
import fit_plot

OUT = Path(__file__).parents[1] / "lepton_edge" / "devices" / "_fitted.py"
Features = Mapping[str, float]


@dataclass(frozen=True)
class Target:
    """A device and precision; `rows` says which published device names are this device.

    `start` holds a first value for each feature's cost in ms; the fit is drawn to it (in ratio),
    so that a cost which few rows show keeps a value of its physical size.
    """

    device: str
    precision: str
    dtype: str
    rows: tuple[str, ...]
    models: Mapping[tuple[str, str], tuple[str, Callable[[], Features]]]
    start: Mapping[str, float]
    source: str
    runtime: str = ""  # what the published runtime's name must hold
    threads: str = ""
    pull: float = 0.05
    shares: frozenset[str] = frozenset()  # costs that are one with the other devices' that share


@dataclass(frozen=True)
class Row:
    name: str
    family: str
    ms: float
    features: Features


def _tpu(build: Callable[[], Cost], tail: int = 0) -> Callable[[], Features]:
    """The features of a network whose last `tail` kernels run on the CPU."""

    def make() -> Features:
        cost = build()
        count = len(cost.kernels)
        return edgetpu_features(cost, range(count - tail, count))

    return make


def _gpu(build: Callable[[], Cost]) -> Callable[[], Features]:
    return lambda: general_features(build())


_TPU: dict[tuple[str, str], tuple[str, Callable[[], Features]]] = {}
for _names, _size, _family, _make in (
    (("mobilenet_v1",), "224", "mobilenet_v1", _tpu(nets.mobilenet_v1)),
    (("mobilenet_v1_0.25",), "128", "mobilenet_v1", _tpu(lambda: nets.mobilenet_v1(128, 0.25))),
    (("mobilenet_v2_1.0_224",), "224", "mobilenet_v2", _tpu(nets.mobilenet_v2)),
    (("unet_mobilenet_v2",), "128", "unet", _tpu(nets.unet_mobilenet_v2)),
    # From the 1x1 to 33x33 resize on: concatenation, two convolutions, resize, argmax.
    (("deeplab_v3",), "513", "deeplab", _tpu(nets.deeplab_v3, 5)),
    (("densenet",), "224", "densenet", _tpu(lambda: nets.densenet(121, scale_kernels=2))),
    (("inception_v1", "inception_v1_224"), "224", "inception_v1", _tpu(inception.inception_v1)),
    (("inception_v3",), "299", "inception_v3", _tpu(inception.inception_v3)),
    (("inception_v4", "inception_v4_299"), "299", "inception_v4", _tpu(inception.inception_v4)),
    (("resnet50_v2",), "299", "resnet", _tpu(lambda: nets.resnet(50, 299, v2=True))),
    (("squeezenet",), "224", "squeezenet", _tpu(nets.squeezenet)),
    (("vgg19",), "224", "vgg", _tpu(lambda: nets.vgg(19))),
    (("efficientnet_edgetpu_s",), "224", "efficientnet", _tpu(nets.efficientnet_edgetpu_s)),
    (("ssd_mobilenet_v1", "ssd_mobilenet_v1_coco"), "300", "ssd", _tpu(nets.ssd_mobilenet_v1, 1)),
    (("ssd_mobilenet_v2",), "300", "ssd", _tpu(nets.ssd_mobilenet_v2, 1)),
    (("ssd_mobilenet_v2_face", "ssd_mobilenet_v2_faces"), "320", "ssd",
     _tpu(lambda: nets.ssd_mobilenet_v2(320, 2), 1)),
):  # fmt: skip
    for _name in _names:
        _TPU[_name, _size] = (_family, _make)

_GPU: dict[tuple[str, str], tuple[str, Callable[[], Features]]] = {
    ("alexnet", "224"): ("alexnet", _gpu(nets.alexnet)),
    ("squeezenet1_0", "224"): ("squeezenet", _gpu(nets.squeezenet)),
    **{
        (f"resnet{n}", "224"): ("resnet", _gpu(lambda n=n: nets.resnet(n)))  # type: ignore[misc]
        for n in (18, 34, 50, 101, 152)
    },
    **{
        (f"densenet{n}", "224"): ("densenet", _gpu(lambda n=n: nets.densenet(n)))  # type: ignore[misc]
        for n in (121, 161, 169, 201)
    },
    **{(f"vgg{n}", "224"): ("vgg", _gpu(lambda n=n: nets.vgg(n))) for n in (11, 19)},  # type: ignore[misc]
    **{
        (f"mnasnet{a:.1f}" if a != 0.75 else "mnasnet0_75", "224"): (
            "mnasnet",
            _gpu(lambda a=a: nets.mnasnet(a)),  # type: ignore[misc]
        )
        for a in (0.5, 0.75, 1.0, 1.3)
    },
    **{
        (f"shufflenet_v2_x{name}", "224"): ("shufflenet", _gpu(make))
        for name, make in (
            ("0_5", lambda: nets.shufflenet_v2((48, 96, 192))),
            ("1_0", lambda: nets.shufflenet_v2((116, 232, 464))),
            ("1_5", lambda: nets.shufflenet_v2((176, 352, 704))),
            ("2_0", lambda: nets.shufflenet_v2((244, 488, 976), 2048)),
        )
    },
}
_GPU = {(name.replace(".", "_"), size): value for (name, size), value in _GPU.items()}

_CPU: dict[tuple[str, str], tuple[str, Callable[[], Features]]] = {
    ("mobilenet_v1", "224"): ("mobilenet_v1", _gpu(nets.mobilenet_v1)),
    ("mobilenet_v3_large", "224"): ("mobilenet_v3", _gpu(lambda: mobile.mobilenet_v3("large"))),
    ("mobilenet_v3_small", "224"): ("mobilenet_v3", _gpu(lambda: mobile.mobilenet_v3("small"))),
    ("SSD Mobilenet v2", "300"): ("ssd", _gpu(lambda: nets.ssd_mobilenet_v2(k=3))),
    ("SSDLite Mobilenet v2", "300"): ("ssdlite", _gpu(mobile.ssdlite_mobilenet_v2)),
    ("YOLOX-Nano", "416"): ("yolox", _gpu(lambda: detectors.detector("yoloxn", 416))),
    ("YOLOX-Tiny", "416"): ("yolox", _gpu(lambda: detectors.detector("yoloxt", 416))),
    **{
        (f"EfficientDet-lite{n}", size): (
            "efficientdet",
            _gpu(lambda n=n: mobile.efficientdet_lite(n)),  # type: ignore[misc]
        )
        for n, size in ((0, "320"), (1, "384"), (4, "640"))
    },
}
_YOLO: dict[tuple[str, str], tuple[str, Callable[[], Features]]] = {
    (name, str(size)): (
        name[:-1],
        _gpu(lambda name=name, size=size: detectors.detector(name, size)),  # type: ignore[misc]
    )
    for name in detectors.NAMES
    for size in range(160, 1281, 160)
}


def _gpu_start(tflops: float, gbs: float) -> dict[str, float]:
    """From the profile's peaks: 80 % of the MACs, 60 % of the bandwidth, 2 bytes an element."""
    moved = 2 / (gbs * 0.6)
    return {
        "kernels": 0.02, "gmac": 2 / (tflops * 0.8), "mweights": moved, "mmoved": moved,
        "mdepthwise": moved, "mactivations": moved / 2,
    }  # fmt: skip


_TRTUTILS = "github.com/justincdavis/trtutils, engine execution; the power mode is not stated"
# The same chip is in both; the link, the streaming and the CPU are the host's.
_TPU_CHIP = frozenset({"kernels", "gmac_conv", "gmac_other", "mb_written"})
_TPU_START = {
    "inference": 0.3, "kernels": 0.01, "gmac_conv": 0.8, "gmac_other": 1.7, "mb_written": 0.1,
    "mb_streamed": 2.0, "mb_input": 5.0, "mtail": 1.0, "boxes": 2.0,
}  # fmt: skip
TARGETS = (
    Target(
        "coral-usb", "int8", "int8",
        ("coral-usb(usb3,desktop)", "coral-usb(usb3,xeon-e5-1650v3)", "coral-usb(usb3,imac2015)"),
        _TPU, _TPU_START,
        "coral.ai/docs/edgetpu/benchmarks, coral.ai/models, google-coral/edgetpu reference, "
        "freedomtan: USB 3 on a desktop",
        shares=_TPU_CHIP, pull=0.2,
    ),
    Target(
        "coral-dev-board", "int8", "int8", ("coral-devboard-edgetpu(pcie)",),
        # Its Cortex-A53 is slower than the desktop: x3.37 is the median of the 13 networks
        # that were published on the CPU of both, and 3.3 was taken.
        _TPU, {**_TPU_START, "mtail": 3.3, "boxes": 6.6},
        "coral.ai/docs/edgetpu/benchmarks, google-coral/edgetpu reference, freedomtan",
        shares=_TPU_CHIP, pull=0.2,
    ),
    Target(
        "jetson-nano", "fp16", "fp16", ("jetson-nano-4gb",), _GPU, _gpu_start(0.472, 25.6),
        "github.com/NVIDIA-AI-IOT/torch2trt", "torch2trt",
    ),
    Target(
        "jetson-agx-xavier", "fp16", "fp16", ("jetson-agx-xavier-32gb",), _GPU,
        _gpu_start(11, 136.5), "github.com/NVIDIA-AI-IOT/torch2trt", "torch2trt",
    ),
    Target(
        "jetson-xavier-nx", "fp16", "fp16", ("jetson-xavier-nx-8gb(JP5)",), _YOLO,
        _gpu_start(6, 59.7), f"{_TRTUTILS}; 8 GB, JetPack 5", "engine execute",
    ),
    Target(
        "jetson-orin-nano", "fp16", "fp16", ("jetson-orin-nano-8gb(JP5)",), _YOLO,
        _gpu_start(10, 68), f"{_TRTUTILS}; 8 GB, JetPack 5", "engine execute",
    ),
    Target(
        "jetson-orin-nx", "fp16", "fp16", ("jetson-orin-nx-16gb(JP6)",), _YOLO,
        _gpu_start(15, 102), f"{_TRTUTILS}; 16 GB, JetPack 6", "engine execute",
    ),
    Target(
        "jetson-agx-orin", "fp16", "fp16", ("jetson-agx-orin-64gb(JP6)",), _YOLO,
        _gpu_start(42.6, 204.8), f"{_TRTUTILS}; 64 GB, JetPack 6", "engine execute",
    ),
    Target(
        "raspberry-pi-4", "fp32", "fp32", ("raspi4", "raspi4(64bit)"), _CPU,
        {"kernels": 0.05, "gmac": 130.0, "mweights": 1.0, "mmoved": 1.0, "mdepthwise": 1.0},
        "github.com/NobuoTsukamoto/benchmarks, github.com/google/XNNPACK: LiteRT with XNNPACK, "
        "4 threads, 64 bits", "xnnpack", "4",
    ),
)  # fmt: skip


@dataclass(frozen=True)
class Scaled:
    """A device taken as another one, faster by the ratio of the two profiles' peaks.

    Its own rows are not fitted: they only say how well that holds.
    """

    target: Target
    base: str
    peak: str


SCALED = (
    Scaled(
        Target(
            "raspberry-pi-5", "fp32", "fp32", ("raspi5",), _CPU, {},
            "the fit of raspberry-pi-4, by the ratio of the peaks in fp32; LiteRT with XNNPACK, "
            "4 threads", "xnnpack", "4",
        ),
        "raspberry-pi-4",
        "peak_fp32",
    ),
)  # fmt: skip


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
    holds = f"{coverage(pairs):.0%} (x{np.exp(spread(errors)):.2f})" if len(families) > 1 else "-"
    print(
        f"{target.device:18} {target.precision:5} {len(pairs):4} {len(families):8}"
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
    print(f"{'device':18} {'':5} rows families  median  p90    worst  {LEVEL:.0%} interval holds")
    for target, costs, pairs in fitted(table):
        fits[target.device, target.precision] = made(costs, pairs, target)
        shown[target.device] = pairs
        describe(target, pairs, given)
    for scaled in SCALED:
        target, base = scaled.target, fits[scaled.base, scaled.target.precision]
        ratio = _peak(scaled.base, scaled.peak) / _peak(target.device, scaled.peak)
        costs = {name: cost * ratio for name, cost in base.features}
        pairs = [(row, predicted(costs, row)) for row in rows_of(target, table)]
        fits[target.device, target.precision] = made(costs, pairs, target, base.log_error)
        shown[target.device] = pairs
        describe(target, pairs, given)
    if given.write:
        OUT.write_text(_module(fits))
    if given.plot:
        given.plot.write_text(fit_plot.scatter(shown))
    return 0


def _peak(device: str, name: str) -> float:
    fact = getattr(devices.load(device).facts, name)
    assert fact is not None
    return float(fact.value)


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
