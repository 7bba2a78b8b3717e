"""Boosted trees on features."""

import numpy as np
import pytest

from ssl_jax import data, evals
from ssl_jax.core.errors import UserError
from ssl_jax.evals import boosted_trees
from ssl_jax.evals.known import Known


def split(seed, n=400):
    rng = np.random.default_rng(seed)
    h = rng.uniform(-1, 1, (n, 2)).astype(np.float32)
    return {"h": h, "label": (h[:, 0] * h[:, 1] > 0).astype(np.int32)}


def test_it_finds_what_a_linear_probe_cannot():
    got = evals.evaluate(["boosted_trees", "linear"], split(0), split(1), num_classes=2)
    assert got["boosted_trees/top1"] > 0.9 and got["linear/top1"] < 0.7


def test_few_rows_and_one_class():
    few = {"h": np.arange(6.0)[:, None], "label": np.array([0, 0, 1, 1, 2, 2])}
    got = boosted_trees.evaluate(few, few)["top1"]
    assert 0 <= got <= 1
    one = {**few, "label": np.zeros(6, int)}
    with pytest.raises(UserError, match="train examples of two classes"):
        boosted_trees.evaluate(one, few)
    with pytest.raises(UserError, match="train examples of two classes"):
        boosted_trees.check(Known(None, None, 6, train_counts=np.array([6, 0])))


def test_on_the_wine_of_scikit_learn():
    train, test = data.load("table:wine"), data.load("table:wine", "test")
    rows = [{"h": part.rows, "label": part.labels} for part in (train, test)]
    assert boosted_trees.evaluate(*rows)["top1"] > 0.9
