"""Layers that lost inputs are refitted to what they gave, and come nearer on fresh samples."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("torch_pruning")
pytest.importorskip("accelerate")

from torch import nn  # noqa: E402

from lepton_edge import errors, sources  # noqa: E402
from lepton_edge.compress import Prune, _reconstruct  # noqa: E402
from lepton_edge.model import Feeds, Model, ModelSource  # noqa: E402
from lepton_edge.samples import Samples, open_samples  # noqa: E402
from tests import compress_nets, zoo  # noqa: E402

FAMILIES = {
    **dict.fromkeys(("plain_cnn", "resnet", "inception", "mobilenet_v2", "mobilenet_v3"), 0.4),
    **dict.fromkeys(("unet", "ssd", "tcn", "two_tower", "dqn"), 0.4),
    **dict.fromkeys(("bert", "gpt"), 0.2),
}


def made_up(model: Model, n: int, seed: int) -> Feeds:
    """n samples like the model's example, without labels."""
    random = np.random.default_rng(seed)
    feeds = {}
    for name, value in model.example(1).items():
        shape = (n, *value.shape[1:])
        if value.dtype.kind == "f":
            feeds[name] = random.standard_normal(shape).astype(value.dtype)
        else:
            feeds[name] = random.integers(0, max(2, int(value.max())), shape).astype(value.dtype)
    return feeds


def opened(feeds: Feeds, path: Path) -> Samples:
    np.savez(path, **feeds)
    return open_samples(path)


def rounds(folder: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((folder / "compress.json").read_text())["steps"][-1][
        "rounds"
    ]
    return found


def distance(wanted: Feeds, got: Feeds) -> float:
    """Squared error of all outputs over their variance."""
    return sum(
        float(np.square(value - got[name]).mean() / max(float(value.var()), 1e-12))
        for name, value in wanted.items()
    )


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_comes_nearer_without_labels(name: str, tmp_path: Path) -> None:
    model = sources.load(ModelSource(f"{zoo.__file__}:{name}"))
    data = opened(made_up(model, 512, 0), tmp_path / "train.npz")
    fresh = made_up(model, 64, 1)
    how = {"ratio": FAMILIES[name], "round_to": 2, "scope": "layer", "recover": False}
    with_it = Prune(**how)(model, data, out=tmp_path / "with")
    without = Prune(**how, reconstruct=False)(model, data, out=tmp_path / "without")
    rows = rounds(tmp_path / "with")[0]["reconstructed"]
    assert rows
    assert all(row["after"] <= row["before"] for row in rows)
    assert rounds(tmp_path / "without")[0]["reconstructed"] == []
    wanted = model.run(fresh)
    assert distance(wanted, with_it.run(fresh)) < 0.9 * distance(wanted, without.run(fresh))


def test_channels_that_others_repeat_cost_nothing(tmp_path: Path) -> None:
    """Half the channels are the other half, but smaller: nothing needs to be lost."""
    model = sources.load(ModelSource(f"{compress_nets.__file__}:plain"))
    with torch.no_grad():
        for layer in (model.native[0], model.native[2]):
            layer.weight[8:], layer.bias[8:] = 0.6 * layer.weight[:8], 0.6 * layer.bias[:8]
    data = open_samples(compress_nets.samples(tmp_path / "train.npz"))
    feeds = {"image": np.stack([each.inputs["image"] for each in data])}
    wanted = model.run(feeds)
    how = {"channels": ("0:8", "2:8"), "recover": False}
    plain = Prune(**how, reconstruct=False)(model, data, out=tmp_path / "plain")
    fitted = Prune(**how)(model, data, out=tmp_path / "fitted")
    lost = distance(wanted, plain.run(feeds))
    assert lost > 0.01
    assert distance(wanted, fitted.run(feeds)) < 1e-3 * lost


def test_layers_are_weighed_as_they_will_be_after_it(tmp_path: Path) -> None:
    """A layer whose channels repeat each other is free; without reconstruction it is not."""
    model = sources.load(ModelSource(f"{compress_nets.__file__}:plain"))
    with torch.no_grad():
        layer = model.native[2]
        layer.weight[8:], layer.bias[8:] = 0.95 * layer.weight[:8], 0.95 * layer.bias[:8]
        model.native[0].weight *= 0.1  # by importance and by zeros it would go first
        layer.weight *= 10.0
    data = open_samples(compress_nets.samples(tmp_path / "train.npz"))
    Prune(ratio=0.3, recover=False)(model, data, out=tmp_path / "out")
    kept = {row["layer"]: row["kept"] for row in rounds(tmp_path / "out")[0]["layers"]}
    assert kept == {"0": 16, "2": 8}


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.Conv2d(3, 5, (3, 2), (2, 1), (1, 0), (1, 2)), (2, 3, 9, 8)),
        (nn.Conv2d(4, 2, 1, bias=False), (2, 4, 5, 5)),
        (nn.Conv1d(3, 5, 3, 2, 1, 2), (2, 3, 11)),
        (nn.Linear(6, 4), (2, 7, 6)),
        (nn.Linear(6, 4), (3, 6)),
    ],
)
def test_patches_times_weights_are_the_outputs(layer: Any, shape: tuple[int, ...]) -> None:
    read = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    wanted = _reconstruct._places(layer, layer(read))
    got = _reconstruct._patches(layer, read) @ layer.weight.flatten(1).T
    got = got if layer.bias is None else got + layer.bias
    torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-5)


def test_a_layer_that_runs_twice_is_fitted_to_both_calls() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 4)

        def forward(self, value: Any) -> Any:
            return self.layer(self.layer(value))

    module = Twice()
    batch = (torch.ones(2, 4),)
    assert _reconstruct._calls(module, ["layer"], lambda: [batch]) == {"layer": 2}
    seen = _reconstruct._run(module, module.layer, 2, batch)
    torch.testing.assert_close(seen[1][0], seen[0][1])


def test_one_batch_is_parted_into_rows_to_fit_and_to_judge() -> None:
    layer = nn.Linear(3, 2)
    batch = torch.arange(24.0).reshape(8, 3)
    here = (layer, layer)
    rows = _reconstruct._rows(here, here, torch.arange(2), 1, lambda: [(batch,)])
    assert (len(rows.reads), len(rows.held_reads)) == (3, 1)
    assert not {tuple(row) for row in rows.reads.tolist()} & {
        tuple(row) for row in rows.held_reads.tolist()
    }


def test_values_that_are_not_finite_are_an_error(tmp_path: Path) -> None:
    model = sources.load(ModelSource(f"{compress_nets.__file__}:plain"))
    images = made_up(model, 64, 0)["image"]
    images[5] = np.nan
    loader = torch.from_numpy(images).split(16)
    with pytest.raises(errors.CannotConvert, match="not finite"):
        Prune(ratio=0.3, recover=False)(model, loader, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()
