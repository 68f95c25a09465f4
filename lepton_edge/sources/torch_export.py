"""A program saved by torch.export (.pt2).

Such an archive may hold pickles (sample inputs, odd tensors, custom objects), which torch would
load with full powers. So each is first read with weights_only, and the archive is refused where
that fails.
"""

from __future__ import annotations

import io
import json
import pickle
import zipfile
from collections.abc import Iterator
from typing import Any

from lepton_edge.model import Array, Model, ModelSource, TensorSpec
from lepton_edge.sources import _build, _check, _torch_run
from lepton_edge.sources._count_torch import count

__all__ = ["count", "load"]


def load(source: ModelSource) -> Model:
    """Raises `BadInput` for an archive that is damaged or holds more than tensors."""
    torch = _torch_run.torch_library()
    with _check.archive(source.file, "torch.export") as archive:
        _refuse_code(source, archive, torch)
    try:
        program = torch.export.load(source.file)
    except (RuntimeError, ValueError, KeyError, TypeError, AttributeError, OSError) as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
        raise _check.damaged(source.file, first, "torch.export") from None
    if program.example_inputs and program.example_inputs[1]:
        raise _check.damaged(source.file, "it takes keyword arguments", "torch.export")
    own, given = _inputs(program)
    specs = _build.declared(source, own)
    run = _torch_run.runner(program.module(), [spec.name for spec in specs])
    return _build.probed(
        "torch.export", source, program, run, _torch_run.example_of(specs, given), specs
    )


def _inputs(program: Any) -> tuple[list[TensorSpec], dict[str, Array]]:
    """The inputs by their names in the graph; dimensions that are symbols are free."""
    values = {node.name: node.meta.get("val") for node in program.graph.nodes}
    specs: list[TensorSpec] = []
    examples: dict[str, Array] = {}
    positional = list(program.example_inputs[0]) if program.example_inputs else []
    for index, name in enumerate(program.graph_signature.user_inputs):
        value = values[name]
        shape = tuple(size if isinstance(size, int) else None for size in value.shape)
        specs.append(TensorSpec(name, shape, str(value.dtype).removeprefix("torch.")))
        if index < len(positional):
            examples[name] = positional[index].numpy()
    return specs, examples


def _refuse_code(source: ModelSource, archive: zipfile.ZipFile, torch: Any) -> None:
    for name in _pickles(source, archive):
        try:
            torch.load(io.BytesIO(archive.read(name)), map_location="cpu", weights_only=True)
        except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError) as error:
            first = str(error).strip().splitlines()[0][:120] if str(error).strip() else "damaged"
            why = f"its member {name!r} is a pickle of more than tensors ({first})"
            raise _check.damaged(source.file, why, "torch.export") from None


def _pickles(source: ModelSource, archive: zipfile.ZipFile) -> Iterator[str]:
    """Members that torch unpickles: *.pt, payloads marked so, custom objects (refused)."""
    for name in archive.namelist():
        if name.endswith(".pt"):
            yield name
        elif name.endswith((".so", ".pkl")) or "/custom_obj" in name or "/opaque_obj" in name:
            why = f"its member {name!r} is code or a custom object"
            raise _check.damaged(source.file, why, "torch.export")
        elif name.endswith("_config.json"):
            try:
                payloads = json.loads(archive.read(name))["config"]
                marked = [meta["path_name"] for meta in payloads.values() if meta["use_pickle"]]
            except (ValueError, KeyError, TypeError, AttributeError):
                raise _check.damaged(
                    source.file, f"{name!r} is malformed", "torch.export"
                ) from None
            yield from (f"{name.rpartition('/')[0]}/{path}" for path in marked)
