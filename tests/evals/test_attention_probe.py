"""The attention probe against loops in NumPy float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssl_jax.evals import attention_probe
from ssl_jax.evals.attention_probe import Scaling
from ssl_jax.models import attentive_head
from ssl_jax.models.attentive_head import Probe

N, P, D, HEADS, CLASSES = 5, 7, 6, 2, 3
UNSCALED = Scaling(np.zeros(D, np.float32), np.ones(D, np.float32))


def random_probe(seed=0):
    rng = np.random.default_rng(seed)
    k = D // HEADS
    shapes = ((HEADS, k), (D, HEADS, k), (D, HEADS, k), (HEADS, k, CLASSES), (CLASSES,))
    return Probe(*(rng.normal(size=shape) for shape in shapes))


def batch(seed=1):
    rng = np.random.default_rng(seed)
    label = rng.integers(0, CLASSES, N).astype(np.int32)
    label[-1] = -1
    return rng.normal(size=(N, P, D)), label, np.array([1, 1, 1, 0, 0], np.float32)


def oracle_logits(probe, x):
    """Keys and values of every token, a softmax for every head."""
    out = []
    for tokens in x:
        pooled = []
        for head in range(HEADS):
            keys, values = tokens @ probe.key[:, head], tokens @ probe.value[:, head]
            scores = keys @ probe.query[head] / np.sqrt(D // HEADS)
            weights = np.exp(scores - scores.max())
            pooled.append(weights / weights.sum() @ values)
        kernel = probe.kernel.reshape(D, CLASSES)
        out.append(np.concatenate(pooled) @ kernel + probe.bias)
    return np.array(out)


def oracle_loss(probe, x, label, weight):
    logits = oracle_logits(probe, x)
    log_z = np.log(np.exp(logits).sum(axis=1))
    losses = log_z - logits[np.arange(len(x)), np.maximum(label, 0)]
    return (weight * losses).sum() / weight.sum()


def single(tree):
    return jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), tree)


@pytest.fixture(scope="module")
def gradient():
    """Gradients of the oracle's loss by central differences, float64."""
    probe, (x, label, weight) = random_probe(), batch()

    def slopes(name):
        array, out = getattr(probe, name), np.zeros_like(getattr(probe, name))
        for index in np.ndindex(array.shape):
            step = np.zeros_like(array)
            step[index] = 1e-5
            sides = (probe._replace(**{name: array + sign * step}) for sign in (1, -1))
            above, below = (oracle_loss(side, x, label, weight) for side in sides)
            out[index] = (above - below) / 2e-5
        return out

    return Probe(*map(slopes, Probe._fields))


def test_logits_match_the_oracle():
    probe, (x, _, _) = random_probe(), batch()
    got = jax.jit(attentive_head.logits)(single(probe), single(x))
    np.testing.assert_allclose(got, oracle_logits(probe, x), rtol=1e-4, atol=1e-4)


def test_two_steps_of_adamw_match_numpy(gradient):
    """The first step needs the gradient only; two probes in one call do not mix."""
    probe, (x, label, weight) = random_probe(), batch()
    rates, decays = np.float32([0.1, 0.01]), np.float32([0.0, 0.5])
    fit = attention_probe.start(single(probe), 2)
    fit = attention_probe.train_step(fit, np.float32(x), label, weight, UNSCALED, rates, decays)
    for name, before, slope, after in zip(Probe._fields, probe, gradient, fit.probe, strict=True):
        for i, (rate, decay) in enumerate(zip(rates, decays, strict=True)):
            decayed = 0.0 if name == "bias" else decay * before
            # At the first step Adam's moments are the gradient and its square.
            expected = before - rate * (slope / (np.abs(slope) + 1e-8) + decayed)
            clear = np.abs(slope) > 1e-4  # the sign of a smaller one is a matter of rounding
            assert clear.mean() > 0.5
            np.testing.assert_allclose(
                np.asarray(after[i])[clear], expected[clear], atol=1e-3, err_msg=name
            )


def test_scores_match_numpy_on_standardised_tokens():
    probe, (x, label, weight) = random_probe(), batch()
    weight = (label >= 0).astype(np.float32)
    mean, deviation = x.mean(axis=(0, 1)), x.std(axis=(0, 1))
    scaling = Scaling(np.float32(mean), np.float32(deviation))
    probes = jax.tree.map(lambda a: jnp.stack([a, -a]), single(probe))
    got = attention_probe.score(probes, np.float32(x), label, weight, scaling)
    for i, one in enumerate((probe, Probe(*(-array for array in probe)))):
        logits = oracle_logits(one, (x - mean) / deviation)
        hits = (logits.argmax(axis=1) == label)[weight > 0]
        loss = oracle_loss(one, (x - mean) / deviation, label, weight) * weight.sum()
        assert got.top1[i] == hits.sum() and got.top5[i] == got.weight == weight.sum()
        np.testing.assert_allclose(got.cross_entropy[i], loss, rtol=1e-4)


def test_what_keys_and_values_cannot_change():
    """A constant added to all keys, and the order of the tokens, change nothing."""
    probe, (x, _, _) = random_probe(), batch()
    logits = jax.jit(attentive_head.logits)
    expected = logits(single(probe), single(x))
    permuted = logits(single(probe), single(x[:, ::-1]))
    np.testing.assert_allclose(permuted, expected, rtol=1e-4, atol=1e-5)
    # Equal tokens: attention cannot matter, so the probe is linear in the token.
    equal = np.repeat(x[:, :1], P, axis=1)
    values = np.einsum("nd,dek->nek", x[:, 0], probe.value).reshape(N, D)
    linear = values @ probe.kernel.reshape(D, CLASSES) + probe.bias
    np.testing.assert_allclose(logits(single(probe), single(equal)), linear, rtol=1e-4, atol=1e-4)


def test_the_first_probe_has_logits_of_zero_and_heads_that_divide():
    probe = attentive_head.init(jax.random.key(0), D, CLASSES, HEADS)
    assert not np.any(attentive_head.logits(probe, jnp.ones((1, P, D))))
    cases = ((64, 64, 1), (768, 64, 12), (160, 64, 2), (200, 64, 2), (16, 64, 1), (192, 50, 3))
    for dim, head_dim, heads in cases:
        assert attentive_head.num_heads(dim, head_dim) == heads
