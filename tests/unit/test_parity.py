"""What passes for the same outputs, by precision, and what never does."""

from __future__ import annotations

import json

import numpy as np
import pytest

from lepton_edge.measurement import Parity
from lepton_edge.parity import TOLERANCES, compare_outputs
from lepton_edge.target import PRECISIONS

REFERENCE = np.random.default_rng(0).normal(0, 2, (64, 10)).astype(np.float32)


def compare(found, precision="fp32", reference=REFERENCE) -> Parity:
    return compare_outputs(
        {"out": reference}, {"out": found}, precision=precision, inputs="made up, n=64"
    )


def noisy(db: float) -> np.ndarray:
    """The reference with noise of exactly that SQNR."""
    noise = np.random.default_rng(1).normal(0, 1, REFERENCE.shape)
    power = np.sum(REFERENCE.astype(float) ** 2) / np.sum(noise**2)
    return REFERENCE + noise * np.sqrt(power / 10 ** (db / 10))


def test_every_precision_has_a_tolerance():
    assert set(TOLERANCES) == set(PRECISIONS)


def test_the_same_passes_everywhere():
    for precision in PRECISIONS:
        result = compare(REFERENCE.copy(), precision)
        assert result.status == "PASS"
        (output,) = result.outputs
        assert (output.max_abs, output.relative, output.sqnr_db) == (0, 0, None)
        assert output.cosine == pytest.approx(1)
        assert output.top1_agreement == 1
        assert result.tolerance.startswith(f"{precision}: ")
    assert Parity.from_dict(json.loads(json.dumps(result.as_dict()))) == result


def test_figures_by_hand():
    reference = np.array([[0.0, 4.0], [3.0, 1.0]])
    found = np.array([[0.0, 4.0], [1.0, 3.0]])
    (output,) = compare(found, "int8", reference).outputs
    assert (output.max_abs, output.relative) == (2.0, 0.5)
    assert output.sqnr_db == pytest.approx(10 * np.log10(26 / 8))
    assert output.cosine == pytest.approx((16 + 3 + 3) / 26)
    assert output.top1_agreement == 0.5


def test_fp32_is_judged_by_the_range():
    span = float(REFERENCE.max() - REFERENCE.min())
    found = REFERENCE.astype(np.float64)
    found[5, 5] += 0.9e-4 * span
    assert compare(found).status == "PASS"
    found[5, 5] += 0.2e-4 * span
    result = compare(found)
    assert result.status == "FAIL(parity)"
    assert "above 0.0001" in result.reasons[0]


@pytest.mark.parametrize(
    ("precision", "db"), [("fp16", 40), ("bf16", 20), ("int8", 10), ("int8-weights", 15)]
)
def test_low_precision_is_judged_by_noise(precision, db):
    assert compare(noisy(db + 1), precision).status == "PASS"
    result = compare(noisy(db - 1), precision)
    assert result.status == "FAIL(parity)"
    assert f"below {db}" in result.reasons[0]


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize(
    ("found", "words"),
    [
        (np.where(REFERENCE > 5, np.nan, REFERENCE), "NaN"),
        (np.where(REFERENCE > 5, np.inf, REFERENCE), "infinite"),
        (np.zeros_like(REFERENCE), "nothing but zeros"),
        (np.full_like(REFERENCE, 0.3), "one constant"),
        (np.repeat(REFERENCE[:1], 64, 0), "the same for every input"),
    ],
)
def test_degenerate_outputs_always_fail(found, words, precision):
    result = compare(found.astype(np.float32), precision)
    assert result.status == "FAIL(parity)"
    assert any(words in reason for reason in result.reasons)


def test_a_source_that_gives_nothing_proves_nothing():
    zeros = np.zeros_like(REFERENCE)
    assert compare(zeros, reference=zeros).status == "FAIL(parity)"
    nan = np.full_like(REFERENCE, np.nan)
    assert compare(REFERENCE, reference=nan).status == "FAIL(parity)"
    assert compare(REFERENCE, "int8", reference=zeros).status == "FAIL(parity)"
    flat = np.full_like(REFERENCE, 2.5)  # a constant of the source's own may stay one
    assert compare(flat.copy(), reference=flat).status == "PASS"


def test_swapped_layout_is_found_in_any_precision():
    reference = np.random.default_rng(2).normal(0, 1, (8, 4, 4, 4)).astype(np.float32)
    for precision in PRECISIONS:
        swapped = reference.transpose(0, 2, 3, 1)
        assert compare(swapped, precision, reference).status == "FAIL(parity)"


def test_integers_are_counted():
    ids = np.random.default_rng(3).integers(0, 50, (64, 5))
    found = ids.copy()
    found[0, 0] += 1
    assert compare(found, "fp32", ids).status == "PASS"  # 319 of 320
    found[:2] += 7
    result = compare(found, "fp32", ids)
    assert result.status == "FAIL(parity)"
    assert "integers are equal" in result.reasons[0]


def test_missing_outputs_and_shapes():
    result = compare_outputs(
        {"a": REFERENCE, "b": REFERENCE},
        {"a": REFERENCE[:, :5], "c": REFERENCE},
        precision="int8",
        inputs="",
    )
    assert result.status == "FAIL(parity)"
    text = "; ".join(result.reasons)
    assert "'b' is missing in the artefact" in text
    assert "'c' is missing in the source" in text
    assert "differ in shape: [64, 10] and [64, 5]" in text
