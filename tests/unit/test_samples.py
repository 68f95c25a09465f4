"""Every form of data: the same samples come out, and what is wrong with it is said."""

from __future__ import annotations

import io
import json
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest

from lepton_edge import errors
from lepton_edge.model import Signature, TensorSpec
from lepton_edge.preprocess import Preprocess
from lepton_edge.samples import (
    batches,
    bind,
    feeds,
    fingerprint,
    limit,
    open_samples,
    overlap,
)

PIXELS = np.random.default_rng(0).integers(0, 256, (10, 8, 6, 3), dtype=np.uint8)
LABELS = np.arange(10) % 3


def signature(*inputs: str) -> Signature:
    return Signature(
        tuple(map(TensorSpec.parse, inputs)), (TensorSpec("out", (None, 3), "float32"),)
    )


@pytest.fixture
def npz(tmp_path: Path) -> Path:
    np.savez(tmp_path / "data.npz", image=PIXELS, label=LABELS)
    return tmp_path / "data.npz"


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_npz_streams_its_rows(tmp_path, save):
    rows = np.random.default_rng(1).standard_normal((700, 50, 20))  # several chunks of 1 MB
    save(tmp_path / "a.npz", x=rows, mask=rows[:, 0] > 0, y=np.arange(700)[:, None])
    samples = open_samples(tmp_path / "a.npz")
    assert len(samples) == 700
    for index, sample in enumerate(samples):
        assert np.array_equal(sample.inputs["x"], rows[index])
        assert np.array_equal(sample.inputs["mask"], rows[index, 0] > 0)
        assert sample.label == index
        assert type(sample.label) is int
    picked = [sample.label for sample in limit(samples, 20, seed=3)]
    assert picked == sorted(np.random.default_rng(3).permutation(700)[:20].tolist())
    assert [sample.label for sample in limit(samples, 5, seed=None)] == [0, 1, 2, 3, 4]


def test_npz_in_fortran_order_or_foreign_byte_order(tmp_path):
    rows = np.asfortranarray(np.arange(24.0).reshape(4, 3, 2)).astype(">f4", order="K")
    np.savez(tmp_path / "a.npz", x=rows)
    got = [sample.inputs["x"] for sample in open_samples(tmp_path / "a.npz")]
    assert all(value.dtype == np.dtype("=f4") and value.flags.c_contiguous for value in got)
    assert np.array_equal(np.stack(got), rows)


def test_npz_class_names_bound_the_labels(tmp_path):
    path = tmp_path / "a.npz"
    np.savez(path, x=np.zeros((3, 2)), y=[0, 1, 2], classes=np.array(["cat", "dog"]))
    samples = open_samples(path)
    assert samples.classes == ("cat", "dog")
    with pytest.raises(errors.BadInput, match=r"row 2 has the label 2, which is outside 0 to 1"):
        list(samples)
    np.savez(path, x=np.zeros((2, 2)), y=[0, -1])
    with pytest.raises(errors.BadInput, match="row 1 has the label -1"):
        list(open_samples(path))


@pytest.mark.parametrize("share", [0.02, 0.5, 0.9, 0.999])
def test_truncated_npz_is_damaged(npz, share):
    whole = npz.read_bytes()
    npz.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(errors.BadInput, match="damaged") as caught:
        list(open_samples(npz))
    assert caught.value.exit_code == 8


def test_flipped_bit_in_npz_is_found(npz):
    whole = bytearray(npz.read_bytes())
    whole[len(whole) // 2] ^= 1
    npz.write_bytes(whole)
    with pytest.raises(errors.BadInput, match="damaged"):
        list(open_samples(npz))


def test_npz_member_shorter_than_its_header(tmp_path):
    buffer = io.BytesIO()
    np.save(buffer, np.zeros((4, 4)))
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("x.npy", buffer.getvalue()[:-8])
    with pytest.raises(errors.BadInput, match="not as long as its header says"):
        open_samples(tmp_path / "a.npz")


def test_pickles_are_never_loaded(tmp_path):
    class Boom:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "ran"),))

    np.savez(tmp_path / "a.npz", x=np.array([Boom()], dtype=object))
    with pytest.raises(errors.BadInput, match="pickle"):
        open_samples(tmp_path / "a.npz")
    (tmp_path / "b.npz").write_bytes(b"\x80\x04not a zip")
    with pytest.raises(errors.BadInput, match="damaged"):
        open_samples(tmp_path / "b.npz")
    assert not (tmp_path / "ran").exists()


def test_nan_lengths_emptiness_and_labels(tmp_path):
    path = tmp_path / "a.npz"
    values = np.zeros((5, 2), np.float32)
    values[3, 1] = np.nan
    np.savez(path, x=values)
    with pytest.raises(errors.BadInput, match="row 3 has NaN or infinite values in 'x'"):
        list(open_samples(path))
    np.savez(path, x=np.zeros((5, 2)), label=np.zeros(4, int))
    with pytest.raises(errors.BadInput, match="differ in length: x 5, label 4"):
        open_samples(path)
    np.savez(path, x=np.zeros((0, 2)), label=np.zeros(0, int))
    with pytest.raises(errors.BadInput, match="empty"):
        open_samples(path)
    np.savez(path, label=np.zeros(4, int))
    with pytest.raises(errors.BadInput, match="no inputs"):
        open_samples(path)
    np.savez(path, x=np.zeros((4, 2)), label=np.zeros(4), y=np.zeros(4))
    with pytest.raises(errors.BadInput, match="several labels"):
        open_samples(path)


def test_what_is_not_data(tmp_path):
    with pytest.raises(errors.BadInput, match="no data at"):
        open_samples(tmp_path / "missing.npz")
    (tmp_path / "a.csv").write_text("1,2")
    with pytest.raises(errors.UsageError, match="not a known form") as caught:
        open_samples(tmp_path / "a.csv")
    assert caught.value.exit_code == 2


def images(folder: Path) -> list[bytes]:
    """PIXELS as PNG files in class folders; the bytes, in the order of the reader."""
    image_module = pytest.importorskip("PIL.Image", reason="needs lepton-edge[data]")
    encoded = []
    for index in np.argsort(LABELS, kind="stable"):
        path = folder / f"class{LABELS[index]}" / f"{index}.png"
        path.parent.mkdir(exist_ok=True, parents=True)
        image_module.fromarray(PIXELS[index]).save(path)
        encoded.append(path.read_bytes())
    return encoded


def test_folder_of_class_folders(tmp_path):
    images(tmp_path / "set")
    (tmp_path / "set" / "class1" / "notes.txt").write_text("no image")
    samples = open_samples(tmp_path / "set")
    assert samples.classes == ("class0", "class1", "class2")
    order = np.argsort(LABELS, kind="stable")
    assert [sample.label for sample in samples] == LABELS[order].tolist()
    for sample, index in zip(samples, order, strict=True):
        assert np.array_equal(sample.inputs["image"], PIXELS[index])
    broken = tmp_path / "set" / "class1" / "4.png"
    broken.write_bytes(broken.read_bytes()[:60])
    with pytest.raises(errors.BadInput, match=r"class1/4\.png' is not a readable image"):
        list(samples)
    (tmp_path / "none").mkdir()
    with pytest.raises(errors.BadInput, match="empty"):
        open_samples(tmp_path / "none")


def write_parquet(path: Path, encoded: list[bytes], **metadata: str) -> None:
    arrow = pytest.importorskip("pyarrow", reason="needs lepton-edge[data]")
    parquet = pytest.importorskip("pyarrow.parquet")
    rows = [{"bytes": data, "path": None} for data in encoded]
    table = arrow.table({"image": rows, "label": np.sort(LABELS)[: len(rows)]})
    parquet.write_table(table.replace_schema_metadata(metadata), path, row_group_size=4)


def test_parquet_of_images(tmp_path):
    encoded = images(tmp_path / "set")
    path = tmp_path / "a.parquet"
    write_parquet(path, encoded, classes=json.dumps(["a", "b", "c"]))
    samples = open_samples(path)
    assert samples.classes == ("a", "b", "c")
    folder = open_samples(tmp_path / "set")
    assert fingerprint(samples) == fingerprint(folder)
    assert [s.label for s in samples] == [s.label for s in folder]
    assert len(list(limit(samples, 3, seed=7))) == 3
    names = {"info": {"features": {"label": {"names": ["x", "y", "z"]}}}}
    write_parquet(path, encoded, huggingface=json.dumps(names))
    assert open_samples(path).classes == ("x", "y", "z")


def test_damaged_parquet(tmp_path):
    encoded = images(tmp_path / "set")
    path = tmp_path / "a.parquet"
    write_parquet(path, [encoded[0], encoded[1][:50], *encoded[2:]])
    with pytest.raises(errors.BadInput, match="row 1 is not a readable image"):
        list(open_samples(path))
    write_parquet(path, encoded)
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(errors.BadInput, match=r"damaged or no \.parquet"):
        open_samples(path)


def test_parquet_of_numbers(tmp_path):
    arrow = pytest.importorskip("pyarrow", reason="needs lepton-edge[data]")
    parquet = pytest.importorskip("pyarrow.parquet")
    rows = arrow.array([[1.5, 2.0], [3.0, 4.0]], arrow.list_(arrow.float32()))
    table = arrow.table({"x": rows, "ids": arrow.array([[1, 2], [3, 4]]), "y": [0, 1]})
    parquet.write_table(table, tmp_path / "a.parquet")
    first, second = open_samples(tmp_path / "a.parquet")
    assert first.inputs["x"].dtype == np.float32
    assert first.inputs["x"].tolist() == [1.5, 2.0]
    assert second.inputs["ids"].tolist() == [3, 4]
    assert second.label == 1


def test_python_function(tmp_path):
    path = tmp_path / "data.py"
    path.write_text(
        "import numpy as np\n"
        "def pairs():\n"
        "    for index in range(7):\n"
        "        yield {'a': np.full(2, index), 'b': np.ones(3)}, index\n"
        "def fails():\n"
        "    yield np.ones(2), 0\n"
        "    raise RuntimeError('disk gone')\n"
        "def wrong():\n"
        "    yield 5\n"
    )
    samples = open_samples(f"{path}:pairs")
    assert len(samples) == 7
    assert [sample.label for sample in samples] == list(range(7))
    assert fingerprint(samples) == fingerprint(open_samples(samples.as_dict()))
    assert len(list(limit(samples, 3))) == 3
    with pytest.raises(errors.BadInput, match="RuntimeError: disk gone"):
        list(open_samples(f"{path}:fails"))
    with pytest.raises(errors.BadInput, match="no pair"):
        open_samples(f"{path}:wrong")
    with pytest.raises(errors.UsageError, match="Did you mean 'pairs'"):
        open_samples(f"{path}:pair")
    with pytest.raises(errors.BadInput, match="no file"):
        open_samples(f"{tmp_path / 'other.py'}:pairs")


def test_preprocessing_and_round_trip(npz):
    spec = Preprocess.parse("scale=1/255 mean=.5,.5,.5 std=.25,.25,.25 layout=NCHW")
    samples = open_samples(npz, preprocess=spec)
    given = json.loads(json.dumps(limit(samples, 4, seed=1).as_dict()))
    again = open_samples(given)
    assert len(again) == 4
    want = ((PIXELS / 255 - 0.5) / 0.25).transpose(0, 3, 1, 2)
    chosen = np.sort(np.random.default_rng(1).permutation(10)[:4])
    for sample, index in zip(again, chosen, strict=True):
        np.testing.assert_allclose(sample.inputs["image"], want[index], rtol=1e-5, atol=1e-5)
    # preprocessing changes neither the fingerprint nor what counts as the same content
    assert fingerprint(samples) == fingerprint(open_samples(npz))
    # a part of a part is drawn from the part, and travels as well
    smaller = limit(again, 2, seed=5)
    assert {sample.name for sample in smaller} < {sample.name for sample in again}
    assert fingerprint(open_samples(smaller.as_dict())) == fingerprint(smaller)
    with pytest.raises(errors.UsageError, match="at least one"):
        limit(samples, 0)


def test_preprocessing_needs_one_input(tmp_path):
    np.savez(tmp_path / "a.npz", a=np.zeros((2, 2)), b=np.zeros((2, 2)))
    with pytest.raises(errors.UsageError, match="one input"):
        open_samples(tmp_path / "a.npz", preprocess=Preprocess(scale=2.0))


def test_overlap_is_found_by_content_across_forms(tmp_path, npz):
    images(tmp_path / "set")
    np.savez(tmp_path / "part.npz", picture=PIXELS[[9, 4]])
    np.savez(tmp_path / "other.npz", picture=PIXELS[:5] // 2)
    whole, part = open_samples(tmp_path / "set"), open_samples(tmp_path / "part.npz")
    assert overlap(part, whole) == [sample.name for sample in part]
    assert sorted(Path(name.strip("'")).stem for name in overlap(whole, part)) == ["4", "9"]
    assert overlap(open_samples(tmp_path / "other.npz"), whole) == []


def test_feeds_batches_under_the_models_names(npz):
    samples = open_samples(npz, preprocess=Preprocess(layout="NCHW"))
    dynamic = list(batches(samples, signature("x=?x3x8x6"), 4))
    assert [item.n for item in dynamic] == [4, 4, 2]
    assert [item.feeds["x"].shape[0] for item in dynamic] == [4, 4, 2]
    assert [label for item in dynamic for label in item.labels] == LABELS.tolist()
    fixed = list(feeds(samples, signature("x=4x3x8x6"), 4))
    assert [item["x"].shape for item in fixed] == [(4, 3, 8, 6)] * 3
    assert np.array_equal(fixed[-1]["x"][1], fixed[-1]["x"][3])  # padded with the last sample
    with pytest.raises(errors.UsageError, match=r"Use a batch of 4"):
        next(feeds(samples, signature("x=4x3x8x6"), 3))


def test_feeds_say_what_was_expected(npz):
    with pytest.raises(errors.UsageError, match=r"row 0 is uint8\[8, 6, 3\].*float32"):
        next(feeds(open_samples(npz), signature("x=?x8x6x3"), 4))
    with pytest.raises(errors.UsageError, match=r"float32\[8, 6, 3\].*float32\[\?x3x8x6\]"):
        data = open_samples(npz, preprocess=Preprocess())
        next(feeds(data, signature("x=?x3x8x6"), 4))
    with pytest.raises(errors.UsageError, match=r"\['image'\]; the model takes \['a', 'b'\]"):
        next(feeds(open_samples(npz), signature("a=?x2", "b=?x2"), 4))
    assert bind(["anything"], signature("x=?x2")) == {"x": "anything"}
    assert bind(["b", "a"], signature("a=?x2", "b=?x2")) == {"a": "a", "b": "b"}


def test_feeds_cast_within_a_kind_only(tmp_path):
    path = tmp_path / "a.npz"
    np.savez(path, x=np.array([[1, 2], [3, 2**40]]))
    with pytest.raises(errors.UsageError, match="do not fit into int32"):
        list(feeds(open_samples(path), signature("ids=?x2:int32"), 1))
    np.savez(path, x=np.ones((2, 2)))
    (item,) = feeds(open_samples(path), signature("x=?x2"), 2)
    assert item["x"].dtype == np.float32
    with pytest.raises(errors.UsageError):
        next(feeds(open_samples(path), signature("ids=?x2:int32"), 1))


def test_samples_of_different_sizes_need_a_resize(tmp_path):
    path = tmp_path / "data.py"
    path.write_text(
        "import numpy as np\n"
        "def pairs():\n"
        "    yield np.ones((4, 4, 3), np.float32), 0\n"
        "    yield np.ones((5, 4, 3), np.float32), 1\n"
    )
    wanted = signature("x=?x?x?x3")
    with pytest.raises(errors.UsageError, match="item 1 has the shape"):
        list(feeds(open_samples(f"{path}:pairs"), wanted, 2))
    data = open_samples(f"{path}:pairs", preprocess=Preprocess(resize=(4, 4)))
    assert next(feeds(data, wanted, 2))["x"].shape == (2, 4, 4, 3)


def test_opening_is_cheap_in_a_worker():
    """The module of the readers must not drag in pyarrow or Pillow before they are needed."""
    import subprocess
    import sys

    code = "import sys, lepton_edge.samples; assert not {'pyarrow', 'PIL'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_real_parquet():
    folder = os.environ.get("LEPTON_EDGE_TEST_DATA")
    path = Path(folder or "") / "cifar10-test.parquet"
    if not folder or not path.exists():
        pytest.skip("set LEPTON_EDGE_TEST_DATA to a folder with cifar10-test.parquet")
    samples = limit(open_samples(path), 300)
    assert len(samples.classes) == 10
    assert all(sample.inputs["image"].shape == (32, 32, 3) for sample in samples)
    assert {sample.label for sample in samples} == set(range(10))
