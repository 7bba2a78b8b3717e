"""Low-shot SVMs: how examples are drawn, what average precision is, what chooses the cost."""

import numpy as np
import pytest
from sklearn.metrics import average_precision_score
from sklearn.svm import LinearSVC

from ssl_jax import evals
from ssl_jax.core.errors import UserError
from ssl_jax.evals import label_svm
from ssl_jax.evals.average_precision import average_precision, eleven_point, interpolated

QUICK = dict(shots=(1, 4), draws=2, costs=(0.1, 10.0))


def split(seed, n=150, classes=3, noise=0.7):
    rng = np.random.default_rng(seed)
    label = np.arange(n) % classes
    h = np.eye(8)[label] + noise * rng.normal(size=(n, 8))
    return {"h": h.astype(np.float32), "label": label.astype(np.int32)}


def loop_area(scores, positive):
    """Area under the interpolated curve from its definition, threshold by threshold."""
    points = []
    for t in sorted(set(scores), reverse=True):
        above = scores >= t
        points.append((positive[above].sum() / positive.sum(), positive[above].mean()))
    area, before = 0.0, 0.0
    for recall, _ in points:
        area += (recall - before) * max(p for r, p in points if r >= recall)
        before = recall
    return area


def test_average_precision_by_three_rules():
    perfect = np.array([3.0, 2.0, 1.0, 0.0]), np.array([True, True, False, False])
    assert average_precision(*perfect) == interpolated(*perfect) == eleven_point(*perfect) == 1.0
    # Ranks of the positives 1, 3 and 6: precisions 1, 2/3, 1/2 at recalls 1/3, 2/3, 1.
    known = np.arange(6.0)[::-1], np.array([1, 0, 1, 0, 0, 1], bool)
    assert eleven_point(*known) == pytest.approx((4 * 1 + 3 * 2 / 3 + 4 * 1 / 2) / 11)
    assert average_precision(*known) == pytest.approx((1 + 2 / 3 + 1 / 2) / 3)
    rng = np.random.default_rng(0)
    for _ in range(20):
        scores, positive = rng.integers(0, 9, 40).astype(float), rng.random(40) < 0.3
        positive[0] = True
        step = average_precision_score(positive, scores)
        assert average_precision(scores, positive) == pytest.approx(step)
        assert interpolated(scores, positive) == pytest.approx(loop_area(scores, positive))
        assert interpolated(scores, positive) >= step - 1e-12


def test_draws_have_k_positives_and_k_negatives_for_each_other_label():
    rng = np.random.default_rng(0)
    labels = (rng.random((4000, 20)) < 0.07).astype(np.int8)
    labels[rng.random(labels.shape) < 0.05] = -1  # difficult objects
    for k in (1, 8):
        rows = label_svm.draw_examples(labels, 5, k, 0, 0)
        assert (labels[rows, 5] == 1).sum() == k and (labels[rows, 5] == 0).sum() == 19 * k
        assert len(set(rows)) == 20 * k
    few, more = (set(label_svm.draw_examples(labels, 5, k, 3, 0)) for k in (2, 4))
    assert few < more and more != set(label_svm.draw_examples(labels, 5, 4, 4, 0))


def test_values_are_those_of_scikit_learn_in_a_loop():
    train, test = split(0), split(1)
    got = evals.evaluate(["svm"], train, test, num_classes=3, config={"svm": QUICK})
    x, test_x = (
        s["h"] / (np.linalg.norm(np.float64(s["h"]), axis=1, keepdims=True) + 1e-5)
        for s in (train, test)
    )
    labels = np.stack([train["label"] == c for c in range(3)], axis=1).astype(int)
    for k in QUICK["shots"]:
        expected = []
        for draw in range(2):
            chosen, tested = {}, {}
            for cost in QUICK["costs"]:
                on_rest, on_test = [], []
                for c in range(3):
                    rows = label_svm.draw_examples(labels, c, k, draw, 0)
                    rest = np.setdiff1d(np.arange(150), rows)
                    svm = LinearSVC(C=cost, class_weight={1: 2, 0: 1}, dual="auto", max_iter=2000,
                                    random_state=0).fit(x[rows], labels[rows, c])  # fmt: skip
                    on_rest.append(loop_area(svm.decision_function(x[rest]), labels[rest, c] > 0))
                    scores = svm.decision_function(test_x)
                    on_test.append(loop_area(scores, test["label"] == c))
                chosen[cost], tested[cost] = np.mean(on_rest), np.mean(on_test)
            expected.append(tested[max(chosen, key=chosen.get)])
        assert got[f"svm/{k}"] == pytest.approx(np.mean(expected))
        assert got[f"svm/{k}_std"] == pytest.approx(np.std(expected, ddof=1))
    assert got["svm/4"] > got["svm/1"] > 1 / 3


def test_the_cost_is_chosen_without_the_test_split():
    train, test = split(0), split(1)
    poisoned = {**test, "label": np.roll(test["label"], 1)}
    config = {"svm": {**QUICK, "full": True}}
    first, second = (
        evals.evaluate(["svm"], train, each, num_classes=3, config=config)
        for each in (test, poisoned)
    )
    for k in (1, 4):
        assert first[f"svm/cost_{k}"] == second[f"svm/cost_{k}"]
        assert first[f"svm/{k}"] != second[f"svm/{k}"]
    assert first["svm/full"] > first["svm/4"]
    as_paper = {"svm": {**QUICK, "choose_by": "test"}}
    best = evals.evaluate(["svm"], train, test, num_classes=3, config=as_paper)
    assert all(best[f"svm/{k}"] >= first[f"svm/{k}"] for k in (1, 4))


def test_random_features_have_the_prior_as_their_precision():
    rng = np.random.default_rng(0)
    train, test = (
        {"h": rng.normal(size=(n, 8)).astype(np.float32), "label": np.arange(n, dtype=np.int32) % 5}
        for n in (500, 4000)
    )
    got = evals.evaluate(
        ["svm"], train, test, num_classes=5, config={"svm": {**QUICK, "rule": "step"}}
    )
    assert got["svm/4"] == pytest.approx(0.2, abs=0.03)


def test_several_labels_an_image_and_unknown_ones():
    def labelled(seed):
        rng = np.random.default_rng(seed)
        labels = (rng.random((200, 4)) < 0.3).astype(np.int32)
        h = labels @ np.eye(4, 8) + 0.3 * rng.normal(size=(200, 8))
        return {"h": h.astype(np.float32), "labels": labels}

    train, test = labelled(0), labelled(1)
    options = {**QUICK, "full": True}
    got = evals.evaluate(["svm_labels"], train, test, config={"svm_labels": options})
    assert got["svm_labels/full"] > 0.85 and got["svm_labels/4"] > got["svm_labels/1"] > 0.3
    unknown = {**test, "labels": test["labels"].copy()}
    unknown["labels"][:50, 0] = -1  # as if these were not there for label 0
    found = label_svm.low_shot(
        *(label_svm.normalized(train["h"]), train["labels"]),
        *(label_svm.normalized(test["h"]), unknown["labels"]),
        shots=4, draws=1, costs=(1.0,), seed=0,
    )  # fmt: skip
    kept = label_svm.low_shot(
        *(label_svm.normalized(train["h"]), train["labels"]),
        *(label_svm.normalized(test["h"][50:]), test["labels"][50:]),
        shots=4, draws=1, costs=(1.0,), seed=0,
    )  # fmt: skip
    assert found.mean_ap != kept.mean_ap and 0.5 < found.mean_ap[0] <= 1


def test_what_cannot_be_drawn(caplog):
    train, test = split(0), split(1)
    config = {"svm": {**QUICK, "shots": (4, 64)}}
    got = evals.evaluate(["svm"], train, test, num_classes=3, config=config)
    assert "svm/4" in got and "svm/64" not in got
    assert "label 0 has only 50 train examples; [64] positives are impossible" in caplog.text
    with pytest.raises(UserError, match=r"\[64\] positives are impossible"):
        evals.evaluate(["svm"], train, test, num_classes=3, config={"svm": {"shots": (64,)}})
