"""Builds an engine from an ONNX file as a `Plan` says, with the TensorRT of this machine."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lepton_edge import errors
from lepton_edge._tensorrt import library as libraries
from lepton_edge._tensorrt.cuda import Gpu
from lepton_edge._tensorrt.plan import Plan, check_dla, flags_for
from lepton_edge.model import Array

if TYPE_CHECKING:
    import tensorrt as trt

OF_FREE = 0.8  # of the GPU's free memory, that one layer's kernel may use
TOLD = 8  # layers that a message names


def build(onnx: Path, plan: Plan, cache: Path | None) -> tuple[Array, dict[str, Any]]:
    """The engine's bytes, and its record: the fingerprint, the shapes it takes, what was set.

    `cache` is the folder of timing caches; a cache that does not fit is written anew. Raises
    `CannotConvert` naming the operator that the parser refuses, `PlacementError` naming the layers
    that the DLA cannot run, `BackendMissing` without a library or, but for tensorrt_rtx, a GPU.
    """
    name, library = libraries.find(plan.library)
    version = libraries.number(library.__version__)
    if name == "tensorrt":
        plan.admits(library.__version__)
    gpu = _gpu(name)
    if gpu is None and plan.dla is not None:
        raise errors.UsageError("tensorrt_rtx has no DLA.", next="Leave the option dla out.")
    said = libraries.logger(library)
    builder: trt.Builder = library.Builder(said)
    flags = flags_for(version, plan, name)
    network = builder.create_network(_bits(library.NetworkDefinitionCreationFlag, flags.network))
    parser: trt.OnnxParser = library.OnnxParser(network, said)
    if not parser.parse_from_file(str(onnx)):
        raise _refused(parser)
    config = builder.create_builder_config()
    for flag in flags.builder:
        config.set_flag(getattr(library.BuilderFlag, flag))
    for flag in flags.cleared:
        config.clear_flag(getattr(library.BuilderFlag, flag))
    workspace_mb = plan.workspace_mb
    if workspace_mb is None and gpu is not None:
        workspace_mb = int(gpu.memory()[0] * OF_FREE) >> 20
    if workspace_mb is not None:
        config.set_memory_pool_limit(library.MemoryPoolType.WORKSPACE, workspace_mb << 20)
    if plan.compute_capability is not None:
        _set_gpu(library, name, config, plan.compute_capability)
    if plan.profiles:
        profile = builder.create_optimization_profile()
        for tensor, (least, best, most) in plan.profiles.items():
            profile.set_shape(tensor, least, best, most)
        config.add_optimization_profile(profile)
    fallen = _to_dla(library, builder, network, config, plan)
    # tensorrt_rtx times nothing while it builds, and its timing cache does nothing.
    timings = _Timings(config, cache, name, library, gpu) if name == "tensorrt" else None
    engine = builder.build_serialized_network(network, config)
    if engine is None:
        raise errors.CannotConvert(
            f"TensorRT cannot build the engine: {said.last or 'it gives no reason'}."
        )
    if timings is not None:
        timings.keep()
    record = {
        **libraries.here(name, library, gpu),
        "profiles": {tensor: list(map(list, sizes)) for tensor, sizes in plan.profiles.items()},
        "dla": plan.dla,
        "layers": network.num_layers,
        "layers_on_gpu": fallen,
        "strongly_typed": "STRONGLY_TYPED" in flags.network or version >= (11,),
        "flags": list(flags.builder),
        "tf32": plan.tf32,
        "workspace_mb": workspace_mb,
        "timing_cache": timings.state if timings is not None else None,
    }
    if name == "tensorrt_rtx":
        # Not the GPU's that happens to be here: the engine is for what was asked for.
        record.update(gpu=None, compute_capability=plan.compute_capability)
    return np.frombuffer(bytes(engine), np.uint8), record


def _gpu(name: str) -> Gpu | None:
    """None where tensorrt_rtx builds without one."""
    try:
        return Gpu()
    except errors.BackendMissing:
        if name == "tensorrt_rtx":
            return None
        raise


def _bits(kind: Any, names: tuple[str, ...]) -> int:
    return sum(1 << int(getattr(kind, name)) for name in names)


def _refused(parser: trt.OnnxParser) -> errors.CannotConvert:
    if not parser.num_errors:
        return errors.CannotConvert("TensorRT's parser refuses the ONNX file without a reason.")
    first = parser.get_error(0)
    reason = first.desc().strip().splitlines()[0].rstrip(". ")[:300]
    where = f"node {first.node()}"
    if hasattr(first, "node_operator"):  # since TensorRT 9
        where = f"operator {first.node_operator()!r} ({first.node_name()})"
    return errors.CannotConvert(
        f"TensorRT's parser refuses the {where}: {reason}.",
        next="Write it with other operators in the model, or convert to onnx.",
    )


def _set_gpu(library: Any, name: str, config: Any, capability: str) -> None:
    if name != "tensorrt_rtx":
        raise errors.UsageError(
            "The library tensorrt builds for the GPU of its machine only.",
            next="Leave compute_capability out, or install tensorrt_rtx in its place.",
        )
    known = {
        f"{each[2:-1]}.{each[-1]}": each
        for each in library.ComputeCapability.__members__
        if each.startswith("SM")
    }
    if capability not in known:
        raise errors.unknown("compute_capability", capability, known)
    config.num_compute_capabilities = 1
    config.set_compute_capability(getattr(library.ComputeCapability, known[capability]), 0)


def _to_dla(
    library: Any,
    builder: trt.Builder,
    network: trt.INetworkDefinition,
    config: trt.IBuilderConfig,
    plan: Plan,
) -> list[str]:
    """Sends the layers to the DLA; the names of those that the GPU must run, where that may be.

    TensorRT's own fallback stays off unless it is allowed, so that it cannot move others later.
    """
    if plan.dla is None:
        return []
    check_dla(plan, builder.num_DLA_cores, "this machine")
    config.default_device_type = library.DeviceType.DLA
    config.DLA_core = plan.dla
    layers = [network.get_layer(index) for index in range(network.num_layers)]
    fallen = [layer.name for layer in layers if not config.can_run_on_DLA(layer)]
    if fallen and not plan.allow_fallback:
        raise fell_back(fallen, len(layers))
    if plan.allow_fallback:
        config.set_flag(library.BuilderFlag.GPU_FALLBACK)
    return fallen


def fell_back(fallen: list[str], layers: int) -> errors.PlacementError:
    more = f" and {len(fallen) - TOLD} more" if len(fallen) > TOLD else ""
    return errors.PlacementError(
        f"The DLA cannot run {len(fallen)} of {layers} layers: {', '.join(fallen[:TOLD])}{more}.",
        next="Set the option allow_fallback to let the GPU run them.",
    )


class _Timings:
    """The timings of kernels, kept between builds for one release and one GPU."""

    def __init__(
        self, config: trt.IBuilderConfig, cache: Path | None, name: str, library: Any, gpu: Any
    ) -> None:
        self._config = config
        self._path: Path | None = None
        kept = b""
        if cache is not None:
            key = re.sub(r"[^\w.-]+", "_", f"{name}-{library.__version__}-{gpu.name}")
            self._path = cache / f"{key}.timings"
            kept = self._path.read_bytes() if self._path.is_file() else b""
        self.state = "used" if kept and self._set(kept) else "new"
        if self.state == "new":
            self._set(b"")

    def _set(self, data: bytes) -> bool:
        """Whether TensorRT takes it: one that is damaged or of another machine it does not."""
        timings = self._config.create_timing_cache(data)
        return timings is not None and self._config.set_timing_cache(timings, False)

    def keep(self) -> None:
        timings = self._config.get_timing_cache()
        if self._path is None or timings is None:
            return
        self._path.parent.mkdir(parents=True, exist_ok=True)
        temporary = self._path.with_name(f".{self._path.name}.{os.getpid()}.tmp")
        temporary.write_bytes(bytes(timings.serialize()))
        os.replace(str(temporary), str(self._path))
