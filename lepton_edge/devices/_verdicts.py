"""Where a source's operators would run on a device, by the tables of what is documented."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from lepton_edge.devices import _documented as documented
from lepton_edge.devices._lowered import lowered
from lepton_edge.devices._profile import Profile
from lepton_edge.devices._tflite_schema import OPERATORS
from lepton_edge.devices.edgetpu import rules
from lepton_edge.model import TensorSpec

ACCELERATOR, CPU, UNSUPPORTED = "accelerator", "cpu", "unsupported"
# Custom operators that LiteRT registers itself (tensorflow/lite/core/kernels/register.cc, from
# memory).
_CUSTOM = ("TFLite_Detection_PostProcess", "Mfcc", "AudioSpectrogram", "NumericVerify")
_LITERT = frozenset((*OPERATORS.values(), *_CUSTOM))


@dataclass(frozen=True)
class Described:
    """A model by what can be read of it: `operators` are (name, how many) in its own names.

    `refusals` holds, for each format and precision of the device, why its converter cannot make it
    from this model, None where it can be tried.
    """

    framework: str
    operators: tuple[tuple[str, int], ...]
    parameters: int
    inputs: tuple[TensorSpec, ...]
    refusals: Mapping[tuple[str, str], str | None]
    stored_bytes: int | None = None  # of the parameters, where the file has them as they will be

    @property
    def is_stuck(self) -> bool:
        """Whether nothing that the device runs can be made from it."""
        return bool(self.refusals) and all(self.refusals.values())

    def has(self, pattern: re.Pattern[str]) -> list[str]:
        return sorted({name for name, _ in self.operators if pattern.search(name)})


Verdict = tuple[str | None, str | None]  # placement, None where not known; reason


def place(model: Described, profile: Profile, name: str) -> Verdict:
    """Where one kind of operator would run, and why; not for certain before the conversion."""
    if model.is_stuck:
        return None, "no file that the device runs can be made from this model"
    if profile.kind == "gpu":
        return _by_tensorrt(model, profile, name)
    if profile.kind == "cpu":
        if model.framework == "tflite" and name not in _LITERT:
            return UNSUPPORTED, "It is a custom operator: LiteRT alone cannot run it."
        return CPU, None
    if profile.kind == "edgetpu":
        runtime = rules.runtime_of(profile.facts.runtime_version)
        allowed = {
            name for name, each in rules.MAPPED.items() if (each.min_runtime or 0) <= runtime
        }
        return _by_tflite(model, name, allowed, "the Edge TPU", (ACCELERATOR, CPU), rules.INSTEAD)
    return _by_tflite(model, name, documented.TFLM, "TensorFlow Lite Micro", (CPU, UNSUPPORTED), {})


def _by_tflite(
    model: Described,
    name: str,
    allowed: Collection[str],
    who: str,
    places: tuple[str, str],
    instead: Mapping[str, str],
) -> Verdict:
    """By the operators of a .tflite: the first place if all are `allowed`, else the second."""
    there, not_there = places
    needs = lowered(model.framework, name)
    volumes = model.framework == "onnx" and any(len(spec.shape) > 4 for spec in model.inputs)
    if needs is None or (volumes and re.search("Conv|Pool", name)):  # 2-D or 3-D: one name in ONNX
        return None, "what it becomes in a .tflite shows after the conversion"
    for alternatives in needs:
        missing = [each for each in alternatives if each not in allowed]
        if not missing:
            continue
        text = " or ".join(alternatives)
        if len(missing) < len(alternatives):
            return None, f"it becomes {text}, and {who} does not have {' or '.join(missing)}"
        it = "It is" if model.framework == "tflite" else "It becomes"
        change = f"; {instead[missing[0]]}" if missing[0] in instead else ""
        return not_there, f"{it} {text}, which {who} does not have{change}."
    if not needs:
        return there, "It is folded into its neighbours."
    become = ", ".join(" or ".join(alternatives) for alternatives in needs)
    return there, None if model.framework == "tflite" else f"It becomes {become}."


def _by_tensorrt(model: Described, profile: Profile, name: str) -> Verdict:
    if model.framework != "onnx":
        return None, "TensorRT reads ONNX, and what this becomes there shows after the export"
    newest = releases(profile)[-1] if profile.stacks else None
    has, lacks, matrix = documented.TENSORRT_HAS, documented.TENSORRT_8_4_LACKS, "8.4"
    if newest is None or newest >= (8, 5):
        has, lacks = has | documented.TENSORRT_8_5_ADDS, documented.TENSORRT_8_5_LACKS
        matrix = "8.5"
    if name in has:
        return ACCELERATOR, None
    if name not in lacks:
        return None, f"the operator matrix of TensorRT {matrix} does not list it"
    if newest is None or newest >= (8, 6):
        return None, "TensorRT 8.5 does not read it, and of later releases it is not known here"
    return UNSUPPORTED, f"The operator matrix of TensorRT {matrix} has it as not supported."


def releases(profile: Profile) -> list[tuple[int, ...]]:
    """The TensorRT releases of the device's systems, oldest first."""
    return sorted(tuple(int(part) for part in s.tensorrt.split(".")) for s in profile.stacks)
