"""The one file that runs on a device: this package's own modules, as they are, in a zip archive.

Python runs such a file by itself (PEP 441). So the device measures with the very code that this
machine measures with. What is in it must run from Python 3.8 up; ruff holds the modules to that
(pyproject.toml), and tests run them there.
"""

from __future__ import annotations

import ast
import hashlib
import io
import zipfile
from collections.abc import Iterator
from pathlib import Path

RUNTIMES = ("null", "onnx", "openvino", "tensorrt", "tflite")
_PACKAGE = Path(__file__).parent.parent
_SINCE = (1980, 1, 1, 0, 0, 0)  # the same modules give the same bytes, whenever they were written

# The first thing that runs there: it must be understood by any Python.
_MAIN = """\
import sys

def refuse(reason):
    sys.stdout.write("lepton-edge: refused " + reason + "\\n")
    sys.stdout.flush()
    sys.exit(0)

if sys.version_info < (3, 8):
    refuse("old %d.%d %s" % (sys.version_info[0], sys.version_info[1], sys.executable))
try:
    import numpy
except ImportError as error:
    refuse("numpy %s" % sys.executable)
from lepton_edge import board
board.main()
"""


def worker() -> tuple[str, bytes]:
    """The file's sha256 in hex, and the file."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in [("__main__.py", _MAIN), *_texts()]:
            archive.writestr(zipfile.ZipInfo(name, _SINCE), text, zipfile.ZIP_DEFLATED)
    data = stream.getvalue()
    return hashlib.sha256(data).hexdigest(), data


def modules() -> list[str]:
    """The modules in it: those of the board and of the runtimes, with all that they import."""
    waiting = ["lepton_edge.board", *(f"lepton_edge.runtimes.{name}" for name in RUNTIMES)]
    found: set[str] = set()
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        found.add(name)
        waiting += [name.rpartition(".")[0]] if "." in name else []
        waiting += _imports(ast.parse(_file(name).read_text()))
    return sorted(found)


def _texts() -> Iterator[tuple[str, str]]:
    for name in modules():
        path = _file(name)
        yield str(path.relative_to(_PACKAGE.parent).as_posix()), path.read_text()


def _file(module: str) -> Path:
    path = _PACKAGE.joinpath(*module.split(".")[1:])
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def _imports(tree: ast.Module) -> Iterator[str]:
    """What is imported from this package when the module is loaded; what functions import is not.

    Modules are not told from names in `from a import b`, so the file decides.
    """
    for node in tree.body:
        if isinstance(node, ast.Import):
            yield from (item.name for item in node.names if item.name.startswith("lepton_edge"))
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("lepton_edge"):
            assert node.module is not None
            yield node.module
            parts = (f"{node.module}.{item.name}" for item in node.names)
            yield from (part for part in parts if _file(part).exists())
