"""Fits of published latencies, written by benchmarks/fit_devices.py: do not edit."""

from __future__ import annotations

from lepton_edge.devices.estimate import Fit

FITS: dict[tuple[str, str], Fit] = {
    ("coral-usb", "int8"): Fit(
        features=(
            ("inference", 0.26865),
            ("kernels", 0.013856),
            ("gmac_conv", 1.059),
            ("gmac_other", 1.4931),
            ("mb_written", 0.082612),
            ("mb_streamed", 1.7475),
            ("mb_input", 3.4383),
            ("mtail", 1.2754),
            ("boxes", 1.9048),
        ),
        log_error=0.3856,
        median_error=0.1661,
        p90_factor=1.5233,
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
            ("inference", 0.28104),
            ("kernels", 0.013856),
            ("gmac_conv", 1.059),
            ("gmac_other", 1.4931),
            ("mb_written", 0.082612),
            ("mb_streamed", 2.1504),
            ("mb_input", 3.6022),
            ("mtail", 7.106),
            ("boxes", 7.834),
        ),
        log_error=0.5133,
        median_error=0.1417,
        p90_factor=1.9187,
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
            ("kernels", 0.015819),
            ("gmac", 3.6127),
            ("mweights", 0.18942),
            ("mmoved", 0.30471),
            ("mdepthwise", 0.13021),
            ("mactivations", 0.10298),
        ),
        log_error=0.2110,
        median_error=0.0756,
        p90_factor=1.2336,
        rows=12,
        families=("alexnet", "densenet", "resnet", "squeezenet", "vgg"),
        source=("github.com/NVIDIA-AI-IOT/torch2trt"),
        tier="calibrated",
    ),
    ("jetson-agx-xavier", "fp16"): Fit(
        features=(
            ("kernels", 0.022145),
            ("gmac", 0.18777),
            ("mweights", 0.026168),
            ("mmoved", 0.0426),
            ("mdepthwise", 0.019488),
            ("mactivations", 0.009834),
        ),
        log_error=0.5516,
        median_error=0.1010,
        p90_factor=1.8886,
        rows=21,
        families=("alexnet", "densenet", "mnasnet", "resnet", "shufflenet", "squeezenet", "vgg"),
        source=("github.com/NVIDIA-AI-IOT/torch2trt"),
        tier="calibrated",
    ),
    ("jetson-xavier-nx", "fp16"): Fit(
        features=(
            ("kernels", 0.018059),
            ("gmac", 0.26335),
            ("mweights", 0.053901),
            ("mmoved", 0.22444),
            ("mdepthwise", 0.037687),
            ("mactivations", 0.026412),
        ),
        log_error=0.2364,
        median_error=0.1629,
        p90_factor=1.3821,
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
            ("kernels", 0.01951),
            ("gmac", 0.13817),
            ("mweights", 0.038334),
            ("mmoved", 0.18662),
            ("mdepthwise", 0.038841),
            ("mactivations", 0.026133),
        ),
        log_error=0.1814,
        median_error=0.0833,
        p90_factor=1.2356,
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
            ("kernels", 0.015347),
            ("gmac", 0.10843),
            ("mweights", 0.025261),
            ("mmoved", 0.11012),
            ("mdepthwise", 0.023639),
            ("mactivations", 0.016527),
        ),
        log_error=0.1769,
        median_error=0.0945,
        p90_factor=1.2786,
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
            ("kernels", 0.0094922),
            ("gmac", 0.035778),
            ("mweights", 0.013075),
            ("mmoved", 0.0406),
            ("mdepthwise", 0.011796),
            ("mactivations", 0.0081579),
        ),
        log_error=0.1426,
        median_error=0.0829,
        p90_factor=1.2170,
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
            ("kernels", 0.030151),
            ("gmac", 127.45),
            ("mweights", 0.6519),
            ("mmoved", 0.9053),
            ("mdepthwise", 0.9201),
        ),
        log_error=0.4708,
        median_error=0.1891,
        p90_factor=1.5730,
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
            ("kernels", 0.011355),
            ("gmac", 47.999),
            ("mweights", 0.24552),
            ("mmoved", 0.34096),
            ("mdepthwise", 0.34653),
        ),
        log_error=0.4708,
        median_error=0.1187,
        p90_factor=1.2835,
        rows=3,
        families=("efficientdet",),
        source=(
            "the fit of raspberry-pi-4, by the ratio of the peaks in fp32; LiteRT with "
            "XNNPACK, 4 threads"
        ),
        tier="prior",
    ),
}
