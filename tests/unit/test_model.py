"""The signature's batch: what changes with it and what does not."""

from __future__ import annotations

import pytest

from lepton_edge.model import Signature, TensorSpec


def shapes(signature: Signature) -> list[tuple[int | None, ...]]:
    return [spec.shape for spec in (*signature.inputs, *signature.outputs)]


@pytest.mark.parametrize("now", [None, 1, 8])
def test_only_tensors_with_a_batch_change_with_it(now: int | None) -> None:
    signature = Signature(
        (TensorSpec("x", (now, 3), "float32"), TensorSpec("step", (), "int64")),
        (
            TensorSpec("y", (now, 5), "float32"),
            TensorSpec("loss", (), "float32"),
            TensorSpec("state", (2, now, 16), "float32"),  # layers first, as an LSTM gives it
        ),
    )
    changed = signature.with_batch(4)
    assert shapes(changed) == [(4, 3), (), (4, 5), (), (2, now, 16)]
    assert changed.with_batch(now) == signature
    assert shapes(signature.with_batch(None)) == [(None, 3), (), (None, 5), (), (2, now, 16)]


def test_inputs_of_one_name_and_dtype_keep_them() -> None:
    signature = Signature((TensorSpec("ids", (1, 16), "int64"),), ())
    assert signature.with_batch(2).inputs == (TensorSpec("ids", (2, 16), "int64"),)
