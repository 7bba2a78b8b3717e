"""Scores of what is hidden, against sums by hand."""

import numpy as np
import pytest

from ssl_jax.evals import held_out


def test_scores_divide_once_over_all_examples():
    rows = {
        "count": np.array([4.0, 1.0]),
        "loss": np.array([4 * np.log(3.0), np.log(7.0)]),
        "hits": np.array([2.0, 0.0]),
        "next_count": np.array([1.0, 1.0]),
        "next_loss": np.array([0.5, 1.5]),
        "next_hits": np.array([1.0, 0.0]),
        "targets": np.zeros((2, 4), int),
    }
    found = held_out.scores(rows)
    assert found["accuracy"] == pytest.approx(2 / 5)
    assert found["loss"] == pytest.approx((4 * np.log(3) + np.log(7)) / 5)
    assert found["perplexity"] == pytest.approx(3 ** (4 / 5) * 7 ** (1 / 5))
    assert found["next_accuracy"] == 0.5 and found["next_loss"] == 1.0
    assert "targets" not in found


def test_nothing_asked_is_left_out_and_a_huge_loss_stays_finite():
    assert held_out.scores({"count": np.zeros(3), "loss": np.zeros(3)}) == {}
    found = held_out.scores({"count": np.ones(1), "loss": np.array([1e5])})
    assert np.isfinite(found["perplexity"])


def test_unigram_is_the_add_one_frequency_of_the_hidden_tokens():
    counts = np.array([0, 7, 2, 0])
    rows = {
        "targets": np.array([[1, 2], [3, 0]]),
        "weights": np.array([[1.0, 1.0], [1.0, 0.0]]),  # the last place is none
    }
    found = held_out.unigram(rows, counts)
    p = (counts + 1) / (counts + 1).sum()
    expected = -np.log(p[[1, 2, 3]]).mean()
    assert found["loss"] == pytest.approx(expected)
    assert found["accuracy"] == pytest.approx(1 / 3)
    # Of questions drawn from the very frequencies, the loss is their entropy.
    many = np.repeat(np.arange(4), counts + 1)[None]
    found = held_out.unigram({"targets": many, "weights": np.ones(many.shape)}, counts)
    assert found["loss"] == pytest.approx(-(p * np.log(p)).sum())


def test_other_declared_metrics_are_sums_over_the_count():
    rows = {
        "count": np.array([1.0, 3.0]),
        "elbo": np.array([-8.0, -12.0]),
        "kl": np.array([2.0, 6.0]),
        "unknown": np.array([1.0, 1.0]),
    }
    assert held_out.scores(rows) == {"elbo": -5.0, "kl": 2.0}
