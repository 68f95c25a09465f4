"""What of a module can be pruned, what its layers cost, and what is refused."""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from lepton_edge import errors
from lepton_edge.compress._budget import Channels, Layer
from lepton_edge.model import Model

if TYPE_CHECKING:
    from torch import Tensor, nn

EXAMPLE = 2  # rows to trace and to try with


def prunable(
    dependencies: Any, keep: Sequence[str], round_to: int
) -> tuple[list[Any], list[Channels], dict[str, str]]:
    """Groups that passed their trial, and why each other layer is left alone."""
    groups, channels, kept = [], [], {}
    shared = shared_modules(dependencies.module)
    for group in dependencies.groups():
        found = dependencies.channels(group)
        members = {*found.outs, *found.ins}
        asked = [name for name in members if any(fnmatch.fnmatch(name, k) for k in keep)]
        if asked:
            reason: str | None = f"kept as asked ({min(asked)})"
        elif members & shared:
            reason = f"{min(members & shared)!r} shares its weights with another layer"
        elif found.size <= round_to:
            reason = f"it has {found.size} channels, and they go in steps of {round_to}"
        else:
            reason = dependencies.fault(group, round_to)
        if reason is None:
            groups.append(group)
            channels.append(found)
        else:
            kept[found.layer] = reason
    if not groups:
        raise errors.CannotConvert(
            "Nothing in this model can be pruned: "
            + (reasons(kept) or "it has no such layers")
            + ".",
            next="Sizes that a forward writes down as numbers must follow its tensors.",
        )
    return groups, channels, kept


def reasons(kept: dict[str, str]) -> str:
    return "; ".join(f"{name}: {why}" for name, why in list(kept.items())[:4])


def because(kept: dict[str, str]) -> str:
    return f" ({reasons(kept)})" if kept else ""


def refuse_recurrent(module: nn.Module, keep: Sequence[str]) -> None:
    """`CannotConvert` naming the recurrent layers, whose hidden sizes would silently stay."""
    import torch

    found = [
        f"{name} ({type(each).__name__})"
        for name, each in module.named_modules()
        if isinstance(each, (torch.nn.RNNBase, torch.nn.RNNCellBase))
        and not any(fnmatch.fnmatch(name, pattern) for pattern in keep)
    ]
    if found:
        raise errors.CannotConvert(
            f"The hidden size of {', '.join(found)} cannot be pruned.",
            next="Name it with keep= to prune the other layers, or distil into a smaller one.",
        )


def shared_modules(module: nn.Module) -> set[str]:
    """Names of modules that own a parameter which another one owns too."""
    owners: dict[int, set[str]] = {}
    for name, each in module.named_modules():
        for parameter in each.parameters(recurse=False):
            owners.setdefault(id(parameter), set()).add(name)
    return {name for names in owners.values() if len(names) > 1 for name in names}


def example(model: Model) -> tuple[Tensor, ...]:
    """A few rows of the model's example, in the order of its inputs."""
    import torch

    feeds = model.example(model.signature.inputs[0].shape[0] or EXAMPLE)
    return tuple(torch.from_numpy(feeds[spec.name].copy()) for spec in model.signature.inputs)


def measured(module: nn.Module, inputs: Sequence[Tensor]) -> dict[str, float]:
    """Parameters, and multiply-accumulates a sample as PyTorch's counter sees them."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from lepton_edge.compress._groups import plain_attention

    module.eval()
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), plain_attention(), counter:
        module(*inputs)
    return {
        "parameters": float(sum(each.numel() for each in module.parameters())),
        "macs": counter.get_total_flops() / 2 / len(inputs[0]),
    }


def costs_of(module: nn.Module, inputs: Sequence[Tensor], cost: str) -> list[Layer]:
    """Every convolution and linear layer that runs, with its MACs a sample or its weights."""
    import torch

    from lepton_edge.compress._objectives import watched

    kinds = (torch.nn.modules.conv._ConvNd, torch.nn.Linear)
    names = [name for name, each in module.named_modules() if isinstance(each, kinds)]
    module.eval()
    with torch.no_grad(), watched(module, names) as seen:
        module(*inputs)
    layers = []
    for name, each in module.named_modules():
        if not isinstance(each, kinds) or name not in seen:
            continue
        sizes = vars(each)
        outs = int(sizes.get("out_channels") or sizes["out_features"])
        ins = int(sizes.get("in_channels") or sizes["in_features"])
        places = 1.0
        if cost == "macs":
            value = seen[name]
            if isinstance(each, torch.nn.modules.conv._ConvTransposeNd):
                places = value[0, 0].numel() / _stride(each)
            else:
                places = value.numel() / outs / len(inputs[0])
        depthwise = getattr(each, "groups", 1) == ins == outs and ins > 1
        layers.append(Layer(name, outs, ins, each.weight.numel() * places, depthwise))
    return layers


def _stride(layer: Any) -> int:
    """Places of a transposed convolution's input are fewer than of its output by this."""
    product = 1
    for each in layer.stride:
        product *= int(each)
    return product
