"""The networks of benchmarks/quantisation.py: `quantisation_nets.py:NAME` is a factory.

Built from the blocks of tests/zoo.py, without weights; quantisation_train.py trains them on real
data. `TASKS` names the data set of each and how it is trained.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
import zoo

CLASSES = 10
STEPS = TOKENS = 28  # rows of a Fashion-MNIST image
PATCHES, VOCABULARY = 49, 256  # 4 x 4 patches of the same, as words


@dataclass(frozen=True)
class Task:
    """How a network is trained: its data set, passes over it, the optimiser and its rate."""

    title: str
    data: str
    train_n: int
    epochs: int
    rate: float
    adam: bool = False


TASKS = {
    "resnet": Task("ResNet", "cifar10", 20_000, 6, 0.1),
    "mobilenet_v2": Task("MobileNetV2-like", "cifar10", 20_000, 7, 0.1),
    "mobilenet_v3": Task("MobileNetV3-like", "cifar10", 20_000, 7, 0.1),
    "mobilenet_relu": Task("MobileNet, ReLU", "cifar10", 20_000, 7, 0.1),
    "lstm": Task("LSTM", "rows", 30_000, 4, 3e-3, adam=True),
    "gru": Task("GRU", "rows", 30_000, 4, 3e-3, adam=True),
    "transformer": Task("Transformer encoder", "rows", 30_000, 5, 2e-3, adam=True),
    "bert": Task("BERT-like", "words", 30_000, 4, 2e-3, adam=True),
}


def _with_example(model: nn.Module, **example: Tensor) -> nn.Module:
    model.example_inputs = example  # type: ignore[assignment]
    return model.eval()


def _image(model: nn.Module) -> nn.Module:
    return _with_example(zoo._Named(model), image=torch.zeros(1, 3, 32, 32))


def _head(channels: int) -> list[nn.Module]:
    return [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, CLASSES)]


def resnet() -> nn.Module:
    """Three residual blocks of 24, 48 and 96 channels after a pooled stem."""
    return _image(
        nn.Sequential(
            zoo._conv(3, 24), nn.ReLU(), nn.MaxPool2d(3, 2, 1),
            zoo._Residual(24, 24, 1), zoo._Residual(24, 48, 2), zoo._Residual(48, 96, 2),
            *_head(96),
        )
    )  # fmt: skip


class _Plain(zoo._Inverted):
    """The inverted residual with plain ReLU: its channels can be rescaled freely."""

    def __init__(self, c_in: int, c_out: int, stride: int) -> None:
        super().__init__(c_in, c_out, stride, v3=False)
        self.body[1], self.body[3] = nn.ReLU(), nn.ReLU()


def _mobilenet(
    act: Callable[[], nn.Module], block: Callable[[int, int, int], nn.Module]
) -> nn.Module:
    widths = ((16, 24, 2), (24, 24, 1), (24, 40, 2), (40, 40, 1), (40, 64, 1), (64, 64, 1))
    return _image(
        nn.Sequential(
            zoo._conv(3, 16, 3, 2), act(), *(block(*each) for each in widths),
            zoo._conv(64, 192, 1), act(), *_head(192),
        )
    )  # fmt: skip


def mobilenet_v2() -> nn.Module:
    """Six inverted residuals with ReLU6, expansion 4."""
    return _mobilenet(nn.ReLU6, lambda i, o, s: zoo._Inverted(i, o, s, v3=False))


def mobilenet_v3() -> nn.Module:
    """The same with 5x5 depthwise kernels, squeeze-and-excite, hard-swish and hard-sigmoid."""
    return _mobilenet(nn.Hardswish, lambda i, o, s: zoo._Inverted(i, o, s, v3=True))


def mobilenet_relu() -> nn.Module:
    """MobileNetV2-like with ReLU in place of ReLU6."""
    return _mobilenet(nn.ReLU, _Plain)


class _Recurrent(nn.Module):
    def __init__(self, kind: type[nn.LSTM] | type[nn.GRU]) -> None:
        super().__init__()
        self.rnn = kind(28, 64, num_layers=1, batch_first=True)
        self.head = nn.Linear(64, CLASSES)

    def forward(self, series: Tensor) -> Tensor:
        """Float32 [N, 28, 28], rows as steps, to logits [N, 10]."""
        logits: Tensor = self.head(self.rnn(series)[0][:, -1])
        return logits


def _series() -> Tensor:
    return torch.zeros(1, STEPS, 28)


def lstm() -> nn.Module:
    """One layer of 64 over the 28 rows of an image."""
    return _with_example(_Recurrent(nn.LSTM), series=_series())


def gru() -> nn.Module:
    """One layer of 64 over the 28 rows of an image."""
    return _with_example(_Recurrent(nn.GRU), series=_series())


class _Encoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(28, 64)
        self.places = nn.Parameter(torch.zeros(STEPS, 64))
        layer = nn.TransformerEncoderLayer(64, 4, 128, dropout=0.0, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(64, CLASSES)

    def forward(self, series: Tensor) -> Tensor:
        """Float32 [N, 28, 28], rows as steps, to logits [N, 10]."""
        logits: Tensor = self.head(self.encoder(self.embed(series) + self.places).mean(1))
        return logits


def transformer() -> nn.Module:
    """Two post-norm encoder layers of width 64, four heads, learned positions."""
    return _with_example(_Encoder(), series=_series())


class _BERT(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(VOCABULARY, 64)
        self.places = nn.Parameter(torch.zeros(PATCHES, 64))
        self.blocks = nn.ModuleList(zoo._Block(64, 4) for _ in range(2))
        self.norm, self.head = nn.LayerNorm(64), nn.Linear(64, CLASSES)

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """int64 ids and mask [N, 49] to logits [N, 10]: the mean over the words that count."""
        seen = mask.to(torch.float32)
        bias = (1.0 - seen[:, None, None, :]) * -1e4
        value = self.words(ids) + self.places
        for block in self.blocks:
            value = block(value, bias)
        value = (self.norm(value) * seen[:, :, None]).sum(1) / seen.sum(1, keepdim=True)
        logits: Tensor = self.head(value)
        return logits


def bert() -> nn.Module:
    """Two pre-norm blocks of width 64 over words with an attention mask."""
    ids = torch.zeros(1, PATCHES, dtype=torch.int64)
    return _with_example(_BERT(), ids=ids, mask=torch.ones_like(ids))


def rescale(model: nn.Module, most: float = 100.0, seed: int = 0) -> None:
    """Multiplies every channel before a ReLU by a random factor, and divides what reads it.

    Factors are log-uniform in [1, most]: the function stays what it was. For `mobilenet_relu`.
    """
    generator = torch.Generator().manual_seed(seed)
    layers: list[nn.Conv2d | nn.BatchNorm2d | nn.Linear | nn.ReLU] = [
        module
        for module in model.modules()
        if isinstance(module, (nn.Conv2d, nn.BatchNorm2d, nn.Linear, nn.ReLU))
    ]
    residual = {id(block.body[0][0]) for block in model.modules() if isinstance(block, _Plain)}
    with torch.no_grad():
        for index, act in enumerate(layers[:-1]):
            before, after = layers[index - 1], layers[index + 1]
            if not isinstance(act, nn.ReLU) or id(after) in residual:
                continue  # the stem's ReLU is read by a block, whose input may be a residual too
            assert isinstance(before, nn.BatchNorm2d)
            assert isinstance(after, (nn.Conv2d, nn.Linear))
            factor = most ** torch.rand(before.num_features, generator=generator)
            before.weight.mul_(factor)
            before.bias.mul_(factor)
            shape = [1] * after.weight.ndim
            # A depthwise kernel has its channels along the outputs' axis.
            shape[0 if isinstance(after, nn.Conv2d) and after.groups > 1 else 1] = -1
            after.weight.div_(factor.reshape(shape))


def mobilenet_hostile() -> nn.Module:
    """The network of `mobilenet_relu`; its weights are those after `rescale`."""
    return mobilenet_relu()


class _Expanded(nn.Module):
    """MobileNetV2's block with any expansion (M. Sandler et al., arXiv 1801.04381, table 1)."""

    def __init__(self, c_in: int, c_out: int, stride: int, expand: int) -> None:
        super().__init__()
        hidden = c_in * expand
        first = [zoo._conv(c_in, hidden, 1), nn.ReLU6()] if expand > 1 else []
        self.body = nn.Sequential(
            *first, zoo._conv(hidden, hidden, 3, stride, groups=hidden), nn.ReLU6(),
            zoo._conv(hidden, c_out, 1),
        )  # fmt: skip
        self.add = stride == 1 and c_in == c_out

    def forward(self, value: Tensor) -> Tensor:
        made: Tensor = self.body(value)
        return value + made if self.add else made


def mobilenet_v2_full() -> nn.Module:
    """MobileNetV2 1.0 at 224 x 224: 3.5 M parameters, 300 M multiplications; random weights."""
    torch.manual_seed(0)
    layers: list[nn.Module] = [zoo._conv(3, 32, 3, 2), nn.ReLU6()]
    width = 32
    for expand, channels, repeats, stride in (
        (1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2),
        (6, 320, 1, 1),
    ):  # fmt: skip
        for index in range(repeats):
            layers.append(_Expanded(width, channels, stride if index == 0 else 1, expand))
            width = channels
    layers += [zoo._conv(width, 1280, 1), nn.ReLU6(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
               nn.Linear(1280, 1000)]  # fmt: skip
    model = zoo._Named(nn.Sequential(*layers))
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
    return _with_example(model, image=torch.zeros(1, 3, 224, 224))
