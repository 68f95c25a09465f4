"""Trains one network of quantisation_nets.py, for benchmarks/quantisation.py.

    python benchmarks/quantisation_train.py NAME FOLDER [--cifar10 FOLDER] [--quick]

Writes NAME.safetensors and NAME.json (accuracy, n, seconds) into FOLDER. Seeded and on one thread:
the same weights on the same machine.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional

sys.path.insert(0, str(Path(__file__).parent))
import quantisation_data as data
import quantisation_nets as nets

BATCH = 128


def tensors(split: data.Split) -> tuple[list[torch.Tensor], torch.Tensor]:
    """The inputs in their order, and the labels."""
    inputs = [torch.from_numpy(value) for name, value in split.items() if name != "label"]
    return inputs, torch.from_numpy(split["label"])


def augment(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Mirrors a random half, and shifts the batch by up to two pixels."""
    chosen = torch.rand(len(images), generator=generator) < 0.5
    images = torch.where(chosen[:, None, None, None], images.flip(3), images)
    down, right = torch.randint(0, 5, (2,), generator=generator).tolist()
    return functional.pad(images, (2, 2, 2, 2))[:, :, down : down + 32, right : right + 32]


@torch.inference_mode()
def accuracy(model: torch.nn.Module, inputs: list[torch.Tensor], label: torch.Tensor) -> float:
    model.eval()
    parts = zip(*(value.split(500) for value in inputs), label.split(500), strict=True)
    hits = sum(int((model(*feeds).argmax(1) == truth).sum()) for *feeds, truth in parts)
    return hits / len(label)


def train(name: str, cifar10: Path | None, quick: bool) -> tuple[torch.nn.Module, dict[str, Any]]:
    """The trained network and what is known of it; `quick` sees few samples twice."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    task = nets.TASKS[name]
    n, epochs = (2_000, 2) if quick else (task.train_n, task.epochs)
    inputs, label = tensors(data.load(task.data, "train", n, cifar10))
    model: torch.nn.Module = getattr(nets, name)()
    image = inputs[0].ndim == 4
    if image:
        model.to(memory_format=torch.channels_last)
    optimizer: torch.optim.Optimizer = (
        torch.optim.AdamW(model.parameters(), task.rate)
        if task.adam
        else torch.optim.SGD(model.parameters(), momentum=0.9, weight_decay=5e-4, nesterov=True)
    )
    steps = -(-n // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=task.rate, epochs=epochs, steps_per_epoch=steps
    )
    begin = time.perf_counter()
    for epoch in range(epochs):
        model.train()
        for rows in torch.randperm(n, generator=generator).split(BATCH):
            feeds = [value[rows] for value in inputs]
            if image:
                feeds[0] = augment(feeds[0], generator).to(memory_format=torch.channels_last)
            loss = functional.cross_entropy(model(*feeds), label[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        print(f"{name}: epoch {epoch + 1} of {epochs}, {time.perf_counter() - begin:.0f} s",
              file=sys.stderr, flush=True)  # fmt: skip
    seconds = time.perf_counter() - begin
    found = accuracy(model, *tensors(data.load(task.data, "test", 10_000, cifar10)))
    model.to(memory_format=torch.contiguous_format)
    return model, {"accuracy": found, "n": 10_000, "train_n": n, "seconds": seconds}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("name", choices=sorted(nets.TASKS))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--cifar10", type=Path)
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    from safetensors.torch import save_file

    model, facts = train(options.name, options.cifar10, options.quick)
    options.folder.mkdir(parents=True, exist_ok=True)
    save_file(model.state_dict(), options.folder / f"{options.name}.safetensors")
    if options.name == "mobilenet_relu":
        nets.rescale(model)
        save_file(model.state_dict(), options.folder / "mobilenet_hostile.safetensors")
    (options.folder / f"{options.name}.json").write_text(json.dumps(facts))


if __name__ == "__main__":
    main()
