"""Classifiers of patches against loops and scikit-learn."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from ssl_jax.evals.dense import correspondence, linear
from ssl_jax.evals.dense.neighbours import Bank


def test_neighbours_vote_with_the_shares_of_their_classes():
    rng = np.random.default_rng(0)
    x, queries = rng.normal(size=(3, 4, 5)), rng.normal(size=(2, 4, 5))
    counts = rng.integers(0, 4, (3, 4, 3))
    counts[1, 2] = 0  # no pixel of this one counts: it is not in the bank
    bank = Bank.of(x.astype(np.float32), counts, limit=100, seed=0)
    assert len(bank.x) == 11
    got = bank.scores(queries.astype(np.float32), (2, 5), temperature=0.3)
    keys = [(x[i, p], counts[i, p]) for i in range(3) for p in range(4) if counts[i, p].sum()]
    for i in range(2):
        for p in range(4):
            q = queries[i, p]
            rated = sorted(
                ((q @ k / np.linalg.norm(q) / np.linalg.norm(k), c) for k, c in keys),
                key=lambda pair: -pair[0],
            )
            for k in (2, 5):
                weights = [np.exp(s / 0.3) for s, _ in rated[:k]]
                votes = sum(w * c / c.sum() for w, (_, c) in zip(weights, rated, strict=False))
                np.testing.assert_allclose(got[k][i, p], votes / sum(weights), rtol=1e-4)


def test_the_bank_is_limited_at_random():
    x = np.random.default_rng(0).normal(size=(4, 5, 2)).astype(np.float32)
    counts = np.ones((4, 5, 2), int)
    banks = [Bank.of(x, counts, limit=6, seed=seed).x for seed in (0, 0, 1)]
    assert len(banks[0]) == 6
    np.testing.assert_array_equal(banks[0], banks[1])
    assert not np.array_equal(banks[0], banks[2])


@pytest.fixture(scope="module")
def fitted():
    rng = np.random.default_rng(1)
    x = rng.normal(size=(40, 6, 3)).astype(np.float32) * np.array([1, 50, 0.01], np.float32) + 7
    scores = ((x - 7) / [1, 50, 0.01]) @ rng.normal(size=(3, 3)) + rng.gumbel(size=(40, 6, 3))
    counts = np.eye(3, dtype=int)[scores.argmax(-1)] * rng.integers(1, 5, (40, 6, 1))
    heads = linear.fit(x, counts, rates=(1e-4, 0.05), decay=0.0, steps=300, batch_size=40, seed=0)
    return x, counts, heads


def test_the_linear_classifier_finds_the_optimum_of_all_pixels(fitted):
    x, counts, heads = fitted
    flat, totals = (x.reshape(-1, 3) - heads.mean) / heads.std, counts.reshape(-1, 3)
    labels, weights = totals.argmax(1), totals.sum(1)
    exact = LogisticRegression(C=1e6, max_iter=1000).fit(flat, labels, sample_weight=weights)

    def loss(scores):
        return -(scores.reshape(-1, 3) * totals).sum() / totals.sum()

    got = heads.scores(x)
    assert got.shape == (2, 40, 6, 3)
    assert loss(got[1]) == pytest.approx(loss(exact.predict_log_proba(flat)), abs=1e-3)
    assert loss(got[0]) > loss(got[1]) + 0.05  # the small rate has hardly begun


def test_a_classifier_is_the_same_beside_others(fitted):
    x, counts, heads = fitted
    alone = linear.fit(x, counts, rates=(0.05,), decay=0.0, steps=300, batch_size=40, seed=0)
    np.testing.assert_allclose(alone.scores(x)[0], heads.scores(x)[1], atol=1e-5)


def test_the_nearest_patch_is_found_and_boxed():
    x = np.zeros((2, 9, 9), np.float32)
    x[:] = np.eye(9)
    x[1] = x[1][::-1]
    nearest = correspondence.nearest_patches(x, np.array([4, 1]))
    np.testing.assert_array_equal(nearest, [[4, 4], [7, 1]])
    image = np.full((96, 96, 1), 100, np.uint8)
    out = correspondence.boxed(image, 5, (3, 3))
    assert (out[40:56, 70:90] == 100).all() and (out[:32] == 100).all() and (out[64:] == 100).all()
    assert out[32, 70, 0] == 0 and out[33, 70, 0] == 255 and out[48, 64, 0] == 0
    assert correspondence.enlarged(np.zeros((2, 8, 8, 3))).shape == (2, 96, 96, 3)
