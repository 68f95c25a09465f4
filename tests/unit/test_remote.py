"""What a device is reached with: addresses, frames, the one file that travels, and the journal."""

from __future__ import annotations

import ast
import contextlib
import io
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from lepton_edge import _frames, errors, loading, remote
from lepton_edge.artifact import Artifact
from lepton_edge.devices import transports
from lepton_edge.devices.transports import Address, ssh
from lepton_edge.model import Signature, TensorSpec
from lepton_edge.remote import bundle
from lepton_edge.remote.journal import Journal
from lepton_edge.runtimes import null


def test_an_address_and_its_text() -> None:
    text = "ssh://pi@board:2222?python=%2Fopt%2Fa+b%2Fpython3&folder=%2Fmnt%2Fx&wait=yes"
    found = Address.parse(text)
    assert (found.user, found.host, found.port, found.wait) == ("pi", "board", 2222, True)
    assert found.python == "/opt/a b/python3"
    assert str(found) == "ssh://pi@board:2222"
    assert Address.parse(found.text()) == found
    assert str(Address.parse("ssh://[::1]:22")) == "ssh://[::1]:22"
    assert Address.parse("local:").text() == "local:"
    for serial in ("R58M12ABCD", "emulator-5554", "192.168.1.20:5555", "adb-R5._adb-tls._tcp"):
        text = f"adb://{serial}?benchmark_model=%2Fbin%2Fbenchmark_model"
        phone = Address.parse(text)  # as it stands: the case of a serial number counts
        assert (phone.host, str(phone)) == (serial, f"adb://{serial}")
        assert Address.parse(phone.text()) == phone


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("pi@board", "no scheme"),
        ("board", "no scheme"),
        ("shh://board", "Did you mean 'ssh'"),
        ("http://board", "Known: adb, local, ssh"),
        ("ssh://board:99999", "range"),
        ("ssh://board:port", "port"),
        ("ssh://board/home/pi", "more than user, host and port"),
        ("ssh://pi:secret@board", "more than user, host and port"),
        ("ssh://-oProxyCommand=sh", "would be an option of ssh"),
        ("ssh://-lroot@board", "would be an option of ssh"),
        ("ssh://board?pyton=python3", "Did you mean 'python'"),
        ("ssh://board?python=", "python has no value"),
        ("ssh://board?wait=maybe", "wait is yes or no"),
        ("ssh://board?benchmark_model=x", "'benchmark_model' has no meaning in 'ssh://board'"),
        ("local:?benchmark_model=x", "'benchmark_model' has no meaning in 'local:'"),
        ("adb://serial?python=python3.8", "'python' has no meaning in 'adb://serial'"),
        ("adb://serial?config=x", "'config' has no meaning"),
        ("adb://-serial", "would be an option of adb"),
        ("adb://serial/sdcard", "more than user, host and port"),
    ],
)
def test_what_is_no_address(text: str, says: str) -> None:
    with pytest.raises(errors.UsageError) as caught:
        transports.transport(Address.parse(text))
    assert says in str(caught.value)


@pytest.mark.parametrize(
    ("text", "says"), [("ssh:", "needs a host"), ("local://x", "this machine")]
)
def test_a_host_where_none_belongs(text: str, says: str) -> None:
    with pytest.raises(errors.UsageError, match=says):
        transports.transport(Address.parse(text))


@pytest.mark.parametrize(
    ("said", "reason", "advice"),
    [
        ("ssh: Could not resolve hostname b: Name or service not known", "of that name", "Check"),
        ("Host key verification failed.", "not known here", "ssh -p 2222 pi@board"),
        ("pi@board: Permission denied (publickey).", "refused the key", "ssh-copy-id"),
        ("ssh: connect to host board port 2222: Connection refused", "nothing listens", "port"),
        ("ssh: connect to host board port 2222: No route to host", "does not answer", "ping board"),
        ("something new", "something new", "ssh -p 2222 pi@board"),
    ],
)
def test_what_ssh_says_becomes_a_sentence(said: str, reason: str, advice: str) -> None:
    """The words are those of OpenSSH 9.2; tests/device has them from a real one."""
    failure = ssh.Ssh(Address.parse("ssh://pi@board:2222")).failure(255, f"{said}\r\n")
    assert failure.exit_code == 4
    assert reason in failure.message
    assert advice in (failure.next or "")


@given(
    st.lists(
        arrays.arrays(
            st.sampled_from([np.float32, np.int8, np.uint8, np.int64, np.float16, np.bool_]),
            arrays.array_shapes(min_dims=0, min_side=0, max_dims=4, max_side=5),
        ),
        max_size=4,
    )
)
def test_frames_carry_every_array(given: list[np.ndarray]) -> None:
    stream = io.BytesIO()
    _frames.write(stream, {"op": "x"}, given)
    _frames.write(stream, {"op": "y"})
    stream.seek(0)
    found = _frames.read(stream)
    assert found is not None
    header, results = found
    assert header == {"op": "x"}
    for before, after in zip(given, results, strict=True):
        assert before.dtype == after.dtype
        np.testing.assert_array_equal(before, after)
    assert _frames.read(stream) == ({"op": "y"}, [])
    assert _frames.read(stream) is None


@pytest.mark.parametrize(
    "data",
    [
        b"\x00\x00",  # cut in the length
        b"\x00\x00\x00\x05{}",  # cut in the header
        b"\xff\xff\xff\xff",  # a header of 4 GB
        b"\x00\x00\x00\x02[]",
        b'\x00\x00\x00\x0e{"arrays": 12}',
        b'\x00\x00\x00\x1d{"arrays": [["<f4", [1, 2]]]}',  # the array is missing
        b'\x00\x00\x00\x1a{"arrays": [["|O", [1]]]}\x00',  # a pickle
        b'\x00\x00\x00\x21{"arrays": [["<f8", [4294967296]]]}'[:37],
        b'\x00\x00\x00\x1c{"arrays": [["<f4", [-1]]]} ',
    ],
)
def test_what_is_no_frame_is_told(data: bytes) -> None:
    with pytest.raises(_frames.Broken):
        _frames.read(io.BytesIO(data))


def test_the_file_that_travels_is_the_same_every_time_and_light() -> None:
    first, again = bundle.worker(), bundle.worker()
    assert first == again
    with zipfile.ZipFile(io.BytesIO(first[1])) as archive:
        names = set(archive.namelist())
        for name in names:
            ast.parse(archive.read(name), name, feature_version=(3, 8))
    assert "__main__.py" in names
    assert {f"lepton_edge/runtimes/{name}.py" for name in bundle.RUNTIMES} <= names
    heavy = ("torch", "tensorflow", "sources", "converters", "samples", "options", "jobs")
    assert not [name for name in names if any(f"/{word}" in name for word in heavy)]


def test_the_file_needs_nothing_of_this_package(tmp_path: Path) -> None:
    """Run alone (no site-packages but numpy's), it answers a frame."""
    path = tmp_path / "worker.pyz"
    path.write_bytes(bundle.worker()[1])
    request = io.BytesIO()
    _frames.write(request, {"op": "check"})
    site = Path(np.__file__).parent.parent
    code = f"import sys, runpy; sys.path.append({str(site)!r}); sys.argv = sys.argv[1:];"
    code += "runpy.run_path(sys.argv[0], run_name='__main__')"
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code, str(path), "serve", str(tmp_path)],
        input=request.getvalue(), capture_output=True, check=True,
    )  # fmt: skip
    ready, _, rest = done.stdout.partition(b"\n")
    assert ready == b"lepton-edge: ready"
    assert _frames.read(io.BytesIO(rest)) == ({}, [])


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path


def test_a_journal_keeps_whole_parts_until_the_end(cache: Path) -> None:
    journal = Journal({"run": 1})
    journal.add("a", {"x": 1}, [np.arange(3)])
    journal.add("b", {"x": 2}, [np.arange(1000)])
    journal.close()
    data = journal.path.read_bytes()
    journal.path.write_bytes(data[:-100])  # cut off while b was written
    with contextlib.closing(Journal({"run": 2})) as other:
        assert len(other) == 0
    journal = Journal({"run": 1})
    assert "a" in journal
    assert "b" not in journal
    header, (array,) = journal.get("a")
    assert header["x"] == 1
    np.testing.assert_array_equal(array, np.arange(3))
    journal.add("b", {"x": 2}, [np.arange(4)])
    np.testing.assert_array_equal(journal.get("b")[1][0], np.arange(4))
    journal.finish()
    assert not journal.path.exists()


def test_another_python_of_this_machine(cache: Path) -> None:
    """`local:` is a transport without a network; the interpreter is this one."""
    spec = Signature((TensorSpec("x", (2, 3), "float32"),), (TensorSpec("y", (2,), "int64"),))
    (cache / "model").mkdir()
    artifact = null.write(cache / "model", spec)
    on = f"local:?python={sys.executable}&folder={cache / 'board'}&wait=yes"
    with loading.load(artifact, on=on, options={"busy_us": 5}) as session:
        assert session.facts["busy_us"] == 5
        assert session.facts["on"] == "local:"
        (output,) = session.run(np.zeros((2, 3), np.float32)).values()
        assert output.dtype == np.int64
        with pytest.raises(errors.UsageError, match="do not fit"):
            session.run(np.zeros((3, 3), np.float32))
    with pytest.raises(errors.UsageError, match="Unknown null runtime option 'bussy_us'"):
        loading.load(artifact, on=on, options={"bussy_us": 5})
    with pytest.raises(errors.UsageError, match="does not travel"):
        loading.load(Artifact(cache, "x.pt2", "torch"), on=on)


def test_the_device_is_free_after_a_failure(cache: Path) -> None:
    on = f"local:?python={sys.executable}&folder={cache / 'board'}&wait=yes"
    bad = cache / "bad.tflite"
    bad.write_bytes(b"no model at all")
    with pytest.raises(errors.EdgeError, match="On 'local:'"):
        loading.load(bad, on=on)
    with remote.Connection(Address.parse(on), "a test") as connection:
        connection.check()


def test_no_ssh_here(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(cache))
    with pytest.raises(errors.BackendMissing, match="no ssh on this machine") as caught:
        remote.Connection(Address.parse("ssh://board"), "a test")
    assert "openssh-client" in str(caught.value)
