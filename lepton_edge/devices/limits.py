"""What will not run on a device, told from a model that is not converted yet.

It knows the source's operators, parameters and inputs, the device's profile, and tables with their
sources. What those do not say is in `limits` as not known: nothing is placed by a guess.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from lepton_edge.devices._profile import Fact, Profile
from lepton_edge.devices._verdicts import (
    ACCELERATOR,
    CPU,
    UNSUPPORTED,
    Described,
    place,
    releases,
)

__all__ = ["Described", "of_placement", "predict"]

_RECURRENT = re.compile(r"lstm|gru|rnn", re.IGNORECASE)
_CONVOLUTION = re.compile(r"conv", re.IGNORECASE)
_BYTES = {"fp32": 4.0, "fp16": 2.0, "bf16": 2.0}
_INSPECT_TFLITE = "Convert it to a .tflite in int8, and inspect that file."
_INSPECT_ONNX = "Convert it to ONNX, and inspect that file."


def predict(model: Described, profile: Profile) -> dict[str, Any]:
    """`operators` and `summary` as `placement` has them, and `limits`: {what, reason, next}.

    A row of `operators` is one kind of operator, `count` of them, in the order that the model has
    them. Those whose place is not known are no rows: `limits` names them, and `summary` counts them
    as `unknown`.
    """
    rows: list[dict[str, Any]] = []
    limits: list[dict[str, Any]] = []
    unknown: dict[str, list[tuple[str, int]]] = {}
    for index, (name, count) in enumerate(model.operators):
        where, reason = place(model, profile, name)
        if where is None:
            unknown.setdefault(str(reason), []).append((name, count))
        else:
            rows.append(
                {"index": index, "op": name, "placement": where, "reason": reason, "count": count}
            )
    counted: Counter[str] = Counter()
    for row in rows:
        counted[row["placement"]] += row["count"]
    look = _INSPECT_ONNX if profile.kind == "gpu" else _INSPECT_TFLITE
    for why, names in unknown.items():
        what = ", ".join(dict.fromkeys(name for name, _ in names))
        limits.append(_limit(what, f"Not known: {why}", None if model.is_stuck else look))
    limits += _of_formats(model, profile)
    limits += _KINDS[profile.kind](model, profile, counted)
    limits += _of_memory(model, profile)
    limits += _of_precisions(profile)
    limits += _of_constraints(profile)
    return {
        "operators": rows,
        "summary": {
            "total": sum(count for _, count in model.operators),
            **{each: counted[each] for each in (ACCELERATOR, CPU, UNSUPPORTED)},
            "unknown": sum(count for names in unknown.values() for _, count in names),
            "source": "operators of the source",
        },
        "limits": limits,
    }


def of_placement(summary: Mapping[str, Any], profile: Profile) -> list[dict[str, Any]]:
    """The `limits` of a .tflite's placement on an Edge TPU, from its `summary`."""
    limits = []
    if summary["reason"]:
        limits.append(_limit("compiler", summary["reason"]))
    if summary["streamed_bytes"]:
        limits.append(
            _limit(
                "cache",
                f"{_size(summary['streamed_bytes'])} of parameters do not fit its cache, and are"
                " sent for every inference: slower, and no error",
            )
        )
    return limits + _of_constraints(profile)


def _of_formats(model: Described, profile: Profile) -> list[dict[str, Any]]:
    """The device's runtimes and precisions that this source cannot be made for."""
    found: dict[tuple[str, str], list[str]] = {}
    for (format, precision), reason in model.refusals.items():
        if reason is not None:
            found.setdefault((format, reason), []).append(precision)
    limits = [
        _limit(f"{format} {', '.join(precisions)}", f"Not made from it: {reason}")
        for (format, reason), precisions in found.items()
    ]
    if model.is_stuck:
        names = ", ".join(sorted({runtime.format for runtime in profile.runtimes}))
        limits.append(
            _limit(
                "format",
                f"The device runs {names}, and none can be made from this {model.framework}"
                " model here",
                "Give the model that it was made from.",
            )
        )
    return limits


def _of_edgetpu(
    model: Described, profile: Profile, counted: Mapping[str, int]
) -> list[dict[str, Any]]:
    limits = [*_of_shapes(model, "the compiler takes fixed shapes only")]
    for spec in model.inputs:
        if spec.dtype.startswith(("int32", "int64", "string", "str")):
            limits.append(
                _limit(
                    "inputs",
                    f"The input {spec} holds indices or text, and every tensor there has 8 bits",
                    "Look them up on the host, and give the model the vectors.",
                )
            )
        if spec.shape and (spec.shape[0] or 1) > 1 and len(spec.shape) > 3:
            limits.append(
                _limit(
                    "batch",
                    f"The input {spec} has a batch of {spec.shape[0]}, and only the three innermost"
                    " dimensions may be over 1",
                    "Give the model with a batch of 1, or one of any size.",
                )
            )
    if counted[CPU]:
        limits.append(
            _limit(
                "segment",
                "The compiler makes one segment: all that needs the result of an operator on the"
                " CPU runs there too",
                "Replace or move to the end what is not mapped.",
            )
        )
    for name in model.has(_RECURRENT):
        limits.append(
            _limit(
                name,
                "The Edge TPU maps TFLite's LSTM from runtime 14, and TFLite has no GRU: cells that"
                " are unrolled are mapped operator by operator, a loop makes the compiler refuse"
                " the file",
                _INSPECT_TFLITE,
            )
        )
    room = profile.facts.on_chip_memory
    if room is not None and model.parameters > _values(room)[0] * 2**20:
        limits.append(
            _limit(
                "cache",
                f"{_size(model.parameters)} of int8 parameters are over the {room} of its cache:"
                " the rest is sent for every inference, which is slower and no error",
            )
        )
    return limits


def _of_mcu(model: Described, profile: Profile, counted: Mapping[str, int]) -> list[dict[str, Any]]:
    return [*_of_shapes(model, "the arena of TensorFlow Lite Micro is planned for fixed shapes")]


def _of_gpu(model: Described, profile: Profile, counted: Mapping[str, int]) -> list[dict[str, Any]]:
    limits = []
    there = releases(profile)
    if there and there[-1] < (8, 5):
        limits.append(
            _limit(
                "tensorrt",
                f"Its last TensorRT is {profile.stacks[-1].tensorrt}, and engines are built from"
                " 8.5 on; operators are told from the matrix of 8.4",
                "Convert to onnx or tflite for its CPU, or build the engine with its own trtexec.",
            )
        )
    pythons = [_version(each.python) for each in profile.stacks if each.python is not None]
    if pythons and max(pythons) < (3, 8):
        newest = ".".join(map(str, max(pythons)))
        limits.append(
            _limit(
                "python",
                f"Its systems have Python {newest} at most, and what runs there needs 3.8",
                "Put a newer one beside it, and name it: --on ssh://user@host?python=/path.",
            )
        )
    cells = model.has(_RECURRENT)
    if cells and _runs(profile, "int8"):
        limits.append(
            _limit(", ".join(cells), "In int8 the cells stay float: TensorRT has no int8 ones")
        )
    if profile.facts.dla_cores is not None:
        limits += _of_dla(model)
    return limits


def _of_dla(model: Described) -> Iterable[dict[str, Any]]:
    yield from _of_shapes(model, "the DLA takes no dynamic shapes", "dla")
    for spec in model.inputs:
        batch, *others = (*spec.shape, 1)
        if (batch or 1) > 4096 or any((size or 1) > 8192 for size in others):
            yield _limit(
                "dla",
                f"The input {spec} is over what the DLA takes, batches of 4096 and 8192 elsewhere",
                "Build it for the GPU: leave the option dla out.",
            )


def _of_cpu(model: Described, profile: Profile, counted: Mapping[str, int]) -> list[dict[str, Any]]:
    limits = []
    formats = {runtime.format for runtime in profile.runtimes if "int8" in runtime.precisions}
    cells, floats = model.has(_RECURRENT), sorted(formats & {"onnx", "openvino"})
    if cells and floats:
        limits.append(
            _limit(
                ", ".join(cells),
                f"In int8 the cells stay float in {' and '.join(floats)}; TFLite has them in int8",
                "Choose --to tflite for int8 cells." if "tflite" in formats else None,
            )
        )
    convolutions = model.has(_CONVOLUTION)
    if convolutions and "onnx" in formats:
        limits.append(
            _limit(
                ", ".join(convolutions),
                "In int8-dynamic they are slower than in float: ONNX Runtime has no fast kernel for"
                " dynamic convolutions",
                "Use int8 with --calib.",
            )
        )
    return limits


_KINDS = {"edgetpu": _of_edgetpu, "mcu": _of_mcu, "gpu": _of_gpu, "cpu": _of_cpu}


def _of_shapes(model: Described, why: str, what: str = "shapes") -> Iterable[dict[str, Any]]:
    for spec in model.inputs:
        if None in spec.shape[1:]:
            yield _limit(
                what,
                f"The input {spec} has free dimensions, and {why}",
                f"Fix them: --input {spec.name}=...",
            )


def _of_memory(model: Described, profile: Profile) -> list[dict[str, Any]]:
    """Parameters alone against the memory; what activations need is not counted."""
    if profile.kind == "edgetpu":  # the host's memory, which the profile does not know
        return []
    memory = profile.facts.memory
    named = {p for runtime in profile.runtimes for p in runtime.precisions}
    precisions = sorted(named or {"fp32", "int8"})
    if memory is None:
        sizes = ", ".join(f"{_size(_bytes(model, p))} in {p}" for p in precisions)
        if model.stored_bytes is not None:
            sizes = _size(model.stored_bytes)
        return [
            _limit(
                "memory",
                f"Not known: the profile of {profile.name} has no memory; the parameters alone are"
                f" {sizes}",
                "Give a profile of your own with its memory: --devices-folder.",
            )
        ]
    limits = []
    smallest, greatest = _values(memory)[0] * 1e9, _values(memory)[-1] * 1e9
    for precision in precisions:
        needed = _bytes(model, precision)
        if needed > smallest:
            some = "every variant" if needed > greatest else "its smaller variants"
            limits.append(
                _limit(
                    "memory",
                    f"The parameters alone are {_size(needed)} in {precision}, more than {some} has"
                    f" ({memory})",
                    "Choose a smaller precision, or prune.",
                )
            )
    return limits


def _of_precisions(profile: Profile) -> list[dict[str, Any]]:
    """Those that none of the profile's runtimes has."""
    if not profile.runtimes:
        what = f"Not known: the profile of {profile.name} names none"
        return [_limit("runtimes", what, "Write [[runtimes]] with format and precisions in it.")]
    plain = ("fp32", "fp16", "bf16", "int8")
    lacking = [precision for precision in plain if not _runs(profile, precision)]
    if not lacking:
        return []
    names = ", ".join(f"{r.name} ({', '.join(r.precisions)})" for r in profile.runtimes)
    has = " or ".join(precision for precision in plain if precision not in lacking)
    return [
        _limit(
            ", ".join(lacking),
            f"No runtime of the profile computes in it: {names}",
            f"Convert with --precision {has}." if has else None,
        )
    ]


def _of_constraints(profile: Profile) -> list[dict[str, Any]]:
    """Those that no check of this module works out (`Constraint.limit`), for the reader."""
    return [
        _limit("device", f"{each.text.rstrip('.')} ({each.source})", each.next)
        for each in profile.constraints
        if each.limit is None
    ]


def _runs(profile: Profile, precision: str) -> bool:
    return any(precision in runtime.precisions for runtime in profile.runtimes)


def _bytes(model: Described, precision: str) -> float:
    if model.stored_bytes is not None:
        return model.stored_bytes
    return model.parameters * _BYTES.get(precision, 1.0)


def _version(text: str) -> tuple[int, ...]:
    return tuple(map(int, text.split(".")))


def _values(fact: Fact) -> tuple[float, ...]:
    return tuple(sorted(fact.value)) if isinstance(fact.value, tuple) else (fact.value,)


def _size(count: float) -> str:
    return f"{count / 1e6:.2f} MB" if count >= 1e6 else f"{count / 1e3:.1f} KB"


def _limit(what: str, reason: str, after: str | None = None) -> dict[str, Any]:
    return {"what": what, "reason": reason.rstrip(".") + ".", "next": after}
