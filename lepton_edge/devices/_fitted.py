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
            ("kernels", 0.017489),
            ("gmac", 0.31671),
            ("mweights", 0.055772),
            ("mmoved", 0.12155),
            ("mdepthwise", 0.050772),
            ("mactivations", 0.041944),
        ),
        log_error=0.1194,
        median_error=0.0365,
        p90_factor=1.1779,
        rows=88,
        families=("yolov7", "yolov8", "yolov9", "yolox"),
        source=(
            "github.com/justincdavis/trtutils, engine execution; the power mode is not "
            "stated; 8 GB, JetPack 5"
        ),
        tier="calibrated",
    ),
    ("jetson-orin-nano", "fp16"): Fit(
        features=(
            ("kernels", 0.019303),
            ("gmac", 0.12057),
            ("mweights", 0.038864),
            ("mmoved", 0.16133),
            ("mdepthwise", 0.041864),
            ("mactivations", 0.024808),
        ),
        log_error=0.1144,
        median_error=0.0579,
        p90_factor=1.1497,
        rows=112,
        families=("yolov10", "yolov7", "yolov8", "yolov9", "yolox"),
        source=(
            "github.com/justincdavis/trtutils, engine execution; the power mode is not "
            "stated; 8 GB, JetPack 5"
        ),
        tier="calibrated",
    ),
    ("jetson-orin-nx", "fp16"): Fit(
        features=(
            ("kernels", 0.014585),
            ("gmac", 0.10344),
            ("mweights", 0.024904),
            ("mmoved", 0.088992),
            ("mdepthwise", 0.025852),
            ("mactivations", 0.019336),
        ),
        log_error=0.1455,
        median_error=0.0680,
        p90_factor=1.2192,
        rows=112,
        families=("yolov10", "yolov7", "yolov8", "yolov9", "yolox"),
        source=(
            "github.com/justincdavis/trtutils, engine execution; the power mode is not "
            "stated; 16 GB, JetPack 6"
        ),
        tier="calibrated",
    ),
    ("jetson-agx-orin", "fp16"): Fit(
        features=(
            ("kernels", 0.0091405),
            ("gmac", 0.030085),
            ("mweights", 0.013042),
            ("mmoved", 0.038225),
            ("mdepthwise", 0.01297),
            ("mactivations", 0.0072308),
        ),
        log_error=0.1137,
        median_error=0.0628,
        p90_factor=1.1475,
        rows=112,
        families=("yolov10", "yolov7", "yolov8", "yolov9", "yolox"),
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
    ("raspberry-pi-4", "int8"): Fit(
        features=(
            ("kernels", 0.029971),
            ("gmac", 64.259),
            ("mweights", 0.16223),
            ("mmoved", 0.22925),
            ("mdepthwise", 0.22966),
        ),
        log_error=0.4805,
        median_error=0.0940,
        p90_factor=1.3183,
        rows=3,
        families=("efficientdet",),
        source=(
            "the fit of raspberry-pi-4 in fp32, scaled by the ratio of the peaks; LiteRT with"
            " XNNPACK, 4 threads"
        ),
        tier="prior",
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
            "the fit of raspberry-pi-4, scaled by the ratio of the peaks; LiteRT with "
            "XNNPACK, 4 threads"
        ),
        tier="prior",
    ),
    ("raspberry-pi-5", "int8"): Fit(
        features=(
            ("kernels", 0.011288),
            ("gmac", 12.114),
            ("mweights", 0.0611),
            ("mmoved", 0.086342),
            ("mdepthwise", 0.086497),
        ),
        log_error=0.4805,
        median_error=0.2579,
        p90_factor=1.4218,
        rows=3,
        families=("efficientdet",),
        source=(
            "the fit of raspberry-pi-4 in fp32, scaled by the ratio of the peaks; LiteRT with"
            " XNNPACK, 4 threads"
        ),
        tier="prior",
    ),
    ("intel-n100", "fp32"): Fit(
        features=(
            ("kernels", 0.007974),
            ("gmac", 33.898),
            ("mweights", 0.17265),
            ("mmoved", 0.24398),
            ("mdepthwise", 0.24441),
        ),
        log_error=0.4805,
        median_error=0.1492,
        p90_factor=1.4430,
        rows=3,
        families=("efficientdet",),
        source=(
            "the fit of raspberry-pi-4, scaled by the ratio of the peaks; LiteRT with "
            "XNNPACK, 4 threads"
        ),
        tier="prior",
    ),
    ("jetson-orin-nano", "int8"): Fit(
        features=(
            ("kernels", 0.019303),
            ("gmac", 0.060285),
            ("mweights", 0.019432),
            ("mmoved", 0.080667),
            ("mdepthwise", 0.020932),
            ("mactivations", 0.012404),
        ),
        log_error=0.3540,
        median_error=0.2877,
        p90_factor=1.4206,
        rows=2,
        families=("yolov8",),
        source=("the fit of jetson-orin-nano in fp16, scaled by the ratio of the peaks"),
        tier="prior",
    ),
    ("jetson-orin-nx", "int8"): Fit(
        features=(
            ("kernels", 0.014585),
            ("gmac", 0.051722),
            ("mweights", 0.012452),
            ("mmoved", 0.044496),
            ("mdepthwise", 0.012926),
            ("mactivations", 0.0096682),
        ),
        log_error=0.3207,
        median_error=0.0806,
        p90_factor=1.1117,
        rows=4,
        families=("yolo11",),
        source=("the fit of jetson-orin-nx in fp16, scaled by the ratio of the peaks"),
        tier="prior",
    ),
    ("jetson-orin-nano-super", "fp16"): Fit(
        features=(
            ("kernels", 0.011828),
            ("gmac", 0.072198),
            ("mweights", 0.025909),
            ("mmoved", 0.10756),
            ("mdepthwise", 0.02791),
            ("mactivations", 0.016539),
        ),
        log_error=0.3207,
        median_error=0.1495,
        p90_factor=1.2538,
        rows=4,
        families=("yolo11",),
        source=(
            "the fit of jetson-orin-nano in fp16, scaled by the ratios of peak, memory "
            "bandwidth and GPU clock"
        ),
        tier="prior",
    ),
    ("jetson-orin-nano-super", "int8"): Fit(
        features=(
            ("kernels", 0.011828),
            ("gmac", 0.036099),
            ("mweights", 0.012955),
            ("mmoved", 0.053778),
            ("mdepthwise", 0.013955),
            ("mactivations", 0.0082693),
        ),
        log_error=0.3207,
        median_error=0.0785,
        p90_factor=1.2320,
        rows=5,
        families=("yolo11", "yolov8"),
        source=(
            "the fit of jetson-orin-nano in fp16, scaled by the ratios of peak, memory "
            "bandwidth and GPU clock"
        ),
        tier="prior",
    ),
}
