"""`Plan`: how an engine is built from an ONNX file; as JSON it travels to what builds it.

The flags depend on the release. Before 10 a network is weakly typed and a flag allows a precision,
10 has strongly typed networks beside those, 11 nothing else: there the types of the graph decide.
https://docs.nvidia.com/deeplearning/tensorrt/latest/api/migration/tensorrt-10x-to-11x.html
"""

from __future__ import annotations

import shlex
from dataclasses import asdict, dataclass, field
from typing import Any, Mapping, Tuple

from lepton_edge import errors
from lepton_edge._tensorrt.library import number

Shape = Tuple[int, ...]
Profile = Tuple[Shape, Shape, Shape]  # the least, the one to tune for, the most

NAME = "plan.json"
# (since, before): releases that have a DLA. https://docs.nvidia.com/deeplearning/tensorrt, "DLA"
DLA = (((8, 5), (10, 8)), ((11, 4, 1), (12,)))
# trtexec and the flags change with these; a release stands for its generation.
GENERATIONS = (((8, 5), (8, 6)), ((8, 6), (10,)), ((10,), (11,)), ((11,), (12,)))


@dataclass(frozen=True)
class Plan:
    """`versions` are the releases of TensorRT that `device` can have; without it any from 8.5 on.

    `profiles` has every input that takes several shapes. `workspace_mb` bounds the memory of a
    layer's kernel; None is 80 % of what the GPU has free. `dla` is the core that all layers go
    to; with `allow_fallback` the GPU runs those that cannot. `tf32` lets float32 be computed with
    10 bits of significand. `compute_capability` is for tensorrt_rtx, which needs no GPU to build.
    """

    precision: str
    profiles: Mapping[str, Profile] = field(default_factory=dict)
    workspace_mb: int | None = None
    dla: int | None = None
    allow_fallback: bool = False
    tf32: bool = False
    compute_capability: str | None = None
    library: str | None = None
    device: str | None = None
    versions: tuple[str, ...] = ()

    @classmethod
    def from_dict(cls, given: Mapping[str, Any]) -> Plan:
        """Of what `as_dict` gave; raises `BadInput` for anything else."""
        try:
            values = {key: given[key] for key in cls.__dataclass_fields__}
            profiles = {
                str(name): tuple(tuple(int(size) for size in shape) for shape in shapes)
                for name, shapes in values["profiles"].items()
            }
            return cls(**{**values, "profiles": profiles, "versions": tuple(values["versions"])})
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise errors.BadInput(f"The build plan is damaged: {error!r}.") from None

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    def admits(self, version: str) -> None:
        """Raises `UsageError` for a TensorRT that the plan was not made for."""
        found = number(version)[:2]
        known = [number(each)[:2] for each in self.versions]
        if known and not min(known) <= found <= max(known):
            raise errors.UsageError(
                f"The plan is for {self.device}, which has TensorRT {' or '.join(self.versions)};"
                f" here is {version}.",
                next="Name the device that this is with --device, or leave it out.",
            )
        if self.dla is not None and not has_dla(number(version)):
            raise errors.PlacementError(
                f"TensorRT {version} does not use the DLA; 8.5 to 10.7 and 11.4.1 do.",
                next="Leave the option dla out.",
            )

    def builds(self, onnx: str) -> list[dict[str, Any]]:
        """For each generation of TensorRT that may build it: its flags, and the trtexec command."""
        found = []
        known = [number(each) for each in self.versions]
        for since, before in GENERATIONS:
            versions = [each for each in self.versions if since <= number(each) < before]
            without = self.dla is not None and not _dla_within(since, before)
            if (known and not versions) or without:
                continue
            flags = flags_for(since, self)
            row = {
                "since": _text(since),
                "before": _text(before),
                "versions": versions,
                "network_flags": list(flags.network),
                "builder_flags": list(flags.builder),
                "trtexec": shlex.join(self.trtexec(onnx, since)),
            }
            found.append(row)
        return found

    def trtexec(self, onnx: str, version: tuple[int, ...]) -> list[str]:
        """The words of the trtexec command that builds the same."""
        flags = flags_for(version, self)
        engine = f"{onnx.rpartition('.')[0]}.engine"
        words = ["trtexec", f"--onnx={onnx}", f"--saveEngine={engine}"]
        for which, option in enumerate(("minShapes", "optShapes", "maxShapes")):
            shapes = [f"{name}:{_by_x(p[which])}" for name, p in self.profiles.items()]
            words += [f"--{option}={','.join(shapes)}"] if shapes else []
        words += ["--stronglyTyped"] if "STRONGLY_TYPED" in flags.network else []
        words += [f"--{flag.lower()}" for flag in flags.builder if flag in ("FP16", "INT8")]
        words += [] if self.tf32 else ["--noTF32"]
        words += [f"--memPoolSize=workspace:{self.workspace_mb}"] if self.workspace_mb else []
        if self.dla is not None:
            words += [f"--useDLACore={self.dla}"]
            words += ["--allowGPUFallback"] if self.allow_fallback else []
        words.append("--buildOnly" if version < (8, 6) else "--skipInference")
        return words


@dataclass(frozen=True)
class Flags:
    """Names of NetworkDefinitionCreationFlag and of BuilderFlag: to set, and to clear."""

    network: tuple[str, ...] = ()
    builder: tuple[str, ...] = ()
    cleared: tuple[str, ...] = ()


def flags_for(version: tuple[int, ...], plan: Plan, library: str = "tensorrt") -> Flags:
    """What that release of `library` needs for the plan, and nothing that it does not know."""
    cleared = () if plan.tf32 else ("TF32",)
    if library == "tensorrt_rtx":
        return Flags(("STRONGLY_TYPED",), (), cleared)
    if version >= (11,):
        return Flags((), (), cleared)
    if version >= (10,) and plan.dla is None:
        return Flags(("STRONGLY_TYPED",), (), cleared)
    # Weakly typed, as the documentation has it for the DLA up to 10.7.
    allowed = {"fp32": (), "fp16": ("FP16",)}.get(plan.precision, ("INT8",))
    return Flags(() if version >= (10,) else ("EXPLICIT_BATCH",), allowed, cleared)


def has_dla(version: tuple[int, ...]) -> bool:
    return any(since <= version < before for since, before in DLA)


def check_dla(plan: Plan, cores: int | None, device: str) -> None:
    """Raises `UsageError` where the DLA cannot take what the plan asks; `cores` None: unknown."""
    if plan.dla is None:
        if plan.allow_fallback:
            raise errors.UsageError("allow_fallback is for the option dla.")
        return
    if cores is not None and not 0 <= plan.dla < cores:
        known = f"cores 0 to {cores - 1}" if cores else "no DLA"
        raise errors.UsageError(f"dla={plan.dla} is not there: {device} has {known}.")
    if plan.precision != "fp16":
        raise errors.UsageError(
            f"The DLA is given fp16 only, not {plan.precision}: it computes no float32, and takes"
            " int8 by NVIDIA's own calibration, not by Q/DQ.",
            next="Ask for fp16, or leave the option dla out.",
        )
    if any(least != most for least, _, most in plan.profiles.values()):
        raise errors.UsageError(
            "The DLA takes one shape only.", next="Ask for a fixed batch, such as batch=1."
        )


def check_shape(name: str, shape: Shape, profile: Profile) -> None:
    """Raises `UsageError` where the engine does not take the shape."""
    least, best, most = profile
    inside = len(shape) == len(least) and all(
        low <= size <= high for low, size, high in zip(least, shape, most)
    )
    if not inside:
        raise errors.UsageError(
            f"The input {name!r} of {_by_x(shape)} is outside what the engine was built for:"
            f" {_by_x(least)} to {_by_x(most)}, best {_by_x(best)}.",
            next="Give it another shape, or build it again with the option profile.",
        )


def parse_profiles(text: str) -> dict[str, Profile]:
    """`x=1x3x224x224:8x3x224x224:32x3x224x224;mask=...` as profiles; raises `UsageError`."""
    found = {}
    for part in filter(None, text.split(";")):
        name, equals, shapes = part.partition("=")
        sizes = [each.split("x") for each in shapes.split(":")]
        whole = all(size.isdigit() and int(size) > 0 for shape in sizes for size in shape)
        if not equals or len(sizes) != 3 or not whole:
            raise errors.UsageError(
                f"Cannot read the profile {part!r}.",
                next="Write name=LEAST:BEST:MOST, such as x=1x3x224x224:8x3x224x224:32x3x224x224.",
            )
        least, best, most = (tuple(map(int, shape)) for shape in sizes)
        found[name.strip()] = (least, best, most)
    return found


def profiles_for(
    inputs: Mapping[str, tuple[int | None, ...]],
    given: Mapping[str, Profile],
    batches: tuple[int, int, int],
) -> dict[str, Profile]:
    """The profile of every input with a free dimension: as given, or inferred for the batch alone.

    `inputs` are shapes with None where any size goes; `batches` the least, the best and the most.
    Raises `UsageError` naming the input and what is wrong.
    """
    for name in given:
        if name not in inputs:
            raise errors.unknown("input of the profile", name, inputs)
    found: dict[str, Any] = {}
    for name, shape in inputs.items():
        if name in given:
            _validate(name, shape, given[name])
            found[name] = given[name]
        elif None in shape[1:]:
            wanted = ":".join(_by_x([batch, *shape[1:]]) for batch in batches)
            raise errors.UsageError(
                f"The input {name!r} has free dimensions besides its batch: {_by_x(shape)}.",
                next=f"Say which sizes it takes, with numbers for ?: profile={name}={wanted}.",
            )
        elif shape and shape[0] is None:
            found[name] = tuple((batch, *shape[1:]) for batch in batches)
    return found


def _validate(name: str, shape: tuple[int | None, ...], profile: Profile) -> None:
    reason = None
    for part in profile:
        if len(part) != len(shape):
            reason = f"{_by_x(part)} has {len(part)} dimensions, the input {len(shape)}"
        elif any(want not in (None, size) for size, want in zip(part, shape)):
            reason = f"{_by_x(part)} does not fit {_by_x(shape)}"
    if reason is None and not all(a <= b <= c for a, b, c in zip(*profile)):
        reason = "its sizes must not fall from the least to the best to the most"
    if reason is not None:
        raise errors.UsageError(f"The profile of {name!r} cannot be: {reason}.")


def _dla_within(since: tuple[int, ...], before: tuple[int, ...]) -> bool:
    return any(start < before and since < end for start, end in DLA)


def _text(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))


def _by_x(shape: Any) -> str:
    return "x".join("?" if size is None else str(size) for size in shape) or "scalar"
