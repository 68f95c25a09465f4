"""YOLO detectors as costs, layer by layer: v8, v10, 11 (Ultralytics, THU-MIG), YOLOX (Megvii)."""

from __future__ import annotations

from fit_net import Net, Shape

from lepton_edge.devices._kernels import Cost, Kernel

CLASSES = 80


def _c2f(net: Net, channels: int, n: int, *, add: bool = False, cib: bool = False) -> Shape:
    """Split in two halves, n bottlenecks on one, all of them concatenated."""
    half = channels // 2
    height, width, _ = net.conv(channels)
    net.at = (height, width, half)
    for _ in range(n):
        if cib:
            net.dw()
            net.conv(2 * half)
            net.dw()
            net.conv(half)
            net.dw()
        else:
            net.conv(half, 3)
            net.conv(half, 3)
        if add or cib:
            net.add()
    net.concat((height, width, (2 + n) * half))
    return net.conv(channels)


def _sppf(net: Net, channels: int) -> Shape:
    height, width, _ = net.conv(channels // 2)
    for _ in range(3):
        net.pool(5, 1)
    net.concat((height, width, 2 * channels))
    return net.conv(channels)


def _down(net: Net, channels: int, separable: bool) -> Shape:
    if separable:
        net.conv(channels)
        return net.dw(3, 2)
    return net.conv(channels, 3, 2)


def _psa(net: Net, channels: int, blocks: int = 1) -> Shape:
    """Partial self-attention on half the channels, as in YOLOv10 and YOLO11."""
    half, (height, width, _) = channels // 2, net.conv(channels)
    places = height * width
    for _ in range(blocks):
        net.at = (height, width, half)
        net.conv(2 * half)
        for inner in (half // 2, half):
            net.kernels.append(
                Kernel("dense", places * places * inner, 0, places * half, places * places)
            )
        net.move(net.at)  # softmax
        net.at = (height, width, half)
        net.dw()
        for out in (half, 2 * half, half):
            net.conv(out)
    net.at = (height, width, channels)
    return net.conv(channels)


def _c3k2(net: Net, channels: int, n: int, *, nested: bool, part: float = 0.5) -> Shape:
    """YOLO11's block: as v8's, with bottlenecks of half the width, or (`nested`) C3 of two."""
    inner = int(channels * part)
    height, width, _ = net.conv(2 * inner)
    for _ in range(n):
        net.at = (height, width, inner)
        half = inner // 2
        if nested:
            net.conv(half)
            net.at = (height, width, inner)
            net.conv(half)
            for _ in range(2):
                net.conv(half, 3)
                net.conv(half, 3)
                net.add()
            net.concat((height, width, inner))
            net.conv(inner)
        else:
            net.conv(half, 3)
            net.conv(inner, 3)
            net.add()
    net.concat((height, width, (2 + n) * inner))
    return net.conv(channels)


def _merge(net: Net, other: Shape, *, up: bool = False) -> Shape:
    """Concatenates with a tensor of the same size, after doubling the size where `up`."""
    if up:
        net.move((other[0], other[1], net.at[2]))
    return net.concat((other[0], other[1], net.at[2] + other[2]))


def _ultralytics_heads(net: Net, ends: list[Shape], *, separable: bool) -> Cost:
    """Boxes and classes from each end; `separable` is of the classes' convolutions."""
    box, label = max(16, ends[0][2] // 4, 64), max(ends[0][2], min(CLASSES, 100))
    for end in ends:
        net.at = end
        net.conv(box, 3)
        net.conv(box, 3)
        net.conv(64)
        net.at = end
        for _ in range(2):
            if separable:
                net.dw()
                net.conv(label)
            else:
                net.conv(label, 3)
        net.conv(CLASSES)
    places = sum(end[0] * end[1] for end in ends)
    net.at = (1, places, 64 + CLASSES)
    net.move((1, places, 4 + CLASSES))
    return net.cost()


def yolo(version: int, size: int, depth: float, width: float, most: int = 1024) -> Cost:
    """YOLOv8, or YOLOv10 with its separable down-sampling, inverted blocks and attention."""
    ten, large = version == 10, depth > 0.5
    small = width < 0.5

    def ch(channels: int) -> int:
        return int(-(-min(channels, most) * width // 8) * 8)

    def n(count: int) -> int:
        return max(1, round(count * depth))

    net = Net(size)
    net.conv(ch(64), 3, 2)
    net.conv(ch(128), 3, 2)
    _c2f(net, ch(128), n(3), add=True)
    net.conv(ch(256), 3, 2)
    third = _c2f(net, ch(256), n(6), add=True)
    _down(net, ch(512), ten)
    fourth = _c2f(net, ch(512), n(6), add=True)
    _down(net, ch(1024), ten)
    _c2f(net, ch(1024), n(3), add=True, cib=ten and not small)
    fifth = _sppf(net, ch(1024))
    if ten:
        fifth = _psa(net, ch(1024))
    _merge(net, fourth, up=True)
    middle = _c2f(net, ch(512), n(3))
    _merge(net, third, up=True)
    ends = [_c2f(net, ch(256), n(3))]
    net.conv(ch(256), 3, 2)
    _merge(net, middle)
    ends.append(_c2f(net, ch(512), n(3), cib=ten and large))
    _down(net, ch(512), ten)
    _merge(net, fifth)
    ends.append(_c2f(net, ch(1024), n(3), cib=ten))
    return _ultralytics_heads(net, ends, separable=ten)


def yolo11(size: int, depth: float, width: float, most: int, large: bool) -> Cost:
    """`large`: the nested blocks everywhere, as in m, l and x."""

    def ch(channels: int) -> int:
        return int(-(-min(channels, most) * width // 8) * 8)

    n = max(1, round(2 * depth))
    net = Net(size)

    def block(channels: int, nested: bool = False, part: float = 0.5) -> Shape:
        return _c3k2(net, ch(channels), n, nested=nested or large, part=part)

    net.conv(ch(64), 3, 2)
    net.conv(ch(128), 3, 2)
    block(256, part=0.25)
    net.conv(ch(256), 3, 2)
    third = block(512, part=0.25)
    net.conv(ch(512), 3, 2)
    fourth = block(512, nested=True)
    net.conv(ch(1024), 3, 2)
    block(1024, nested=True)
    _sppf(net, ch(1024))
    fifth = _psa(net, ch(1024), n)
    _merge(net, fourth, up=True)
    middle = block(512)
    _merge(net, third, up=True)
    ends = [block(256)]
    net.conv(ch(256), 3, 2)
    _merge(net, middle)
    ends.append(block(512))
    net.conv(ch(512), 3, 2)
    _merge(net, fifth)
    ends.append(block(1024, nested=True))
    return _ultralytics_heads(net, ends, separable=True)


def yolox(size: int, depth: float, width: float, *, separable: bool = False) -> Cost:
    def ch(channels: int) -> int:
        return int(channels * width)

    def n(count: int) -> int:
        return max(1, round(count * depth))

    net = Net(size)

    def conv3(channels: int, s: int = 1) -> Shape:
        if separable:
            net.dw(3, s)
            return net.conv(channels)
        return net.conv(channels, 3, s)

    def csp(channels: int, count: int, add: bool = True) -> Shape:
        half, start = channels // 2, net.at
        net.conv(half)
        net.at = start
        net.conv(half)
        for _ in range(count):
            net.conv(half)
            conv3(half)
            if add:
                net.add()
        net.concat((start[0], start[1], 2 * half))
        return net.conv(channels)

    net.move((size // 2, size // 2, 12))
    net.conv(ch(64), 3)
    conv3(ch(128), 2)
    csp(ch(128), n(3))
    conv3(ch(256), 2)
    third = csp(ch(256), n(9))
    conv3(ch(512), 2)
    fourth = csp(ch(512), n(9))
    conv3(ch(1024), 2)
    height, width_, _ = net.conv(ch(512))
    for k in (5, 9, 13):
        net.pool(k, 1)
    net.concat((height, width_, 4 * ch(512)))
    net.conv(ch(1024))
    csp(ch(1024), n(3), False)
    top = net.conv(ch(512))
    _merge(net, fourth, up=True)
    csp(ch(512), n(3), False)
    middle = net.conv(ch(256))
    _merge(net, third, up=True)
    ends = [csp(ch(256), n(3), False)]
    conv3(ch(256), 2)
    _merge(net, middle)
    ends.append(csp(ch(512), n(3), False))
    conv3(ch(512), 2)
    _merge(net, top)
    ends.append(csp(ch(1024), n(3), False))
    for end in ends:
        net.at = end
        stem = net.conv(ch(256))
        for outputs in ((CLASSES,), (4, 1)):
            net.at = stem
            conv3(ch(256))
            last = conv3(ch(256))
            for out in outputs:
                net.at = last
                net.conv(out)
    places = sum(end[0] * end[1] for end in ends)
    net.at = (1, places, 5 + CLASSES)
    net.move(net.at)
    return net.cost()


V8 = {"n": (0.33, 0.25, 1024), "s": (0.33, 0.5, 1024), "m": (0.67, 0.75, 768)}
V10 = {"n": (0.33, 0.25, 1024), "s": (0.33, 0.5, 1024), "m": (0.67, 0.75, 768)}
X = {"n": (0.33, 0.25), "t": (0.33, 0.375), "s": (0.33, 0.5), "m": (0.67, 0.75)}


V11 = {
    "n": (0.5, 0.25, 1024, False), "s": (0.5, 0.5, 1024, False), "m": (0.5, 1.0, 512, True),
    "l": (1.0, 1.0, 512, True), "x": (1.0, 1.5, 512, True),
}  # fmt: skip


def detector(name: str, size: int) -> Cost:
    """By the published name: yolov8n, yolov10s, yolo11m, yoloxm ..."""
    scale = name[-1]
    if name.startswith("yolo11"):
        return yolo11(size, *V11[scale])
    if name.startswith("yolox"):
        depth, width = X[scale]
        return yolox(size, depth, width, separable=scale == "n")
    version = int(name[len("yolov") : -1])
    return yolo(version, size, *(V8 if version == 8 else V10)[scale])


NAMES = (
    *(f"yolov8{scale}" for scale in "nm"),
    *(f"yolov10{scale}" for scale in "nsm"),
    *(f"yolo11{scale}" for scale in V11),
    *(f"yolox{scale}" for scale in X),
)
