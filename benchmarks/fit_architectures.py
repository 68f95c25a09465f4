"""The published architectures as costs, written down layer by layer: no weights, no framework.

Each function returns the `Cost` of one network, as its paper and its reference code define it.
Batch normalisation and activations are fused and cost nothing of their own.
"""

from __future__ import annotations

from fit_net import Net, Shape

from lepton_edge.devices._kernels import Cost, Kernel


def mobilenet_v1(size: int = 224, alpha: float = 1.0, top: bool = True) -> Cost:
    net = Net(size)
    _mobilenet_v1(net, alpha)
    if top:
        net.gap()
        net.conv(1001)
        net.move(net.at)
    return net.cost()


def _mobilenet_v1(net: Net, alpha: float = 1.0) -> list[Shape]:
    net.conv(int(32 * alpha), 3, 2)
    ends = []
    plan = [(64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *[(512, 1)] * 5]
    for channels, stride in [*plan, (1024, 2), (1024, 1)]:
        net.dw(3, stride)
        net.conv(int(channels * alpha))
        ends.append(net.at)
    return ends


def _inverted(net: Net, channels: int, s: int, expand: int, k: int = 3) -> None:
    before = net.at[2]
    if expand != 1:
        net.conv(before * expand)
    net.dw(k, s)
    net.conv(channels)
    if s == 1 and before == channels:
        net.add()


_V2 = [(1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2)]


def _mobilenet_v2(net: Net) -> list[Shape]:
    net.conv(32, 3, 2)
    ends = []
    for expand, channels, n, stride in [*_V2, (6, 320, 1, 1)]:
        for index in range(n):
            _inverted(net, channels, stride if index == 0 else 1, expand)
        ends.append(net.at)
    net.conv(1280)
    ends.append(net.at)
    return ends


def mobilenet_v2(size: int = 224) -> Cost:
    net = Net(size)
    _mobilenet_v2(net)
    net.gap()
    net.conv(1001)
    net.move(net.at)
    return net.cost()


def _ssd(
    net: Net, maps: list[Shape], extra: list[tuple[int, int]], classes: int = 91, k: int = 1
) -> Cost:
    """SSD's extra feature maps, and its box and class heads of kernel `k`."""
    for inner, outer in extra:
        net.conv(inner)
        net.conv(outer, 3, 2)
        maps.append(net.at)
    for index, shape in enumerate(maps):
        anchors = 3 if index == 0 else 6
        for channels in (anchors * 4, anchors * classes):
            net.at = shape
            net.conv(channels, k)
    net.move((1, 1917, classes + 4))
    net.kernels.append(Kernel("boxes", 0, 0, 1917 * (classes + 4), 10 * 6))
    return net.cost()


_EXTRA = [(256, 512), (128, 256), (128, 256), (64, 128)]


def ssd_mobilenet_v1(size: int = 300) -> Cost:
    net = Net(size)
    ends = _mobilenet_v1(net)
    return _ssd(net, [ends[10], ends[12]], _EXTRA)


def ssd_mobilenet_v2(size: int = 300, classes: int = 91, k: int = 1) -> Cost:
    """The heads' kernel is 1 in the quantised model of the zoo, 3 in the float one."""
    net = Net(size)
    ends = _mobilenet_v2(net)
    last, shape = net.at, ends[4]
    net.at = shape
    net.conv(576)
    first, net.at = net.at, last
    return _ssd(net, [first, last], _EXTRA, classes, k)


def unet_mobilenet_v2(size: int = 128) -> Cost:
    """The Keras segmentation tutorial: MobileNet v2 to 4x4, four transposed convolutions up."""
    net = Net(size)
    skips: dict[int, Shape] = {}
    net.conv(32, 3, 2)
    for expand, channels, n, stride in [*_V2, (6, 320, 1, 1)]:
        for index in range(n):
            _inverted(net, channels, stride if index == 0 else 1, expand)
        skips[net.at[0]] = net.at
    skips = {64: (64, 64, 96), 32: (32, 32, 144), 16: (16, 16, 192), 8: (8, 8, 576)}
    for channels in (512, 256, 128, 64, 3):
        height, width, before = net.at
        out = (2 * height, 2 * width, channels)
        taken = height * width * before
        net.kernels.append(
            Kernel(
                "conv",
                taken * 9 * channels,
                9 * before * channels,
                taken,
                4 * height * width * channels,
            )
        )
        net.at = out
        if out[0] in skips:
            net.concat((out[0], out[1], channels + skips[out[0]][2]))
    return net.cost()


def deeplab_v3(size: int = 513, classes: int = 21) -> Cost:
    """DeepLab v3 on MobileNet v2, output stride 16, with image pooling."""
    net = Net(size)
    net.conv(32, 3, 2)
    plan = [*_V2[:5], (6, 160, 3, 1), (6, 320, 1, 1)]
    for expand, channels, n, stride in plan:
        for index in range(n):
            _inverted(net, channels, stride if index == 0 else 1, expand)
    end = net.at
    net.gap()
    net.conv(256)
    net.move((end[0], end[1], 256))
    net.at = end
    net.conv(256)
    net.concat((end[0], end[1], 512))
    net.conv(256)
    net.conv(classes)
    net.move((size, size, classes))
    net.move((size, size, 1))
    return net.cost()


_RESNET = {
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
}


def resnet(depth: int, size: int = 224, *, v2: bool = False) -> Cost:
    net = Net(size)
    net.conv(64, 7, 2)
    net.pool(3, 2)
    for stage, blocks in enumerate(_RESNET[depth]):
        width = 64 << stage
        for index in range(blocks):
            s = 2 if index == 0 and stage > 0 else 1
            start = net.at
            if depth < 50:
                net.conv(width, 3, s)
                out = net.conv(width, 3)
            else:
                net.conv(width)
                net.conv(width, 3, s)
                out = net.conv(4 * width)
            if index == 0 and start != out:
                net.at = start
                net.conv(out[2], 1, s)
            net.add()
            if v2:  # normalisation after the addition: a multiplication and an addition
                net.move(net.at)
                net.move(net.at)
    net.gap()
    net.dense(1000)
    return net.cost()


def densenet(depth: int, size: int = 224, *, scale_kernels: int = 1) -> Cost:
    """`scale_kernels` is how many kernels a normalisation before a convolution is: TFLite has a
    multiplication and an addition, TensorRT one scale layer.
    """
    blocks = {
        121: (6, 12, 24, 16),
        161: (6, 12, 36, 24),
        169: (6, 12, 32, 32),
        201: (6, 12, 48, 32),
    }
    growth, start = (48, 96) if depth == 161 else (32, 64)
    net = Net(size)
    net.conv(start, 7, 2)
    net.pool(3, 2)
    for index, layers in enumerate(blocks[depth]):
        for _ in range(layers):
            height, width, before = net.at
            for _ in range(scale_kernels):
                net.move(net.at)
            net.conv(4 * growth)
            net.conv(growth, 3)
            net.concat((height, width, before + growth))
        for _ in range(scale_kernels):
            net.move(net.at)
        if index < 3:
            net.conv(net.at[2] // 2)
            net.pool(2, 2)
    net.gap()
    net.dense(1000)
    return net.cost()


def vgg(depth: int, size: int = 224) -> Cost:
    counts = {11: (1, 1, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}[depth]
    net = Net(size)
    for channels, count in zip((64, 128, 256, 512, 512), counts, strict=True):
        for _ in range(count):
            net.conv(channels, 3)
        net.pool(2, 2)
    for units in (4096, 4096, 1000):
        net.dense(units)
    return net.cost()


def alexnet(size: int = 224) -> Cost:
    net = Net(size)
    net.conv(64, 11, 4)
    net.pool(3, 2, valid=True)
    net.conv(192, 5)
    net.pool(3, 2, valid=True)
    for channels in (384, 256, 256):
        net.conv(channels, 3)
    net.pool(3, 2, valid=True)
    for units in (4096, 4096, 1000):
        net.dense(units)
    return net.cost()


def squeezenet(size: int = 224) -> Cost:
    """SqueezeNet 1.0."""
    net = Net(size)
    net.conv(96, 7, 2, valid=True)
    net.pool(3, 2)
    plan = [(16, 64), (16, 64), (32, 128), None, (32, 128), (48, 192), (48, 192), (64, 256), None]
    for step in [*plan, (64, 256)]:
        if step is None:
            net.pool(3, 2)
            continue
        squeeze, expand = step
        net.conv(squeeze)
        net.branches(lambda e=expand: net.conv(e), lambda e=expand: net.conv(e, 3))  # type: ignore[misc]
    net.conv(1000)
    net.gap()
    return net.cost()


def mnasnet(alpha: float, size: int = 224) -> Cost:
    """MNASNet B1, channels rounded to multiples of 8."""

    def scaled(channels: int) -> int:
        near = max(8, int(channels * alpha + 4) // 8 * 8)
        return near + 8 if near < 0.9 * channels * alpha else near

    net = Net(size)
    net.conv(scaled(32), 3, 2)
    net.dw()
    net.conv(scaled(16))
    for k, s, channels, expand, n in (
        (3, 2, 24, 3, 3), (5, 2, 40, 3, 3), (5, 2, 80, 6, 3), (3, 1, 96, 6, 2),
        (5, 2, 192, 6, 4), (3, 1, 320, 6, 1),
    ):  # fmt: skip
        for index in range(n):
            _inverted(net, scaled(channels), s if index == 0 else 1, expand, k)
    net.conv(1280)
    net.gap()
    net.dense(1000)
    return net.cost()


def shufflenet_v2(stages: tuple[int, int, int], last: int = 1024, size: int = 224) -> Cost:
    net = Net(size)
    net.conv(24, 3, 2)
    net.pool(3, 2)
    for channels, repeats in zip(stages, (4, 8, 4), strict=True):
        half = channels // 2
        for index in range(repeats):
            start = net.at
            if index == 0:
                net.dw(3, 2)
                net.conv(half)
                net.at = start
            else:
                net.at = (start[0], start[1], half)
            net.conv(half)
            net.dw(3, 2 if index == 0 else 1)
            end = net.conv(half)
            net.concat((end[0], end[1], channels))
            net.move(net.at)  # shuffle
    net.conv(last)
    net.gap()
    net.dense(1000)
    return net.cost()


def efficientnet_edgetpu_s(size: int = 224) -> Cost:
    net = Net(size)
    net.conv(32, 3, 2)
    for fused, k, n, channels, s, expand in (
        (True, 3, 1, 24, 1, 4), (True, 3, 2, 32, 2, 8), (True, 3, 4, 48, 2, 8),
        (False, 5, 5, 96, 2, 8), (False, 5, 4, 144, 1, 8), (False, 5, 2, 192, 2, 8),
    ):  # fmt: skip
        for index in range(n):
            stride = s if index == 0 else 1
            if not fused:
                _inverted(net, channels, stride, expand, k)
                continue
            before = net.at[2]
            net.conv(before * expand, k, stride)
            net.conv(channels)
            if stride == 1 and before == channels:
                net.add()
    net.conv(1280)
    net.gap()
    net.dense(1001)
    net.move(net.at)
    return net.cost()


def conv_sweep(filters: int, size: int = 64) -> Cost:
    """Five 3x3 convolutions of the same width on a 64x64x3 image."""
    net = Net(size)
    for _ in range(5):
        net.conv(filters, 3)
    return net.cost()


def dense_sweep(neurons: int, layers: int, inputs: int = 64) -> Cost:
    """Dense layers of the same width behind an input of 64."""
    net = Net(1, inputs)
    for _ in range(layers):
        net.dense(neurons)
    return net.cost()
