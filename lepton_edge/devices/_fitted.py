"""Fits of published latencies, written by benchmarks/fit_devices.py: do not edit."""

from __future__ import annotations

from lepton_edge.devices.estimate import Fit

FITS: dict[tuple[str, str], Fit] = {
    ("coral-usb", "int8"): Fit(
        features=(
            ("inference", 0.26845),
            ("kernels", 0.013845),
            ("gmac_conv", 1.0536),
            ("gmac_other", 1.4764),
            ("mb_written", 0.084723),
            ("mb_streamed", 1.7482),
            ("mb_input", 3.4354),
            ("mtail", 1.2631),
            ("boxes", 1.9065),
        ),
        log_error=0.3850,
        median_error=0.1626,
        p90_factor=1.5232,
        rows=26,
        families=(
            "deeplab",
            "densenet",
            "efficientnet",
            "inception_v1",
            "inception_v3",
            "inception_v4",
            "mobilenet_v1",
            "mobilenet_v2",
            "resnet",
            "squeezenet",
            "ssd",
            "unet",
            "vgg",
        ),
        source=(
            "coral.ai/docs/edgetpu/benchmarks, coral.ai/models, google-coral/edgetpu "
            "reference, freedomtan: USB 3 on a desktop"
        ),
        tier="calibrated",
    ),
    ("coral-dev-board", "int8"): Fit(
        features=(
            ("inference", 0.28081),
            ("kernels", 0.013845),
            ("gmac_conv", 1.0536),
            ("gmac_other", 1.4764),
            ("mb_written", 0.084723),
            ("mb_streamed", 2.1502),
            ("mb_input", 3.5986),
            ("mtail", 7.0446),
            ("boxes", 7.839),
        ),
        log_error=0.5130,
        median_error=0.1409,
        p90_factor=1.8819,
        rows=19,
        families=(
            "deeplab",
            "densenet",
            "efficientnet",
            "inception_v1",
            "inception_v4",
            "mobilenet_v1",
            "mobilenet_v2",
            "resnet",
            "squeezenet",
            "ssd",
            "unet",
            "vgg",
        ),
        source=("coral.ai/docs/edgetpu/benchmarks, google-coral/edgetpu reference, freedomtan"),
        tier="calibrated",
    ),
    ("jetson-nano", "fp16"): Fit(
        features=(
            ("kernels", 0.016762),
            ("gmac", 3.5178),
            ("mweights", 0.18923),
            ("mmoved", 0.16218),
            ("mdepthwise", 0.13021),
            ("mactivations", 0.26186),
        ),
        log_error=0.3173,
        median_error=0.0717,
        p90_factor=1.3725,
        rows=12,
        families=("alexnet", "densenet", "resnet", "squeezenet", "vgg"),
        source=("github.com/NVIDIA-AI-IOT/torch2trt"),
        tier="calibrated",
    ),
    ("jetson-agx-xavier", "fp16"): Fit(
        features=(
            ("kernels", 0.02178),
            ("gmac", 0.18597),
            ("mweights", 0.026262),
            ("mmoved", 0.045292),
            ("mdepthwise", 0.02027),
            ("mactivations", 0.0095634),
        ),
        log_error=0.4784,
        median_error=0.1266,
        p90_factor=1.7389,
        rows=21,
        families=("alexnet", "densenet", "mnasnet", "resnet", "shufflenet", "squeezenet", "vgg"),
        source=("github.com/NVIDIA-AI-IOT/torch2trt"),
        tier="calibrated",
    ),
    ("jetson-xavier-nx", "fp16"): Fit(
        features=(
            ("kernels", 0.01808),
            ("gmac", 0.25601),
            ("mweights", 0.051051),
            ("mmoved", 0.18456),
            ("mdepthwise", 0.037755),
            ("mactivations", 0.029817),
        ),
        log_error=0.1978,
        median_error=0.1216,
        p90_factor=1.3208,
        rows=48,
        families=("yolov8", "yolox"),
        source=(
            "github.com/justincdavis/trtutils, engine execution; the power mode is not "
            "stated; 8 GB, JetPack 5"
        ),
        tier="calibrated",
    ),
    ("jetson-orin-nano", "fp16"): Fit(
        features=(
            ("kernels", 0.019489),
            ("gmac", 0.13295),
            ("mweights", 0.037669),
            ("mmoved", 0.15245),
            ("mdepthwise", 0.037583),
            ("mactivations", 0.026941),
        ),
        log_error=0.1541,
        median_error=0.0681,
        p90_factor=1.2095,
        rows=72,
        families=("yolov10", "yolov8", "yolox"),
        source=(
            "github.com/justincdavis/trtutils, engine execution; the power mode is not "
            "stated; 8 GB, JetPack 5"
        ),
        tier="calibrated",
    ),
    ("jetson-orin-nx", "fp16"): Fit(
        features=(
            ("kernels", 0.015232),
            ("gmac", 0.10142),
            ("mweights", 0.024657),
            ("mmoved", 0.092138),
            ("mdepthwise", 0.023556),
            ("mactivations", 0.016858),
        ),
        log_error=0.1665,
        median_error=0.0738,
        p90_factor=1.2615,
        rows=72,
        families=("yolov10", "yolov8", "yolox"),
        source=(
            "github.com/justincdavis/trtutils, engine execution; the power mode is not "
            "stated; 16 GB, JetPack 6"
        ),
        tier="calibrated",
    ),
    ("jetson-agx-orin", "fp16"): Fit(
        features=(
            ("kernels", 0.009464),
            ("gmac", 0.032921),
            ("mweights", 0.012963),
            ("mmoved", 0.034537),
            ("mdepthwise", 0.011721),
            ("mactivations", 0.0080034),
        ),
        log_error=0.1235,
        median_error=0.0650,
        p90_factor=1.1894,
        rows=72,
        families=("yolov10", "yolov8", "yolox"),
        source=(
            "github.com/justincdavis/trtutils, engine execution; the power mode is not "
            "stated; 64 GB, JetPack 6"
        ),
        tier="calibrated",
    ),
    ("raspberry-pi-4", "fp32"): Fit(
        features=(
            ("kernels", 0.029971),
            ("gmac", 127.41),
            ("mweights", 0.64893),
            ("mmoved", 0.91701),
            ("mdepthwise", 0.91866),
        ),
        log_error=0.4805,
        median_error=0.1910,
        p90_factor=1.5822,
        rows=13,
        families=("efficientdet", "mobilenet_v1", "mobilenet_v3", "ssd", "ssdlite", "yolox"),
        source=(
            "github.com/NobuoTsukamoto/benchmarks, github.com/google/XNNPACK: LiteRT with "
            "XNNPACK, 4 threads, 64 bits"
        ),
        tier="calibrated",
    ),
    ("raspberry-pi-5", "fp32"): Fit(
        features=(
            ("kernels", 0.011288),
            ("gmac", 47.985),
            ("mweights", 0.2444),
            ("mmoved", 0.34537),
            ("mdepthwise", 0.34599),
        ),
        log_error=0.4805,
        median_error=0.1187,
        p90_factor=1.2837,
        rows=3,
        families=("efficientdet",),
        source=(
            "the fit of raspberry-pi-4, by the ratio of the peaks in fp32; LiteRT with "
            "XNNPACK, 4 threads"
        ),
        tier="prior",
    ),
}
