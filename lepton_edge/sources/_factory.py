"""Whose model a `file.py:factory` makes: told by what the file imports, without running it."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

_LIBRARIES = {"torch": "torch", "keras": "keras", "tensorflow": "keras"}


def framework_of(file: Path, name: str) -> str:
    """`torch` or `keras`, by the imports in the function `name`, else by those of the file.

    Where neither tells, or both are imported, it is torch.
    """
    try:
        tree = ast.parse(file.read_bytes())
    except (SyntaxError, ValueError, OSError):
        return "torch"  # running it says what is wrong
    inside = [each for each in tree.body if isinstance(each, ast.FunctionDef) and each.name == name]
    for body in (*inside, tree):
        found = {_LIBRARIES[each] for each in _imported(body) if each in _LIBRARIES}
        if found:
            return "torch" if "torch" in found else "keras"
    return "torch"


def _imported(tree: ast.AST) -> Iterator[str]:
    """Names of the libraries; a function's own imports count for that function alone."""
    nodes = ast.walk(tree) if isinstance(tree, ast.FunctionDef) else _outside(tree)
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.partition(".")[0]


def _outside(tree: ast.AST) -> Iterator[ast.AST]:
    for node in ast.iter_child_nodes(tree):
        if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield node
            yield from _outside(node)
