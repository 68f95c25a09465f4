"""Model files that are damaged, mislabelled or hostile, told by their bytes alone."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from lepton_edge import errors, sources
from lepton_edge.model import ModelSource

PROBES = Path(sources.__file__).parents[1] / "jobs"
FORMATS = sorted(sources.SUFFIXES)


def refused(path: Path | str, *words: str, weights: str | None = None) -> errors.EdgeError:
    """`BadInput`: one sentence that names the file, and every word."""
    with pytest.raises(errors.BadInput) as caught:
        sources.framework_of(ModelSource(str(path), weights))
    said = caught.value.message
    assert "\n" not in said
    assert said.endswith(".")
    for word in (Path(path).name, *words):
        assert word in said, said
    return caught.value


@pytest.mark.parametrize("suffix", [*FORMATS, ".py", ""])
def test_a_missing_file(tmp_path: Path, suffix: str) -> None:
    refused(tmp_path / f"absent{suffix}", "no file")


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"These are my notes.\n" * 30, bytes(64)])
def test_what_is_no_model_at_all(tmp_path: Path, suffix: str, content: bytes) -> None:
    path = tmp_path / f"notes{suffix}"
    path.write_bytes(content)
    refused(path)


@pytest.mark.parametrize("name", ["probe.onnx", "probe.tflite"])
def test_one_kind_named_as_another(tmp_path: Path, name: str) -> None:
    for suffix in set(FORMATS) - {Path(name).suffix}:
        path = tmp_path / f"model{suffix}"
        path.write_bytes((PROBES / name).read_bytes())
        refused(path)


def test_a_tflite_file_cut_anywhere(tmp_path: Path) -> None:
    whole, path = (PROBES / "probe.tflite").read_bytes(), tmp_path / "cut.tflite"
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        refused(path)


def test_an_onnx_file_cut_anywhere(tmp_path: Path) -> None:
    whole, path = (PROBES / "probe.onnx").read_bytes(), tmp_path / "cut.onnx"
    passed = []
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        try:
            sources.framework_of(ModelSource(str(path)))
        except errors.BadInput:
            continue
        passed.append(size)
    # A cut between two fields is a sound message; ONNX Runtime says what it lacks.
    assert len(passed) == 1
    assert whole[passed[0]] == 0x42  # the tag of opset_import, field 8
    pytest.importorskip("onnxruntime", reason="pip install 'lepton-edge[onnx]'")
    path.write_bytes(whole[: passed[0]])
    with pytest.raises(errors.BadInput, match="sound ONNX file"):
        sources.load(ModelSource(str(path)))


@pytest.mark.parametrize("name", ["probe.onnx", "probe.tflite"])
def test_changed_bytes_never_escape_the_check(tmp_path: Path, name: str) -> None:
    whole, path = (PROBES / name).read_bytes(), tmp_path / name
    rng, refusals = np.random.default_rng(0), 0
    for _ in range(500):
        content = bytearray(whole)
        for place in rng.integers(len(content), size=3):
            content[place] = rng.integers(256)
        path.write_bytes(content)
        try:
            sources.framework_of(ModelSource(str(path)))
        except errors.BadInput:
            refusals += 1
    assert 0 < refusals < 500


def archive(path: Path, members: dict[str, bytes], deflate: bool = False) -> Path:
    kind = zipfile.ZIP_DEFLATED if deflate else zipfile.ZIP_STORED
    with zipfile.ZipFile(path, "w", kind) as made:
        for name, content in members.items():
            made.writestr(name, content)
    return path


@pytest.mark.parametrize("suffix", [".keras", ".pt2", ".pt"])
@pytest.mark.parametrize("name", ["../out", "a/../../out", "/etc/out", "..\\out", "C:\\out"])
def test_a_member_that_leads_outside(tmp_path: Path, suffix: str, name: str) -> None:
    refused(archive(tmp_path / f"bad{suffix}", {name: b"out"}), "leads outside")


@pytest.mark.parametrize("suffix", [".keras", ".pt2", ".pt"])
def test_a_bomb(tmp_path: Path, suffix: str) -> None:
    path = archive(tmp_path / f"bomb{suffix}", {"config.json": bytes(30 * 2**20)}, deflate=True)
    assert path.stat().st_size < 2**16
    refused(path, "out of proportion")


@pytest.mark.filterwarnings("ignore:Duplicate name")  # zipfile's own: that is what is made here
@pytest.mark.parametrize("second", ["m/data.json", "m/DATA.json"])
def test_two_members_of_one_name(tmp_path: Path, second: str) -> None:
    path = tmp_path / "two.keras"
    with zipfile.ZipFile(path, "w") as made:
        made.writestr("m/data.json", "good")
        made.writestr(second, "bad")
    refused(path, "two members")


def test_archives_without_what_they_should_hold(tmp_path: Path) -> None:
    for suffix, words in (
        (".keras", "config.json"),
        (".pt2", "models/model.json"),
        (".pt", "state_dict"),
    ):
        refused(archive(tmp_path / f"m{suffix}", {"m/other": b"1"}), words)


@pytest.mark.parametrize(
    "call", ['torch.save(x, "f")', "ops.aten.save(x, f)", 'torch.from_file("f", True, 12)']
)
def test_torchscript_that_opens_files(tmp_path: Path, call: str) -> None:
    code = (
        f"class S(Module):\n  def forward(self, x: Tensor) -> Tensor:\n    {call}\n    return x\n"
    )
    path = archive(tmp_path / "m.pt", {"m/code/__torch__.py": code.encode()})
    refused(path, call.partition("(")[0], "opens files")


def test_a_plain_pickle_named_pt(tmp_path: Path) -> None:
    path = tmp_path / "m.pt"
    path.write_bytes(b"\x80\x04\x95\x10\x00\x00\x00\x00\x00\x00\x00}\x94.")
    assert "file.py:factory" in str(refused(path, "pickle"))


def test_a_kind_that_is_not_known(tmp_path: Path) -> None:
    for name in ("model.pb", "model", "model.pth"):
        (tmp_path / name).write_text("?")
        assert ".onnx" in str(refused(tmp_path / name))
    (tmp_path / "folder").mkdir()
    refused(tmp_path / "folder", "saved_model.pb")


def test_requests_that_contradict_themselves(tmp_path: Path) -> None:
    (tmp_path / "m.py").write_text("def factory():\n    return 1\n")
    with pytest.raises(errors.UsageError, match=r"m\.py:factory"):
        sources.framework_of(ModelSource(str(tmp_path / "m.py")))
    with pytest.raises(errors.UsageError, match="--weights"):
        sources.framework_of(ModelSource(str(PROBES / "probe.onnx"), "w.safetensors"))
    with pytest.raises(errors.BadInput, match=r"w\.bin"):
        sources.framework_of(ModelSource(f"{tmp_path / 'm.py'}:factory", "w.bin"))


def test_looking_at_a_file_loads_no_framework() -> None:
    code = (
        "import sys; from lepton_edge import sources; from lepton_edge.model import ModelSource;"
        f"[sources.framework_of(ModelSource(r'{PROBES}/probe.' + s)) for s in ('onnx', 'tflite')];"
        "print([m for m in ('torch', 'tensorflow', 'onnx', 'onnxruntime') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
