"""The Edge TPU without one: what is missing or does not fit is told, and nothing crashes here.

No Edge TPU was at hand: that an inference on one is right is not proved here.
"""

from __future__ import annotations

import ctypes.util
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from lepton_edge import errors, jobs, loading
from tests.conftest import Done

pytest.importorskip("ai_edge_litert", reason="needs lepton-edge[tflite]")
PLAIN = Path(jobs.__file__).parent / "probe.tflite"


@pytest.fixture
def compiled() -> Path:
    """A file of Google's compiler, which is no part of this project."""
    place = os.environ.get("LEPTON_EDGE_SHARED")
    path = Path(place or ".") / "data" / "coral" / "mobilenet_v1_0.25_128_quant_edgetpu.tflite"
    if not path.exists():
        pytest.skip("no compiled Edge TPU file: set LEPTON_EDGE_SHARED")
    return path


@pytest.fixture
def marked(tmp_path: Path) -> Path:
    """A plain file that carries the compiler's mark behind its end, where no reader looks."""
    path = tmp_path / "marked.tflite"
    path.write_bytes(PLAIN.read_bytes() + b"edgetpu-custom-op")
    return path


def test_a_file_that_is_not_compiled(tmp_path: Path) -> None:
    with pytest.raises(errors.PlacementError, match=r"Nothing in .* is compiled") as caught:
        loading.load(PLAIN, device="edgetpu")
    assert "edgetpu_compiler probe.tflite" in str(caught.value)


def test_no_library(marked: Path) -> None:
    if ctypes.util.find_library("edgetpu"):
        pytest.skip("there is a libedgetpu here")
    with pytest.raises(errors.BackendMissing, match=r"libedgetpu\.so\.1 is not installed"):
        loading.load(marked, device="edgetpu")


def test_a_library_that_crashes_is_a_finding(marked: Path, tmp_path: Path) -> None:
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler here")
    code = "#include <stdlib.h>\n__attribute__((constructor)) void start(void) { abort(); }\n"
    (tmp_path / "crash.c").write_text(code)
    library = tmp_path / "libcrash.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, tmp_path / "crash.c"], check=True)
    with pytest.raises(errors.BackendMissing, match=r"crashes with ai_edge_litert \(SIGABRT\)"):
        loading.load(marked, device="edgetpu", options={"delegate": str(library)})


def test_a_library_that_is_no_delegate(marked: Path) -> None:
    library = ctypes.util.find_library("m")
    if library is None:
        pytest.skip("no C library by that name here")
    with pytest.raises(errors.BackendMissing, match="No inference on the Edge TPU"):
        loading.load(marked, device="edgetpu", options={"delegate": library})


def test_a_compiled_file_in_a_plain_interpreter(compiled: Path) -> None:
    with pytest.raises(errors.PlacementError, match="compiled for the Edge TPU and runs nowhere"):
        loading.load(compiled)


def test_its_custom_operator_is_exit_code_5(cli: Callable[..., Done], tmp_path: Path) -> None:
    """A file of our own with the operator that the compiler leaves, for those without its files."""
    flatbuffers = pytest.importorskip("flatbuffers")
    schema = pytest.importorskip("ai_edge_litert.schema_py_generated")
    model = schema.ModelT.InitFromPackedBuf(PLAIN.read_bytes())
    (code,) = model.operatorCodes
    code.builtinCode = schema.BuiltinOperator.CUSTOM
    code.deprecatedBuiltinCode = schema.BuiltinOperator.CUSTOM
    code.customCode = b"edgetpu-custom-op"
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    path = tmp_path / "relu_edgetpu.tflite"
    path.write_bytes(builder.Output())
    done = cli("benchmark", path, "--window", "100,0.1")
    assert done.code == 5, done.err
    assert "compiled for the Edge TPU and runs nowhere else" in done.err


def test_another_device_is_still_refused() -> None:
    with pytest.raises(errors.UsageError, match="'cpu' only"):
        loading.load(PLAIN, device="cuda")
    with loading.load(PLAIN) as session:
        (output,) = session.run(np.ones((1, 4), np.float32)).values()
    np.testing.assert_array_equal(output, np.ones((1, 4)))
