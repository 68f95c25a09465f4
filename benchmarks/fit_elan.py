"""YOLOv7 (tiny and full) and YOLOv9 (t, s, m) as costs, layer by layer, after WongKinYiu."""

from __future__ import annotations

from fit_detectors import CLASSES, _merge, _ultralytics_heads
from fit_net import Net, Shape

from lepton_edge.devices._kernels import Cost


def _elan(net: Net, out: int, entry: int, inner: int, steps: int, taken: int) -> Shape:
    """Two 1x1 entries, `steps` 3x3 in a row on one, of which `taken` are concatenated with both."""
    start = net.at
    net.conv(entry)
    net.at = start
    height, width, _ = net.conv(entry)
    for _ in range(steps):
        net.conv(inner, 3)
    net.concat((height, width, 2 * entry + taken * inner))
    return net.conv(out)


def _pooled_and_strided(net: Net, channels: int) -> Shape:
    """Half the size by pooling and by stride, `channels` from each."""
    start = net.at
    net.pool(2, 2)
    net.conv(channels)
    net.at = start
    net.conv(channels)
    height, width, _ = net.conv(channels, 3, 2)
    return net.concat((height, width, 2 * channels))


def _up(net: Net, side: Shape, channels: int) -> Shape:
    """To twice the size, concatenated with the tensor beside it, both of `channels`."""
    lower = net.conv(channels)
    net.at = side
    lateral = net.conv(channels)
    net.at = lower
    return _merge(net, lateral, up=True)


def _anchored(net: Net, ends: list[Shape]) -> Cost:
    """Each end twice as wide, then its three anchors, all of them concatenated."""
    places = 0
    for end in ends:
        net.at = end
        net.conv(2 * end[2], 3)
        net.conv(3 * (5 + CLASSES))
        places += 3 * end[0] * end[1]
    net.at = (1, places, 5 + CLASSES)
    net.concat(net.at)
    return net.cost()


def yolov7_tiny(size: int) -> Cost:
    net = Net(size)
    net.conv(32, 3, 2)
    net.conv(64, 3, 2)
    _elan(net, 64, 32, 32, 2, 2)
    maps = []
    for inner in (64, 128, 256):
        net.pool(2, 2)
        maps.append(_elan(net, 2 * inner, inner, inner, 2, 2))
    height, width, _ = end = maps[2]
    net.conv(256)
    net.at = end
    net.conv(256)
    for k in (5, 9, 13):
        net.pool(k, 1)
    net.concat((height, width, 1024))
    net.conv(256)
    net.concat((height, width, 512))
    top = net.conv(256)
    outs = {}
    for side, channels in ((maps[1], 128), (maps[0], 64)):
        _up(net, side, channels)
        outs[channels] = _elan(net, channels, channels // 2, channels // 2, 2, 2)
    ends = [outs[64]]
    for channels, other in ((128, outs[128]), (256, top)):
        net.conv(channels, 3, 2)
        _merge(net, other)
        ends.append(_elan(net, channels, channels // 2, channels // 2, 2, 2))
    return _anchored(net, ends)


def yolov7(size: int) -> Cost:
    net = Net(size)
    net.conv(32, 3)
    net.conv(64, 3, 2)
    net.conv(64, 3)
    net.conv(128, 3, 2)
    _elan(net, 256, 64, 64, 4, 2)
    maps = []
    for half, channels, inner in ((128, 512, 128), (256, 1024, 256), (512, 1024, 256)):
        _pooled_and_strided(net, half)
        maps.append(_elan(net, channels, inner, inner, 4, 2))
    height, width, _ = end = maps[2]
    net.conv(512)
    net.at = end
    net.conv(512)
    net.conv(512, 3)
    net.conv(512)
    for k in (5, 9, 13):
        net.pool(k, 1)
    net.concat((height, width, 2048))
    net.conv(512)
    net.conv(512, 3)
    net.concat((height, width, 1024))
    top = net.conv(512)
    outs = {}
    for side, channels in ((maps[1], 256), (maps[0], 128)):
        _up(net, side, channels)
        outs[channels] = _elan(net, channels, channels, channels // 2, 4, 4)
    ends = [outs[128]]
    for channels, other in ((128, outs[256]), (256, top)):
        _pooled_and_strided(net, channels)
        _merge(net, other)
        ends.append(_elan(net, 2 * channels, 2 * channels, channels, 4, 4))
    return _anchored(net, ends)


def _rep_csp(net: Net, channels: int, n: int) -> Shape:
    half, start = channels // 2, net.at
    net.conv(half)
    net.at = start
    net.conv(half)
    for _ in range(n):
        net.conv(half, 3)
        net.conv(half, 3)
        net.add()
    net.concat((start[0], start[1], channels))
    return net.conv(channels)


def _gelan(net: Net, out: int, n: int) -> Shape:
    """RepNCSPELAN4: split in two halves, two stages of a CSP and a 3x3 on one of them."""
    inner = out // 2
    height, width, _ = net.conv(out)
    net.at = (height, width, inner)
    for _ in range(2):
        _rep_csp(net, inner, n)
        net.conv(inner, 3)
    net.concat((height, width, 2 * out))
    return net.conv(out)


def _averaged(net: Net, channels: int) -> Shape:
    net.pool(2, 1)
    return net.conv(channels, 3, 2)


def yolov9(
    size: int, first: int, widths: tuple[int, int, int], down: tuple[int, int], n: int
) -> Cost:
    """`widths` are of the three scales, `down` of the two steps back down, `n` of each CSP."""
    net = Net(size)
    net.conv(first, 3, 2)
    net.conv(2 * first, 3, 2)
    if n > 1:  # t and s
        height, width, _ = net.conv(2 * first)
        net.at = (height, width, first)
        net.conv(first, 3)
        net.conv(first, 3)
        net.concat((height, width, 4 * first))
        net.conv(2 * first)
    else:
        _gelan(net, 4 * first, n)
    maps = []
    for channels in widths:
        _averaged(net, channels)
        maps.append(_gelan(net, channels, n))
    height, width, channels = maps[2]
    net.conv(channels // 2)
    for _ in range(3):
        net.pool(5, 1)
    net.concat((height, width, 2 * channels))
    top = net.conv(channels)
    _merge(net, maps[1], up=True)
    middle = _gelan(net, widths[1], n)
    _merge(net, maps[0], up=True)
    ends = [_gelan(net, widths[0], n)]
    for channels, step, other in ((widths[1], down[0], middle), (widths[2], down[1], top)):
        _averaged(net, step)
        _merge(net, other)
        ends.append(_gelan(net, channels, n))
    return _ultralytics_heads(net, ends, separable=False)


V9 = {
    "t": (16, (64, 96, 128), (48, 64), 3),
    "s": (32, (128, 192, 256), (96, 128), 3),
    "m": (32, (240, 360, 480), (184, 240), 1),
}
NAMES = ("yolov7t", "yolov7m", *(f"yolov9{scale}" for scale in V9))


def detector(name: str, size: int) -> Cost:
    """By the published name: yolov7t, yolov7m (the full one), yolov9t, yolov9s, yolov9m."""
    if name.startswith("yolov7"):
        return yolov7_tiny(size) if name.endswith("t") else yolov7(size)
    return yolov9(size, *V9[name[-1]])
