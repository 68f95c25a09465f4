"""A compressed module as a source that opens again: its factory, and how its shapes differ.

A pruned module no longer fits its factory. What is written is a folder with `model.py`, whose
`factory` calls the original factory and gives its modules the recorded sizes, and the weights as
.safetensors beside it: `OUT/model.py:factory` is a source like any other, for every verb.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lepton_edge import errors
from lepton_edge._user_code import load_function, raised
from lepton_edge.artifact import replacing
from lepton_edge.model import ModelSource, file_sha256

if TYPE_CHECKING:
    from torch import nn

MODEL, RECORD = "model.py", "compress.json"

_TEMPLATE = '''\
"""A compressed form of {factory}, written by lepton-edge.

`factory` gives the module with its sizes; its trained values are in {weights}.
The original file must stay where FORM says, relative to this folder, and unchanged.
"""

import json
from pathlib import Path

from lepton_edge.compress import Form

FORM = json.loads(r"""{form}""")


def factory():
    """The module; lepton-edge puts its weights in."""
    return Form.from_dict(FORM).build(Path(__file__).parent)
'''


@dataclass(frozen=True)
class Form:
    """`factory` is file.py:function, relative to the folder it is used from; `sha256` its file's.

    `arguments` are given to the factory. `attributes` are sizes that differ from what it makes
    (module name -> attribute -> value), `shapes` those of parameters and buffers.
    """

    factory: str
    sha256: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    attributes: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    @classmethod
    def of(cls, source: ModelSource) -> Form:
        """The form that `source` has: its own record, or the factory as it stands.

        Paths are absolute. Raises `CannotConvert` where the source is no factory.
        """
        path, _, name = source.path.rpartition(":")
        if not path.endswith(".py"):
            raise errors.CannotConvert(
                f"{source.path!r} cannot be compressed: training and pruning change a PyTorch"
                " module, and this file is an exported graph.",
                next="Give the model as file.py:factory with --weights.",
            )
        recorded = _recorded(Path(path), name)
        if recorded is not None:
            return replace(recorded, factory=_moved(recorded.factory, Path(path).parent))
        full = str(Path(path).resolve())
        return cls(f"{full}:{name}", file_sha256(Path(path)))

    @classmethod
    def from_dict(cls, given: Mapping[str, Any]) -> Form:
        shapes = {name: tuple(shape) for name, shape in given["shapes"].items()}
        return cls(**{**given, "shapes": shapes})

    def plain(self, folder: Path = Path()) -> nn.Module:
        """What the original factory makes with the arguments."""
        path, _, name = self.factory.rpartition(":")
        file = folder / path
        if file_sha256(file) != self.sha256:
            raise errors.BadInput(
                f"{str(file)!r} is not the file that this model was compressed from"
                " (its sha256 differs).",
                next="Put the original file back, or compress the new one.",
            )
        function = load_function(file, name)
        try:
            module: nn.Module = function(**self.arguments)
        except TypeError as error:
            if self.arguments and "argument" in str(error):
                names = ", ".join(self.arguments)
                raise errors.UsageError(
                    f"{self.factory!r} does not take {names}.",
                    next=f"Give its function a parameter {names}, or name a student of its own.",
                ) from None
            raise raised(self.factory, error) from error
        return module

    def build(self, folder: Path = Path()) -> nn.Module:
        """The module of the recorded sizes; its values are those of no training."""
        import torch

        module = self.plain(folder)
        owners = dict(module.named_modules())
        for name, sizes in self.attributes.items():
            for key, value in sizes.items():
                setattr(owners[name], key, tuple(value) if isinstance(value, list) else value)
        for name, shape in self.shapes.items():
            owner, _, leaf = name.rpartition(".")
            old = getattr(owners[owner], leaf)
            new = torch.zeros(shape, dtype=old.dtype)
            if isinstance(old, torch.nn.Parameter):
                new = torch.nn.Parameter(new, requires_grad=old.requires_grad)
            setattr(owners[owner], leaf, new)
        return module

    def changed_to(self, module: nn.Module) -> Form:
        """The form of `module`, which was made by this form's factory and then changed."""
        before = self.plain()
        ours = dict(before.named_modules())
        attributes: dict[str, dict[str, Any]] = {}
        for name, each in module.named_modules():
            # By name: the user's file was run twice, and each run has classes of its own.
            if name not in ours or type(ours[name]).__qualname__ != type(each).__qualname__:
                raise errors.CannotConvert(
                    f"The module {name!r} is not what {self.factory!r} makes; it cannot be saved."
                )
            kept = vars(ours[name])
            differs = {
                key: value
                for key, value in vars(each).items()
                if _is_size(value) and key in kept and kept[key] != value
            }
            if differs:
                attributes[name] = differs
        state = {**dict(before.named_parameters()), **dict(before.named_buffers())}
        now = {**dict(module.named_parameters()), **dict(module.named_buffers())}
        shapes = {
            name: tuple(value.shape)
            for name, value in now.items()
            if name not in state or state[name].shape != value.shape
        }
        return replace(self, attributes=attributes, shapes=shapes)

    def _relative_to(self, folder: Path) -> Form:
        path, _, name = self.factory.rpartition(":")
        return replace(self, factory=f"{os.path.relpath(path, folder.resolve())}:{name}")

    def write(
        self, module: nn.Module, folder: Path, *, inputs: Any = (), record: Mapping[str, Any]
    ) -> ModelSource:
        """Writes the folder with the weights of `module`; returns the source that opens it.

        What was written is opened and compared with `module` tensor by tensor before it appears.
        """
        import torch
        from safetensors.torch import save

        weights = f"{folder.name}.safetensors"
        form = asdict(self._relative_to(folder))
        original = self.factory.rpartition("/")[2]
        text = _TEMPLATE.format(factory=original, weights=weights, form=json.dumps(form, indent=1))
        state = {
            name: value.detach().cpu().clone().contiguous()
            for name, value in module.state_dict().items()
        }
        refuse_to_overwrite(folder)
        with replacing(folder) as temporary:
            temporary.mkdir()
            (temporary / MODEL).write_text(text)
            # As bytes: a full disk is then an error of the file system and not of the library.
            (temporary / weights).write_bytes(save(state))
            (temporary / RECORD).write_text(json.dumps(dict(record), indent=1) + "\n")
            again = load_function(temporary / MODEL, "factory")()
            again.load_state_dict(state)
            for name, value in again.state_dict().items():
                if not torch.equal(value, state[name]):
                    raise errors.EdgeError(f"{name!r} is not what was written.")
        return ModelSource(f"{folder / MODEL}:factory", str(folder / weights), tuple(inputs))

    def key(self) -> str:
        """sha256 over the form: what a checkpoint belongs to."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()


def _is_size(value: Any) -> bool:
    if isinstance(value, bool):
        return False
    if isinstance(value, (tuple, list)):
        return bool(value) and all(type(item) is int for item in value)
    return isinstance(value, int)


def _moved(factory: str, folder: Path) -> str:
    path, _, name = factory.rpartition(":")
    return f"{(folder / path).resolve()}:{name}"


def _recorded(path: Path, name: str) -> Form | None:
    """The form in a `model.py` that `write` made; None for a file of the user's own."""
    if name != "factory" or path.name != MODEL or not (path.parent / RECORD).is_file():
        return None
    given = load_function(path, name).__globals__.get("FORM")
    return None if given is None else Form.from_dict(given)


def keras_file(folder: Path) -> Path:
    """The Keras model in a folder that a pass wrote."""
    return folder / f"{folder.name}.keras"


def steps_before(source: ModelSource) -> list[Any]:
    """What was done to the model before, where the folder that a pass wrote tells."""
    file = source.file
    path = file.parent / RECORD
    if file.name not in (MODEL, keras_file(file.parent).name) or not path.is_file():
        return []
    try:
        found: list[Any] = json.loads(path.read_text())["steps"]
    except (OSError, ValueError, KeyError, TypeError):
        raise errors.BadInput(f"{str(path)!r} is damaged.", next="Compress again.") from None
    return found


def refuse_to_overwrite(folder: Path) -> None:
    """Only a compressed model's folder, with nothing else in it, may be replaced."""
    if not folder.exists():
        return
    weights = {f"{folder.name}.safetensors", keras_file(folder).name}
    known = {MODEL, RECORD, "__pycache__", *weights}
    found = {each.name for each in folder.iterdir()} if folder.is_dir() else {folder.name}
    if found - known:
        raise errors.UsageError(
            f"The output {str(folder)!r} holds {min(found - known)!r}, which is of no compressed"
            " model.",
            next="Choose another folder.",
        )
