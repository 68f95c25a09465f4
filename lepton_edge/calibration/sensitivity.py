"""Which layers int8 damages, told without labels: the noise at the outputs from each layer alone.

Noise of different layers adds up at the output in power, as far as it is small and independent, so
that a layer's share of the sum says what keeping it in float would win. What it would cost is the
time that the layer takes in float, from the runtime's own profile.
"""

from __future__ import annotations

import json
import math
import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lepton_edge import context
from lepton_edge.calibration.dialects import Dialect
from lepton_edge.calibration.graph import session
from lepton_edge.calibration.observe_onnx import cut
from lepton_edge.calibration.onnx_quantizer import Work
from lepton_edge.model import Array

if TYPE_CHECKING:
    import onnx

SAMPLES = 16
PROFILED_RUNS = 10
CONVERSION_US = 5.0
LEAST_DB, MOST_DB = -100.0, 200.0


@dataclass(frozen=True)
class Layer:
    """One layer in int8, all others in float: what it does to the network's outputs.

    `sqnr_db` is the worst output's; `kl` the mean Kullback-Leibler divergence of the softmax of
    the outputs that look like class scores, in nats, None where none does. `share` of the noise of
    all layers alone, 0 to 1. `float_us` and `int8_us` are the layer's times in the runtime here;
    None where it ran fused into another.
    """

    node: str
    op: str
    sqnr_db: float
    kl: float | None
    share: float
    float_us: float | None
    int8_us: float | None

    @property
    def cost_us(self) -> float:
        """What keeping it in float adds; at least a conversion there and back."""
        if self.float_us is None:
            return CONVERSION_US
        return max(self.float_us - (self.int8_us or 0.0), CONVERSION_US)


@dataclass(frozen=True)
class Quality:
    """Of outputs against the float network's: worst SQNR in dB, mean KL, top-1 agreement."""

    sqnr_db: float
    kl: float | None
    agreement: float | None


class Judge:
    """Float outputs for some samples of the data, to compare others with."""

    def __init__(self, work: Work, *, first: int, samples: int) -> None:
        self.feeds = list(cut(work.data.feeds(), samples, skip=first))
        self.names = work.graph.outputs
        self.threads = work.options.threads
        self.level = "basic" if _saturates(work.dialect) else "all"
        self.wanted = self._run(work.graph.build())

    def __call__(self, model: onnx.ModelProto) -> Quality:
        return quality(self.wanted, self._run(model))

    def _run(self, model: onnx.ModelProto) -> dict[str, Array]:
        runner = session(model, threads=self.threads, level=self.level)
        rows = [runner.run(self.names, dict(feeds)) for feeds in self.feeds]
        return {
            name: np.concatenate([row[index] for row in rows])
            for index, name in enumerate(self.names)
        }


def _saturates(dialect: Dialect) -> bool:
    """Whether integer kernels of this CPU would saturate where those of the dialect's do not.

    AVX2's add products of bytes in 16 bits; a dialect for it has weights of 7 bits.
    """
    features = set(context.of_files()["cpu"]["features"] or ())
    whole = {"avx512_vnni", "avx_vnni", "amx_int8"}
    return "avx2" in features and not features & whole and dialect.weight.bits == 8


def rank(work: Work, *, samples: int = SAMPLES) -> list[Layer]:
    """Every layer that the dialect quantises, the most damaging first.

    Costs one pass over `samples` samples a layer, and a profile of the float and the int8 network.
    """
    judge = Judge(work, first=0, samples=samples)
    whole = work.plan()
    names = [node.name for node in work.graph.nodes if node.name in whole.weights]
    threads = work.options.threads
    in_float = profile(work.graph.build(), judge.feeds[0], work, names, threads)
    in_int8 = profile(work.build(whole, work.nearest(whole)), judge.feeds[0], work, names, threads)
    found: list[tuple[str, Quality]] = []
    for name in names:
        plan = work.plan(keep_float=[other for other in names if other != name])
        found.append((name, judge(work.build(plan, work.nearest(plan)))))
    ops = {node.name: node.op_type for node in work.graph.nodes}
    return ranked(dict(found), ops, in_float, in_int8)


def ranked(
    found: Mapping[str, Quality],
    ops: Mapping[str, str],
    float_us: Mapping[str, float],
    int8_us: Mapping[str, float],
) -> list[Layer]:
    """The layers by their share of the noise, the largest first."""
    noise = {name: 10 ** (-each.sqnr_db / 10) for name, each in found.items()}
    total = sum(noise.values()) or 1.0
    layers = [
        Layer(
            node=name,
            op=ops[name],
            sqnr_db=each.sqnr_db,
            kl=each.kl,
            share=noise[name] / total,
            float_us=float_us.get(name),
            int8_us=int8_us.get(name),
        )
        for name, each in found.items()
    ]
    return sorted(layers, key=lambda layer: (-layer.share, layer.node))


def quality(wanted: Mapping[str, Array], found: Mapping[str, Array]) -> Quality:
    """How near `found` is to `wanted`; both are float outputs by name."""
    decibels, divergences, same = [], [], []
    for name, value in wanted.items():
        if value.dtype.kind != "f":
            continue
        one, two = value.astype(np.float64), found[name].astype(np.float64)
        signal, noise = float((one**2).sum()), float(((one - two) ** 2).sum())
        if not math.isfinite(noise):
            decibels.append(LEAST_DB)
        elif noise <= signal * 1e-20:
            decibels.append(MOST_DB)
        else:
            decibels.append(10 * math.log10(max(signal, 1e-300) / noise))
        if one.ndim == 2 and one.shape[1] > 1 and math.isfinite(noise):
            left, right = _log_softmax(one), _log_softmax(two)
            divergences.append(float((np.exp(left) * (left - right)).sum(axis=1).mean()))
            same.append(float((one.argmax(axis=1) == two.argmax(axis=1)).mean()))
    return Quality(
        min(decibels, default=MOST_DB),
        max(divergences) if divergences else None,
        min(same) if same else None,
    )


def profile(
    model: onnx.ModelProto,
    feeds: Mapping[str, Array],
    work: Work,
    names: Sequence[str],
    threads: int,
) -> dict[str, float]:
    """Median time of each named node in microseconds a run, by onnxruntime's profile.

    A node that the runtime fused goes by a name made of its own or of the tensor that comes out.
    """
    import onnxruntime as ort

    with tempfile.TemporaryDirectory() as folder:
        options = ort.SessionOptions()
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(folder, "profile"))
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        runner = ort.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        for _ in range(PROFILED_RUNS):
            runner.run(None, dict(feeds))
        events: list[dict[str, Any]] = json.loads(Path(runner.end_profiling()).read_text())
    seen: dict[str, list[float]] = {}
    for event in events:
        if event.get("cat") == "Node" and event.get("dur") is not None:
            name = str(event["name"]).removesuffix("_kernel_time")
            name = re.sub(r"(_nchwc|_token_\d+)$", "", name)
            seen.setdefault(name, []).append(float(event["dur"]))
    found = {}
    for name in names:
        out = next(node.output[0] for node in work.graph.nodes if node.name == name)
        users = work.graph.consumers.get(out, [])
        fused = [user.output[0] for user in users if len(users) == 1]
        times = next((seen[key] for key in (name, out, *fused) if key in seen), None)
        if times is not None:
            found[name] = float(np.median(times))
    return found


def _log_softmax(value: Array) -> Array:
    shifted = value - value.max(axis=1, keepdims=True)
    result: Array = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return result
