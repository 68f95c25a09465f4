"""MADE-UP TEST DATA: a report whose every number is invented, to exercise the report's forms.

Nothing here was measured; no number of this file may be quoted anywhere.
"""

from __future__ import annotations

import numpy as np

from lepton_edge.latency import histogram
from lepton_edge.measurement import (
    Accuracy,
    ClassResult,
    Latency,
    Output,
    Parity,
    Report,
    Roc,
    Row,
)

CLASSES = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat",
    "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip
HOSTILE = "<script>alert(1)</script> $$x^2$$ | `a` ![i](http://example.invalid/i.png)"


def accuracy(
    seed: int, value: float = 0.92, drop: float | None = 0.001, **given: object
) -> Accuracy:
    """Top-1 on 10,000 invented samples, with ten classes."""
    rng = np.random.default_rng(seed)
    hits = np.clip(value + rng.normal(0, 0.05, 10), 0.5, 0.995)
    confusion = np.zeros((10, 10), int)
    for row, share in enumerate(hits):
        confusion[row] = rng.multinomial(
            1000 - int(1000 * share), np.where(np.arange(10) == row, 0, 1 / 9)
        )
        confusion[row, row] = 1000 - confusion[row].sum()
    drops = None if drop is None else 100 * drop + rng.normal(0, 0.4, 10)
    fpr = np.linspace(0, 1, 60)
    fields: dict[str, object] = {
        "metric": "top1",
        "value": value,
        "interval": (value - 0.0054, value + 0.0052),
        "n": 10_000,
        "drop": drop,
        "drop_interval": None if drop is None else (drop - 0.0018, drop + 0.0018),
        "p_value": None if drop is None else 0.21,
        "status": None if drop is None else "PASS",
        "max_drop": None if drop is None else "1pt",
        "per_class": tuple(
            ClassResult(
                name,
                1000,
                float(confusion[i, i] / 1000),
                None if drops is None else float(drops[i]),
                None if drops is None else (float(drops[i] - 0.9), float(drops[i] + 0.9)),
            )
            for i, name in enumerate(CLASSES)
        ),
        "confusion": tuple(tuple(int(n) for n in row) for row in confusion),
        "roc": tuple(
            Roc(
                name,
                float(1 - 0.06 * (1 - hits[i])),
                tuple(fpr),
                tuple(fpr ** (0.3 * (1 - hits[i]))),
            )
            for i, name in enumerate(CLASSES)
        ),
    }
    return Accuracy(**{**fields, **given})  # type: ignore[arg-type]


def latency(seed: int, p50: float, n: int = 2000, **given: object) -> Latency:
    """Invented samples with a long tail around the median."""
    rng = np.random.default_rng(seed)
    samples = p50 * (1 + 0.02 * rng.standard_normal(n) + 0.15 * (rng.random(n) > 0.97))
    fields: dict[str, object] = {
        "p50_ms": float(np.median(samples)),
        "p90_ms": float(np.quantile(samples, 0.9)) if n >= 64 else None,
        "p99_ms": float(np.quantile(samples, 0.99)) if n >= 662 else None,
        "mean_ms": float(samples.mean()),
        "std_ms": float(samples.std()),
        "min_ms": float(samples.min()),
        "max_ms": float(samples.max()),
        "p50_interval_ms": (float(np.quantile(samples, 0.47)), float(np.quantile(samples, 0.53))),
        "n": n,
        "warmup_n": 40,
        "load_ms": 20 * p50 + 3,
        "first_ms": 2.5 * p50,
        "peak_rss_mb": 90 + 10 * p50,
        "drift": 0.004,
        "unstable": (),
        "window": "quick",
        "batch": 1,
        "samples_ms": tuple(map(float, samples)),
    }
    fields |= given
    runs = np.array(fields["samples_ms"], np.float64)
    fields.setdefault("histogram", histogram(runs) if runs.size else None)
    return Latency(**fields)  # type: ignore[arg-type]


def parity(max_abs: float, sqnr: float | None, status: str = "PASS", **given: object) -> Parity:
    outputs = (Output("logits", max_abs, max_abs / 22, sqnr, 0.99998, 0.9984, 64),)
    return Parity(
        status, outputs, "max abs <= 1e-4 of the range", "64 samples of the data", **given
    )  # type: ignore[arg-type]


def row(
    name: str, framework: str, format: str, precision: str, status: str = "PASS", **given: object
) -> Row:
    size = {"fp32": 1_690_000, "fp16": 850_000}.get(precision, 440_000)
    fields: dict[str, object] = {
        "name": name,
        "framework": framework,
        "format": format,
        "precision": precision,
        "device": "cpu",
        "status": status,
        "artifact": {
            "path": f"out/{name.replace(' ', '_')}",
            "sha256": "0123456789abcdef" * 4,
            "format": format,
            "precision": precision,
            "size_bytes": size,
        },
        "facts": {"threads": 1, "provider": "made up"},
    }
    return Row(**{**fields, **given})  # type: ignore[arg-type]


def report(**given: object) -> Report:
    """Fifteen rows: two baselines, every format and precision, and every status word."""
    rows = (
        row(
            "torch fp32",
            "torch",
            "torch",
            "fp32",
            is_baseline=True,
            accuracy=accuracy(1, 0.9245, None),
            latency=latency(1, 1.95),
        ),
        row(
            "onnx fp32",
            "torch",
            "onnx",
            "fp32",
            placement="CPUExecutionProvider 9/9",
            parity=parity(2e-6, None),
            accuracy=accuracy(2, 0.9245, 0.0),
            latency=latency(2, 0.55),
        ),
        row(
            "onnx fp16",
            "torch",
            "onnx",
            "fp16",
            "SLOWER",
            reason="Its p50 is 1.31 times that of onnx fp32 [1.29, 1.33].",
            placement="CPUExecutionProvider 13/13",
            parity=parity(2e-3, 58.0),
            accuracy=accuracy(3, 0.9244, 0.0001),
            latency=latency(3, 0.72),
        ),
        row(
            "onnx int8",
            "torch",
            "onnx",
            "int8",
            placement="CPUExecutionProvider 11/11",
            parity=parity(0.31, 37.1),
            accuracy=accuracy(4, 0.9231, 0.0014),
            latency=latency(4, 0.33),
        ),
        row(
            "openvino fp32",
            "torch",
            "openvino",
            "fp32",
            placement="CPU 21/21",
            parity=parity(3e-6, 120.4),
            accuracy=accuracy(5, 0.9245, 0.0),
            latency=latency(5, 0.61),
        ),
        row(
            "openvino fp16",
            "torch",
            "openvino",
            "fp16",
            "UNSTABLE",
            placement="CPU 21/21",
            reason="The median drifted by 8.1 % while it was measured.",
            parity=parity(2e-3, 57.0),
            accuracy=accuracy(6, 0.9246, -0.0001),
            latency=latency(6, 0.48, drift=0.081, unstable=("The median drifted by 8.1 %.",)),
        ),
        row(
            "openvino int8",
            "torch",
            "openvino",
            "int8",
            placement="CPU 34/34",
            parity=parity(0.28, 38.0),
            accuracy=accuracy(7, 0.9239, 0.0006),
            latency=latency(7, 0.335),
        ),
        row(
            "tflite fp32",
            "torch",
            "tflite",
            "fp32",
            placement="XNNPACK 12/12",
            parity=parity(4e-6, 118.2),
            accuracy=accuracy(8, 0.9245, 0.0),
            latency=latency(8, 0.58),
        ),
        row(
            "tflite fp16",
            "torch",
            "tflite",
            "fp16",
            "FAIL(parity)",
            reason="Output 'logits' is NaN for 3 of 64 inputs.",
            parity=Parity(
                "FAIL(parity)",
                (Output("logits", float("nan"), float("inf"), None, None, None, 64),),
                "max abs <= 1e-2 of the range",
                "64 samples of the data",
                ("Output 'logits' is NaN for 3 of 64 inputs.",),
            ),
        ),
        row(
            "tflite int8",
            "torch",
            "tflite",
            "int8",
            "UNDECIDED(needs n=23000)",
            reason="The drop's interval [+0.61, +1.17] straddles the budget of 1 pt.",
            placement="XNNPACK 14/14",
            parity=parity(0.61, 29.4),
            accuracy=accuracy(9, 0.9156, 0.0089, drop_interval=(0.0061, 0.0117)),
            latency=latency(9, 0.29),
        ),
        row(
            "keras fp32",
            "tensorflow",
            "tensorflow",
            "fp32",
            is_baseline=True,
            accuracy=accuracy(10, 0.9223, None),
            latency=latency(10, 5.4),
        ),
        row(
            "keras tflite int8",
            "tensorflow",
            "tflite",
            "int8",
            placement="XNNPACK 13/13",
            parity=parity(0.2, 39.0),
            accuracy=accuracy(11, 0.9228, -0.0005),
            latency=latency(11, 0.31),
        ),
        row(
            "keras onnx int8-dynamic",
            "tensorflow",
            "onnx",
            "int8-dynamic",
            "FAIL(accuracy)",
            reason="The drop of +3.10 pt [+2.71, +3.49] is outside the budget of 1 pt.",
            placement="CPUExecutionProvider 15/15",
            parity=parity(0.9, 22.0),
            accuracy=accuracy(12, 0.8913, 0.031),
            latency=latency(12, 2.4, n=300),
        ),
        row(
            "tflite int8 on a modelled board",
            "torch",
            "tflite",
            "int8",
            "ESTIMATED",
            device="board",
            reason="No such board is attached.",
            accuracy=accuracy(9, 0.9156, 0.0089),
            latency=latency(13, 4.1, tier="prior", samples_ms=()),
        ),
        row(
            "tensorrt fp16",
            "torch",
            "tensorrt",
            "fp16",
            "SKIPPED(no GPU)",
            artifact=None,
            facts={},
            reason="TensorRT needs a GPU to run; there is none here.",
        ),
    )
    fields: dict[str, object] = {
        "title": "Made-up test data: Fashion-MNIST CNN",
        "command": "lepton-edge demo --output demo-report --threads 1",
        "created": "2026-01-02T03:04:05Z",
        "data": {"path": "fashion-mnist-test.npz", "n": 10_000, "fingerprint": "ab" * 32},
        "context": {
            "cpu": {
                "model": "A made-up CPU",
                "cores": 2,
                "governor": None,
                "flags": ["avx2", "vnni"],
            },
            "versions": {"python": "3.11.7", "numpy": "2.4.6", "onnxruntime": "1.32.0"},
            "load": 0.12,
        },
        "rows": rows,
        "classes": CLASSES,
        "notes": ("Every number of this report is invented, for the tests of the report itself.",),
    }
    return Report(**{**fields, **given})  # type: ignore[arg-type]
