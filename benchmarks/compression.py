"""Pruning side by side: this project, Torch-Pruning alone, NNCF; same data, same steps.

    python benchmarks/compression.py --model file.py:factory --weights w.safetensors \\
        --train train.parquet --test test.parquet --preprocess 'scale=1/255 ...' \\
        [--time onnx,openvino,tflite] [--keep FOLDER]

Each row starts from the same weights, aims at the same share of MACs (NNCF's pruning zeroes single
weights, so its MACs stay), and trains for the same number of steps on the same batches in the same
order. Prints a table in Markdown; --time adds the latency in those formats against the original, by
the protocol of `compare`, for a machine that does nothing else. FOLDER keeps the trained models and
their scores, so that a second call only measures latency.
"""

from __future__ import annotations

import argparse
import copy
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from compression_speed import exported, of_folder, scores

from lepton_edge import accuracy, inspection, latency, sources
from lepton_edge.compress import Form, Prune, Training, _data, _train
from lepton_edge.compress._form import MODEL
from lepton_edge.compress._layers import example, measured
from lepton_edge.compress._objectives import Task
from lepton_edge.model import Model, ModelSource
from lepton_edge.preprocess import Preprocess
from lepton_edge.samples import Samples, limit, open_samples


def ours(model: Model, data: Samples, ratio: float, how: Training, out: Path) -> ModelSource:
    """Worth against cost, rounds to eight channels, recovery on labels and the model's answers."""
    return Prune(ratio=ratio, recovery=how)(model, data, out=out).source


def torch_pruning_alone(
    model: Model, data: Samples, ratio: float, how: Training, out: Path
) -> ModelSource:
    """Its global magnitude pruner, as its README uses it: the output layer is named by hand."""
    import torch_pruning as tp

    module = copy.deepcopy(model.native)
    for each in module.parameters():
        each.requires_grad_(True)
    inputs = example(model)
    target = (1 - ratio) * measured(module, inputs)["macs"]
    layers = [each for each in module.modules() if isinstance(each, torch.nn.Linear)]
    pruner = tp.pruner.BasePruner(
        module,
        inputs[0],
        importance=tp.importance.GroupMagnitudeImportance(p=2),
        global_pruning=True,
        pruning_ratio=0.9,
        iterative_steps=100,
        ignored_layers=layers[-1:],
        round_to=8,
    )
    while measured(module, inputs)["macs"] > target:
        pruner.step()
    return _trained(model, module, data, how, out)


def nncf_unstructured(
    model: Model, data: Samples, ratio: float, how: Training, out: Path
) -> ModelSource:
    """NNCF 3 prunes single weights alone: global magnitude, held at zero while training."""
    import nncf

    module = copy.deepcopy(model.native).train()
    pruned = nncf.prune(
        module,
        mode=nncf.PruneMode.UNSTRUCTURED_MAGNITUDE_GLOBAL,
        ratio=ratio,
        examples_inputs=example(model),
    )
    _fit(pruned, model, data, how, out)
    done = nncf.strip(pruned, do_copy=False, strip_format=nncf.StripFormat.IN_PLACE)
    plain = copy.deepcopy(model.native)
    wanted = plain.state_dict()
    plain.load_state_dict({name: done.state_dict()[name] for name in wanted})
    return _saved(model, plain, out)


def _fit(module: Any, model: Model, data: Samples, how: Training, out: Path) -> None:
    work = out.with_name(f"{out.name}.training")
    table = _data.table(data, model.signature)
    _train.fit(module, Task(), table, how, work)


def _trained(
    model: Model, module: torch.nn.Module, data: Samples, how: Training, out: Path
) -> ModelSource:
    _fit(module, model, data, how, out)
    return _saved(model, module, out)


def _saved(model: Model, module: torch.nn.Module, out: Path) -> ModelSource:
    form = Form.of(model.source).changed_to(module)
    return form.write(module.eval(), out, inputs=model.source.inputs, record={"steps": []})


ROWS: dict[str, Callable[[Model, Samples, float, Training, Path], ModelSource]] = {
    "lepton-edge": ours,
    "Torch-Pruning alone": torch_pruning_alone,
    "NNCF, unstructured": nncf_unstructured,
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True)
    parser.add_argument("--weights")
    parser.add_argument("--train", required=True)
    parser.add_argument("--test", required=True)
    parser.add_argument("--preprocess")
    parser.add_argument("--ratio", type=float, default=0.5, help="share of the MACs to remove")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--lr", type=float, default=0.01)
    parser.add_argument("--augment", default="")
    parser.add_argument("--limit", type=int, help="only so many training and test samples")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--time", default="", help="formats to be timed in: onnx,openvino,tflite")
    parser.add_argument("--window", default="quick", help="quick, official, or RUNS,SECONDS")
    parser.add_argument("--keep", type=Path, help="where trained models are kept and looked for")
    options = parser.parse_args()

    preprocess = Preprocess.parse(options.preprocess) if options.preprocess else None
    train = open_samples(options.train, preprocess=preprocess)
    test = open_samples(options.test, preprocess=preprocess)
    if options.limit:
        train, test = limit(train, options.limit), limit(test, options.limit)
    source = ModelSource(options.model, options.weights)
    how = replace(
        Training(steps=options.steps, batch=options.batch, lr=options.lr, seed=options.seed),
        augment=tuple(filter(None, options.augment.split(","))),
    )
    formats = tuple(filter(None, options.time.split(",")))
    before = inspection.inspect(source)
    model = sources.load(source)
    time_head = "".join(f" times as fast, {format} |" for format in formats)
    print(f"| | MACs | parameters | zeros | top-1 | drop [95 %] |{time_head}")
    print("|---|---|---|---|---|---|" + "---|" * len(formats))
    whole = f"{before['macs']:,} | {before['parameters']:,} | 0.0 %"
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.keep or Path(temporary)
        baseline = scores(source, "original", test, folder)
        print(
            f"| original | {whole} | {100 * baseline.score.mean():.2f} % | |{' |' * len(formats)}"
        )
        for index, (name, make) in enumerate(ROWS.items()):
            place = folder / f"row{index}"
            if not (place / MODEL).exists():
                make(model, train, options.ratio, how, place)
            made = of_folder(place)
            counts = inspection.inspect(made)
            found = accuracy.judge(scores(made, place.name, test, folder), baseline)
            assert found.drop is not None
            assert found.drop_interval is not None
            low, high = found.drop_interval
            cells = [
                f"{counts['macs']:,}",
                f"{counts['parameters']:,}",
                f"{100 * _zeros(made):.1f} %",
                f"{100 * found.value:.2f} %",
                f"{100 * found.drop:+.2f} pt [{100 * low:+.2f}, {100 * high:+.2f}]",
            ]
            for format in formats:
                pair = [
                    exported(each, stem, format, folder).folder
                    for each, stem in ((source, "original"), (made, place.name))
                ]
                times = latency.compare(*pair, window=options.window, threads=1)
                low, high = (1 / each for each in reversed(times.interval))
                cells.append(f"{1 / times.ratio:.2f} [{low:.2f}, {high:.2f}] {times.verdict}")
            print(f"| {name} | {' | '.join(cells)} |", flush=True)
    print(f"\nn = {len(test):,} test samples, {options.steps} steps of {options.batch}, seed"
          f" {options.seed}, {len(train):,} training samples")  # fmt: skip
    return 0


def _zeros(source: ModelSource) -> float:
    weights = [each for each in sources.load(source).native.parameters() if each.ndim > 1]
    return sum(int((w == 0).sum()) for w in weights) / sum(w.numel() for w in weights)


if __name__ == "__main__":
    sys.exit(main())
