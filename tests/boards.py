"""Real devices for tests: an OpenSSH server on loopback, and Pythons that have one runtime only.

As root the server runs as a user that has no rights, in a mount namespace of its own, so that
nothing of this machine is changed: the user is in that namespace's /etc/passwd alone.
"""

from __future__ import annotations

import contextlib
import getpass
import os
import shlex
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

UID = 61234
USER = "board"


@dataclass
class Board:
    """A running server. `address` takes further keys: `address(python=...)`."""

    folder: Path
    port: int
    user: str
    server: subprocess.Popen[bytes] = field(repr=False)

    def address(self, *, host: str = "127.0.0.1", port: int | None = None, **keys: object) -> str:
        keys = {"config": self.folder / "config", "folder": self.home / "cache", **keys}
        query = "&".join(f"{key}={value}" for key, value in keys.items())
        return f"ssh://{self.user}@{host}:{port or self.port}?{query}"

    def small(self) -> Path:
        """The folder that a small file system is at; skips where it could not be mounted."""
        path = self.home / "small"
        if not path.is_dir():
            pytest.skip("only root can mount a small file system")
        return path

    @property
    def home(self) -> Path:
        return self.folder / "home"

    def ssh(self, command: str) -> list[str]:
        """The words that run a command there."""
        config = ["-F", str(self.folder / "config"), "-p", str(self.port)]
        return ["ssh", *config, f"{self.user}@127.0.0.1", command]

    def kill_connections(self) -> None:
        """Kills what serves the connections that are open, as a reboot or a cut would."""
        for pid in _serving(self.server.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


VERSIONS = ("3.7", "3.8", "3.10", "3.11")


def _serving(pid: int) -> list[int]:
    """The sshd processes below `pid`, the lowest first; what they started is not among them."""
    found = []
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        with contextlib.suppress(OSError):
            if Path(f"/proc/{child}/comm").read_text().startswith("sshd"):
                found += [*_serving(int(child)), int(child)]
    return found


def find(version: str) -> Path | None:
    """A Python of that version that runs: on PATH, or one of pyenv's."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"), "versions")
    places = [shutil.which(f"python{version}"), *sorted(pyenv.glob(f"{version}.*/bin/python"))]
    for path in filter(None, places):
        code = "import sys; print(sys.version)"
        done = subprocess.run([str(path), "-c", code], capture_output=True, text=True)
        if done.returncode == 0 and done.stdout.startswith(f"{version}."):
            return Path(path)
    return None


def interpreter(version: str) -> Path:
    """A Python of that version; skips where there is none."""
    found = find(version)
    if found is None:
        pytest.skip(f"no Python {version} here")
    return found


def installations() -> list[Path]:
    """The folders of the Pythons that are here."""
    code = "import sys; print(sys.base_prefix)"  # on PATH it may be that of an environment
    found = filter(None, map(find, VERSIONS))
    done = [subprocess.run([path, "-c", code], capture_output=True, text=True) for path in found]
    return [Path(each.stdout.strip()) for each in done]


def environment(cache: Path, version: str, *packages: str) -> Path:
    """The Python of a virtual environment with these packages alone; made once, kept in `cache`."""
    base = interpreter(version)
    name = "-".join([version, *(package.replace("==", "-") for package in packages)])
    folder, ready = cache / name, cache / name / "ready"
    python = folder / "bin" / "python"
    if ready.exists():
        return python
    shutil.rmtree(folder, ignore_errors=True)
    subprocess.run([base, "-m", "venv", folder], check=True, timeout=120)
    if packages:
        install = [python, "-m", "pip", "install", "-q", "--only-binary=:all:", *packages]
        # What PYTHONPATH shows counts as installed for pip.
        alone = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
        done = subprocess.run(install, capture_output=True, timeout=300, env=alone)
        if done.returncode:
            pytest.skip(f"cannot install {packages}: {done.stderr.decode()[-300:]}")
    ready.touch()
    return python


@contextlib.contextmanager
def sshd(*readable: Path, small: str | None = None) -> Iterator[Board]:
    """A server that takes one key. `readable` must be reachable for its user; `small` is the size
    of a file system at HOME/small, for root. Skips where there is no sshd."""
    program = shutil.which("sshd") or shutil.which("/usr/sbin/sshd")
    if program is None or shutil.which("ssh") is None:
        pytest.skip("no OpenSSH here: apt-get install openssh-server openssh-client")
    root = os.geteuid() == 0
    if root and subprocess.run(["unshare", "--mount", "true"], capture_output=True).returncode:
        pytest.skip("this root may make no mount namespace, so no user for the server")
    folder = Path(tempfile.mkdtemp(prefix="lepton-edge-board-"))
    folder.chmod(0o755)
    try:
        port, user = free_port(), USER if root else getpass.getuser()
        _write(folder, program, port)
        command = [program, "-D", "-e", "-f", str(folder / "sshd_config")]
        if root:
            command = _without_rights(folder, command, readable, small)
        log = (folder / "log").open("wb")
        server = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=log, stdout=log)
        try:
            _await(port, server, folder / "log")
            yield Board(folder, port, user, server)
        finally:
            server.kill()
            server.wait()
            log.close()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _write(folder: Path, program: str, port: int) -> None:
    for name in ("host", "id", "stranger"):
        key = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)]
        subprocess.run(key, check=True)
    home = folder / "home"
    home.mkdir()
    (folder / "authorized").write_text((folder / "id.pub").read_text())
    host = (folder / "host.pub").read_text()
    (folder / "known").write_text(f"[127.0.0.1]:{port} {host}")
    (folder / "config").write_text(
        f"IdentityFile {folder / 'id'}\nIdentitiesOnly yes\n"
        f"UserKnownHostsFile {folder / 'known'}\nGlobalKnownHostsFile /dev/null\n"
    )
    (folder / "sshd_config").write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {folder / 'host'}\n"
        f"AuthorizedKeysFile {folder / 'authorized'}\nPidFile none\nUsePAM no\nStrictModes no\n"
        "PasswordAuthentication no\nKbdInteractiveAuthentication no\nLogLevel ERROR\n"
        "MaxStartups 100\n"
    )


def _without_rights(
    folder: Path, command: list[str], readable: tuple[Path, ...], small: str | None
) -> list[str]:
    """The command, as a user of a mount namespace of its own."""
    passwd = folder / "passwd"
    line = f"{USER}:x:{UID}:{UID}::{folder / 'home'}:/bin/sh\n"
    passwd.write_text(Path("/etc/passwd").read_text() + line)
    for path in (folder / "home", folder / "host"):
        os.chown(path, UID, UID)
    steps = [f"mount --bind {passwd} /etc/passwd"]
    if small:
        (folder / "home" / "small").mkdir()
        place = folder / "home" / "small"
        steps.append(f"mount -t tmpfs -o size={small},mode=777 tmpfs {place}")
    steps += _opened(folder / "open", readable)
    run = f"exec setpriv --reuid {UID} --regid {UID} --clear-groups {shlex.join(command)}"
    script = " && ".join([*steps, run])
    return ["unshare", "--mount", "--propagation", "private", "sh", "-c", script]


def _opened(scratch: Path, readable: tuple[Path, ...]) -> list[str]:
    """Steps that show each path where it is, though a folder above it is closed for others."""
    inner, covers = [], {}
    for path in readable:
        closed = [up for up in reversed(path.parents) if not up.stat().st_mode & 0o001]
        if closed:
            cover = covers.setdefault(closed[0], scratch / str(len(covers)))
            inside = cover / path.relative_to(closed[0])
            inside.mkdir(parents=True)
            inner.append(f"mount --bind {path} {inside}")
    return [*inner, *(f"mount --rbind {cover} {place}" for place, cover in covers.items())]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _await(port: int, server: subprocess.Popen[bytes], log: Path) -> None:
    for _ in range(200):
        if server.poll() is not None:
            break
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.05)
    server.kill()
    raise RuntimeError(f"sshd did not start: {log.read_text()}")
