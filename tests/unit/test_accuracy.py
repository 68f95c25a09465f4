"""Metrics against hand-made cases, pairing, and the verdict of the gate."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest

from lepton_edge import accuracy, errors, scores
from lepton_edge.measurement import Accuracy
from lepton_edge.samples import Sample


def samples(*labels) -> list[Sample]:
    return [Sample({}, label, f"row {index}") for index, label in enumerate(labels)]


def made(hit, label=None, *, metric="top1", fingerprint="f", **more) -> scores.Scores:
    hit = np.asarray(hit, np.float64)
    label = np.zeros(len(hit), np.int64) if label is None else np.asarray(label)
    kinds = {"top1": (True, True), "mae": (False, False), "miou": (True, True)}[metric]
    if metric == "top1":
        more = {"label": label, "predicted": np.where(hit == 1, label, label + 1), **more}
    return scores.Scores(metric, *kinds, fingerprint, hit, **more)


def test_top1_and_top5():
    rows = np.array([[0.1, 0.9, 0.0, 0, 0, 0], [5, 4, 3, 2, 1, 0], [0, 0, 0, 0, 0, 0]])
    given = samples(1, 5, 1)
    top1 = scores.metric("top1").score({"out": rows}, given)
    assert top1["score"].tolist() == [1, 0, 0]  # ties go to the lower class
    assert top1["predicted"].tolist() == [1, 0, 0]
    top5 = scores.metric("top5").score({"out": rows[:, :, None, None]}, given)
    assert top5["score"].tolist() == [1, 0, 1]


def test_labels_that_do_not_fit_the_model():
    rows = {"out": np.eye(3)}
    measure = scores.metric("top1")
    with pytest.raises(errors.BadInput, match=r"row 1 has the label 3, the model has 3 classes"):
        measure.score(rows, samples(0, 3, 1))
    with pytest.raises(errors.UsageError, match="row 2 has no label"):
        measure.score(rows, samples(0, 1, None))
    with pytest.raises(errors.UsageError, match="no class index"):
        measure.score(rows, samples(0, 1, np.array([0.0, 1.0])))
    with pytest.raises(errors.UsageError, match="row of class scores"):
        measure.score({"out": np.zeros((3, 4, 5))}, samples(0, 0, 0))


def test_several_outputs_need_a_choice():
    outputs = {"boxes": np.zeros((1, 4)), "scores": np.array([[0.0, 1.0]])}
    with pytest.raises(errors.UsageError, match="needs one output"):
        scores.metric("top1").score(outputs, samples(1))
    assert scores.metric("top1", "scores").score(outputs, samples(1))["score"] == [1]
    with pytest.raises(errors.UsageError, match="Did you mean 'scores'"):
        scores.metric("top1", "score").score(outputs, samples(1))


def test_distances():
    outputs = {"out": np.array([[[1.0], [3.0]], [[0.0], [0.0]]])}
    truth = samples(np.array([2.0, 5.0]), np.array([1.0, -3.0]))
    assert scores.metric("mae").score(outputs, truth)["score"].tolist() == [1.5, 2.0]
    assert scores.metric("mse").score(outputs, truth)["score"].tolist() == [2.5, 5.0]
    with pytest.raises(errors.UsageError, match=r"label of \[3\], the output is \[2\]"):
        scores.metric("mae").score(outputs, samples(np.zeros(3), np.zeros(3)))


@pytest.mark.parametrize("layout", ["NCHW", "NHWC", "ids"])
def test_miou_by_hand(layout):
    truth = np.array([[0, 0, 1], [1, 255, 1]])
    found = np.array([[0, 1, 1], [1, 0, 0]])
    # class 0: both 1, either 3; class 1: both 2, either 4; the ignored pixel does not count
    onehot = np.eye(3)[found]
    given = {"NCHW": onehot.transpose(2, 0, 1), "NHWC": onehot, "ids": found}[layout]
    got = scores.metric("miou").score({"out": given[None]}, samples(truth))
    assert got["score"] == pytest.approx([(1 / 3 + 2 / 4) / 2])


def test_custom_metric(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(
        "def error(outputs, label):\n"
        "    return abs(outputs['out'].sum() - label)\n"
        "error.higher_is_better = False\n"
        "def broken(outputs, label):\n"
        "    return outputs['nothing']\n"
        "def nan(outputs, label):\n"
        "    return float('nan')\n"
    )
    measure = scores.metric(f"{path}:error")
    assert measure.higher_is_better is False
    outputs = {"out": np.array([[1.0, 2.0], [3.0, 4.0]])}
    assert measure.score(outputs, samples(2, 9))["score"].tolist() == [1.0, 2.0]
    with pytest.raises(errors.BadInput, match=r"raised KeyError for row 0"):
        scores.metric(f"{path}:broken").score(outputs, samples(2, 9))
    with pytest.raises(errors.BadInput, match="gave nan for row 0"):
        scores.metric(f"{path}:nan").score(outputs, samples(2, 9))
    with pytest.raises(errors.UsageError, match="Did you mean 'top1'"):
        scores.metric("top-1")


def test_nan_outputs_never_get_a_score():
    outputs = {"out": np.array([[1.0, 2.0], [np.nan, 0.0]])}
    with pytest.raises(errors.GateFailed, match=r"'out' has NaN or infinite values for row 1"):
        scores.check_outputs(outputs, samples(0, 1))
    with pytest.raises(errors.UsageError, match="no row a sample"):
        scores.check_outputs({"out": np.zeros((3, 2))}, samples(0, 1))


def test_scores_are_kept(tmp_path):
    path = tmp_path / "base.scores.npz"
    kept = made([1, 0, 1], [0, 1, 2], classes=("a", "b", "c"), facts={"threads": 1})
    kept.save(path)
    again = scores.Scores.load(path)
    assert (again.classes, again.facts, again.metric) == (kept.classes, kept.facts, "top1")
    assert np.array_equal(again.predicted, kept.predicted)
    assert again.class_scores is None
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(errors.BadInput, match="holds no scores"):
        scores.Scores.load(path)


def test_drop_is_paired_and_its_sign_is_worse():
    base = made([1] * 900 + [0] * 100)
    worse = made([0] * 30 + [1] * 880 + [0] * 90)  # 30 lost, 10 won
    result = accuracy.judge(worse, base)
    assert result.value == 0.88
    assert result.drop == pytest.approx(0.02)
    assert result.drop_interval[0] < 0.02 < result.drop_interval[1]
    # unpaired intervals of 0.90 and 0.88 on 1,000 overlap; paired, the drop is plain
    assert result.drop_interval[0] > 0
    assert result.p_value == pytest.approx(0.0022, abs=2e-4)  # McNemar exact, 30 against 10
    assert result.status is None
    mae = accuracy.judge(made([2.0] * 50, metric="mae"), made([1.5] * 50, metric="mae"))
    assert mae.drop == pytest.approx(0.5)
    assert mae.p_value is None


def test_gate_passes_only_with_the_whole_interval_inside():
    base = made([1] * 9_000 + [0] * 1_000)
    same = accuracy.judge(base, base, max_drop="1pt")
    assert same.status == "PASS"
    bad = accuracy.judge(made([0] * 300 + [1] * 8_700 + [0] * 1_000), base, max_drop="1pt")
    assert bad.status == "FAIL(accuracy)"
    near = accuracy.judge(made([0] * 95 + [1] * 8_905 + [0] * 1_000), base, max_drop="1pt")
    match = re.fullmatch(r"UNDECIDED\(needs n=([\d,]+)\)", near.status or "")
    assert match
    assert int(match[1].replace(",", "")) > 10_000


def test_few_samples_never_pass():
    base = made([1] * 5)
    assert accuracy.judge(base, base, max_drop="1pt").status.startswith("UNDECIDED(needs n=")
    few = made([0.5] * 10, metric="mae")
    assert accuracy.judge(few, few, max_drop="1%").status == "UNDECIDED(needs n=30)"


def test_samples_that_would_decide_do_decide():
    """With the number that the verdict asks for, most draws of that size are decided."""
    rng = np.random.default_rng(4)

    def draw(n):
        lost, won, _ = rng.multinomial(n, [0.012, 0.006, 0.982])
        hits = np.ones(n)
        base = hits.copy()
        hits[:lost] = 0
        base[lost : lost + won] = 0
        return made(hits), made(base)

    # the true drop is 0.6 points, the budget 1 point: find the n by the formula, then try it
    from lepton_edge import intervals

    needed = intervals.samples_to_decide(0.006, float(np.sqrt(0.018 - 0.006**2)), 0.01)
    decided = sum(accuracy.judge(*draw(needed), max_drop="1pt").status == "PASS" for _ in range(60))
    assert 0.65 <= decided / 60 <= 0.95  # 80 % by design


def test_budgets():
    assert accuracy.budget("1pt", 0.8, rate=True) == pytest.approx(0.01)
    assert accuracy.budget("1%", 0.8, rate=True) == pytest.approx(0.008)
    assert accuracy.budget(" .5 % ", 4.0, rate=False) == pytest.approx(0.02)
    for text in ("1", "pt", "-1pt", "1 percent", "1pt%"):
        with pytest.raises(errors.UsageError, match=r"Write 1pt"):
            accuracy.budget(text, 0.8, rate=True)
    with pytest.raises(errors.UsageError, match="points is for rates"):
        accuracy.budget("1pt", 4.0, rate=False)


def test_baseline_must_be_of_the_same_samples():
    with pytest.raises(errors.UsageError, match="same samples"):
        accuracy.judge(made([1, 0]), made([1, 0], fingerprint="other"))
    with pytest.raises(errors.UsageError, match="same samples"):
        accuracy.judge(made([1, 0], [0, 1]), made([1, 0], [0, 2]))
    with pytest.raises(errors.UsageError, match="scored by mae"):
        accuracy.judge(made([1, 0]), made([1, 0], metric="mae"))


def test_per_class_confusion_and_roc():
    label = np.repeat([0, 1, 2], 40)
    rows = np.eye(3)[label] * 2.0
    rows[40:60] = [3.0, 1.0, 0.0]  # half of class 1 is taken for class 0
    measured = scores.metric("top1").score({"out": rows}, samples(*label.tolist()))
    found = scores.Scores("top1", True, True, "f", classes=("a", "b", "c"), **measured)
    base = made(np.ones(120), label)
    result = accuracy.judge(found, base)
    assert [(each.name, each.drop) for each in result.per_class] == [("b", 50), ("a", 0), ("c", 0)]
    low, high = result.per_class[0].drop_interval
    assert 30 < low < 50 < high < 70
    assert result.confusion == ((40, 0, 0), (20, 20, 0), (0, 0, 40))
    by_name = {each.name: each for each in result.roc}
    assert by_name["c"].auc == 1.0
    # of class 0's 40 x 80 pairs, 20 negatives outrank every positive
    assert by_name["a"].auc == pytest.approx(60 / 80)
    assert all(len(each.true_positive_rate) <= 200 for each in result.roc)
    assert Accuracy.from_dict(json.loads(json.dumps(result.as_dict()))) == result
