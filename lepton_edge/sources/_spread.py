"""How a model's first batch normalisation sees its input, against what it saw in training.

Its running variance was taken from the training data behind the layers before it, so a wrong scale
of the inputs shows as a wrong spread there (Ioffe & Szegedy, 2015, arXiv 1502.03167).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from lepton_edge.model import Array, Feeds, Model


def input_spread(model: Model, feeds: Feeds) -> float | None:
    """Standard deviation there over that of the training, the median of the channels.

    None where the model has no such layer that was trained, or none that can be looked at.
    """
    if model.framework == "torch":
        found = _torch(model, feeds)
    elif model.framework == "keras":
        found = _keras(model, feeds)
    else:
        found = None
    if found is None:
        return None
    values, variance = found  # [..., channels], [channels]
    if values.size == 0 or np.all(variance == 1):  # as it was initialised
        return None
    observed = values.reshape(-1, values.shape[-1]).astype(np.float64).var(axis=0)
    return float(np.sqrt(np.median(observed / np.maximum(variance, 1e-12))))


def _torch(model: Model, feeds: Feeds) -> tuple[Array, Array] | None:
    import torch

    seen: list[tuple[Any, Any]] = []

    def look(module: Any, inputs: tuple[Any, ...]) -> None:
        if not seen and inputs[0].ndim >= 2:
            seen.append((inputs[0].detach().clone(), module.running_var))

    hooks = [
        module.register_forward_pre_hook(look)
        for module in model.native.modules()
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm)
        and module.running_var is not None
    ]
    try:
        if hooks:
            model.run(feeds)
    finally:
        for hook in hooks:
            hook.remove()
    if not seen:
        return None
    values, variance = seen[0]
    return values.movedim(1, -1).numpy(), variance.detach().numpy()


def _keras(model: Model, feeds: Feeds) -> tuple[Array, Array] | None:
    import keras

    kind = keras.layers.BatchNormalization
    norms = [layer for layer in model.native.layers if isinstance(layer, kind)]
    if not norms or len(model.native.inputs) != 1:
        return None
    before = keras.Model(model.native.inputs, norms[0].input)
    (value,) = feeds.values()
    axis = norms[0].axis if isinstance(norms[0].axis, int) else norms[0].axis[0]
    values = np.moveaxis(np.asarray(before([value], training=False)), axis, -1)
    return values, np.asarray(norms[0].moving_variance)
