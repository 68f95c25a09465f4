"""Which TensorRT is here, what an engine was built for, and whether it belongs here.

An engine holds for the TensorRT, the GPU and the system that it was built with. Its artefact says
which, and its own first bytes say the library and its version, so that one from elsewhere is
refused before TensorRT sees it.
"""

from __future__ import annotations

import importlib
import importlib.util
import platform
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Mapping

from lepton_edge import errors, power

if TYPE_CHECKING:
    from lepton_edge._tensorrt.cuda import Gpu

# What to import of each; NVIDIA's archive of tensorrt_rtx has the first, its packages the second.
MODULES = {"tensorrt": ("tensorrt",), "tensorrt_rtx": ("tensorrt_rtx", "tensorrt_rtx_bindings")}
TITLES = {"tensorrt": "TensorRT", "tensorrt_rtx": "TensorRT-RTX"}
LEAST, MOST = (8, 5), (11,)  # of `tensorrt`
INSTALL = (
    "pip install --no-deps tensorrt-rtx-cu13-libs tensorrt-rtx-cu13-bindings nvidia-cuda-runtime"
)
GET = {
    "tensorrt": "On a Jetson it is a part of JetPack: sudo apt-get install nvidia-jetpack. Its"
    " Python must be the system's own",
    "tensorrt_rtx": INSTALL,
}
RTX_LEAST = 8.0  # compute capability that an engine of tensorrt_rtx is built for by default

# An engine file begins with a tag and, where the number after it is 0, has the version at 24; of
# `tensorrt` as its open-source trtexec reads it (printPlanVersion), of tensorrt_rtx as seen.
TAGS = {b"ftrt": "tensorrt", b"vtrt": "tensorrt_rtx"}
HEADER = 28


def find(wanted: str | None = None) -> tuple[str, Any]:
    """The name and the module of the library that is asked for, else of the first that is here.

    Raises `BackendMissing`, also for a `tensorrt` that is older than 8.5 or newer than 11.
    """
    reasons = []
    for name in [wanted] if wanted else list(MODULES):
        for module in MODULES[name]:
            if importlib.util.find_spec(module) is None:
                continue
            try:
                library = importlib.import_module(module)
            except (ImportError, OSError) as error:
                reasons.append(f"{TITLES[name]} does not load: {str(error).splitlines()[0]}")
                continue
            if not hasattr(library, "Runtime"):  # a placeholder package has nothing inside
                continue
            version = number(library.__version__)
            if name == "tensorrt" and not LEAST <= version < (MOST[0] + 1,):
                raise errors.BackendMissing(
                    f"TensorRT {library.__version__} is here; 8.5 to 11 can be used.",
                    next="A Jetson has 8.5 from JetPack 5.1 on.",
                )
            return name, library
    what = TITLES[wanted] if wanted else "TensorRT"
    raise errors.BackendMissing(
        f"{'; '.join(reasons) or f'{what} is not installed'}.",
        next=f"{GET[wanted or 'tensorrt_rtx']}.",
    )


def number(version: str) -> tuple[int, ...]:
    """`10.13.3.9.post1` as numbers; what is no number ends it."""
    found = re.match(r"\d+(\.\d+)*", version)
    return tuple(map(int, found.group().split("."))) if found else ()


def here(name: str, library: Any, gpu: Gpu | None) -> dict[str, Any]:
    """The fingerprint of this machine: what an engine that is built now holds for."""
    return {
        "library": name,
        "version": str(library.__version__),
        "gpu": gpu.name if gpu else None,
        "compute_capability": gpu.capability if gpu else None,
        "os": platform.system(),
        "architecture": platform.machine(),
        "l4t": l4t(power.board()["l4t"]),
    }


def l4t(line: str | None) -> str | None:
    """`36.4.3` of the first line of /etc/nv_tegra_release."""
    found = re.search(r"R(\d+) .*REVISION: (\d+(?:\.\d+)*)", line or "")
    return f"{found.group(1)}.{found.group(2)}" if found else None


def header(file: Path) -> tuple[str, tuple[int, ...]]:
    """The library that wrote an engine file, and its version, () where the file does not tell it.

    Raises `BadInput` for what is no engine.
    """
    with file.open("rb") as stream:
        data = stream.read(HEADER)
    if len(data) < HEADER or data[:4] not in TAGS:
        raise errors.BadInput(
            f"{str(file)!r} is no TensorRT engine, or is damaged.", next="Build it again."
        )
    name = TAGS[data[:4]]
    if data[4:8] != bytes(4):
        return name, ()
    version = tuple(data[24:28] if name == "tensorrt" else data[24:27])
    return name, version


def refuse(
    file: Path, built: Mapping[str, Any], now: Mapping[str, Any], rebuild: str | None
) -> None:
    """Raises `BadInput` where the engine does not belong here; `rebuild` is what to do then.

    What either side does not tell, such as the GPU before CUDA was asked, is not compared.
    tensorrt_rtx builds for a compute capability, on any system, and not for one GPU.
    """
    keys = ["version", "architecture"]
    if built["library"] == "tensorrt":
        keys += ["os", "l4t", "gpu", "compute_capability"]
    known = [key for key in keys if built.get(key) is not None and now.get(key) is not None]
    wrong = [key for key in known if not _same(key, built[key], now[key])]
    if built["library"] == "tensorrt_rtx" and now.get("compute_capability") is not None:
        wanted, got = built.get("compute_capability"), now["compute_capability"]
        if got != wanted if wanted else float(got) < RTX_LEAST:
            wrong.append("compute_capability")
    if not wrong:
        return
    words = {"os": "", "architecture": "", "gpu": "", "l4t": "L4T "}
    words["compute_capability"] = "compute capability "
    words["version"] = f"{TITLES[built['library']]} "
    sides = [
        " ".join(f"{words[key]}{side.get(key) or f'{RTX_LEAST:g} or newer'}," for key in wrong)
        for side in (built, now)
    ]
    raise errors.BadInput(
        f"The engine {str(file)!r} was built for {sides[0]} here is {sides[1]} where it would not"
        " hold.",
        next=f"Build it again: {rebuild}." if rebuild else "Build it again on this machine.",
    )


def _same(key: str, one: str, other: str) -> bool:
    """Versions agree as far as both are told: a file's own bytes hold fewer numbers."""
    if key != "version":
        return one == other
    return all(a == b for a, b in zip(number(one), number(other)))


def logger(library: Any) -> Any:
    """Keeps the last error for the message; warnings go nowhere."""

    class Logger(library.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            library.ILogger.__init__(self)
            self.last = ""

        def log(self, severity: Any, message: str) -> None:
            if severity in (library.ILogger.ERROR, library.ILogger.INTERNAL_ERROR):
                self.last = message.strip().splitlines()[0].rstrip(". ")[:300]

    return Logger()
