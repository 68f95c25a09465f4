"""An Android device: LiteRT's `benchmark_model` there, through one shell that adb keeps open.

Nothing of ours runs there, for a phone has no Python. The shell holds the device's lock, and ends
after the command that it runs: the lock is free when that work has ended, however the connection
did. It is the lock of devices that are reached by ssh too. Files lie there under their sha256.
"""

from __future__ import annotations

import contextlib
import datetime
import getpass
import json
import os
import secrets
import select
import shlex
import socket
import subprocess
import tempfile
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn

from lepton_edge import context, errors, options
from lepton_edge.artifact import Artifact
from lepton_edge.devices import _tflite
from lepton_edge.devices.transports import Address
from lepton_edge.devices.transports.adb import open_transport
from lepton_edge.model import file_sha256
from lepton_edge.remote import _android_context, benchmark_model
from lepton_edge.runtimes import tflite

FOLDER = "/data/local/tmp/lepton-edge"
PROGRAMS = ("/data/local/tmp/benchmark_model", "/data/local/tmp/android_aarch64_benchmark_model")
BLOCKS = 10  # processes that one benchmark is made of: each tells one median
SHELL_S = 60.0  # that a short command may take
LOG_TAIL = 4000
# A shell of Android's passes a descriptor on only where the command names it (9>&9).
_LOCK = """
for place in /data/local/tmp /tmp; do [ -d $place ] && [ -w $place ] && break; done
lock=$place/lepton-edge.lock
command -v flock >/dev/null || {{ echo no-flock; return; }}
[ -L $lock ] && {{ echo not-a-file; return; }}
[ -e $lock ] || ( umask 0; : >>$lock )
exec 9>>$lock
if flock -n 9 9>&9; then printf %s {holder} >$lock; echo locked; else echo held; cat $lock; fi
"""
_MEMORY = """
{command} & process=$!
while grep VmHWM /proc/$process/status 2>/dev/null; do sleep 0.02 2>/dev/null || sleep 1; done
wait $process
"""


class Device:
    """Reaches the device and takes it; `close` gives it back. `about` is what it said of itself."""

    def __init__(self, address: Address, purpose: str) -> None:
        self.address = address
        self.folder = FOLDER if address.folder == Address("adb").folder else address.folder
        self._transport = open_transport(address)
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - close() closes it
        self._unread = b""
        self._reached = False
        try:
            self._process = self._transport.start("exec sh", self._log)
        except BaseException:
            self._log.close()
            raise
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._to, self._from = self._process.stdin, self._process.stdout
        try:
            self.shell("true")
            self._reached = True
            self._take(purpose)
            self._make_folder()
            self.about = _android_context.about(self.shell, self.folder)
        except BaseException:
            self.close()
            raise

    def shell(self, script: str, limit_s: float = SHELL_S) -> tuple[int, str]:
        """The script's exit code and all that it printed. Raises `DeviceError` where it is lost."""
        end = secrets.token_hex(8)
        text = f"work() {{ {script}\n}}\nwork </dev/null 2>&1; code=$?; echo; echo {end} $code\n"
        with contextlib.suppress(BrokenPipeError):
            self._to.write(text.encode())
            self._to.flush()
        deadline = time.monotonic() + limit_s
        mark = f"\n{end} ".encode()
        while mark not in self._unread or not self._unread.endswith(b"\n"):
            left = deadline - time.monotonic()
            if left <= 0:
                raise errors.WorkerFailed(f"{str(self.address)!r} did not answer in {limit_s:g} s.")
            if select.select([self._from], [], [], left)[0]:
                part = os.read(self._from.fileno(), 1 << 16)
                if not part:
                    self._ended()
                self._unread += part
        found, _, code = self._unread.rpartition(mark)
        self._unread = b""
        return int(code), found.decode(errors="replace").replace("\r\n", "\n")

    def _ended(self) -> NoReturn:
        code = self._process.wait()
        self._log.seek(0)
        log = self._log.read().decode(errors="replace")[-LOG_TAIL:]
        if not self._reached:
            raise self._transport.failure(code, log)
        raise errors.DeviceError(
            f"The connection to {str(self.address)!r} was lost in the middle of the work.",
            next="When it is back, run the same command again: what was finished is kept.",
        )

    def _take(self, purpose: str) -> None:
        now = datetime.datetime.now(datetime.timezone.utc)
        holder = {
            "token": self.address.token or f"{socket.gethostname()} {time.time_ns()}",
            "who": f"{getpass.getuser()}@{socket.gethostname()}",
            "purpose": purpose,
            "since": now.isoformat(timespec="seconds"),
        }
        script = _LOCK.format(holder=shlex.quote(json.dumps(holder)))
        while True:
            said, _, rest = self.shell(script)[1].strip().partition("\n")
            if said == "locked":
                return
            if said != "held":
                raise errors.DeviceError(
                    f"{str(self.address)!r} cannot be locked ({said or 'no answer'}).",
                    next="It needs the command flock (Android 8 or newer has it).",
                )
            try:
                other = json.loads(rest)
            except ValueError:
                other = {}  # it has the lock and has not yet written who it is
            if other.get("token") == holder["token"]:
                return  # the run that this one is a part of has the device
            if not self.address.wait:
                raise errors.DeviceBusy(
                    f"On {str(self.address)!r}: The device is in use: {other.get('who', 'someone')}"
                    f" runs {other.get('purpose', 'something')} since {other.get('since', '?')}.",
                    next="Run it again later, or let it wait with --wait.",
                )
            time.sleep(1)

    def _make_folder(self) -> None:
        code, said = self.shell(f"mkdir -p {shlex.quote(self.folder)} && : >{self._path('.try')}")
        if code:
            raise errors.DeviceError(
                f"Cannot write into {self.folder!r} on {str(self.address)!r}: {said.strip()}.",
                next="Free some space there, or name another place with ?folder=/path.",
            )

    def _path(self, name: str) -> str:
        return shlex.quote(f"{self.folder}/{name}")

    def check(self) -> None:
        """Raises `DeviceError` where the device is not held any more."""
        self.shell("true")

    def place(self, path: Path, suffix: str = "") -> str:
        """Sends the file if its like is not there; where it is, named by its sha256."""
        checksum = file_sha256(path)
        target = f"{self.folder}/{checksum}{suffix}"
        same = f'[ "$(sha256sum <{shlex.quote(target)} 2>/dev/null)" = "{checksum}  -" ]'
        if self.shell(same)[0]:
            self._transport.push(path, f"{target}.part")
            part = shlex.quote(f"{target}.part")
            self.shell(f"chmod 755 {part}; mv {part} {shlex.quote(target)}")
            if self.shell(same)[0]:
                raise errors.DeviceError(
                    f"{str(path)!r} arrived damaged on {str(self.address)!r}.", next="Run it again."
                )
        return target

    def program(self) -> str:
        """The program there: the one that the address names, or one that was put there before."""
        given = self.address.benchmark_model
        if given is not None:
            if not Path(given).is_file():
                raise errors.UsageError(f"There is no file {given!r} here.")
            return self.place(Path(given))
        for path in (f"{self.folder}/benchmark_model", *PROGRAMS):
            if not self.shell(f"[ -x {shlex.quote(path)} ]")[0]:
                return path
        raise errors.BackendMissing(
            f"There is no benchmark_model on {str(self.address)!r}.",
            next=f"Download it, {benchmark_model.DOWNLOAD}, and name it:"
            f" {self.address}?benchmark_model=/path/to/it.",
        )

    def close(self) -> None:
        """Ends the shell there, which gives the device back."""
        with contextlib.suppress(OSError, ValueError):
            self._to.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._from.close()
        self._log.close()

    def __enter__(self) -> Device:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def prove(device: Device, graph: Path) -> str:
    """One inference of benchmark_model on a file that it must run, in words."""
    program = device.program()
    words = benchmark_model.flags(
        device.place(graph, ".tflite"), device="cpu", threads=1, xnnpack=True, runs=1, seconds=0.0,
        warmup_runs=1, warmup_s=0.0,
    )  # fmt: skip
    _run(device, program, words, graph, SHELL_S)
    return f"one inference ran by {program}; it tells no outputs"


def _run(
    device: Device,
    program: str,
    words: list[str],
    graph: Path,
    limit_s: float,
    script: str = "{command}",
) -> str:
    command = shlex.join(["timeout", "-s", "KILL", f"{limit_s:.0f}", program, *words])
    code, log = device.shell(script.format(command=command), limit_s + SHELL_S)
    if code:
        facts = {"on": str(device.address), "abi": device.about["abi"]}
        facts |= {"graph": str(graph), "program": program}
        raise benchmark_model.failure(code, log, facts)
    return log


def benchmark(
    device: Device,
    artifact: Artifact,
    *,
    accelerator: str,
    threads: int | None,
    given: Mapping[str, Any],
    runs: int,
    seconds: float,
    warmup_s: float,
    limit_s: float,
) -> dict[str, Any]:
    """`blocks` (times of ten processes in turn), with the facts and contexts of `timing.timed`."""
    chosen = _options(artifact, given)
    program, graph = device.program(), device.place(artifact.path, ".tflite")
    count = threads or int(device.about["context"]["cpu"]["cores"] or 1)
    deadline = time.monotonic() + limit_s

    def run(share: float, script: str = "{command}") -> str:
        words = benchmark_model.flags(
            graph, device=accelerator, threads=count, xnnpack=chosen.xnnpack,
            runs=max(1, round(runs * share)), seconds=seconds * share,
            warmup_runs=10, warmup_s=warmup_s,
        )  # fmt: skip
        left = max(1.0, deadline - time.monotonic())
        return _run(device, program, words, artifact.path, left, script)

    # The most memory is looked for in a process of its own, since looking disturbs.
    log = run(1 / BLOCKS, _MEMORY)
    placed, whole = benchmark_model.placement(log, accelerator)
    if accelerator != "cpu" and not whole and not chosen.allow_fallback:
        raise errors.PlacementError(
            f"Not all of {str(artifact.path)!r} runs on the {accelerator} of"
            f" {str(device.address)!r} ({placed or 'the log tells nothing'}).",
            next="Allow it: --option allow_fallback=true.",
        )
    blocks = [benchmark_model.parse(run(1 / BLOCKS)) for _ in range(BLOCKS)]
    before, after = device.about["context"], _android_context.about(device.shell, device.folder)
    peaks = [int(line.split()[1]) for line in log.splitlines() if line.startswith("VmHWM:")]
    return {
        "blocks": [asdict(block) for block in blocks],
        "batch": _batch(artifact.path),
        "peak_rss_mb": max(peaks, default=0) / 1024,
        "facts": {
            "runtime": "benchmark_model",
            "program": program,
            "program_sha256": device.shell(f"sha256sum <{shlex.quote(program)}")[1].split()[0],
            "device": accelerator,
            "threads": count,
            "placement": placed,
            "memory_growth_mb": benchmark_model.memory_mb(log),
            "on": str(device.address),
            "machine": device.about["machine"],
        },
        "context": {
            **before,
            "device": {
                "address": str(device.address),
                "clock_offset_s": device.about["clock_offset_s"],
            },
        },
        "frequency_after_mhz": after["context"]["cpu"]["frequency_mhz"],
        "power_changes": context.differences(
            {"power": before["power"]}, {"power": after["context"]["power"]}
        ),
    }


def _batch(path: Path) -> int:
    """Samples in one run: the first dimension of the file's first input, as it was written."""
    graph = _tflite.read(path)
    shapes = [graph.tensors[index].shape for index in graph.inputs]
    return shapes[0][0] if shapes and shapes[0] else 1


def _options(artifact: Artifact, given: Mapping[str, Any]) -> tflite.Options:
    if artifact.format != "tflite":
        raise errors.UsageError(
            f"An Android device runs .tflite files, not {artifact.format!r}.",
            next="Convert the model --to tflite.",
        )
    chosen = options.build(tflite.Options, given, what="tflite runtime option")
    usual = tflite.Options()
    for name in ("implementation", "delegate"):
        if getattr(chosen, name) != getattr(usual, name):
            raise errors.UsageError(f"The option {name!r} has no meaning for benchmark_model.")
    return chosen
