"""What goes wrong with a device: one sentence, exit code 4, and the device free again."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from lepton_edge import errors, jobs, loading, remote
from lepton_edge.artifact import Artifact
from lepton_edge.model import Signature, TensorSpec
from lepton_edge.remote import journal
from lepton_edge.runtimes import null
from tests import boards
from tests.boards import Board
from tests.conftest import Done
from tests.device.conftest import LITERT

Python = Callable[..., Path]
Cli = Callable[..., Done]
VECTOR = Signature((TensorSpec("x", (1, 4), "float32"),), (TensorSpec("y", (1, 4), "float32"),))
RELU = Path(jobs.__file__).parent / "probe.tflite"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """max(x, 0) in TFLite, as a bare file."""
    return Path(shutil.copy(RELU, tmp_path / "relu.tflite"))


@pytest.fixture
def idle(tmp_path: Path) -> Artifact:
    """A null artefact: it takes as long as it is told to."""
    (tmp_path / "idle").mkdir()
    return null.write(tmp_path / "idle", VECTOR)


def refused(cli: Cli, model: Path, address: str, *words: str) -> Done:
    done = cli("benchmark", model, "--window", "100,0.1", "--on", address, "--json", "--wait")
    assert done.code == 4, (done.out, done.err)
    error = done.document["error"]
    assert error["kind"] == "device"
    for word in words:
        assert word in f"{error['message']} {error['next']}"
    assert "Traceback" not in done.err
    return done


def test_an_unknown_host(cli: Cli, model: Path, board: Board) -> None:
    refused(
        cli, model, board.address(host="board.invalid"), "no machine of that name", "Check the name"
    )


def test_nothing_listens(cli: Cli, model: Path, board: Board) -> None:
    refused(cli, model, board.address(port=boards.free_port()), "nothing listens", "ssh server")


def test_a_refused_key(cli: Cli, model: Path, board: Board, tmp_path: Path) -> None:
    config = tmp_path / "config"
    text = (board.folder / "config").read_text()
    config.write_text(text.replace(str(board.folder / "id"), str(board.folder / "stranger")))
    refused(cli, model, board.address(config=config), "refused the key", "ssh-copy-id")


@pytest.mark.parametrize(
    ("known", "words"),
    [("", ("not known here", "fingerprint")), ("stranger", ("not the one", "ssh-keygen -R"))],
)
def test_a_host_key_that_is_unknown_or_another(
    cli: Cli, model: Path, board: Board, tmp_path: Path, known: str, words: tuple[str, ...]
) -> None:
    hosts, config = tmp_path / "known", tmp_path / "config"
    key = (board.folder / f"{known}.pub").read_text() if known else ""
    hosts.write_text(f"[127.0.0.1]:{board.port} {key}" if key else "")
    text = (board.folder / "config").read_text()
    config.write_text(text.replace(str(board.folder / "known"), str(hosts)))
    refused(cli, model, board.address(config=config), *words)


def test_a_missing_python(cli: Cli, model: Path, board: Board) -> None:
    refused(cli, model, board.address(python="python3.99"), "no 'python3.99'", "?python=")


def test_a_python_that_is_too_old(cli: Cli, model: Path, board: Board) -> None:
    old = boards.interpreter("3.7")
    refused(cli, model, board.address(python=old), "is Python 3.7", "3.8 or newer")


def test_a_python_without_numpy(cli: Cli, model: Path, board: Board, python: Python) -> None:
    refused(cli, model, board.address(python=python("3.11")), "has no numpy", "pip install numpy")


def test_a_python_without_the_runtime(
    cli: Cli, tmp_path: Path, board: Board, python: Python
) -> None:
    model = Path(shutil.copy(RELU.with_suffix(".onnx"), tmp_path / "relu.onnx"))
    interpreter = python(*LITERT)
    address = board.address(python=interpreter)
    done = cli("benchmark", model, "--window", "100,0.1", "--on", address, "--wait")
    assert done.code == 4, done.err
    assert "ONNX Runtime is not installed" in done.err
    assert f"On the device: {interpreter} -m pip install onnxruntime" in done.err


def test_a_model_that_no_device_runs(cli: Cli, board: Board, tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text("def factory():\n    raise RuntimeError\n")
    done = cli("benchmark", f"{tmp_path / 'net.py'}:factory", "--on", board.address())
    assert done.code == 2
    assert "Convert it first" in done.err


def test_a_disk_without_room_for_the_worker(
    cli: Cli, model: Path, board: Board, python: Python
) -> None:
    """The board's small disk is filled first."""
    small = board.small()
    full = small / "full"
    fill = f"head -c 8m /dev/zero >{full}; chmod 777 {small}; true"
    subprocess.run(board.ssh(fill), check=True, capture_output=True)
    try:
        address = board.address(python=python(*LITERT), folder=small / "cache")
        refused(cli, model, address, "Cannot write", "?folder=")
    finally:
        subprocess.run(board.ssh(f"rm -rf {full} {small / 'cache'}"), check=True)


def test_a_disk_without_room_for_the_artefact(
    cli: Cli, tmp_path: Path, board: Board, python: Python
) -> None:
    big = tmp_path / "big.tflite"
    big.write_bytes(np.random.default_rng(0).bytes(3 << 20))
    address = board.address(python=python(*LITERT), folder=board.small() / "cache")
    refused(cli, big, address, "needs 3,145,728 bytes", "Free some space")
    with remote.Connection(remote.Address.parse(address + "&wait=yes"), "a test") as connection:
        connection.about["free"] = 1 << 40  # as if the disk had filled since it was asked
        with pytest.raises(errors.DeviceError, match="No space left") as caught:
            connection.place(Artifact(tmp_path, big.name, "tflite"))
    assert "Nothing was left there" in str(caught.value)
    listed = board.ssh(f"find {board.small() / 'cache'} -name '*.tflite' -o -name '.*'")
    assert subprocess.run(listed, capture_output=True).stdout == b""


def test_what_was_changed_there_is_not_used(model: Path, board: Board, python: Python) -> None:
    folder = board.home / "changed"
    address = board.address(python=python(*LITERT), folder=folder, wait="yes")
    with loading.load(model, on=address) as session:
        session.run(np.ones((1, 4), np.float32))
    (stored,) = (folder / "artifacts").rglob("*.tflite")
    stored.write_bytes(b"something else")
    with pytest.raises(errors.DeviceError, match="was changed on the device"):
        loading.load(model, on=address)
    with loading.load(model, on=address) as session:  # sent again
        session.run(np.ones((1, 4), np.float32))


def test_a_broken_transfer_goes_on_where_it_ended(
    tmp_path: Path, board: Board, python: Python
) -> None:
    big = tmp_path / "big.tflite"
    big.write_bytes(np.random.default_rng(1).bytes(9 << 20))
    folder = board.home / "transfer"
    address = remote.Address.parse(board.address(python=python(*LITERT), folder=folder, wait="yes"))
    artifact = Artifact(tmp_path, big.name, "tflite")
    with remote.Connection(address, "a test") as connection:
        sent = []
        real = connection.call

        def call(header: dict, arrays: tuple = ()) -> object:
            if header["op"] == "put":
                sent.append(header["offset"])
                if len(sent) == 2:
                    board.kill_connections()
            return real(header, arrays)

        connection.call = call
        with pytest.raises(errors.DeviceError, match="was lost"):
            connection.place(artifact)
    with remote.Connection(address, "a test") as connection:
        have = connection.call(
            {"op": "have", "key": next(folder.rglob(".*.part")).name[1:-5], "names": [big.name]}
        )[0]
        assert have["sizes"][big.name] >= 4 << 20
        connection.place(artifact)
    (stored,) = folder.rglob("*.tflite")
    assert stored.read_bytes() == big.read_bytes()


def holding(address: str, artifact: Artifact, *options: str) -> subprocess.Popen[str]:
    """A benchmark that holds the device for long, once it does."""
    words = [
        sys.executable, "-m", "lepton_edge.cli", "benchmark", str(artifact.folder), "--on", address,
        "--window", "100,60", "--option", "busy_us=20000", "--json", "--wait", *options,
    ]  # fmt: skip
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    return process


def await_work(board: Board) -> int:
    """The process that measures on the board, once it is there."""
    for _ in range(600):
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                words = (entry / "cmdline").read_text().split("\0")
            except OSError:
                continue
            if "work" in words[2:] and str(board.home) in words[1]:
                return int(entry.name)
        time.sleep(0.1)
    raise AssertionError("nothing began to work on the board")


def test_a_connection_that_is_cut_in_the_middle(
    cli: Cli, board: Board, python: Python, idle: Artifact
) -> None:
    """The server dies while it measures: a typed failure, and the next run has the device."""
    address = board.address(python=python(*LITERT))
    process = holding(address, idle)
    try:
        await_work(board)
        board.kill_connections()
        _, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 4, err
    assert "was lost in the middle of the work" in err
    assert "run the same command again" in err
    again = cli("benchmark", idle.folder, "--window", "100,0.1", "--on", address)
    assert again.code in (0, 6), again.err  # without --wait: the lock died with the connection


def test_a_report_that_is_cut_off_leaves_the_last_one(
    board: Board, python: Python, idle: Artifact, tmp_path: Path
) -> None:
    last = tmp_path / "report" / "report.html"
    last.parent.mkdir()
    last.write_text("of yesterday")
    np.savez(tmp_path / "data.npz", x=np.eye(4, dtype=np.float32), label=np.arange(4))
    words = [
        sys.executable, "-m", "lepton_edge.cli", "report", str(idle.folder), "--wait",
        "--data", str(tmp_path / "data.npz"), "-o", str(last.parent), "--window", "100,60",
        "--on", board.address(python=python(*LITERT)),
    ]  # fmt: skip
    process = subprocess.Popen(words, stderr=subprocess.PIPE, text=True)
    try:
        await_work(board)
        board.kill_connections()
        _, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 4, err
    assert "was lost in the middle of the work" in err
    assert [path.name for path in last.parent.iterdir()] == ["report.html"]
    assert last.read_text() == "of yesterday"
    assert not [path for path in tmp_path.iterdir() if path.name.endswith((".tmp", ".old"))]


def test_a_process_that_dies_there(board: Board, python: Python, idle: Artifact) -> None:
    process = holding(board.address(python=python(*LITERT)), idle)
    try:
        os.kill(await_work(board), signal.SIGKILL)
        _, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 1, err
    assert "The benchmark job's process was killed by SIGKILL" in err


def test_a_time_limit_holds_there(cli: Cli, board: Board, python: Python, idle: Artifact) -> None:
    done = cli(
        "benchmark", idle.folder, "--window", "100,60", "--time-limit", "2", "--wait",
        "--on", board.address(python=python(*LITERT)),
    )  # fmt: skip
    assert done.code == 1
    assert "took longer than 2 s and was stopped" in done.err


def test_two_runs_at_once(cli: Cli, board: Board, python: Python, idle: Artifact) -> None:
    address = board.address(python=python(*LITERT))
    with remote.reserve(address + "&wait=yes", "a long test"):
        done = cli("benchmark", idle.folder, "--window", "100,0.1", "--on", address, "--json")
        assert done.code == 4
        assert done.document["error"]["kind"] == "device-busy"
        assert "runs a long test since 20" in done.document["error"]["message"]
        waiting = subprocess.Popen(
            [sys.executable, "-m", "lepton_edge.cli", "benchmark", str(idle.folder), "--wait",
             "--window", "100,0.1", "--on", address],
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        time.sleep(3)
        assert waiting.poll() is None
    _, err = waiting.communicate(timeout=60)
    assert waiting.returncode in (0, 6), err


def test_outputs_that_came_are_not_asked_for_again(
    model: Path, board: Board, python: Python
) -> None:
    address = board.address(python=python(*LITERT), wait="yes")
    inputs = [np.full((1, 4), value, np.float32) for value in range(6)]
    session = loading.load(model, on=address)
    remote.keep_outputs(session)
    first = [session.run(each) for each in inputs[:4]]
    board.kill_connections()
    with pytest.raises(errors.DeviceError, match="was lost"):
        session.run(inputs[4])
    session.close()
    with loading.load(model, on=address) as session:
        remote.keep_outputs(session)
        asked = []
        real = session._connection.call
        session._connection.call = lambda *a: asked.append(1) or real(*a)
        again = [session.run(each) for each in inputs]
    assert len(asked) == 2
    for before, after in zip(first, again, strict=False):
        for name in before:
            np.testing.assert_array_equal(before[name], after[name])
    assert list(journal.folder().iterdir()) == []  # the run ended well: nothing is kept


def test_a_board_whose_clock_is_wrong(
    cli: Cli, board: Board, python: Python, idle: Artifact
) -> None:
    faketime = shutil.which("faketime")
    if faketime is None:
        pytest.skip("no faketime here: apt-get install faketime")
    wrapper = board.home / "python-1990"
    wrapper.write_text(
        "#!/bin/sh\nexport FAKETIME_DONT_FAKE_MONOTONIC=1\n"
        f"exec {faketime} '1990-01-01 00:00:00' {python(*LITERT)} \"$@\"\n"
    )
    wrapper.chmod(0o755)
    done = cli(
        "benchmark", idle.folder, "--window", "100,0.3", "--option", "busy_us=20000", "--json",
        "--wait", "--on", board.address(python=wrapper),
    )  # fmt: skip
    assert done.code in (0, 6), done.err  # 6: another process disturbed it
    assert done.document["context"]["device"]["clock_offset_s"] < -20 * 365 * 24 * 3600
    assert done.document["latency"]["p50_ms"] >= 20
    assert done.document["load_ms"] > 0


def test_a_login_that_prints(board: Board, python: Python, model: Path) -> None:
    """A forced command that greets first, as many a shell's start-up file does."""
    key = (board.folder / "stranger.pub").read_text()
    noisy = 'command="echo Welcome; echo; exec /bin/sh -c \\"$SSH_ORIGINAL_COMMAND\\""'
    allowed = board.folder / "authorized"
    allowed.write_text(f"{allowed.read_text()}{noisy} {key}")
    config = board.folder / "config-stranger"
    text = (board.folder / "config").read_text()
    config.write_text(text.replace(str(board.folder / "id"), str(board.folder / "stranger")))
    address = board.address(python=python(*LITERT), config=config, wait="yes")
    with loading.load(model, on=address) as session:
        (output,) = session.run(np.array([[1, -1, 2, -2]], np.float32)).values()
    np.testing.assert_array_equal(output, [[1, 0, 2, 0]])


def test_an_evaluation_that_was_cut_off_goes_on(
    cli: Cli, board: Board, python: Python, idle: Artifact, tmp_path: Path
) -> None:
    rows = np.random.default_rng(0).normal(size=(300, 4)).astype(np.float32)
    np.savez(tmp_path / "data.npz", x=rows, label=np.arange(300) % 4)
    words = (
        "evaluate", idle.folder, "--data", tmp_path / "data.npz", "--option", "busy_us=20000",
        "--on", board.address(python=python(*LITERT)), "--wait", "--json",
    )  # fmt: skip
    process = subprocess.Popen(
        [sys.executable, "-m", "lepton_edge.cli", *map(str, words)], stdout=subprocess.DEVNULL
    )
    try:
        for _ in range(600):
            kept = list(journal.folder().glob("*"))
            if kept and kept[0].stat().st_size > 2000:
                break
            time.sleep(0.05)
        board.kill_connections()
        assert process.wait(60) == 4
    finally:
        process.kill()
    (kept,) = journal.folder().iterdir()
    before = kept.stat().st_size
    assert before > 2000
    again = cli(*words)
    assert again.code == 0, again.err
    assert again.document["n"] == 300
    assert list(journal.folder().iterdir()) == []
