"""Small models of each family, seeded: `tests/zoo.py:NAME` is a factory for every name in FAMILIES.

Each factory returns an `nn.Module` in eval mode with `example_inputs` at batch 1. Weights are
random but trained-like: gains keep the signal alive through the depth, and the statistics of the
batch norms are what real passes over data leave behind, moved a little, so that no output is
constant. `KERAS` has the twins: functions that build a Keras model; `save_keras` writes one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

VOCABULARY = 64


def _ready(build: Callable[[], nn.Module], inputs: Callable[[], Mapping[str, Tensor]]) -> nn.Module:
    """The module with seeded weights and lived-in batch norms, in eval mode."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = build()
        for module in model.modules():
            if isinstance(module, (nn.Conv1d, nn.Conv2d, nn.ConvTranspose2d)):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                if module.bias is not None:
                    nn.init.normal_(module.bias, std=0.1)
            elif isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
                nn.init.uniform_(module.weight, 0.5, 1.5)
                nn.init.normal_(module.bias, std=0.2)
                module.momentum = None  # a cumulative mean over the batches below
        example = dict(inputs())
        floats = [value for value in example.values() if value.is_floating_point()]
        if floats and any(isinstance(m, (nn.BatchNorm1d, nn.BatchNorm2d)) for m in model.modules()):
            model.train()
            with torch.no_grad():
                for _ in range(4):
                    model(*(torch.randn(16, *value.shape[1:]) for value in example.values()))
    model.eval()
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    model.example_inputs = example  # type: ignore[assignment]
    return model


def _image(size: int = 32, channels: int = 3) -> dict[str, Tensor]:
    return {"image": torch.randn(1, channels, size, size)}


def _series(steps: int = 24, features: int = 6) -> dict[str, Tensor]:
    return {"series": torch.randn(1, steps, features)}


def _tokens(steps: int = 16) -> Tensor:
    return torch.randint(0, VOCABULARY, (1, steps))


def _conv(c_in: int, c_out: int, size: int = 3, stride: int = 1, groups: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(c_in, c_out, size, stride, size // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(c_out))


class _PlainCNN(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 32, 3, padding=1)
        self.fc1, self.fc2 = nn.Linear(32 * 8 * 8, 48), nn.Linear(48, 10)

    def forward(self, image: Tensor) -> Tensor:
        value = F.max_pool2d(F.relu(self.conv1(image)), 2)
        value = F.max_pool2d(F.relu(self.conv2(value)), 2)
        # Flattening is where a change of layout shows: channels come before rows here.
        return self.fc2(F.relu(self.fc1(value.flatten(1))))


def plain_cnn() -> nn.Module:
    return _ready(_PlainCNN, _image)


class _Residual(nn.Module):
    def __init__(self, c_in: int, c_out: int, stride: int) -> None:
        super().__init__()
        self.one, self.two = _conv(c_in, c_out, 3, stride), _conv(c_out, c_out)
        plain = stride == 1 and c_in == c_out
        self.short = nn.Identity() if plain else _conv(c_in, c_out, 1, stride)

    def forward(self, value: Tensor) -> Tensor:
        return F.relu(self.two(F.relu(self.one(value))) + self.short(value))


def resnet() -> nn.Module:
    def build() -> nn.Module:
        return nn.Sequential(
            _conv(3, 16),
            nn.ReLU(),
            nn.MaxPool2d(3, 2, 1),
            _Residual(16, 16, 1),
            _Residual(16, 32, 2),
            _Residual(32, 48, 2),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(48, 10),
        )

    return _ready(lambda: _Named(build()), _image)


class _Named(nn.Module):
    """Gives the input of a sequence its name."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, image: Tensor) -> Tensor:
        value: Tensor = self.body(image)
        return value


class _Inception(nn.Module):
    def __init__(self, c_in: int, width: int) -> None:
        super().__init__()
        self.one = nn.Sequential(_conv(c_in, width, 1), nn.ReLU())
        self.three = nn.Sequential(_conv(c_in, 8, 1), nn.ReLU(), _conv(8, width), nn.ReLU())
        self.five = nn.Sequential(_conv(c_in, 8, 1), nn.ReLU(), _conv(8, width, 5), nn.ReLU())
        self.pool = nn.Sequential(nn.AvgPool2d(3, 1, 1), _conv(c_in, width, 1), nn.ReLU())

    def forward(self, value: Tensor) -> Tensor:
        return torch.cat([b(value) for b in (self.one, self.three, self.five, self.pool)], 1)


def inception() -> nn.Module:
    def build() -> nn.Module:
        return nn.Sequential(
            _conv(3, 16, 3, 2),
            nn.ReLU(),
            _Inception(16, 8),
            nn.MaxPool2d(2),
            _Inception(32, 12),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(48, 10),
        )

    return _ready(lambda: _Named(build()), _image)


class _SqueezeExcite(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.down, self.up = nn.Conv2d(channels, 8, 1), nn.Conv2d(8, channels, 1)

    def forward(self, value: Tensor) -> Tensor:
        gate = self.up(F.relu(self.down(value.mean((2, 3), keepdim=True))))
        return value * F.hardsigmoid(gate)


class _Inverted(nn.Module):
    def __init__(self, c_in: int, c_out: int, stride: int, v3: bool) -> None:
        super().__init__()
        hidden = c_in * 4
        act = nn.Hardswish if v3 else nn.ReLU6
        self.body = nn.Sequential(
            _conv(c_in, hidden, 1),
            act(),
            _conv(hidden, hidden, 5 if v3 else 3, stride, groups=hidden),
            act(),
            _SqueezeExcite(hidden) if v3 else nn.Identity(),
            _conv(hidden, c_out, 1),
        )
        self.add = stride == 1 and c_in == c_out

    def forward(self, value: Tensor) -> Tensor:
        return value + self.body(value) if self.add else self.body(value)


def _mobilenet(v3: bool) -> nn.Module:
    act = nn.Hardswish if v3 else nn.ReLU6
    return _Named(
        nn.Sequential(
            _conv(3, 16, 3, 2),
            act(),
            _Inverted(16, 24, 2, v3),
            _Inverted(24, 24, 1, v3),
            _Inverted(24, 32, 2, v3),
            _conv(32, 64, 1),
            act(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(64, 10),
        )
    )


def mobilenet_v2() -> nn.Module:
    return _ready(lambda: _mobilenet(v3=False), lambda: _image(48))


def mobilenet_v3() -> nn.Module:
    return _ready(lambda: _mobilenet(v3=True), lambda: _image(48))


class _UNet(nn.Module):
    """Four classes a pixel: one level of transposed convolution, one of bilinear resizing."""

    def __init__(self) -> None:
        super().__init__()
        self.down1 = nn.Sequential(_conv(3, 8), nn.ReLU())
        self.down2 = nn.Sequential(_conv(8, 16), nn.ReLU())
        self.middle = nn.Sequential(_conv(16, 32), nn.ReLU())
        self.rise = nn.ConvTranspose2d(32, 16, 2, 2)
        self.up2 = nn.Sequential(_conv(32, 16), nn.ReLU())
        self.up1 = nn.Sequential(_conv(24, 8), nn.ReLU())
        self.head = nn.Conv2d(8, 4, 1)

    def forward(self, image: Tensor) -> Tensor:
        one = self.down1(image)
        two = self.down2(F.max_pool2d(one, 2))
        value = self.rise(self.middle(F.max_pool2d(two, 2)))
        value = self.up2(torch.cat([value, two], 1))
        value = F.interpolate(value, scale_factor=2.0, mode="bilinear", align_corners=False)
        return self.head(self.up1(torch.cat([value, one], 1)))


def unet() -> nn.Module:
    return _ready(_UNet, _image)


class _SSD(nn.Module):
    """Two feature maps, three anchors a cell, five classes; three outputs of three shapes."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            _conv(3, 16, 3, 2), nn.ReLU(), _conv(16, 24, 3, 2), nn.ReLU(), _conv(24, 32), nn.ReLU()
        )
        self.extra = nn.Sequential(_conv(32, 48, 3, 2), nn.ReLU())
        self.boxes = nn.ModuleList(nn.Conv2d(c, 3 * 4, 3, padding=1) for c in (32, 48))
        self.classes = nn.ModuleList(nn.Conv2d(c, 3 * 5, 3, padding=1) for c in (32, 48))

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        first = self.stem(image)
        maps = [first, self.extra(first)]
        boxes, scores = [], []
        for value, box, score in zip(maps, self.boxes, self.classes, strict=True):
            boxes.append(box(value).permute(0, 2, 3, 1).reshape(value.shape[0], -1, 4))
            scores.append(score(value).permute(0, 2, 3, 1).reshape(value.shape[0], -1, 5))
        joined = torch.cat(scores, 1).softmax(-1)
        return {"boxes": torch.cat(boxes, 1), "scores": joined, "best": joined.amax(-1)}


def ssd() -> nn.Module:
    return _ready(_SSD, _image)


class _Recurrent(nn.Module):
    def __init__(self, kind: type[nn.LSTM] | type[nn.GRU]) -> None:
        super().__init__()
        self.rnn = kind(6, 24, num_layers=2, batch_first=True)
        self.head = nn.Linear(24, 5)

    def forward(self, series: Tensor) -> Tensor:
        return self.head(self.rnn(series)[0][:, -1])


def lstm() -> nn.Module:
    return _ready(lambda: _Recurrent(nn.LSTM), _series)


def gru() -> nn.Module:
    return _ready(lambda: _Recurrent(nn.GRU), _series)


class _TCN(nn.Module):
    """Dilated causal 1-D convolutions with residuals over channels x steps."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv1d(6, 24, 1)
        self.layers = nn.ModuleList(nn.Conv1d(24, 24, 3, dilation=d) for d in (1, 2, 4))
        self.norms = nn.ModuleList(nn.BatchNorm1d(24) for _ in range(3))
        self.head = nn.Linear(24, 5)

    def forward(self, series: Tensor) -> Tensor:
        value = self.first(series)
        for layer, norm in zip(self.layers, self.norms, strict=True):
            padded = F.pad(value, (2 * layer.dilation[0], 0))
            value = value + F.relu(norm(layer(padded)))
        return self.head(value[:, :, -1])


def tcn() -> nn.Module:
    return _ready(_TCN, lambda: {"series": torch.randn(1, 6, 32)})


class _Encoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(6, 32)
        layer = nn.TransformerEncoderLayer(32, 4, 64, dropout=0.0, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2)
        self.head = nn.Linear(32, 5)

    def forward(self, series: Tensor) -> Tensor:
        return self.head(self.encoder(self.embed(series)).mean(1))


def transformer_encoder() -> nn.Module:
    return _ready(_Encoder, _series)


class _Attention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, value: Tensor, bias: Tensor) -> Tensor:
        batch, steps, width = value.shape
        q, k, v = (
            part.reshape(batch, steps, self.heads, width // self.heads).transpose(1, 2)
            for part in self.qkv(value).chunk(3, -1)
        )
        weights = (q @ k.transpose(-1, -2) * (width // self.heads) ** -0.5 + bias).softmax(-1)
        return self.out((weights @ v).transpose(1, 2).reshape(batch, steps, width))


class _Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = _Attention(width, heads)
        self.mlp = nn.Sequential(
            nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width)
        )

    def forward(self, value: Tensor, bias: Tensor) -> Tensor:
        value = value + self.attention(self.norm1(value), bias)
        return value + self.mlp(self.norm2(value))


class _Language(nn.Module):
    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(VOCABULARY, 32), nn.Embedding(16, 32)
        self.blocks = nn.ModuleList(_Block(32, 4) for _ in range(2))
        self.norm, self.head = nn.LayerNorm(32), nn.Linear(32, outputs)

    def encode(self, ids: Tensor, bias: Tensor) -> Tensor:
        value = self.words(ids) + self.places(torch.arange(ids.shape[1]))
        for block in self.blocks:
            value = block(value, bias)
        return self.norm(value)


class _BERT(_Language):
    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        bias = (1.0 - mask[:, None, None, :].to(torch.float32)) * -1e4
        return self.head(self.encode(ids, bias)[:, 0])


def bert() -> nn.Module:
    def inputs() -> dict[str, Tensor]:
        mask = torch.ones(1, 16, dtype=torch.int64)
        mask[:, 12:] = 0
        return {"ids": _tokens(), "mask": mask}

    return _ready(lambda: _BERT(3), inputs)


class _GPT(_Language):
    def forward(self, ids: Tensor) -> Tensor:
        steps = ids.shape[1]
        bias = torch.full((steps, steps), -1e4).triu(1)
        return self.head(self.encode(ids, bias))


def gpt() -> nn.Module:
    return _ready(lambda: _GPT(VOCABULARY), lambda: {"ids": _tokens()})


class _TwoTower(nn.Module):
    """A user id and a history of three item ids; the score is the towers' cosine."""

    def __init__(self) -> None:
        super().__init__()
        self.users, self.items = nn.Embedding(VOCABULARY, 16), nn.Embedding(VOCABULARY, 16)
        self.left = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 16))
        self.right = nn.Sequential(nn.Linear(48, 32), nn.ReLU(), nn.Linear(32, 16))

    def forward(self, user: Tensor, items: Tensor) -> Tensor:
        left = F.normalize(self.left(self.users(user)), dim=-1)
        right = F.normalize(self.right(self.items(items).flatten(1)), dim=-1)
        return (left * right).sum(-1, keepdim=True)


def two_tower() -> nn.Module:
    def inputs() -> dict[str, Tensor]:
        return {"user": _tokens(1)[:, 0], "items": _tokens(3)}

    return _ready(_TwoTower, inputs)


class _DQN(nn.Module):
    """Dueling heads over stacked frames: the value plus the centred advantages, six actions."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(4, 16, 8, 4), nn.ReLU(), nn.Conv2d(16, 24, 4, 2), nn.ReLU(), nn.Flatten()
        )
        self.value = nn.Sequential(nn.Linear(24 * 6 * 6, 64), nn.ReLU(), nn.Linear(64, 1))
        self.advantage = nn.Sequential(nn.Linear(24 * 6 * 6, 64), nn.ReLU(), nn.Linear(64, 6))

    def forward(self, frames: Tensor) -> Tensor:
        body = self.body(frames)
        advantage = self.advantage(body)
        return self.value(body) + advantage - advantage.mean(1, keepdim=True)


def dqn() -> nn.Module:
    return _ready(_DQN, lambda: {"frames": torch.randn(1, 4, 64, 64)})


FAMILIES = {
    "plain CNN": "plain_cnn",
    "ResNet": "resnet",
    "Inception": "inception",
    "MobileNetV2": "mobilenet_v2",
    "MobileNetV3": "mobilenet_v3",
    "U-Net": "unet",
    "SSD": "ssd",
    "LSTM": "lstm",
    "GRU": "gru",
    "1-D CNN": "tcn",
    "Transformer encoder": "transformer_encoder",
    "BERT": "bert",
    "GPT": "gpt",
    "two-tower": "two_tower",
    "DQN": "dqn",
}


def keras_cnn() -> Any:
    import keras
    from keras import layers

    return keras.Sequential(
        [
            keras.Input((32, 32, 3), name="image"),
            layers.Conv2D(16, 3, padding="same", use_bias=False),
            layers.BatchNormalization(),
            layers.ReLU(),
            layers.MaxPooling2D(),
            layers.Conv2D(32, 3, padding="same", activation="relu"),
            layers.MaxPooling2D(),
            layers.Flatten(),
            layers.Dense(10),
        ]
    )


def keras_mobilenet() -> Any:
    import keras
    from keras import layers

    image = keras.Input((48, 48, 3), name="image")
    value = layers.Conv2D(16, 3, 2, padding="same", use_bias=False)(image)
    for filters, stride in ((24, 2), (24, 1), (32, 2)):
        short = value
        value = layers.Conv2D(4 * value.shape[-1], 1, use_bias=False)(value)
        value = layers.ReLU(6.0)(layers.BatchNormalization()(value))
        value = layers.DepthwiseConv2D(3, stride, padding="same", use_bias=False)(value)
        value = layers.ReLU(6.0)(layers.BatchNormalization()(value))
        value = layers.BatchNormalization()(layers.Conv2D(filters, 1, use_bias=False)(value))
        if stride == 1:
            value = layers.Add()([value, short])
    value = layers.Dense(10)(layers.GlobalAveragePooling2D()(value))
    return keras.Model(image, value)


def keras_lstm() -> Any:
    import keras
    from keras import layers

    return keras.Sequential(
        [keras.Input((24, 6), name="series"), layers.LSTM(24, unroll=True), layers.Dense(5)]
    )


def keras_two_tower() -> Any:
    import keras
    from keras import layers

    user = keras.Input((), dtype="int32", name="user")
    items = keras.Input((3,), dtype="int32", name="items")
    left = layers.Dense(16)(layers.Embedding(VOCABULARY, 16)(user))
    right = layers.Dense(16)(layers.Flatten()(layers.Embedding(VOCABULARY, 16)(items)))
    return keras.Model({"user": user, "items": items}, layers.Dot(-1)([left, right]))


def keras_dense_policy() -> Any:
    import keras
    from keras import layers

    state = keras.Input((8,), name="state")
    body = layers.Dense(32, activation="tanh")(state)
    policy = layers.Dense(4, activation="softmax", name="policy")(body)
    return keras.Model(state, {"policy": policy, "value": layers.Dense(1, name="value")(body)})


KERAS = {
    "plain CNN": "keras_cnn",
    "MobileNetV2": "keras_mobilenet",
    "LSTM": "keras_lstm",
    "two-tower": "keras_two_tower",
    "policy": "keras_dense_policy",
}


def save_keras(name: str, path: Path) -> Path:
    """Builds the Keras model `name` with seeded weights and writes it to `path` (.keras)."""
    import keras
    import numpy as np

    keras.utils.set_random_seed(0)
    model = globals()[name]()
    rng = np.random.default_rng(0)
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            size = layer.gamma.shape
            layer.set_weights(
                [
                    rng.uniform(0.5, 1.5, size),
                    rng.normal(0, 0.2, size),
                    rng.normal(0, 0.2, size),
                    rng.uniform(0.3, 1.0, size),
                ]
            )
    model.save(path)
    return path
