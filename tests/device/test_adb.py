"""A device behind Android's own adb and adbd, on loopback: the transport, the lock, the refusals.

The daemon is built from its source (build_adbd.sh); where it runs is no Android, so what only
Android has (getprop, dumpsys) is tested on text, in tests/unit/test_android.py.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from lepton_edge import errors, remote
from lepton_edge.remote import android
from tests.boards import free_port
from tests.conftest import Done

PROBE = Path(remote.__file__).parents[1] / "jobs" / "probe.tflite"
Cli = Callable[..., Done]


@dataclass
class Phone:
    """A running daemon; `address` takes further keys."""

    serial: str
    folder: Path
    daemon: subprocess.Popen[bytes]

    def address(self, **keys: object) -> str:
        given = {"folder": self.folder, **keys}
        return f"adb://{self.serial}?{'&'.join(f'{key}={value}' for key, value in given.items())}"

    def open(self, **keys: object) -> android.Device:
        return android.Device(remote.Address.parse(self.address(**keys)), "a test")


@pytest.fixture(scope="module")
def phone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Phone]:
    given = os.environ.get("LEPTON_EDGE_ADBD")
    if given is None or shutil.which("adb") is None:
        pytest.skip("no adb, or no daemon: set LEPTON_EDGE_ADBD to what build_adbd.sh built")
    folder = tmp_path_factory.mktemp("phone")
    with pytest.MonkeyPatch.context() as patch:
        # A server of adb's own, so that no device of this machine's user is touched.
        patch.setenv("ANDROID_ADB_SERVER_PORT", str(free_port()))
        patch.setenv("ADBD_PORT", str(free_port()))
        with (folder / "log").open("wb") as log:
            daemon = subprocess.Popen([given], stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        serial = f"127.0.0.1:{os.environ['ADBD_PORT']}"
        try:
            for _ in range(50):
                done = subprocess.run(["adb", "connect", serial], capture_output=True, text=True)
                if "connected to" in done.stdout:
                    break
                time.sleep(0.1)
            yield Phone(serial, folder / "files", daemon)
        finally:
            daemon.kill()
            daemon.wait()
            subprocess.run(["adb", "kill-server"], capture_output=True)


def program(folder: Path, text: str) -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / "program"
    path.write_text(text)
    return path


def test_a_shell_that_stays_open(phone: Phone) -> None:
    with phone.open(wait="yes") as device:
        assert device.shell("echo one; exit_code() { return 7; }; exit_code") == (7, "one\n")
        assert device.shell("cat; echo two >&2") == (0, "two\n")  # standard input is empty there
        assert device.shell("printf three")[1] == "three"
        with pytest.raises(errors.WorkerFailed, match="did not answer"):
            device.shell("sleep 3", limit_s=0.3)


def test_what_it_says_of_itself(phone: Phone) -> None:
    with phone.open(wait="yes") as device:
        about = device.about
    assert about["context"]["cpu"]["architecture"] == os.uname().machine
    assert about["context"]["system"]["kernel"] == os.uname().release
    assert about["context"]["memory"]["total_mb"] > 100
    assert about["free"] > 0
    assert abs(about["clock_offset_s"]) < 5


def test_a_file_travels_once_and_whole(phone: Phone, tmp_path: Path) -> None:
    path = tmp_path / "a b.tflite"
    path.write_bytes(os.urandom(3 << 20))
    with phone.open(wait="yes") as device:
        target = Path(device.place(path, ".tflite"))
        assert target.read_bytes() == path.read_bytes()
        sent = []
        device._transport.push = lambda *given: sent.append(given)
        assert device.place(path, ".tflite") == str(target)
        assert sent == []
        target.write_bytes(b"changed there")
        with pytest.raises(errors.DeviceError, match="arrived damaged"):
            device.place(path, ".tflite")  # it would be sent again; here nothing is
    assert len(sent) == 1


def test_one_run_at_a_time_and_its_parts(phone: Phone) -> None:
    with remote.reserve(phone.address(wait="yes"), "a long test") as held:
        with pytest.raises(errors.DeviceBusy, match="runs a long test since 20") as caught:
            phone.open()
        assert caught.value.exit_code == 4
        with android.Device(held.address, "a part of it") as part:
            part.check()
        held.check()
    phone.open().close()


def test_the_lock_is_the_one_of_devices_reached_by_ssh(phone: Phone) -> None:
    from lepton_edge.board import server

    if Path("/data/local/tmp").is_dir():
        pytest.skip("the lock lies in /data/local/tmp here")
    with phone.open(wait="yes"):
        lock = os.open(server.LOCK, os.O_RDWR)
        try:
            assert not server._locked(lock)
        finally:
            os.close(lock)
        assert json.loads(server.LOCK.read_text())["purpose"] == "a test"


def test_work_outlives_a_lost_connection_and_keeps_the_lock(phone: Phone, tmp_path: Path) -> None:
    """The client dies while a command runs: the next run waits until that has ended."""
    done = tmp_path / "done"
    device = phone.open(wait="yes")
    device._to.write(f"sleep 2; touch {done}\n".encode())
    device._to.flush()
    time.sleep(0.3)
    device._process.send_signal(signal.SIGKILL)
    with pytest.raises(errors.DeviceError, match="was lost in the middle"):
        device.shell("true")
    device.close()
    with contextlib.suppress(errors.DeviceBusy), phone.open():
        assert done.exists()
    with phone.open(wait="yes"):
        pass


REFUSED = [
    ("adb://no-such-serial", "adb knows no such device", "adb devices"),
    ("adb://127.0.0.1:9", "adb knows no such device", "adb connect"),
]


@pytest.mark.parametrize(("address", "says", "next"), REFUSED)
def test_a_device_that_is_not_there(
    cli: Cli, phone: Phone, address: str, says: str, next: str
) -> None:
    done = cli("benchmark", PROBE, "--on", address)
    assert done.code == 4, done.err
    assert says in done.err
    assert next in done.err


def test_a_device_that_has_not_allowed_this_computer(phone: Phone) -> None:
    """adb's own words; a daemon that asks for keys needs Android's keystore."""
    found = phone.open(wait="yes")
    error = found._transport.failure(1, "error: device unauthorized.\nThis adb server's $X is not")
    found.close()
    assert "has not allowed this computer" in str(error)
    assert "screen" in str(error)


def test_no_adb_here(phone: Phone, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(errors.BackendMissing, match="no adb on this machine"):
        phone.open()


def test_without_the_program(cli: Cli, phone: Phone) -> None:
    done = cli("benchmark", PROBE, "--wait", "--on", phone.address())
    assert done.code == 4, done.err
    assert "There is no benchmark_model on" in done.err
    assert "Download it, https://" in done.err


def test_a_program_for_another_processor(cli: Cli, phone: Phone, tmp_path: Path) -> None:
    path = program(tmp_path, "\x7fELF: of no machine")
    done = cli("benchmark", PROBE, "--wait", "--on", phone.address(benchmark_model=path))
    assert done.code == 4, done.err
    assert "does not run on" in done.err
    assert os.uname().machine in done.err


def test_a_program_that_tells_no_times(cli: Cli, phone: Phone, tmp_path: Path) -> None:
    path = program(tmp_path, "#!/bin/sh\necho INFO: Initialized session in 1.0ms.\n")
    done = cli("benchmark", PROBE, "--wait", "--on", phone.address(benchmark_model=path))
    assert done.code == 1, done.err
    assert "printed no times that are known" in done.err


def test_a_program_that_hangs(cli: Cli, phone: Phone, tmp_path: Path) -> None:
    path = program(tmp_path, "#!/bin/sh\nexec sleep 60\n")
    done = cli(
        "benchmark", PROBE, "--wait", "--time-limit", "2",
        "--on", phone.address(benchmark_model=path),
    )  # fmt: skip
    assert done.code == 1, done.err
    assert "took too long" in done.err


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("evaluate", "--data", "few.npz"), "gives no outputs"),
        (("benchmark", "--data", "few.npz"), "gives no outputs"),
        (("benchmark", "--memory-limit", "100"), "no limit of memory"),
        (("benchmark", "--device", "npu"), "Unknown device of benchmark_model 'npu'"),
        (("benchmark", "--option", "implementation=tensorflow"), "has no meaning"),
    ],
)
def test_what_it_cannot_do(
    cli: Cli, phone: Phone, tmp_path: Path, words: tuple[str, ...], says: str
) -> None:
    import numpy as np

    np.savez(tmp_path / "few.npz", x=np.ones((2, 4), np.float32), label=np.zeros(2, np.int64))
    path = program(tmp_path, "#!/bin/sh\n")
    verb, *rest = words
    address = phone.address(benchmark_model=path)
    done = cli(verb, PROBE, *rest, "--wait", "--on", address, cwd=tmp_path)
    assert done.code == 2, done.err
    assert says in done.err


def test_a_folder_that_cannot_be_written(cli: Cli, phone: Phone) -> None:
    done = cli("benchmark", PROBE, "--wait", "--on", f"adb://{phone.serial}?folder=/proc/none")
    assert done.code == 4, done.err
    assert "Cannot write into '/proc/none'" in done.err


def test_doctor_asks_for_the_program(cli: Cli, phone: Phone, tmp_path: Path) -> None:
    done = cli("doctor", "--wait", "--on", phone.address())
    assert done.code == 4, done.err
    assert "There is no benchmark_model on" in done.out
    path = program(tmp_path, "#!/bin/sh\nexit 1\n")
    done = cli("doctor", "android-arm64", "--wait", "--on", phone.address(benchmark_model=path))
    assert done.code == 4, done.err
    assert "ended with code 1" in done.out
    assert cli("doctor", "onnx", "--wait", "--on", phone.address()).code == 2


def test_benchmark_model_itself(cli: Cli, phone: Phone) -> None:
    """LiteRT's program for this machine (litert/binaries/latest/linux_x86_64/benchmark_model)."""
    given = os.environ.get("LEPTON_EDGE_BENCHMARK_MODEL")
    if given is None:
        pytest.skip("set LEPTON_EDGE_BENCHMARK_MODEL to a benchmark_model for this machine")
    done = cli(
        "benchmark", PROBE, "--window", "100,1", "--json", "--wait",
        "--on", phone.address(benchmark_model=given),
    )  # fmt: skip
    assert done.code in (0, 6), done.err
    found = done.document["latency"]
    assert found["n"] >= 100
    assert found["min_ms"] <= found["p50_ms"] <= found["max_ms"]
    assert found["p90_ms"] is None
    assert found["peak_rss_mb"] > 0
    assert done.document["facts"]["on"] == f"adb://{phone.serial}"
