"""The Inception networks v1, v3 and v4 as costs, as in TensorFlow's slim."""

from __future__ import annotations

from collections.abc import Callable

from fit_net import Net

from lepton_edge.devices._kernels import Cost


def inception_v1(size: int = 224) -> Cost:
    net = Net(size)
    net.conv(64, 7, 2)
    net.pool(3, 2)
    net.conv(64)
    net.conv(192, 3)
    net.pool(3, 2)
    plan = [
        (64, 96, 128, 16, 32, 32), (128, 128, 192, 32, 96, 64), None,
        (192, 96, 208, 16, 48, 64), (160, 112, 224, 24, 64, 64), (128, 128, 256, 24, 64, 64),
        (112, 144, 288, 32, 64, 64), (256, 160, 320, 32, 128, 128), None,
        (256, 160, 320, 32, 128, 128), (384, 192, 384, 48, 128, 128),
    ]  # fmt: skip
    for row in plan:
        if row is None:
            net.pool(3, 2)
            continue
        a, b, c, d, e, f = row
        net.branches(
            *_chains(net, [[(a, 1)], [(b, 1), (c, 3)], [(d, 1), (e, 3)], [(0, 3), (f, 1)]])
        )
    net.gap()
    net.dense(1001)
    net.move(net.at)
    return net.cost()


Step = tuple[int, int | tuple[int, int]] | tuple[int, int | tuple[int, int], int]


def _chains(net: Net, chains: list[list[Step]]) -> list[Callable[[], object]]:
    """Branches of (channels, kernel[, stride]); 0 channels is a pooling. Stride 2 is unpadded."""

    def run(chain: list[Step]) -> Callable[[], object]:
        def branch() -> None:
            for channels, k, *rest in chain:
                s = rest[0] if rest else 1
                if channels:
                    net.conv(channels, k, s, valid=s > 1)
                else:
                    assert isinstance(k, int)
                    net.pool(k, s, valid=s > 1)

        return branch

    return [run(chain) for chain in chains]


def _stem_v4(net: Net) -> None:
    for channels, s, valid in ((32, 2, True), (32, 1, True), (64, 1, False)):
        net.conv(channels, 3, s, valid=valid)
    net.branches(*_chains(net, [[(0, 3, 2)], [(96, 3, 2)]]))

    def short() -> None:
        net.conv(64)
        net.conv(96, 3, valid=True)

    def long() -> None:
        for channels, k in ((64, 1), (64, (1, 7)), (64, (7, 1))):
            net.conv(channels, k)
        net.conv(96, 3, valid=True)

    net.branches(short, long)
    net.branches(*_chains(net, [[(192, 3, 2)], [(0, 3, 2)]]))


def inception_v4(size: int = 299) -> Cost:
    net = Net(size)
    _stem_v4(net)
    for _ in range(4):
        a: list[list[Step]] = [[(96, 1)], [(64, 1), (96, 3)], [(64, 1), (96, 3), (96, 3)]]
        net.branches(*_chains(net, [*a, [(0, 3), (96, 1)]]))
    net.branches(*_chains(net, [[(384, 3, 2)], [(192, 1), (224, 3), (256, 3, 2)], [(0, 3, 2)]]))
    for _ in range(7):
        net.branches(
            *_chains(
                net,
                [
                    [(384, 1)],
                    [(192, 1), (224, (1, 7)), (256, (7, 1))],
                    [(192, 1), (192, (7, 1)), (224, (1, 7)), (224, (7, 1)), (256, (1, 7))],
                    [(0, 3), (128, 1)],
                ],
            )
        )
    down: list[list[Step]] = [[(192, 1), (192, 3, 2)]]
    down += [[(256, 1), (256, (1, 7)), (320, (7, 1)), (320, 3, 2)], [(0, 3, 2)]]
    net.branches(*_chains(net, down))
    for _ in range(3):
        net.branches(
            *_chains(
                net,
                [
                    [(256, 1)],
                    [(384, 1), (512, (1, 3))],  # 1x3 and 3x1, side by side
                    [(384, 1), (448, (1, 3)), (512, (3, 1)), (512, (3, 1))],
                    [(0, 3), (256, 1)],
                ],
            )
        )  # fmt: skip
    net.gap()
    net.dense(1001)
    net.move(net.at)
    return net.cost()


def inception_v3(size: int = 299) -> Cost:
    net = Net(size)
    net.conv(32, 3, 2, valid=True)
    net.conv(32, 3, valid=True)
    net.conv(64, 3)
    net.pool(3, 2, valid=True)
    net.conv(80)
    net.conv(192, 3, valid=True)
    net.pool(3, 2, valid=True)
    for pooled in (32, 64, 64):
        a: list[list[Step]] = [[(64, 1)], [(48, 1), (64, 5)], [(64, 1), (96, 3), (96, 3)]]
        net.branches(*_chains(net, [*a, [(0, 3), (pooled, 1)]]))
    net.branches(*_chains(net, [[(384, 3, 2)], [(64, 1), (96, 3), (96, 3, 2)], [(0, 3, 2)]]))
    for c in (128, 160, 160, 192):
        net.branches(
            *_chains(
                net,
                [
                    [(192, 1)],
                    [(c, 1), (c, (1, 7)), (192, (7, 1))],
                    [(c, 1), (c, (7, 1)), (c, (1, 7)), (c, (7, 1)), (192, (1, 7))],
                    [(0, 3), (192, 1)],
                ],
            )
        )
    down: list[list[Step]] = [[(192, 1), (320, 3, 2)]]
    down += [[(192, 1), (192, (1, 7)), (192, (7, 1)), (192, 3, 2)], [(0, 3, 2)]]
    net.branches(*_chains(net, down))
    for _ in range(2):
        net.branches(
            *_chains(
                net,
                [
                    [(320, 1)],
                    [(384, 1), (768, (1, 3))],  # 1x3 and 3x1, side by side
                    [(448, 1), (384, 3), (768, (1, 3))],
                    [(0, 3), (192, 1)],
                ],
            )
        )  # fmt: skip
    net.gap()
    net.dense(1001)
    net.move(net.at)
    return net.cost()
