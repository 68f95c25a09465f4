"""Which published rows are of which device, and which network each of them is.

`TARGETS` are fitted to their rows; `SCALED` are another one's fit, scaled by the profiles' facts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import fit_architectures as nets
import fit_detectors as detectors
import fit_elan as elan
import fit_inception as inception
import fit_mobile as mobile

from lepton_edge import devices
from lepton_edge.devices._kernels import Cost
from lepton_edge.devices.estimate import edgetpu_features, general_features

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
        _gpu(lambda name=name, size=size, build=build: build(name, size)),  # type: ignore[misc]
    )
    for build, names in ((detectors.detector, detectors.NAMES), (elan.detector, elan.NAMES))
    for name in names
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
    """A device or precision taken as another one: each cost by the ratio of what bounds it.

    MACs go by the peak of the precision, elements by the fact `moved` and their size, kernels by
    the fact `kernels`. Its own rows are not fitted: they only say how well that holds.
    """

    target: Target
    base: tuple[str, str]
    moved: str
    kernels: str

    def costs(self, base: Mapping[str, float]) -> dict[str, float]:
        """What each feature costs on the target, in ms, from what it costs on the base."""
        (device, precision), target = self.base, self.target

        def faster(fact: str, own: str = "") -> float:
            return _fact(device, fact) / _fact(target.device, own or fact)

        size = _BYTES[target.precision] / _BYTES[precision]
        by = {
            "gmac": faster(f"peak_{precision}", f"peak_{target.precision}"),
            "kernels": faster(self.kernels),
        }
        return {name: cost * by.get(name, size * faster(self.moved)) for name, cost in base.items()}


def _fact(device: str, name: str) -> float:
    fact = getattr(devices.load(device).facts, name)
    assert fact is not None, f"{device} has no {name}"
    value = fact.value[0] if isinstance(fact.value, tuple) else fact.value  # of several modules
    return float(value)


_BYTES = {"fp32": 4, "fp16": 2, "int8": 1}
_XNNPACK = "scaled by the ratio of the peaks; LiteRT with XNNPACK, 4 threads"
_CORES = ("peak_fp32", "peak_fp32")  # a CPU's caches and its own work go by its cores' speed
_GPUS = ("memory_bandwidth", "gpu_clock")
SCALED = (
    Scaled(
        Target(
            "raspberry-pi-4", "int8", "int8", ("raspi4(64bit)",), _CPU, {},
            f"the fit of raspberry-pi-4 in fp32, {_XNNPACK}", "xnnpack", "4",
        ),
        ("raspberry-pi-4", "fp32"), *_CORES,
    ),
    Scaled(
        Target(
            "raspberry-pi-5", "fp32", "fp32", ("raspi5",), _CPU, {},
            f"the fit of raspberry-pi-4, {_XNNPACK}", "xnnpack", "4",
        ),
        ("raspberry-pi-4", "fp32"), *_CORES,
    ),
    Scaled(
        Target(
            "raspberry-pi-5", "int8", "int8", ("raspi5",), _CPU, {},
            f"the fit of raspberry-pi-4 in fp32, {_XNNPACK}", "xnnpack", "4",
        ),
        ("raspberry-pi-4", "fp32"), *_CORES,
    ),
    Scaled(
        Target(
            "intel-n100", "fp32", "fp32", ("intel-n100",), _CPU, {},
            f"the fit of raspberry-pi-4, {_XNNPACK}", "xnnpack", "4",
        ),
        ("raspberry-pi-4", "fp32"), *_CORES,
    ),
    Scaled(
        Target(
            "jetson-orin-nano", "int8", "int8", ("jetson-orin-nano-8gb",), _YOLO, {},
            "the fit of jetson-orin-nano in fp16, scaled by the ratio of the peaks", "tensorrt",
        ),
        ("jetson-orin-nano", "fp16"), *_GPUS,
    ),
    Scaled(
        Target(
            "jetson-orin-nx", "int8", "int8", ("jetson-orin-nx-16gb",), _YOLO, {},
            "the fit of jetson-orin-nx in fp16, scaled by the ratio of the peaks", "ultralytics",
        ),
        ("jetson-orin-nx", "fp16"), *_GPUS,
    ),
    *(
        Scaled(
            Target(
                "jetson-orin-nano-super", precision, precision, ("jetson-orin-nano-super-8gb",),
                _YOLO, {},
                "the fit of jetson-orin-nano in fp16, scaled by the ratios of peak, memory "
                "bandwidth and GPU clock", "tensorrt",
            ),
            ("jetson-orin-nano", "fp16"), *_GPUS,
        )
        for precision in ("fp16", "int8")
    ),
)  # fmt: skip
