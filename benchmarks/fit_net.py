"""`Net`: a network written down layer by layer, as a cost; what the fit_*.py files share."""

from __future__ import annotations

from collections.abc import Callable

from lepton_edge.devices._kernels import Cost, Kernel, convolution

Shape = tuple[int, int, int]  # height, width, channels


class Net:
    """Layers are appended to `at`, the tensor that the last one wrote."""

    def __init__(self, size: int, channels: int = 3) -> None:
        self.at: Shape = (size, size, channels)
        self.kernels: list[Kernel] = []
        self.inputs = size * size * channels

    def conv(
        self, channels: int, k: int | tuple[int, int] = 1, s: int = 1, *, groups: int = 1,
        valid: bool = False,
    ) -> Shape:  # fmt: skip
        height, width, before = self.at
        rows, columns = (k, k) if isinstance(k, int) else k
        out = [
            -(-(side - taps + 1) // s) if valid else -(-side // s)
            for side, taps in ((height, rows), (width, columns))
        ]
        written = out[0] * out[1] * channels
        weights = rows * columns * before // groups * channels
        self.kernels.append(
            convolution(
                weights, rows * columns, before // groups, written, height * width * before, before
            )
        )
        self.at = (out[0], out[1], channels)
        return self.at

    def dw(self, k: int = 3, s: int = 1) -> Shape:
        return self.conv(self.at[2], k, s, groups=self.at[2])

    def move(self, out: Shape, read: int | None = None) -> Shape:
        """A kernel that computes next to nothing: pooling, addition, resizing."""
        height, width, channels = self.at
        took = height * width * channels if read is None else read
        self.kernels.append(Kernel("move", 0, 0, took, out[0] * out[1] * out[2]))
        self.at = out
        return out

    def pool(self, k: int, s: int, *, valid: bool = False) -> Shape:
        height, width, channels = self.at
        sides = [-(-(side - k + 1) // s) if valid else -(-side // s) for side in (height, width)]
        return self.move((sides[0], sides[1], channels))

    def gap(self) -> Shape:
        return self.move((1, 1, self.at[2]))

    def add(self) -> Shape:
        height, width, channels = self.at
        return self.move(self.at, 2 * height * width * channels)

    def concat(self, out: Shape) -> Shape:
        """A concatenation reads all that it writes."""
        return self.move(out, out[0] * out[1] * out[2])

    def branches(self, *made: Callable[[], object]) -> Shape:
        """Runs each branch from the same tensor and concatenates what they wrote."""
        start, channels, end = self.at, 0, self.at
        for branch in made:
            self.at = start
            branch()
            end, channels = self.at, channels + self.at[2]
        return self.concat((end[0], end[1], channels))

    def dense(self, units: int) -> Shape:
        height, width, channels = self.at
        inner = height * width * channels
        self.kernels.append(Kernel("dense", inner * units, inner * units, inner, units))
        self.at = (1, 1, units)
        return self.at

    def cost(self) -> Cost:
        return Cost(tuple(self.kernels), self.inputs, self.kernels[-1].written)
