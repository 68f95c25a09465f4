"""The log of edgetpu_compiler, and how its failures are told.

The compiler is closed and not to be had from an index; a small program stands in for it, so that
what is tested is what we do with its files, its log and its exit code.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from lepton_edge import errors
from lepton_edge.devices.edgetpu import compiler

# As the compiler prints it (numbers of a published log of a YOLO model).
LOG = """Edge TPU Compiler version 16.0.384591198
Started a compilation timeout timer of 180 seconds.

Model compiled successfully in 2653 ms.

Input model: model.tflite
Input size: 7.31MiB
Output model: model_edgetpu.tflite
Output size: 8.34MiB
On-chip memory used for caching model parameters: 6.08MiB
On-chip memory remaining for caching model parameters: 0.00B
Off-chip memory used for streaming uncached model parameters: 1.70MiB
Number of Edge TPU subgraphs: 1
Total number of operations: 24
Operation log: model_edgetpu.log

Model successfully compiled but not all operations are supported by the Edge TPU.
Number of operations that will run on Edge TPU: 19
Number of operations that will run on CPU: 5

Operator                       Count      Status

CONCATENATION                  17         Mapped to Edge TPU
RESIZE_NEAREST_NEIGHBOR        2          Mapped to Edge TPU
QUANTIZE                       2          Operation is working on an unsupported data type
SUB                            2          More than one subgraph is not supported
TFLite_Detection_PostProcess   1          Operation not supported
Compilation child process completed within timeout period.
Compilation succeeded!
"""


def stand_in(folder: Path, body: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program `edgetpu_compiler`, alone on PATH: `out` and `model` are its arguments."""
    program = folder / "bin" / "edgetpu_compiler"
    program.parent.mkdir()
    program.write_text(
        f"#!{sys.executable}\nimport pathlib, sys\n"
        "model = pathlib.Path(sys.argv[-1])\n"
        "out = pathlib.Path(sys.argv[sys.argv.index('-o') + 1])\n"
        f"{body}\n"
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent))


def test_the_log_is_read() -> None:
    log = compiler.parse_log(LOG)
    assert log.version == "16.0.384591198"
    assert log.on_chip_used_bytes == round(6.08 * 2**20)
    assert log.off_chip_bytes == round(1.70 * 2**20)
    assert (log.subgraphs, log.total, log.accelerator, log.cpu) == (1, 24, 19, 5)
    assert [row.op for row in log.statuses if not row.mapped] == [
        "QUANTIZE",
        "SUB",
        "TFLite_Detection_PostProcess",
    ]
    assert sum(row.count for row in log.statuses) == log.total


def test_counts_come_from_the_rows_where_the_log_has_no_totals() -> None:
    """The .log file, unlike the output, has only the table."""
    _, _, table = LOG.partition("\nOperator ")
    log = compiler.parse_log(f"Edge TPU Compiler version 15.0.340273435\nOperator {table}")
    assert (log.accelerator, log.cpu, log.total) == (19, 5, None)


def test_other_text_is_no_log() -> None:
    with pytest.raises(errors.BadInput, match="no log of edgetpu_compiler"):
        compiler.parse_log("hello")


def test_the_compiler_missing_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(errors.BackendMissing, match="not on PATH"):
        compiler.compile_file(tmp_path / "model.tflite", tmp_path)


def test_its_file_is_moved_and_its_log_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in(
        tmp_path,
        f"(out / (model.stem + '_edgetpu.tflite')).write_bytes(b'compiled')\nprint({LOG!r})",
        monkeypatch,
    )
    folder = tmp_path / "out"
    folder.mkdir()
    path, log = compiler.compile_file(tmp_path / "model.tflite", folder)
    assert path == folder / "model_edgetpu.tflite"
    assert path.read_bytes() == b"compiled"
    assert list(folder.iterdir()) == [path]
    assert log.cpu == 5


@pytest.mark.parametrize(
    "body",
    [
        "print('Invalid model: m.tflite')\nprint('Model not quantized')\nsys.exit(1)",
        "print('Model not quantized')",  # some failures still exit with 0
    ],
)
def test_its_refusal_is_told_and_nothing_is_left(
    body: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in(tmp_path, body, monkeypatch)
    folder = tmp_path / "out"
    folder.mkdir()
    with pytest.raises(errors.CannotConvert, match="its last words: Model not quantized"):
        compiler.compile_file(tmp_path / "model.tflite", folder)
    assert not list(folder.iterdir())
