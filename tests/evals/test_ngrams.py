"""N-gram models against dictionaries, and the baselines of next tokens."""

import collections
import types

import numpy as np
import pytest

from ssl_jax.evals import held_out
from ssl_jax.evals.ngrams import DISCOUNT, NgramModel

V = 5


def rows(n, length, seed):
    """Inputs and next tokens of a chain that likes to count; the last row is padded."""
    rng = np.random.default_rng(seed)
    tokens = np.cumsum(rng.choice([1, 1, 1, 2, 4], (n, length + 1)), axis=1) % V
    previous, targets = tokens[:, :-1].copy(), tokens[:, 1:].copy()
    previous[-1, length // 2 :], targets[-1, length // 2 :] = 0, -1
    return previous, targets


def oracle(train, order):
    """A function (context, token) -> p, with contexts as tuples."""
    grams = [collections.Counter() for _ in range(order)]
    for previous, targets in zip(*(x.tolist() for x in train), strict=True):
        for place, target in enumerate(targets):
            for length in range(order if target >= 0 else 0):
                if place + 1 >= length:
                    context = tuple(previous[place + 1 - length : place + 1])
                    grams[length][(*context, target)] += 1
    counts = {order - 1: grams[-1]}
    for length in range(order - 1):
        counts[length] = collections.Counter(gram[1:] for gram in grams[length + 1])

    def p(context, token):
        length = len(context)
        lower = 1 / V if not length else p(context[1:], token)
        own = {gram[-1]: c for gram, c in counts[length].items() if gram[:-1] == context}
        if not own:
            return lower
        kept = max(own.get(token, 0) - DISCOUNT, 0)
        return (kept + DISCOUNT * len(own) * lower) / sum(own.values())

    return p


@pytest.mark.parametrize("order", [1, 2, 4])
def test_probabilities_are_those_of_the_definition(order):
    train, test = rows(12, 9, 0), rows(4, 9, 1)
    model = NgramModel.fit(*train, order=order, vocab_size=V)
    p = oracle(train, order)
    got = model.log_probabilities(*test)
    for row, place in np.argwhere(test[1] >= 0):
        context = tuple(test[0][row, max(0, place + 2 - order) : place + 1].tolist())
        context = context if order > 1 else ()
        expected = p(context, test[1][row, place])
        np.testing.assert_allclose(np.exp(got[row, place]), expected, rtol=1e-12)
    # Of any context, those of all tokens sum to 1.
    every = [model.log_probabilities(test[0], np.full_like(test[1], token)) for token in range(V)]
    np.testing.assert_allclose(np.exp(every).sum(axis=0), 1, rtol=1e-12)


def test_a_longer_context_predicts_a_chain_better():
    train, test = rows(200, 30, 0), rows(40, 30, 1)
    losses = [
        -NgramModel.fit(*train, order=order, vocab_size=V).log_probabilities(*test)[test[1] >= 0]
        for order in (1, 2)
    ]
    steps = np.array([0.6, 0.2, 0.2])  # by 1, 2 and 4
    entropy = -(steps * np.log(steps)).sum()
    np.testing.assert_allclose(losses[0].mean(), np.log(V), rtol=0.02)
    np.testing.assert_allclose(losses[1].mean(), entropy, rtol=0.03)


class Source:
    """Rows in memory; token t has t bytes."""

    spec = types.SimpleNamespace(vocabulary=types.SimpleNamespace(size=V))

    def __init__(self, previous, targets):
        self.arrays = {"tokens": previous, "next_token": targets}

    def __len__(self):
        return len(self.arrays["tokens"])

    def batch(self, indices):
        return {name: x[indices] for name, x in self.arrays.items()}

    def token_sizes(self):
        return np.arange(V)


def test_baselines_of_next_tokens():
    train, (previous, targets) = rows(50, 12, 0), rows(8, 12, 1)
    weights = (targets >= 0).astype(np.float32)
    scored = {
        "count": weights.sum(axis=1), "loss": 2 * weights.sum(axis=1),
        "targets": np.maximum(targets, 0), "weights": weights, "previous": previous,
    }  # fmt: skip
    prober = types.SimpleNamespace(
        train=Source(*train), test=Source(previous, targets), evenly=lambda source, limit: None
    )
    num_bytes = targets[targets >= 0].sum()
    own = held_out.bits_per_byte(scored, prober.test)
    np.testing.assert_allclose(
        own["bits_per_byte"], 2 * weights.sum() / np.log(2) / num_bytes, rtol=1e-6
    )
    model = types.SimpleNamespace(kept={held_out.__name__: scored})
    found = held_out.baselines(model, prober, None)
    assert list(found) == ["unigram", "bigram", "5-gram"]
    expected = NgramModel.fit(*train, order=2, vocab_size=V).log_probabilities(previous, targets)
    total = -(weights * expected).sum()
    np.testing.assert_allclose(found["bigram"]["loss"], total / weights.sum(), rtol=1e-6)
    np.testing.assert_allclose(
        found["bigram"]["bits_per_byte"], total / np.log(2) / num_bytes, rtol=1e-6
    )
    assert held_out.bits_per_byte({"count": np.ones(1)}, None) == {}
