"""Runs .engine with NVIDIA's TensorRT, 8.5 to 11, or TensorRT-RTX, on the GPU `cuda` or `cuda:1`.

An engine from elsewhere is refused before TensorRT sees it. Inputs and outputs travel to the GPU
and back in every run.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lepton_edge import errors
from lepton_edge._tensorrt import build as builds
from lepton_edge._tensorrt import library as libraries
from lepton_edge._tensorrt.cuda import Gpu
from lepton_edge._tensorrt.plan import Plan, Profile, check_shape
from lepton_edge.artifact import Artifact
from lepton_edge.model import Array, Signature, TensorSpec
from lepton_edge.runtimes import _common
from lepton_edge.session import Session

if TYPE_CHECKING:
    import tensorrt as trt

DEVICE = "cuda"  # where an engine runs if nothing is asked
DTYPES = {
    "FLOAT": "float32", "HALF": "float16", "INT8": "int8", "INT32": "int32", "INT64": "int64",
    "BOOL": "bool", "UINT8": "uint8",
}  # fmt: skip


@dataclass(frozen=True)
class Options:
    """There are none: an engine holds all that there is to choose."""


def build(onnx: Path, plan: Mapping[str, Any], cache: Path) -> tuple[Array, dict[str, Any]]:
    """Builds an engine on this machine; see `lepton_edge._tensorrt.build`."""
    return builds.build(onnx, Plan.from_dict(plan), cache)


def open_session(
    artifact: Artifact, *, device: str = DEVICE, threads: int | None = None, options: Options
) -> Session:
    """Opens the engine. Raises `BadInput` for one that was built elsewhere, before it is read.

    `BackendMissing` where its library, or a GPU, is not here. `threads` changes nothing.
    """
    index = _index(device)
    count = _common.thread_count(threads)
    _common.require_file(artifact.path)
    wrote, version = libraries.header(artifact.path)
    built = dict(artifact.engine or {"library": wrote})
    if built.get("library") != wrote:
        raise errors.BadInput(
            f"{str(artifact.path)!r} is an engine of {wrote}; its artifact.json says"
            f" {built.get('library')}."
        )
    name, library = libraries.find(wrote)
    file = {"library": name, "version": ".".join(map(str, version)) or None}
    now = libraries.here(name, library, None)
    rebuild = built.get("rebuild")
    for side in (file, built):
        libraries.refuse(artifact.path, side, now, rebuild)
    gpu = Gpu(index)
    now = libraries.here(name, library, gpu)
    libraries.refuse(artifact.path, built, now, rebuild)
    said = libraries.logger(library)
    runtime: trt.Runtime = library.Runtime(said)
    if built.get("dla") is not None:
        runtime.DLA_core = built["dla"]
    engine = runtime.deserialize_cuda_engine(artifact.path.read_bytes())
    context = engine.create_execution_context() if engine is not None else None
    if engine is None or context is None:
        raise errors.BadInput(
            f"TensorRT cannot open {str(artifact.path)!r}: {said.last or 'it gives no reason'}.",
            next=f"Build it again: {rebuild}." if rebuild else "Build it again on this machine.",
        )
    fallen = list(built.get("layers_on_gpu") or ())
    facts = {
        "runtime": name,
        "version": now["version"],
        "device": device,
        "provider": "DLA" if built.get("dla") is not None else "GPU",
        "threads": count,
        # The types of the file; below TensorRT 10 the builder chose among what it was allowed.
        "precision": artifact.precision if artifact.files else None,
        "strongly_typed": built.get("strongly_typed"),
        "tf32": built.get("tf32"),
        "gpu": gpu.name,
        "compute_capability": gpu.capability,
        "l4t": now["l4t"],
        "dla": built.get("dla"),
        "layers_on_gpu": fallen,
        "placement": _placement(engine, built, fallen),
        "device_memory_mb": round(_memory(engine) / 2**20, 3),
    }
    return TensorRtSession(artifact, gpu, library, runtime, engine, context, said, facts)


class TensorRtSession(Session):
    """Memory on the GPU is kept between runs and grows where a larger shape comes."""

    def __init__(
        self,
        artifact: Artifact,
        gpu: Gpu,
        library: Any,
        runtime: trt.Runtime,
        engine: trt.ICudaEngine,
        context: trt.IExecutionContext,
        said: Any,
        facts: Mapping[str, Any],
    ) -> None:
        names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
        mode = library.TensorIOMode
        self._inputs = [name for name in names if engine.get_tensor_mode(name) == mode.INPUT]
        self._outputs = [name for name in names if engine.get_tensor_mode(name) == mode.OUTPUT]
        known = artifact.signature
        promised = {} if known is None else {s.name: s for s in (*known.inputs, *known.outputs)}
        bound = {b.tensor: b.name for b in (*artifact.inputs, *artifact.outputs)}
        self._types, specs = {}, {}
        for name in names:
            self._types[name] = _dtype(artifact, engine, name)
            shape = tuple(None if size < 0 else size for size in engine.get_tensor_shape(name))
            # Before 10, TensorRT has no int64 and makes the graph's int32.
            spec = promised.get(bound.get(name, name))
            wide = spec is not None and (spec.dtype, self._types[name]) == ("int64", "int32")
            specs[name] = TensorSpec(name, shape, "int64" if wide else self._types[name])
            if engine.get_tensor_location(name) != library.TensorLocation.DEVICE:
                raise errors.CannotConvert(
                    f"The tensor {name!r} of {str(artifact.path)!r} is read on the CPU, as a shape;"
                    " this runtime takes arrays only."
                )
        self._promised = {name: np.dtype(specs[name].dtype) for name in names}
        self._profiles: dict[str, Profile] = {
            name: _profile(engine, name) for name in self._inputs if None in specs[name].shape
        }
        facts = {
            **facts,
            "profiles": {name: [*map(list, sizes)] for name, sizes in self._profiles.items()},
            "largest_batch": min((most[0] for _, _, most in self._profiles.values()), default=None),
        }
        super().__init__(
            artifact,
            signature=Signature(
                tuple(specs[name] for name in self._inputs),
                tuple(specs[name] for name in self._outputs),
            ),
            file_inputs=self._inputs,
            file_outputs=self._outputs,
            facts=facts,
        )
        self._gpu, self._engine, self._context, self._said = gpu, engine, context, said
        self._runtime = runtime  # must outlive the engine
        self._memory: dict[str, tuple[int, int]] = {}
        self._shapes: list[tuple[int, ...]] = []
        self._results: list[tuple[int, ...]] = []
        self._stream = gpu.stream()

    def _invoke(self, arrays: list[Array]) -> Sequence[Array]:
        gpu, context = self._gpu, self._context
        gpu.select()
        # Kept until the copies are done.
        given = [self._as_stored(name, array) for name, array in zip(self._inputs, arrays)]
        shapes = [array.shape for array in given]
        if shapes != self._shapes:
            self._reshape(shapes)
        for name, array in zip(self._inputs, given):
            gpu.send(self._place(name, array.nbytes), array, self._stream)
        results = [
            np.empty(shape, self._types[name]) for name, shape in zip(self._outputs, self._results)
        ]
        for name, result in zip(self._outputs, results):
            self._place(name, result.nbytes)
        if not context.execute_async_v3(self._stream):
            gpu.wait(self._stream)
            raise errors.WorkerFailed(
                f"TensorRT failed on these inputs: {self._said.last or 'it gives no reason'}."
            )
        for name, result in zip(self._outputs, results):
            gpu.fetch(result, self._memory[name][0], self._stream)
        gpu.wait(self._stream)
        return [
            result.astype(self._promised[name], copy=False)
            for name, result in zip(self._outputs, results)
        ]

    def _as_stored(self, name: str, array: Array) -> Array:
        """Contiguous, and int32 for int64; raises `UsageError` for what int32 does not hold."""
        stored = np.ascontiguousarray(array, self._types[name])
        if stored.dtype != array.dtype and not np.array_equal(stored, array):
            raise errors.UsageError(
                f"The input {name!r} holds integers beyond 32 bits, which this engine does not."
            )
        return stored.reshape(array.shape)

    def _reshape(self, shapes: list[tuple[int, ...]]) -> None:
        for name, shape in zip(self._inputs, shapes):
            if name in self._profiles:
                check_shape(name, shape, self._profiles[name])
        self._shapes = []
        for name, shape in zip(self._inputs, shapes):
            if not self._context.set_input_shape(name, shape):
                raise errors.UsageError(
                    f"TensorRT does not take {name!r} of {list(shape)}: {self._said.last}."
                )
        found = [tuple(self._context.get_tensor_shape(name)) for name in self._outputs]
        for name, shape in zip(self._outputs, found):
            if any(size < 0 for size in shape):
                raise errors.CannotConvert(
                    f"The shape of the output {name!r} depends on the values of the inputs,"
                    " which this runtime does not take.",
                    next="Cut the model before the operator that selects, such as NonZero or NMS.",
                )
        self._shapes, self._results = shapes, found

    def _place(self, name: str, size: int) -> int:
        """Where the tensor is on the GPU, with room for `size` bytes."""
        address, room = self._memory.get(name, (0, 0))
        if not address or room < size:
            if address:
                self._memory.pop(name)
                self._gpu.free(address)
            address = self._gpu.allocate(max(size, 1))
            self._memory[name] = (address, size)
            self._context.set_tensor_address(name, address)
        return address

    def _release(self) -> None:
        self._gpu.select()
        self._gpu.wait(self._stream)
        self._gpu.end(self._stream)
        for address, _ in self._memory.values():
            self._gpu.free(address)
        # In this order: each needs the one after it until its end.
        del self._context, self._engine, self._runtime


def _index(device: str) -> int:
    found = re.fullmatch(r"cuda(?::(\d+))?", device)
    if found is None:
        raise errors.UsageError(
            f"An engine runs on a GPU, not on {device!r}.", next="Use --device cuda, or cuda:1."
        )
    return int(found.group(1) or 0)


def _dtype(artifact: Artifact, engine: trt.ICudaEngine, name: str) -> str:
    kind = engine.get_tensor_dtype(name).name
    if kind not in DTYPES:
        raise errors.BadInput(
            f"{name!r} of {str(artifact.path)!r} is {kind}, which numpy does not have.",
            next="Export it with plain numeric tensors as inputs and outputs.",
        )
    return DTYPES[kind]


def _profile(engine: trt.ICudaEngine, name: str) -> Profile:
    least, best, most = (tuple(shape) for shape in engine.get_tensor_profile_shape(name, 0))
    return least, best, most


def _placement(engine: trt.ICudaEngine, built: Mapping[str, Any], fallen: Sequence[str]) -> str:
    """`GPU 41/41` layers of the engine; with a DLA `DLA 40/42` layers of the network."""
    if built.get("dla") is None:
        return f"GPU {engine.num_layers}/{engine.num_layers}"
    return f"DLA {built['layers'] - len(fallen)}/{built['layers']}"


def _memory(engine: trt.ICudaEngine) -> int:
    """Bytes for activations; TensorRT 11 has the newer name only, 8 the older."""
    found = getattr(engine, "device_memory_size_v2", None)
    return int(engine.device_memory_size if found is None else found)
