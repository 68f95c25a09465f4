"""What is known of engines without a TensorRT: flags, profiles, plans, fingerprints."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lepton_edge import devices, errors
from lepton_edge._tensorrt import build, cuda, library
from lepton_edge._tensorrt.plan import (
    Plan,
    check_dla,
    check_shape,
    flags_for,
    has_dla,
    parse_profiles,
    profiles_for,
)
from lepton_edge.artifact import Artifact
from lepton_edge.runtimes import tensorrt as runtime

ORIN = {
    "library": "tensorrt",
    "version": "10.3.0",
    "gpu": "Orin",
    "compute_capability": "8.7",
    "os": "Linux",
    "architecture": "aarch64",
    "l4t": "36.4.3",
}
ENGINE = Path("m.engine")
BATCHES = (1, 8, 32)


@pytest.mark.parametrize(
    ("version", "precision", "network", "builder"),
    [
        ((8, 5, 2), "fp32", ("EXPLICIT_BATCH",), ()),
        ((8, 5, 2), "fp16", ("EXPLICIT_BATCH",), ("FP16",)),
        ((8, 6, 1), "int8", ("EXPLICIT_BATCH",), ("INT8",)),
        ((8, 6, 1), "int8-mixed", ("EXPLICIT_BATCH",), ("INT8",)),
        ((10, 3, 0), "fp16", ("STRONGLY_TYPED",), ()),
        ((10, 13), "int8", ("STRONGLY_TYPED",), ()),
        ((11, 4, 1), "fp16", (), ()),
        ((11, 4, 1), "int8", (), ()),
    ],
)
def test_flags_are_those_that_the_release_has(
    version: tuple[int, ...], precision: str, network: tuple[str, ...], builder: tuple[str, ...]
) -> None:
    flags = flags_for(version, Plan(precision))
    assert (flags.network, flags.builder, flags.cleared) == (network, builder, ("TF32",))
    assert flags_for(version, Plan(precision, tf32=True)).cleared == ()


def test_the_dla_is_given_a_weakly_typed_network_before_11() -> None:
    plan = Plan("fp16", dla=0)
    assert flags_for((8, 5), plan).builder == ("FP16",)
    assert flags_for((10, 3), plan).network == ()
    assert flags_for((10, 3), plan).builder == ("FP16",)
    assert flags_for((11, 4, 1), plan).builder == ()
    known = {
        version: has_dla(library.number(version))
        for version in ("8.5.2", "8.6.1", "10.3.0", "10.7.0", "10.8.0.43", "11.3.0", "11.4.1")
    }
    assert [version for version, there in known.items() if not there] == ["10.8.0.43", "11.3.0"]


def test_the_plan_of_every_jetson_has_the_releases_of_its_jetpacks() -> None:
    """From the profiles' own facts; each row's command has no flag that its release lacks."""
    seen = set()
    for name in devices.names():
        stacks = [stack.tensorrt for stack in devices.load(name).stacks]
        versions = tuple(each for each in stacks if library.number(each) >= library.LEAST)
        if not versions:
            continue
        seen.add(name)
        plan = Plan("int8", {"x": ((1, 3), (8, 3), (32, 3))}, 512, device=name, versions=versions)
        rows = plan.builds("m_int8.onnx")
        assert sorted(each for row in rows for each in row["versions"]) == sorted(versions)
        for row in rows:
            words = row["trtexec"].split()
            assert words[:3] == ["trtexec", "--onnx=m_int8.onnx", "--saveEngine=m_int8.engine"]
            assert "--minShapes=x:1x3 --optShapes=x:8x3 --maxShapes=x:32x3" in row["trtexec"]
            assert "--memPoolSize=workspace:512" in words
            assert ("--int8" in words) == (row["before"] in ("8.6", "10"))
            assert ("--stronglyTyped" in words) == (row["since"] == "10")
            assert ("--buildOnly" in words) == (row["since"] == "8.5")
        assert Plan.from_dict(json.loads(json.dumps(plan.as_dict()))) == plan
    assert {"jetson-orin-nano", "jetson-xavier-nx", "jetson-thor"} <= seen
    assert not {"jetson-nano", "jetson-tx2"} & seen


def test_a_plan_admits_the_releases_of_its_device_alone() -> None:
    plan = Plan("fp16", device="jetson-xavier-nx", versions=("8.5.2",))
    plan.admits("8.5.2.2")
    with pytest.raises(errors.UsageError, match=r"jetson-xavier-nx, which has TensorRT 8.5.2"):
        plan.admits("10.3.0")
    Plan("fp16").admits("10.3.0")
    with pytest.raises(errors.PlacementError, match="does not use the DLA"):
        Plan("fp16", dla=0).admits("10.13.3.9")


@pytest.mark.parametrize("key", ["precision", "profiles", "versions", "dla"])
def test_a_damaged_plan_is_bad_input(key: str) -> None:
    whole = Plan("fp32").as_dict()
    with pytest.raises(errors.BadInput, match="damaged"):
        Plan.from_dict({name: value for name, value in whole.items() if name != key})
    with pytest.raises(errors.BadInput, match="damaged"):
        Plan.from_dict({**whole, "profiles": {"x": [["a"]]}})


def test_profiles_are_inferred_from_the_batch() -> None:
    found = profiles_for({"x": (None, 3, 8), "y": (4, 2), "z": (None,)}, {}, BATCHES)
    assert found == {
        "x": ((1, 3, 8), (8, 3, 8), (32, 3, 8)),
        "z": ((1,), (8,), (32,)),
    }
    assert profiles_for({"y": (4, 2)}, {}, BATCHES) == {}


@pytest.mark.parametrize(
    ("given_", "says"),
    [
        ("", "'x' has free dimensions besides its batch: ?x3x?"),
        ("y=1x3x8:1x3x8:1x3x8", "Unknown input of the profile 'y'"),
        ("x=1x3:1x3:1x3", "2 dimensions, the input 3"),
        ("x=1x4x8:1x3x8:1x3x8", "1x4x8 does not fit ?x3x?"),
        ("x=4x3x8:1x3x8:8x3x8", "must not fall"),
        ("x=1x3x8:1x3x8", "Cannot read the profile"),
        ("x=1x3x?:1x3x8:1x3x8", "Cannot read the profile"),
        ("x=0x3x8:1x3x8:1x3x8", "Cannot read the profile"),
        ("x", "Cannot read the profile"),
    ],
)
def test_a_profile_that_does_not_fit_is_told(given_: str, says: str) -> None:
    with pytest.raises(errors.UsageError) as caught:
        profiles_for({"x": (None, 3, None)}, parse_profiles(given_), BATCHES)
    assert says in str(caught.value)


def test_the_advice_of_a_missing_profile_can_be_read() -> None:
    with pytest.raises(errors.UsageError) as caught:
        profiles_for({"ids": (None, None)}, {}, BATCHES)
    advice = (caught.value.next or "").partition("profile=")[2].rstrip(".").replace("?", "128")
    assert profiles_for({"ids": (None, None)}, parse_profiles(advice), BATCHES) == {
        "ids": ((1, 128), (8, 128), (32, 128))
    }


sizes = st.lists(st.integers(1, 9), min_size=3, max_size=3).map(sorted)


@given(st.lists(sizes, max_size=4), st.data())
def test_a_profile_takes_what_lies_within_it_and_nothing_else(
    ranges: list[list[int]], data: st.DataObject
) -> None:
    profile = tuple(tuple(each[which] for each in ranges) for which in range(3))
    shape = tuple(data.draw(st.integers(0, 10)) for _ in ranges)
    inside = all(low <= size <= high for (low, _, high), size in zip(ranges, shape, strict=True))
    if inside:
        check_shape("x", shape, profile)
    else:
        with pytest.raises(errors.UsageError, match="'x'"):
            check_shape("x", shape, profile)
    with pytest.raises(errors.UsageError):
        check_shape("x", (*shape, 1), profile)


@pytest.mark.parametrize(
    ("plan", "cores", "says"),
    [
        (Plan("fp16", dla=0), 0, "jetson-x has no DLA"),
        (Plan("fp16", dla=2), 2, "jetson-x has cores 0 to 1"),
        (Plan("fp16", dla=-1), 2, "dla=-1 is not there"),
        (Plan("int8", dla=0), 2, "fp16 only, not int8"),
        (Plan("fp32", dla=0), 2, "fp16 only, not fp32"),
        (Plan("fp16", {"x": ((1, 3), (1, 3), (2, 3))}, dla=0), 2, "one shape only"),
        (Plan("fp16", allow_fallback=True), 2, "allow_fallback is for the option dla"),
    ],
)
def test_what_the_dla_cannot_be_given(plan: Plan, cores: int, says: str) -> None:
    with pytest.raises(errors.UsageError, match=says):
        check_dla(plan, cores, "jetson-x")


def test_layers_that_would_fall_back_are_named() -> None:
    error = build.fell_back([f"layer{index}" for index in range(10)], 40)
    assert error.exit_code == 5
    assert "10 of 40 layers: layer0, layer1" in error.message
    assert "and 2 more" in error.message
    assert "allow_fallback" in (error.next or "")


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("version", "8.6.1", "built for TensorRT 10.3.0, here is TensorRT 8.6.1"),
        ("gpu", "NVIDIA H100", "built for Orin, here is NVIDIA H100"),
        ("compute_capability", "9.0", "compute capability 8.7, here is compute capability 9.0"),
        ("architecture", "x86_64", "built for aarch64, here is x86_64"),
        ("os", "Windows", "built for Linux, here is Windows"),
        ("l4t", "36.3.0", "L4T 36.4.3, here is L4T 36.3.0"),
    ],
)
def test_an_engine_from_elsewhere_is_refused_with_the_command(
    key: str, value: str, says: str
) -> None:
    library.refuse(ENGINE, ORIN, ORIN, None)
    with pytest.raises(errors.BadInput) as caught:
        library.refuse(ENGINE, ORIN, {**ORIN, key: value}, "lepton-edge convert x")
    assert caught.value.exit_code == 8
    assert says in caught.value.message
    assert caught.value.next == "Build it again: lepton-edge convert x."


def test_what_one_side_does_not_know_is_not_compared() -> None:
    library.refuse(ENGINE, ORIN, {**ORIN, "gpu": None, "compute_capability": None}, None)
    library.refuse(ENGINE, {"library": "tensorrt", "version": "10.3.0.26"}, ORIN, None)
    library.refuse(ENGINE, {"library": "tensorrt", "version": None}, ORIN, None)


@pytest.mark.parametrize(
    ("built", "now", "fits"),
    [("8.6", "8.6", True), ("8.6", "8.9", False), (None, "8.9", True), (None, "7.5", False)],
)
def test_an_engine_of_tensorrt_rtx_is_for_its_compute_capability(
    built: str | None, now: str, fits: bool
) -> None:
    engine = {**ORIN, "library": "tensorrt_rtx", "gpu": None, "compute_capability": built}
    there = {**ORIN, "os": "Windows", "l4t": None, "compute_capability": now}
    if fits:
        library.refuse(ENGINE, engine, there, None)
    else:
        with pytest.raises(errors.BadInput, match=f"capability {built or '8 or newer'}"):
            library.refuse(ENGINE, engine, there, None)


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        ("# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic", "36.4.3"),
        ("# R35 (release), REVISION: 4.1, GCID: 33958178, BOARD: t186ref", "35.4.1"),
        (None, None),
        ("Ubuntu", None),
    ],
)
def test_the_release_of_a_jetsons_system(line: str | None, wanted: str | None) -> None:
    assert library.l4t(line) == wanted


def test_what_an_engines_first_bytes_tell(tmp_path: Path) -> None:
    """`tensorrt` as its trtexec reads the version; TensorRT-RTX as 1.7.1 wrote it."""
    file = tmp_path / "m.engine"
    file.write_bytes(b"ftrt" + bytes(20) + bytes([10, 3, 0, 26]) + bytes(99))
    assert library.header(file) == ("tensorrt", (10, 3, 0, 26))
    file.write_bytes(b"vtrt" + bytes(20) + bytes([1, 7, 1]) + b"tvtrt")
    assert library.header(file) == ("tensorrt_rtx", (1, 7, 1))
    file.write_bytes(b"ftrt" + bytes([1]) + bytes(99))
    assert library.header(file) == ("tensorrt", ())
    for damaged in (b"", b"ftrt", b"hello\n" * 9):
        file.write_bytes(damaged)
        with pytest.raises(errors.BadInput, match="no TensorRT engine"):
            library.header(file)


def test_a_file_and_a_record_that_disagree_are_refused(tmp_path: Path) -> None:
    (tmp_path / "m.engine").write_bytes(b"ftrt" + bytes(20) + bytes([10, 3, 0, 26]))
    artifact = Artifact(tmp_path, "m.engine", "tensorrt", engine={"library": "tensorrt_rtx"})
    with pytest.raises(errors.BadInput, match=r"engine of tensorrt; its artifact\.json says"):
        runtime.open_session(artifact, device="cuda", options=runtime.Options())


@pytest.mark.parametrize("device", ["cpu", "gpu", "cuda:", "cuda:x", "CUDA"])
def test_an_engine_runs_on_a_gpu_alone(device: str, tmp_path: Path) -> None:
    artifact = Artifact(tmp_path, "m.engine", "tensorrt")
    with pytest.raises(errors.UsageError, match="Use --device cuda"):
        runtime.open_session(artifact, device=device, options=runtime.Options())


def test_the_record_of_an_engine_survives_artifact_json(tmp_path: Path) -> None:
    (tmp_path / "m.engine").write_bytes(b"x")
    saved = Artifact(tmp_path, "m.engine", "tensorrt", engine=ORIN).save()
    assert Artifact.load(tmp_path).engine == ORIN
    bare = dataclasses.replace(saved, engine=None)
    assert "engine" not in bare.as_dict()


def test_every_call_of_cuda_is_declared() -> None:
    """So that ctypes takes 64-bit addresses as what they are."""
    text = Path(cuda.__file__).read_text()
    called = {part.split('"')[1] for part in text.split("self._call(")[1:]}
    assert called <= set(cuda._CALLS)
