"""Reads a torch.export archive before torch does: everything in it that torch would execute.

PyTorch warns that `torch.export.load` is not for untrusted files. It unpickles some members, gives
symbolic sizes to sympy, which evaluates them as Python, pastes guards into a function's source,
and resolves operators by walking attributes (`torch.os.system` is one). Here each of these must be
of a known, harmless form; the rest of the text must be plain names.
"""

from __future__ import annotations

import ast
import io
import json
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lepton_edge import errors
from lepton_edge.sources import _check, _torch_run

# What sympy and torch.utils._sympy.functions write for sizes.
_FUNCTIONS = {
    *("Symbol", "Integer", "Float", "Rational", "Add", "Mul", "Pow", "Mod", "Max", "Min", "Abs"),
    *("Eq", "Ne", "Lt", "Le", "Gt", "Ge", "And", "Or", "Not", "Piecewise", "floor", "ceiling"),
    *("Equality", "Unequality", "StrictLessThan", "LessThan", "StrictGreaterThan", "GreaterThan"),
    *("FloorDiv", "ModularIndexing", "Where", "PythonMod", "CleanDiv", "CeilToInt", "FloorToInt"),
    *("CeilDiv", "IntTrueDiv", "FloatTrueDiv", "LShift", "RShift", "TruncToFloat", "TruncToInt"),
    *("RoundToInt", "RoundDecimal", "ToFloat", "FloatPow", "PowByNatural", "Identity"),
    *("IsNonOverlappingAndDenseIndicator", "cast_symbool_to_symint_guardless"),
}
_CONSTANTS = {"oo", "int_oo", "zoo", "nan", "inf", "pi", "true", "false"}
_METHODS = {"size", "stride", "storage_offset", "numel", "dim", "item"}
_ARITHMETIC = {
    *("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "neg", "pos", "abs", "inv"),
    *("eq", "ne", "lt", "le", "gt", "ge", "and_", "or_", "xor", "not_", "lshift", "rshift"),
    *("invert", "getitem"),
}
_HIGHER_ORDER = {
    *("cond", "while_loop", "map_impl", "scan", "associative_scan", "flex_attention"),
    *("wrap_with_set_grad_enabled", "wrap_with_autocast"),
}
_FILES = {"save", "load", "from_file", "_save", "_load"}  # these ATen operators open files
_CONTAINERS = {None, "builtins.tuple", "builtins.list", "builtins.dict", "collections.OrderedDict"}
_HARMLESS_NODES = (
    *(ast.Expression, ast.BoolOp, ast.BinOp, ast.UnaryOp, ast.Compare, ast.IfExp, ast.Call),
    *(ast.keyword, ast.Name, ast.Constant, ast.Load, ast.Subscript, ast.Attribute, ast.Tuple),
    *(ast.boolop, ast.operator, ast.unaryop, ast.cmpop),
)
_NAME = re.compile(r"\w+", re.ASCII)
_TEXT = re.compile(r"[\w.\-/:<>+\[\]@, ]*", re.ASCII)
# Texts that torch keeps as they are, or writes out only as quoted literals.
_FREE = {"metadata", "as_string", "torch_version"}


def refuse_code(path: Path, archive: zipfile.ZipFile, torch: Any) -> None:
    """Raises `BadInput` where the archive holds anything but tensors and a graph of operators."""
    for name in _pickles(path, archive):
        try:
            content = io.BytesIO(_check.member(path, archive, name, "torch.export"))
            torch.load(content, map_location="cpu", weights_only=True)
        except _torch_run.UNPICKLING as error:
            reason = _check.first_line(error)[:120]
            why = f"its member {name!r} is a pickle of more than tensors ({reason})"
            raise _refused(path, why) from None
    for name in archive.namelist():
        if "models/" in name or name.endswith("serialized_exported_program.json"):
            program = _json(path, archive, name)
            try:
                _walk(program, "")
            except _Found as found:
                raise _refused(path, f"its member {name!r} holds {found}") from None


class _Found(Exception):
    """What should not be in the file, as the end of a sentence."""


def _refused(path: Path, why: str) -> errors.BadInput:
    return errors.BadInput(
        f"{str(path)!r} is not opened: {why}.",
        next="Give the model as file.py:factory with --weights, or as .onnx.",
    )


def _json(path: Path, archive: zipfile.ZipFile, name: str) -> Any:
    try:
        return json.loads(_check.member(path, archive, name, "torch.export"))
    except (ValueError, RecursionError):
        raise _check.damaged(path, f"{name!r} is no JSON", "torch.export") from None


def _pickles(path: Path, archive: zipfile.ZipFile) -> Iterator[str]:
    """Members that torch unpickles: *.pt, payloads marked so; compiled code is refused here."""
    names = archive.namelist()
    for name in names:
        if name.endswith(".pt"):
            yield name
        elif "aotinductor/" in name or name.endswith((".so", ".pkl")):
            raise _refused(path, f"its member {name!r} is code")
        elif name.endswith("_config.json") and "models/" not in name:
            try:
                payloads = list(_json(path, archive, name)["config"].values())
                marked = [meta["path_name"] for meta in payloads if meta["use_pickle"]]
                kept = [str(meta["path_name"]) for meta in payloads]
            except (KeyError, TypeError, AttributeError):
                raise _check.damaged(path, f"{name!r} is malformed", "torch.export") from None
            if any("_obj_" in other for other in kept):
                raise _refused(path, f"{name!r} names a custom object")
            for other in marked:
                full = f"{name.rpartition('/')[0]}/{other}"
                if full not in names:
                    raise _check.damaged(path, f"it lacks {full!r}", "torch.export")
                yield full


def _walk(value: Any, key: str) -> None:
    if key in _FREE:
        return
    if isinstance(value, dict):
        for name, item in value.items():
            if not _TEXT.fullmatch(name):
                raise _Found(f"the key {name!r}")
            _walk(item, name)
    elif isinstance(value, list):
        for item in value:
            _walk(item, key)
    elif isinstance(value, str):
        _CHECKS.get(key, _plain)(value)


def _plain(text: str) -> None:
    if not _TEXT.fullmatch(text):
        raise _Found(f"the text {text[:80]!r}")


def _name(text: str) -> None:
    if not _NAME.fullmatch(text):
        raise _Found(f"the name {text[:80]!r}")


def _operator(target: str) -> None:
    home, *parts = target.split(".")
    known = False
    if home == "torch" and parts[:1] == ["ops"] and len(parts) in (3, 4):
        space, operator = parts[1:3]
        known = (
            operator not in _FILES and not operator.startswith("__class")
            if space in ("aten", "prims", "quantized_decomposed")
            else space == "higher_order" and operator in _HIGHER_ORDER
        )
    elif home == "torch" and len(parts) == 1:
        known = bool(re.fullmatch(r"_?sym_[a-z]+", parts[0]))
    elif home == "_operator" and len(parts) == 1:
        known = parts[0] in _ARITHMETIC
    elif home == "math" and len(parts) == 1:
        known = bool(re.fullmatch(r"[a-z]+\d*", parts[0]))
    if not (known and all(map(_NAME.fullmatch, parts))):
        raise _Found(f"the operator {target[:80]!r}, which is none of PyTorch's own")


def _expression(text: str) -> None:
    """Python that sympy or a guard would evaluate: arithmetic on sizes and nothing else."""
    try:
        if set(text) & {"#", "\n", "\\", ";"}:
            raise ValueError
        tree = ast.parse(text, mode="eval")
        fine = all(map(_harmless, ast.walk(tree)))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        fine = False
    if not fine:
        raise _Found(f"the expression {text[:80]!r}, which is more than arithmetic on sizes")


def _harmless(node: ast.AST) -> bool:
    if isinstance(node, ast.Call):
        called = node.func
        return isinstance(called, ast.Attribute) or (
            isinstance(called, ast.Name) and called.id in _FUNCTIONS
        )
    if isinstance(node, ast.Attribute):
        home = node.value.id if isinstance(node.value, ast.Name) else None
        if home == "math":
            return not node.attr.startswith("_")
        if home == "torch":
            return bool(re.fullmatch(r"_?sym_[a-z]+", node.attr))
        return node.attr in _METHODS
    if isinstance(node, ast.Constant):
        return not isinstance(node.value, (str, bytes)) or bool(_is_name(node.value))
    if isinstance(node, ast.Name):
        # Sizes are named like s77 or u0; the input's dictionary in a guard is L.
        return node.id in _FUNCTIONS | _CONSTANTS | {"L", "math", "torch"} or bool(
            re.fullmatch(r"[a-z]+\d+(_\d+)*", node.id)
        )
    return isinstance(node, _HARMLESS_NODES)


def _is_name(value: object) -> bool:
    return isinstance(value, str) and bool(_NAME.fullmatch(value))


def _tree(text: str) -> None:
    """A pytree's shape; contexts of other containers import the modules that they name."""
    try:
        _containers(json.loads(text))
    except (ValueError, TypeError, RecursionError):
        raise _Found("a malformed tree of inputs or outputs") from None


def _containers(value: Any) -> None:
    if isinstance(value, list):
        for item in value:
            _containers(item)
    elif isinstance(value, dict):
        if value.get("type") not in _CONTAINERS:
            raise _Found(f"the container {str(value.get('type'))[:80]!r}")
        keys = json.loads(value.get("context") or "null") or []
        if not all(isinstance(key, int) or _TEXT.fullmatch(key) for key in keys):
            raise _Found("a container with keys that are no names")
        _containers(value.get("children_spec"))


_CHECKS = {
    "expr_str": _expression,
    "guards_code": _expression,
    "target": _operator,
    "as_operator": _operator,
    "in_spec": _tree,
    "out_spec": _tree,
    "name": _name,
    "as_name": _name,
    "forward_arg_names": _name,
}
