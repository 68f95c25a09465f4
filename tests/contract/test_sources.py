"""Every kind of source opens, says its signature, and runs as its own framework runs it."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lepton_edge import demo, errors, sources
from lepton_edge.model import ModelSource, TensorSpec
from tests.conftest import DEMO

torch = pytest.importorskip("torch", reason="pip install 'lepton-edge[torch]'")
ZOO = Path(__file__).parents[1] / "zoo.py"
CNN_MACS = 5_532_544  # 9*(16*784 + 16*32*196 + 32*32*196 + 32*64*49 + 64*64*49) + 64*10


def test_the_hand_count_is_right() -> None:
    conv = 9 * (16 * 784 + 16 * 32 * 196 + 32 * 32 * 196 + 32 * 64 * 49 + 64 * 64 * 49)
    assert conv + 640 == CNN_MACS


def trained() -> Any:
    from safetensors.torch import load_file

    from lepton_edge.demo.cnn import factory

    module = factory()
    module.load_state_dict(load_file(DEMO / "cnn.safetensors"))
    return module.eval()


@pytest.fixture(scope="module")
def expected() -> tuple[Any, Any]:
    """Three images and the trained network's own logits."""
    image = np.random.default_rng(0).standard_normal((3, 1, 28, 28)).astype(np.float32)
    with torch.inference_mode():
        return image, trained()(torch.from_numpy(image)).numpy()


def close(found: Any, wanted: Any) -> None:
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-4 * np.ptp(wanted))


def test_a_factory_with_weights(expected: tuple[Any, Any]) -> None:
    model = sources.load(demo.SOURCE)
    assert model.framework == "torch"
    assert model.signature.inputs == (TensorSpec("image", (None, 1, 28, 28), "float32"),)
    assert model.signature.outputs == (TensorSpec("output", (None, 10), "float32"),)
    close(model.run({"image": expected[0]})["output"], expected[1])
    counts = sources.count(model)
    assert counts.macs == CNN_MACS
    assert counts.operators["conv2d"] == 5
    assert counts.parameters == sum(p.numel() for p in trained().parameters())


def test_an_exported_program(tmp_path: Path, expected: tuple[Any, Any]) -> None:
    path = tmp_path / "m.pt2"
    batch = torch.export.Dim("batch", min=1, max=64)
    example = (torch.zeros(4, 1, 28, 28),)
    program = torch.export.export(trained(), example, dynamic_shapes=({0: batch},))
    torch.export.save(program, path)
    model = sources.load(ModelSource(str(path)))
    assert model.signature.inputs[0].shape == (None, 1, 28, 28)
    close(model.run({"image": expected[0]})["output"], expected[1])
    assert sources.count(model).macs == CNN_MACS


def test_a_torchscript_archive(tmp_path: Path, expected: tuple[Any, Any]) -> None:
    path = tmp_path / "m.pt"
    with warnings.catch_warnings():
        # torch.jit is deprecated; files made with it are still around.
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.save(torch.jit.trace(trained(), torch.zeros(1, 1, 28, 28)), path)
    with pytest.raises(errors.UsageError, match="--input"):
        sources.load(ModelSource(str(path)))
    inputs = (TensorSpec.parse("image=?x1x28x28"),)
    model = sources.load(ModelSource(str(path), inputs=inputs))
    close(model.run({"image": expected[0]})["output"], expected[1])


@pytest.fixture(scope="module")
def keras_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("tensorflow", reason="pip install 'lepton-edge[tensorflow]'")
    from lepton_edge.demo import keras_twin

    folder = tmp_path_factory.mktemp("keras")
    model = keras_twin.build()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Keras warns that .h5 is old
        model.save(folder / "m.keras")
        model.save(folder / "m.h5")
        model.export(folder / "saved", verbose=False)
    return folder


@pytest.mark.filterwarnings("ignore")  # TensorFlow's own, at import and while loading
@pytest.mark.parametrize("name", ["m.keras", "m.h5", "saved"])
def test_keras_and_savedmodel(keras_files: Path, name: str, expected: tuple[Any, Any]) -> None:
    model = sources.load(ModelSource(str(keras_files / name)))
    (spec,) = model.signature.inputs
    assert spec.shape == (None, 28, 28, 1)
    (output,) = model.run({spec.name: expected[0].transpose(0, 2, 3, 1)}).values()
    close(output, expected[1])
    assert sources.count(model).macs == CNN_MACS


def test_onnx_and_tflite_files() -> None:
    probes = Path(sources.__file__).parents[1] / "jobs"
    x = np.array([[1, -2, 3, -4]], np.float32)
    for name in ("probe.onnx", "probe.tflite"):
        model = sources.load(ModelSource(str(probes / name)))
        assert model.signature.inputs[0].shape == (1, 4)
        (output,) = model.run({model.signature.inputs[0].name: x}).values()
        np.testing.assert_array_equal(output, np.maximum(x, 0))
        assert sources.count(model).macs == 0


def test_several_outputs_and_integer_inputs() -> None:
    model = sources.load(ModelSource(f"{ZOO}:ssd"))
    assert [spec.name for spec in model.signature.outputs] == ["boxes", "scores", "best"]
    assert set(model.run(model.example(2))) == {"boxes", "scores", "best"}
    bert = sources.load(ModelSource(f"{ZOO}:bert"))
    feeds = bert.example(4)
    assert feeds["ids"].dtype == np.int64
    assert np.isfinite(bert.run(feeds)["output"]).all()
    again = sources.load(ModelSource(f"{ZOO}:bert")).example(4)
    np.testing.assert_array_equal(feeds["ids"], again["ids"])


def test_recurrent_products_are_counted() -> None:
    torch_lstm = sources.load(ModelSource(f"{ZOO}:lstm"))
    lstm = next(m for m in torch_lstm.native.modules() if isinstance(m, torch.nn.LSTM))
    matrices = sum(p.numel() for n, p in lstm.named_parameters() if n.startswith("weight"))
    head = torch_lstm.native.get_submodule("head") if hasattr(torch_lstm.native, "head") else None
    steps = torch_lstm.signature.inputs[0].shape[1] or 0
    found = sources.count(torch_lstm).macs or 0
    rest = sum(m.weight.numel() for m in torch_lstm.native.modules()
               if isinstance(m, torch.nn.Linear))  # fmt: skip
    assert head is None or rest
    assert found == steps * matrices + rest


def test_weights_that_do_not_fit(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    state = trained().state_dict()
    for change, word in (("drop", "lacks"), ("add", "has no"), ("shape", "size mismatch")):
        given = dict(state)
        if change == "drop":
            del given["classifier.bias"]
        elif change == "add":
            given["extra"] = torch.zeros(1)
        else:
            given["classifier.bias"] = torch.zeros(3)
        path = tmp_path / f"{change}.safetensors"
        save_file(given, path)
        with pytest.raises(errors.BadInput, match=word):
            sources.load(ModelSource(demo.SOURCE.path, str(path)))


def test_weights_only_pth(tmp_path: Path, expected: tuple[Any, Any]) -> None:
    path = tmp_path / "w.pth"
    torch.save({"state_dict": trained().state_dict(), "epoch": 3}, path)
    model = sources.load(ModelSource(demo.SOURCE.path, str(path)))
    close(model.run({"image": expected[0]})["output"], expected[1])


def test_a_declared_input_must_fit() -> None:
    probe = str(Path(sources.__file__).parents[1] / "jobs" / "probe.onnx")
    with pytest.raises(errors.UsageError, match="does not fit"):
        sources.load(ModelSource(probe, inputs=(TensorSpec.parse("x=1x5"),)))
    with pytest.raises(errors.UsageError, match="no input 'z'"):
        sources.load(ModelSource(probe, inputs=(TensorSpec.parse("z=1x4"),)))


def test_a_pt2_with_a_pickle_of_code_is_refused(tmp_path: Path) -> None:
    import io
    import os
    import pickle
    import zipfile

    path, mark = tmp_path / "m.pt2", tmp_path / "ran"
    torch.export.save(torch.export.export(trained(), (torch.zeros(1, 1, 28, 28),)), path)

    class Payload:
        def __reduce__(self) -> tuple[Any, tuple[str]]:
            return os.system, (f"touch {mark}",)

    hostile = tmp_path / "hostile.pt2"
    buffer = io.BytesIO()
    torch.save(Payload(), buffer, pickle_module=pickle)
    with zipfile.ZipFile(path) as given, zipfile.ZipFile(hostile, "w") as made:
        for name in given.namelist():
            data = buffer.getvalue() if name.endswith(".pt") else given.read(name)
            made.writestr(name, data)
    with pytest.raises(errors.BadInput, match="pickle of more than tensors"):
        sources.load(ModelSource(str(hostile)))
    assert not mark.exists()
