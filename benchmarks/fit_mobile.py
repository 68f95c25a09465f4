"""Networks for phones and their detectors as costs: MobileNet v3, SSDLite, EfficientDet-lite."""

from __future__ import annotations

import math

from fit_architectures import _inverted, _mobilenet_v2
from fit_net import Net, Shape

from lepton_edge.devices._kernels import Cost, Kernel

# kernel, expanded, out, squeeze-and-excitation, hard-swish, stride
_V3 = {
    "large": (
        (3, 16, 16, 0, 0, 1), (3, 64, 24, 0, 0, 2), (3, 72, 24, 0, 0, 1), (5, 72, 40, 1, 0, 2),
        (5, 120, 40, 1, 0, 1), (5, 120, 40, 1, 0, 1), (3, 240, 80, 0, 1, 2), (3, 200, 80, 0, 1, 1),
        (3, 184, 80, 0, 1, 1), (3, 184, 80, 0, 1, 1), (3, 480, 112, 1, 1, 1),
        (3, 672, 112, 1, 1, 1), (5, 672, 160, 1, 1, 2), (5, 960, 160, 1, 1, 1),
        (5, 960, 160, 1, 1, 1),
    ),
    "small": (
        (3, 16, 16, 1, 0, 2), (3, 72, 24, 0, 0, 2), (3, 88, 24, 0, 0, 1), (5, 96, 40, 1, 1, 2),
        (5, 240, 40, 1, 1, 1), (5, 240, 40, 1, 1, 1), (5, 120, 48, 1, 1, 1), (5, 144, 48, 1, 1, 1),
        (5, 288, 96, 1, 1, 2), (5, 576, 96, 1, 1, 1), (5, 576, 96, 1, 1, 1),
    ),
}  # fmt: skip


def mobilenet_v3(kind: str, size: int = 224) -> Cost:
    """Hard-swish is a kernel of its own in TFLite."""
    net = Net(size)
    net.conv(16, 3, 2)
    net.move(net.at)
    for k, expanded, out, squeeze, swish, s in _V3[kind]:
        before = net.at[2]
        if expanded != before:
            net.conv(expanded)
            if swish:
                net.move(net.at)
        wide = net.dw(k, s)
        if swish:
            net.move(net.at)
        if squeeze:
            net.gap()
            net.conv(expanded // 4)
            net.conv(expanded)
            net.at = wide
            net.move(wide)
        net.conv(out)
        if s == 1 and before == out:
            net.add()
    net.conv(960 if kind == "large" else 576)
    net.move(net.at)
    net.gap()
    net.conv(1280 if kind == "large" else 1024)
    net.conv(1001)
    net.move(net.at)
    return net.cost()


def ssdlite_mobilenet_v2(size: int = 300) -> Cost:
    net = Net(size)
    ends = _mobilenet_v2(net)
    last = net.at
    net.at = ends[4]
    maps = [net.conv(576)]
    net.at = last
    maps.append(last)
    for inner, out in ((256, 512), (128, 256), (128, 256), (64, 128)):
        net.conv(inner)
        net.dw(3, 2)
        maps.append(net.conv(out))
    for index, shape in enumerate(maps):
        anchors = 3 if index == 0 else 6
        for channels in (anchors * 4, anchors * 91):
            net.at = shape
            net.dw()
            net.conv(channels)
    net.at = (1, 1917, 95)
    net.move(net.at)
    net.kernels.append(Kernel("boxes", 0, 0, 1917 * 95, 60))
    return net.cost()


_STAGES = (
    (3, 1, 1, 16, 1), (3, 2, 6, 24, 2), (5, 2, 6, 40, 2), (3, 2, 6, 80, 3), (5, 1, 6, 112, 3),
    (5, 2, 6, 192, 4), (3, 1, 6, 320, 1),
)  # fmt: skip
# width, depth, pyramid channels, pyramid cells, repeats in the heads, image size
_LITE = {
    0: (1.0, 1.0, 64, 3, 3, 320),
    1: (1.0, 1.1, 88, 4, 3, 384),
    4: (1.4, 1.8, 224, 7, 4, 640),
}


def efficientdet_lite(number: int) -> Cost:
    width, depth, channels, cells, repeats, size = _LITE[number]
    net = Net(size)
    net.conv(32, 3, 2)
    levels: dict[int, Shape] = {}
    for index, (k, s, expand, out, n) in enumerate(_STAGES):
        scaled = max(8, int(out * width + 4) // 8 * 8)
        count = n if index in (0, len(_STAGES) - 1) else math.ceil(n * depth)
        for block in range(count):
            _inverted(net, scaled, s if block == 0 else 1, expand, k)
        levels[{2: 3, 4: 4, 6: 5}.get(index, 0)] = net.at
    net.at = levels[5]
    net.conv(channels)
    for level in (6, 7):
        levels[level] = net.pool(3, 2)
    sides = {level: levels[level][0] for level in range(3, 8)}
    for cell in range(cells):
        if cell == 0:  # laterals; the levels 4 and 5 have one for each way
            for level in (3, 4, 4, 5, 5):
                net.at = levels[level]
                net.conv(channels)
        for level in (6, 5, 4, 3, 4, 5, 6, 7):
            net.at = (sides[level], sides[level], channels)
            net.move(net.at)  # resized from the neighbour
            net.add()
            net.dw()
            net.conv(channels)
    for level in range(3, 8):
        for outputs in (9 * 4, 9 * 90):
            net.at = (sides[level], sides[level], channels)
            for _ in range(repeats):
                net.dw()
                net.conv(channels)
            net.dw()
            net.conv(outputs)
    anchors = 9 * sum(side * side for side in sides.values())
    net.at = (1, anchors, 94)
    net.move(net.at)
    net.kernels.append(Kernel("boxes", 0, 0, anchors * 94, 150))
    return net.cost()
