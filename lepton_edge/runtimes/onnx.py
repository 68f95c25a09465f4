"""Runs .onnx with ONNX Runtime.

The execution provider is the one that was asked for, for every node, or it is an error: ONNX
Runtime itself would quietly move nodes, or the whole model, to the CPU.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lepton_edge import errors
from lepton_edge.artifact import Artifact
from lepton_edge.model import Array, Signature, TensorSpec
from lepton_edge.runtimes import _common
from lepton_edge.session import Session

PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
OPTIMIZATION = {"all": "ORT_ENABLE_ALL", "basic": "ORT_ENABLE_BASIC", "none": "ORT_DISABLE_ALL"}


@dataclass(frozen=True)
class Options:
    """`provider` is an execution provider's full name; by default the device's own.

    `optimization` is ONNX Runtime's graph optimisation: all, basic or none. `spinning` lets idle
    threads wait busily (its default): faster, but it takes CPU time from others; with one thread
    there is none to wait. `allow_fallback` lets nodes that the provider cannot run go to the CPU.
    """

    provider: str | None = None
    optimization: str = "all"
    spinning: bool = True
    allow_fallback: bool = False


def open_session(
    artifact: Artifact, *, device: str = "cpu", threads: int | None = None, options: Options
) -> Session:
    """Opens the file. Raises `PlacementError` where the provider does not take the whole model."""
    ort = _common.backend("onnxruntime", library="ONNX Runtime", extra="onnx")
    state = _common.backend(
        "onnxruntime.capi.onnxruntime_pybind11_state", library="ONNX Runtime", extra="onnx"
    )
    failures = _failures(state)
    _common.require_file(artifact.path)
    provider = _provider(ort, device, options)
    if options.optimization not in OPTIMIZATION:
        raise errors.unknown("optimization", options.optimization, OPTIMIZATION)
    count = _common.thread_count(threads)
    settings = ort.SessionOptions()
    settings.intra_op_num_threads = count
    settings.inter_op_num_threads = 1
    settings.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    settings.graph_optimization_level = getattr(
        ort.GraphOptimizationLevel, OPTIMIZATION[options.optimization]
    )
    settings.log_severity_level = 3  # errors: they reach the user as exceptions, warnings do not
    entries = {"session.intra_op.allow_spinning": str(int(options.spinning))}
    tells_placement = hasattr(ort.InferenceSession, "get_provider_graph_assignment_info")
    if tells_placement:  # since ONNX Runtime 1.24
        entries["session.record_ep_graph_assignment_info"] = "1"
    if provider != PROVIDERS["cpu"] and not options.allow_fallback:
        entries["session.disable_cpu_ep_fallback"] = "1"
    for key, value in entries.items():
        settings.add_session_config_entry(key, value)
    ort.disable_telemetry_events()
    try:
        raw = ort.InferenceSession(str(artifact.path), settings, providers=[provider])
    except state.NotImplemented as error:
        raise errors.CannotConvert(
            f"ONNX Runtime {ort.__version__} cannot run {str(artifact.path)!r}: {_reason(error)}.",
            next="Convert with a lower opset, or use a newer onnxruntime.",
        ) from None
    except failures as error:
        if "fallback to CPU EP has been explicitly disabled" in str(error):
            raise _fell_back(artifact, provider) from None
        raise errors.BadInput(
            f"ONNX Runtime cannot open {str(artifact.path)!r}: {_reason(error)}.",
            next="Export the model again.",
        ) from None
    if raw.get_providers()[0] != provider:
        raise _fell_back(artifact, provider)
    placement = _placement(raw, provider) if tells_placement else None
    facts = {
        "runtime": "onnxruntime",
        "version": ort.__version__,
        "device": device,
        "provider": provider,
        "providers": list(raw.get_providers()),
        "threads": count,
        "inter_op_threads": 1,
        "spinning": options.spinning and count > 1,
        "optimization": options.optimization,
        # The types of the file; the CPU provider has few half-precision kernels and computes
        # the others in float32, which ONNX Runtime does not tell.
        "precision": artifact.precision if artifact.files else None,
        "placement": placement,
    }
    return OnnxSession(artifact, raw, facts, failures)


class OnnxSession(Session):
    def __init__(
        self,
        artifact: Artifact,
        raw: Any,
        facts: Mapping[str, Any],
        failures: tuple[type[Exception], ...],
    ) -> None:
        inputs, outputs = raw.get_inputs(), raw.get_outputs()
        self._names = tuple(node.name for node in inputs)
        self._wanted = [node.name for node in outputs]
        super().__init__(
            artifact,
            signature=Signature(
                tuple(_spec(artifact, node) for node in inputs),
                tuple(_spec(artifact, node) for node in outputs),
            ),
            file_inputs=self._names,
            file_outputs=self._wanted,
            facts=facts,
        )
        self._raw = raw
        self._failures = failures

    def _invoke(self, arrays: list[Array]) -> Sequence[Array]:
        try:
            results: list[Array] = self._raw.run(self._wanted, dict(zip(self._names, arrays)))
        except self._failures as error:
            raise errors.UsageError(
                f"ONNX Runtime failed on these inputs: {_reason(error)}."
            ) from None
        return results

    def _release(self) -> None:
        self._raw = None


def _provider(ort: Any, device: str, options: Options) -> str:
    if options.provider is not None:
        provider = options.provider
        if provider not in ort.get_all_providers():
            raise errors.unknown("provider", provider, ort.get_all_providers())
    elif device in PROVIDERS:
        provider = PROVIDERS[device]
    else:
        raise errors.unknown("device of ONNX Runtime", device, PROVIDERS)
    if provider not in ort.get_available_providers():
        raise errors.PlacementError(
            f"This onnxruntime has no {provider}, only {', '.join(ort.get_available_providers())}.",
            next="Install the build of onnxruntime for that device, or ask for the cpu.",
        )
    return provider


def _fell_back(artifact: Artifact, provider: str) -> errors.PlacementError:
    return errors.PlacementError(
        f"{provider} does not run every node of {str(artifact.path)!r}.",
        next="Set the runtime option allow_fallback to let the CPU run the rest.",
    )


def _placement(raw: Any, provider: str) -> str:
    """`CPUExecutionProvider 41/41`: nodes on the provider, of all nodes that were placed."""
    nodes: Counter[str] = Counter()
    for part in raw.get_provider_graph_assignment_info():
        nodes[part.ep_name] += len(part.get_nodes())
    return f"{provider} {nodes[provider]}/{sum(nodes.values())}"


def _failures(state: Any) -> tuple[type[Exception], ...]:
    """ONNX Runtime's exceptions: they share no base class but Exception."""
    return tuple(
        value
        for value in vars(state).values()
        if isinstance(value, type) and issubclass(value, Exception)
    )


def _reason(error: Exception) -> str:
    """`[ONNXRuntimeError] : 7 : INVALID_PROTOBUF : reason` without the numbers."""
    text = " ".join(str(error).split())
    if text.startswith("[ONNXRuntimeError]"):
        text = text.split(" : ", 3)[-1]
    if text.startswith("Load model from "):  # the caller names the file
        text = text.partition(" failed:")[2]
    return text.rstrip(". ")[:300]


def _spec(artifact: Artifact, node: Any) -> TensorSpec:
    kind = node.type[7:-1] if node.type.startswith("tensor(") else node.type
    kind = {"float": "float32", "double": "float64"}.get(kind, kind)
    try:
        dtype = np.dtype(kind).name
    except TypeError:
        raise errors.BadInput(
            f"{node.name!r} of {str(artifact.path)!r} is {node.type}, which numpy does not have.",
            next="Export it with plain numeric tensors as inputs and outputs.",
        ) from None
    shape = tuple(dim if isinstance(dim, int) and dim >= 0 else None for dim in node.shape)
    return TensorSpec(node.name, shape, dtype)
