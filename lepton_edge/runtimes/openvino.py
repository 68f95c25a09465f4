"""Runs OpenVINO IR (.xml and .bin).

The inference precision is always set: left alone, OpenVINO runs float32 models in bfloat16 on
CPUs that have it, which changes both accuracy and latency.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from lepton_edge import errors
from lepton_edge.artifact import Artifact
from lepton_edge.model import Array, Signature, TensorSpec
from lepton_edge.runtimes import _common
from lepton_edge.session import Session

# Layers of the executed graph that compute nothing.
_PASSIVE = {"Input", "Output", "Const"}


@dataclass(frozen=True)
class Options:
    """`precision_hint` is what float layers compute in; the facts tell what the device took."""

    precision_hint: Literal["f32", "bf16", "f16"] = "f32"


def open_session(
    artifact: Artifact, *, device: str = "cpu", threads: int | None = None, options: Options
) -> Session:
    """Compiles the model for one stream and low latency. `device` is cpu, gpu, gpu.0, npu, ..."""
    ov = _common.backend("openvino", library="OpenVINO", extra="openvino")
    for path in (artifact.path, artifact.path.with_suffix(".bin")):
        _common.require_file(path)
    core = ov.Core()
    place = device.upper()
    if place.partition(":")[0] in ("AUTO", "HETERO", "MULTI", "BATCH"):
        raise errors.UsageError(
            f"{device!r} chooses the device by itself.",
            next=f"Name one: {', '.join(core.available_devices).lower()}.",
        )
    if place not in core.available_devices:
        raise errors.PlacementError(
            f"OpenVINO finds no device {device!r} here, only"
            f" {', '.join(core.available_devices).lower()}.",
            next="Install its driver, or ask for another device.",
        )
    count = _common.thread_count(threads)
    hints: dict[str, Any] = {
        "INFERENCE_PRECISION_HINT": options.precision_hint,
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": "1",
    }
    if place == "CPU":
        hints["INFERENCE_NUM_THREADS"] = count
    try:
        model = core.read_model(str(artifact.path))
    except RuntimeError as error:
        raise _unreadable(artifact, error) from None
    try:
        compiled = core.compile_model(model, place, hints)
    except RuntimeError as error:
        raise errors.CannotConvert(
            f"OpenVINO cannot compile {str(artifact.path)!r} for {device!r}:"
            f" {_common.first_line(error)}.",
            next="Try another precision_hint or another device.",
        ) from None
    taken = compiled.get_property("INFERENCE_PRECISION_HINT").to_string()
    if taken != options.precision_hint:
        raise errors.PlacementError(
            f"Device {device!r} computes in {taken} where {options.precision_hint} was asked for.",
            next=f"Set the runtime option precision_hint to {taken}.",
        )
    places = list(compiled.get_property("EXECUTION_DEVICES"))
    if any(name.partition(".")[0] != place.partition(".")[0] for name in places):
        raise errors.PlacementError(
            f"OpenVINO runs {str(artifact.path)!r} on {', '.join(places)}, not on {device!r}."
        )
    kernels, total = _kernels(compiled)
    facts = {
        "runtime": "openvino",
        "version": ov.__version__.partition("-")[0],
        "device": device,
        "execution_devices": places,
        "threads": compiled.get_property("INFERENCE_NUM_THREADS") if place == "CPU" else None,
        "streams": int(compiled.get_property("NUM_STREAMS")),
        "performance_hint": "LATENCY",
        "precision_hint": taken,
        "precision": taken,
        "kernel_precisions": kernels,
        "placement": f"{place} {total}/{total}",  # one device: all or nothing, checked above
    }
    return OpenvinoSession(artifact, ov, compiled, facts)


class OpenvinoSession(Session):
    def __init__(
        self, artifact: Artifact, ov: Any, compiled: Any, facts: Mapping[str, Any]
    ) -> None:
        inputs = [_spec(artifact, port) for port in compiled.inputs]
        outputs = [_spec(artifact, port) for port in compiled.outputs]
        super().__init__(
            artifact,
            signature=Signature(tuple(inputs), tuple(outputs)),
            # A port can have several names; the converter may have bound any of them.
            file_inputs=_names(compiled.inputs, [b.tensor for b in artifact.inputs]),
            file_outputs=_names(compiled.outputs, [b.tensor for b in artifact.outputs]),
            facts=facts,
        )
        self._tensor = ov.Tensor
        self._compiled = compiled
        self._request = compiled.create_infer_request()

    def _invoke(self, arrays: list[Array]) -> Sequence[Array]:
        request, tensor = self._request, self._tensor
        try:
            for index, array in enumerate(arrays):
                flags = array.flags
                if not (flags.c_contiguous and flags.writeable):
                    # OpenVINO refuses to share these. The list keeps the copy alive: a tensor that
                    # shares memory does not.
                    array = arrays[index] = array.copy()
                request.set_input_tensor(index, tensor(array, shared_memory=True))
            # share_outputs=False copies: the request's own buffers are written again by each call.
            outputs: tuple[Array, ...] = request.infer(share_outputs=False).to_tuple()
        except RuntimeError as error:
            raise errors.UsageError(
                f"OpenVINO failed on these inputs: {_common.first_line(error)}."
            ) from None
        return outputs

    def _release(self) -> None:
        self._request = None
        self._compiled = None


def _names(ports: Sequence[Any], bound: Sequence[str]) -> list[str]:
    return [next((n for n in bound if n in port.get_names()), _name(port)) for port in ports]


def _name(port: Any) -> str:
    names = port.get_names()
    name: str = port.get_any_name() if names else port.get_node().get_friendly_name()
    return name


def _spec(artifact: Artifact, port: Any) -> TensorSpec:
    shape = port.partial_shape
    if shape.rank.is_dynamic:
        raise errors.BadInput(
            f"{_name(port)!r} of {str(artifact.path)!r} has no known number of dimensions.",
            next="Convert again with the input's shape.",
        )
    dims = tuple(None if dim.is_dynamic else dim.get_length() for dim in shape)
    kind = port.element_type
    dtype = "bool" if kind.get_type_name() == "boolean" else kind.to_dtype().name
    return TensorSpec(_name(port), dims, dtype)


def _kernels(compiled: Any) -> tuple[dict[str, int], int]:
    """How many layers of the executed graph compute in which precision, most first."""
    counts: Counter[str] = Counter()
    for layer in compiled.get_runtime_model().get_ordered_ops():
        info = layer.get_rt_info()
        if _text(info, "layerType") not in _PASSIVE:
            counts[_text(info, "runtimePrecision")] += 1
    return dict(counts.most_common()), sum(counts.values())


def _text(info: Any, key: str) -> str:
    value = info[key]
    return str(value.value if hasattr(value, "value") else value)


def _unreadable(artifact: Artifact, error: Exception) -> errors.BadInput:
    return errors.BadInput(
        f"OpenVINO cannot read {str(artifact.path)!r}: {_common.first_line(error)}.",
        next="Convert the model again.",
    )
