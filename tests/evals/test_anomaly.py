"""Anomalies and ROC curves against loops over pairs and thresholds."""

import jax.numpy as jnp
import numpy as np
import pytest

from ssl_jax import parallel
from ssl_jax.core.errors import UserError
from ssl_jax.evals import anomaly, roc
from ssl_jax.evals.known import Known
from ssl_jax.run.probing import Prober
from tests.methods.table import ROWS


def _scores(seed, ties=False):
    rng = np.random.default_rng(seed)
    positive, negative = rng.normal(0.7, 1, 40), rng.normal(0, 1, 55)
    return (np.round(positive), np.round(negative)) if ties else (positive, negative)


@pytest.mark.parametrize("ties", [False, True])
def test_roc(ties):
    positive, negative = _scores(0, ties)
    wins = [(p > n) + 0.5 * (p == n) for p in positive for n in negative]
    assert roc.area(positive, negative) == pytest.approx(np.mean(wins))
    points = [
        (np.mean(negative >= t), np.mean(positive >= t))
        for t in [np.inf, *sorted({*positive, *negative}, reverse=True)]
    ]
    _, false, true = roc.curve(positive, negative)
    np.testing.assert_allclose(np.stack([false, true], axis=1), points)
    for rate in (0.0, 0.01, 0.1, 0.5, 1.0):
        best = max(t for f, t in points if f <= rate)
        assert roc.true_at_false(positive, negative, rate) == pytest.approx(best)
        least = min(f for f, t in points if t >= rate)
        assert roc.false_at_true(positive, negative, rate) == pytest.approx(least)


def test_roc_of_separated_and_of_equal_scores():
    assert roc.area(np.ones(3), np.zeros(4)) == 1 and roc.area(np.zeros(3), np.ones(4)) == 0
    assert roc.area(np.ones(3), np.ones(4)) == 0.5
    assert roc.true_at_false(np.ones(3), np.ones(4), 0.5) == 0
    assert roc.false_at_true(np.ones(3), np.zeros(4), 0.95) == 0


@pytest.mark.parametrize("k", [1, 3, 30])
def test_distances(k):
    rng = np.random.default_rng(1)
    rows, bank = rng.normal(size=(9, 4)), rng.normal(size=(20, 4))
    expected = []
    for row in rows:
        unit = row / np.linalg.norm(row)
        far = sorted(np.linalg.norm(unit - other / np.linalg.norm(other)) for other in bank)
        expected.append(far[min(k, 20) - 1])
    np.testing.assert_allclose(anomaly.distances(rows, bank, k), expected, rtol=1e-4)
    with pytest.raises(UserError, match="needs train examples of the known classes"):
        anomaly.distances(rows, bank[:0], k)


def test_unseen_digits_are_far_from_seen_ones():
    config = ROWS["simclr"].load(data__name="digits", data__classes="0-4")
    prober = Prober(config, parallel.make_mesh())

    def pixels(batch):
        return {"h": jnp.reshape(batch["image"], (len(batch["image"]), -1)) / 255}

    found = prober.evaluate(pixels, ["anomaly"])
    assert found["anomaly/known"] + found["anomaly/anomalies"] == 359
    assert 0.8 < found["anomaly/auroc"] < 1 and 0 < found["anomaly/fpr95"] < 0.8
    with config.unlocked():
        config.data.classes = None
    prober = Prober(config, parallel.make_mesh())
    with pytest.raises(UserError, match="set data.classes, e.g. 'train half', or eval.anomaly"):
        prober.evaluate(pixels, ["anomaly"])
    with config.unlocked():
        config.eval.anomaly.known = "0-4"
    assert Prober(config, parallel.make_mesh()).evaluate(pixels, ["anomaly"]) == found


def test_classes_are_asked_for_before_the_run():
    facts = Known(train=None, test=None, num_train=0)
    with pytest.raises(UserError, match="anomaly needs classes to call known"):
        anomaly.check(facts, known=None, k=1)
    anomaly.check(facts._replace(classes="train half"), known=None, k=1)
    anomaly.check(facts, known="0-4", k=1)
