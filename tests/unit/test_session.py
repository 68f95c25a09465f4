"""Names, dtypes, shapes, layout and messages of a session, on the null runtime and a numpy one."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lepton_edge import errors, loading
from lepton_edge.artifact import Artifact, Binding
from lepton_edge.model import Array, Signature, TensorSpec
from lepton_edge.preprocess import Preprocess
from lepton_edge.runtimes import null
from lepton_edge.session import Session

IMAGE = TensorSpec("image", (None, 3, 4, 5), "float32")
MASK = TensorSpec("mask", (1, 6), "int64")
MAP = TensorSpec("map", (None, 2, 4, 5), "float32")
SCORES = TensorSpec("scores", (None, 7), "float32")
FEEDS = {
    "image": np.arange(60, dtype=np.float32).reshape(1, 3, 4, 5),
    "mask": np.ones((1, 6), np.int64),
}


class Recorder(Session):
    """Keeps what came in, in the file's order; answers with what the test gives."""

    def __init__(self, artifact: Artifact, signature: Signature, answer: Sequence[Array]) -> None:
        super().__init__(
            artifact,
            signature=signature,
            file_inputs=[spec.name for spec in signature.inputs],
            file_outputs=[spec.name for spec in signature.outputs],
            facts={},
        )
        self.answer, self.seen = answer, list[Array]()
        self.released = 0

    def _invoke(self, arrays: list[Array]) -> Sequence[Array]:
        self.seen = list(arrays)
        return self.answer

    def _release(self) -> None:
        self.released += 1


def artifact(tmp_path: Path, **changes: Any) -> Artifact:
    saved = null.write(tmp_path, Signature((IMAGE, MASK), (MAP, SCORES)))
    return dataclasses.replace(saved, **changes)


def test_names_are_mapped_to_the_files_order_and_layout(tmp_path: Path) -> None:
    """The file has NHWC, other names and another order, for inputs and outputs."""
    bound = artifact(
        tmp_path,
        inputs=(Binding("image", "in:1", (0, 2, 3, 1)), Binding("mask", "in:0")),
        outputs=(Binding("map", "out:1", (0, 2, 3, 1)), Binding("scores", "out:0")),
    )
    own = Signature(
        (TensorSpec("in:0", (1, 6), "int64"), TensorSpec("in:1", (None, 4, 5, 3), "float32")),
        (
            TensorSpec("out:0", (None, 7), "float32"),
            TensorSpec("out:1", (None, 4, 5, 2), "float32"),
        ),
    )
    scores = np.arange(7, dtype=np.float32)[None]
    maps = np.arange(40, dtype=np.float32).reshape(1, 4, 5, 2)
    session = Recorder(bound, own, [scores, maps])
    outputs = session.run(FEEDS)
    mask, image = session.seen
    assert np.array_equal(mask, FEEDS["mask"])
    assert image.shape == (1, 4, 5, 3)
    assert image.flags.c_contiguous
    assert np.array_equal(image[0, :, :, 2], FEEDS["image"][0, 2])
    assert list(outputs) == ["map", "scores"]
    assert outputs["map"].shape == (1, 2, 4, 5)
    assert np.array_equal(outputs["map"][0, 1], maps[0, :, :, 1])
    assert np.array_equal(outputs["scores"], scores)


def test_a_permutation_that_is_not_its_own_inverse_is_undone(tmp_path: Path) -> None:
    cube = TensorSpec("cube", (2, 3, 4), "float32")
    bound = dataclasses.replace(
        null.write(tmp_path, Signature((cube,), (cube,))),
        inputs=(Binding("cube", "cube", (1, 2, 0)),),
        outputs=(Binding("cube", "cube", (1, 2, 0)),),
    )
    own = Signature(*[(TensorSpec("cube", (3, 4, 2), "float32"),)] * 2)
    session = Recorder(bound, own, [])
    value = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    session.answer = [np.ascontiguousarray(value.transpose(1, 2, 0))]
    assert np.array_equal(session.run(value)["cube"], value)
    assert np.array_equal(session.seen[0], session.answer[0])


def test_inputs_are_not_copied_without_need(tmp_path: Path) -> None:
    given = artifact(tmp_path)
    assert given.signature is not None
    session = Recorder(given, given.signature, [np.zeros(1), np.zeros(1)])
    session.run(FEEDS)
    assert session.seen[0] is FEEDS["image"]
    assert session.seen[1] is FEEDS["mask"]


@pytest.mark.parametrize(
    ("feeds", "says"),
    [
        ({"image": FEEDS["image"]}, "got ['image']"),
        ({}, "got []"),
        ({**FEEDS, "more": FEEDS["mask"]}, "got ['image', 'mask', 'more']"),
        ({"picture": FEEDS["image"], "mask": FEEDS["mask"]}, "got ['mask', 'picture']"),
        ({**FEEDS, "mask": np.ones((1, 6), np.int32)}, "'mask' is int32"),
        ({**FEEDS, "mask": [[1] * 6]}, "'mask' is list"),
        ({**FEEDS, "mask": None}, "got ['image', 'mask']"),
        ({**FEEDS, "mask": np.ones((2, 6), np.int64)}, "'mask' has shape [2, 6]"),
        ({**FEEDS, "mask": np.ones(6, np.int64)}, "'mask' has shape [6]"),
        ({**FEEDS, "image": np.ones((1, 4, 5, 3), np.float32)}, "'image' has shape [1, 4, 5, 3]"),
        (FEEDS["image"], "got ndarray"),
        ("image", "got str"),
    ],
)
def test_what_does_not_fit_is_said_with_what_was_expected(
    tmp_path: Path, feeds: Any, says: str
) -> None:
    with loading.load(artifact(tmp_path)) as session:
        with pytest.raises(errors.UsageError, match=re.escape(says)) as caught:
            session.run(feeds)
        assert "image: float32[?x3x4x5], mask: int64[1x6]" in str(caught.value)
        assert caught.value.exit_code == 2


def test_a_single_input_needs_no_name(tmp_path: Path) -> None:
    saved = null.write(tmp_path, Signature((IMAGE,), (SCORES,)))
    with loading.load(saved) as session:
        assert session.run(FEEDS["image"])["scores"].shape == (1, 7)
        assert session.run(np.repeat(FEEDS["image"], 4, 0))["scores"].shape == (4, 7)
        with pytest.raises(errors.UsageError, match="got list"):
            session.run([1.0])  # type: ignore[arg-type]


def test_predict_runs_the_artefacts_preprocessing(tmp_path: Path) -> None:
    saved = null.write(tmp_path, Signature((IMAGE,), (SCORES,)))
    image = np.arange(60, dtype=np.uint8).reshape(4, 5, 3)
    with loading.load(saved) as session, pytest.raises(errors.UsageError, match="no preprocessing"):
        session.predict(image)
    prepared = dataclasses.replace(saved, preprocess=Preprocess(scale=1 / 255, layout="NCHW"))
    assert prepared.signature is not None
    recorder = Recorder(prepared, prepared.signature, [np.zeros((1, 7))])
    recorder.predict(image)
    assert np.allclose(recorder.seen[0][0, 1], image[:, :, 1] / 255)


@pytest.mark.parametrize(
    "changes",
    [
        {"inputs": (Binding("image", "image"),)},
        {"inputs": (Binding("image", "image"), Binding("mask", "other"))},
        {"inputs": (Binding("image", "image"), Binding("unknown", "mask"))},
        {"outputs": (Binding("map", "no-such-tensor"),)},
        {"outputs": (Binding("unknown", "map"),)},
    ],
)
def test_bindings_that_do_not_fit_the_file_are_bad_input(
    tmp_path: Path, changes: dict[str, Any]
) -> None:
    given = artifact(tmp_path, **changes)
    assert given.signature is not None
    with pytest.raises(errors.BadInput, match=r"artifact\.json"):
        Recorder(given, given.signature, [])


def test_a_file_of_another_dtype_is_bad_input(tmp_path: Path) -> None:
    own = Signature((IMAGE, dataclasses.replace(MASK, dtype="int32")), (MAP, SCORES))
    with pytest.raises(errors.BadInput, match=r"takes mask: int32\[1x6\].*says mask: int64"):
        Recorder(artifact(tmp_path), own, [])


def test_close_releases_once(tmp_path: Path) -> None:
    given = artifact(tmp_path)
    assert given.signature is not None
    session = Recorder(given, given.signature, [])
    with session:
        pass
    session.close()
    assert session.released == 1
    with pytest.raises(errors.UsageError, match="closed"):
        session.run(FEEDS)


def test_the_null_runtime_works_as_long_as_it_is_told(tmp_path: Path) -> None:
    import time

    given = artifact(tmp_path)
    with loading.load(given, options={"busy_us": 3000}) as session:
        begin = time.perf_counter()
        session.run(FEEDS)
        assert time.perf_counter() - begin >= 0.003
        assert session.facts["busy_us"] == 3000.0
    with pytest.raises(errors.UsageError, match="busy_us"):
        loading.load(given, options={"bussy_us": 1})


def test_subjects_survive_json(tmp_path: Path) -> None:
    saved = null.write(tmp_path, Signature((IMAGE,), (SCORES,)))
    again = loading.from_json(loading.as_json(saved))
    assert again == saved
    (tmp_path / null.FILE).write_text("changed")
    with pytest.raises(errors.BadInput, match="sha256"):
        loading.load(str(tmp_path))


def test_a_format_that_nothing_runs_is_a_missing_backend(tmp_path: Path) -> None:
    other = Artifact(tmp_path, "x.engine", "tensorrt-of-tomorrow")
    with pytest.raises(errors.BackendMissing, match="Nothing here runs") as caught:
        loading.load(other)
    assert caught.value.exit_code == 4


@pytest.mark.parametrize("threads", [0, -1])
def test_threads_are_positive(tmp_path: Path, threads: int) -> None:
    with pytest.raises(errors.UsageError, match="1 or more"):
        loading.load(artifact(tmp_path), threads=threads)
