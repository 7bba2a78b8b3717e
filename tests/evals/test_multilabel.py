"""Average precision and AUC of several labels an image, and the probe, against scikit-learn."""

import jax
import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score

from ssl_jax import evals
from ssl_jax.core.errors import UserError
from ssl_jax.evals import average_precision, linear_labels
from ssl_jax.evals.label_metrics import label_metrics, metric_name


def loop_eleven_point(scores, positive):
    """The definition, over every threshold and recall."""
    points = []
    for recall in np.arange(11) / 10:
        best = 0.0
        for threshold in scores:
            accepted = scores >= threshold
            hits = (accepted & positive).sum()
            if hits / positive.sum() >= recall - 1e-12:
                best = max(best, hits / accepted.sum())
        points.append(best)
    return np.mean(points)


@pytest.mark.parametrize("levels", [4, 1000])
@pytest.mark.parametrize("seed", range(3))
def test_average_precision(seed, levels):
    rng = np.random.default_rng(seed)
    positive = rng.random(60) < 0.3
    scores = np.round(levels * (rng.random(60) + 0.3 * positive)) / levels  # few levels: ties
    ours = average_precision.average_precision(scores, positive)
    np.testing.assert_allclose(ours, average_precision_score(positive, scores))
    eleven = average_precision.eleven_point(scores, positive)
    np.testing.assert_allclose(eleven, loop_eleven_point(scores, positive))
    precision, recall = average_precision.curve(scores, positive)
    theirs = precision_recall_curve(positive, scores)
    np.testing.assert_allclose(precision[::-1], theirs[0][:-1])
    np.testing.assert_allclose(recall[::-1], theirs[1][:-1])


def test_known_curves():
    positive = np.array([True, False, True, False, False])
    scores = np.array([5.0, 4, 3, 2, 1])
    # Precision is 1 up to recall 1/2 (six of the points), then 2/3.
    assert average_precision.eleven_point(scores, positive) == pytest.approx((6 + 5 * 2 / 3) / 11)
    perfect = positive.astype(float)
    assert average_precision.eleven_point(perfect, positive) == 1
    assert average_precision.average_precision(perfect, positive) == 1
    # Equal scores of all: the share of positives, in any order.
    assert average_precision.eleven_point(np.zeros(5), positive) == pytest.approx(0.4)
    tenths = np.arange(10)[::-1].astype(float)
    assert average_precision.eleven_point(tenths, tenths >= 0) == 1  # 3 / 10 is below 0.3 in floats


def test_random_scores_have_the_prior_as_average_precision():
    rng = np.random.default_rng(0)
    positive = rng.random(20_000) < 0.2
    assert average_precision.average_precision(rng.random(20_000), positive) == pytest.approx(
        0.2, abs=0.02
    )


@pytest.mark.parametrize(
    ("scores", "positive", "message"),
    [
        (np.zeros(3), np.zeros(3, bool), "an example that has the label"),
        (np.zeros(3), np.ones(2, bool), r"takes two \[n\]"),
        (np.array([np.nan, 1]), np.ones(2, bool), "NaN"),
    ],
)
def test_bad_curves(scores, positive, message):
    with pytest.raises(ValueError, match=message):
        average_precision.curve(scores, positive)


def labelled(n, seed, k=3):
    rng = np.random.default_rng(seed)
    h = rng.normal(size=(n, 6)).astype(np.float32)
    kernel = np.random.default_rng(9).normal(size=(6, k))
    labels = (h @ kernel + rng.normal(size=(n, k)) > 0.5).astype(np.int32)
    labels[rng.random((n, k)) < 0.1] = -1
    return {"h": 3 * h + 2, "labels": labels}


def test_label_metrics_leave_unknown_labels_out():
    rows = labelled(80, 0)
    scores, labels = np.random.default_rng(1).normal(size=(80, 3)), rows["labels"]
    measured = label_metrics(scores, labels, ("Edema", "Pleural Effusion", "x-y"))
    areas = [
        roc_auc_score(labels[labels[:, j] >= 0, j], scores[labels[:, j] >= 0, j]) for j in range(3)
    ]
    np.testing.assert_allclose(measured["auc"], np.mean(areas))
    names = ("auc_edema", "auc_pleural_effusion", "auc_x_y")
    np.testing.assert_allclose([measured[name] for name in names], areas)
    assert metric_name(" Pleural Effusion ") == "pleural_effusion"
    assert {f"ap11_{name.removeprefix('auc_')}" for name in names} <= measured.keys()
    labels = labels.copy()
    labels[:, 1] = 0  # nothing to rank: the label is left out, not a nan
    assert label_metrics(scores, labels).keys() == {
        "auc", "map", "map11", "auc_0", "auc_2", "ap11_0", "ap11_2"
    }  # fmt: skip
    with pytest.raises(UserError, match="no label has both"):
        label_metrics(scores, np.zeros_like(labels))


def test_the_head_is_scored():
    test = labelled(60, 3)
    rows = {**test, "logits": test["h"][:, :3]}
    measured = evals.evaluate(["multilabel"], None, rows, label_names=("a", "b", "c"))
    expected = label_metrics(rows["logits"], rows["labels"], ("a", "b", "c"))
    assert measured == {f"multilabel/{name}": value for name, value in expected.items()}
    with pytest.raises(UserError, match="the classifier has 2 labels and the data have 3"):
        evals.evaluate(["multilabel"], None, {**rows, "logits": test["h"][:, :2]})


@pytest.mark.parametrize("devices", [1, 8])
def test_the_probe_matches_scikit_learn(devices):
    train, test = labelled(300, 0), labelled(200, 1)
    l2 = 2.0
    measured = linear_labels.evaluate(
        train, test, l2_min=l2, l2_max=l2, num_l2=1, devices=jax.devices()[:devices],
        tolerance=1e-7, max_iterations=500,
    )  # fmt: skip
    kept = ~linear_labels.hold_out(300, 0.2, 0)
    mean, std = linear_labels.standard(train["h"][kept])
    areas = []
    for j in range(3):
        known, scored = train["labels"][:, j] >= 0, test["labels"][:, j] >= 0
        model = LogisticRegression(C=1 / l2, tol=1e-8, max_iter=1000)
        model.fit(((train["h"] - mean) / std)[known], train["labels"][known, j])
        scores = model.decision_function(((test["h"] - mean) / std)[scored])
        areas.append(roc_auc_score(test["labels"][scored, j], scores))
    np.testing.assert_allclose(measured["auc"], np.mean(areas), atol=1e-4)
    assert measured["gradient_norm"] < 1e-5


def test_the_penalty_is_chosen_without_the_test_split():
    train, test = labelled(120, 0), labelled(60, 1)
    measured = linear_labels.evaluate(train, test, num_l2=4)
    poisoned = {**test, "labels": np.where(test["labels"] < 0, -1, 1 - test["labels"])}
    other = linear_labels.evaluate(train, poisoned, num_l2=4)
    assert other["best_l2"] == measured["best_l2"]
    assert other["auc"] == pytest.approx(1 - measured["auc"])
    with pytest.raises(UserError, match="eval.linear_labels.l2_min 2.0 is above l2_max 1.0"):
        linear_labels.evaluate(train, test, l2_min=2.0, l2_max=1.0)
