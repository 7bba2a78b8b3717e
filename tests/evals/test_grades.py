"""AUC of grades in their order, against scikit-learn."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from ssl_jax import evals
from ssl_jax.core.errors import UserError
from ssl_jax.evals import grades

RNG = np.random.default_rng(0)
LABEL = RNG.integers(0, 5, 80)
LOGITS = RNG.normal(size=(80, 5)) + 1.5 * np.eye(5)[LABEL]


def test_each_lowest_grade():
    got = evals.evaluate(["grades"], None, {"logits": LOGITS, "label": LABEL}, num_classes=5)
    p = np.exp(LOGITS) / np.exp(LOGITS).sum(axis=1, keepdims=True)
    for grade in (1, 2, 3, 4):
        expected = roc_auc_score(grade <= LABEL, p[:, grade:].sum(axis=1))
        assert got[f"grades/from_{grade}"] == pytest.approx(expected)
    assert got["grades/auc"] == got["grades/from_2"]
    sure = {"h": 1e4 * np.eye(5)[LABEL], "label": LABEL}
    assert grades.evaluate(sure, num_classes=5)["auc"] == 1


@pytest.mark.parametrize(
    ("label", "classes", "options", "message"),
    [
        (LABEL, 4, {}, "has 5 grades and the data have 4"),
        (LABEL, 5, {"referred": 5}, "referred is 5; the grades are 0 to 4"),
        (np.zeros(80, int), 5, {}, "all or none of the test examples"),
    ],
)
def test_bad_grades(label, classes, options, message):
    with pytest.raises(UserError, match=message):
        grades.evaluate({"h": LOGITS, "label": label}, num_classes=classes, **options)
