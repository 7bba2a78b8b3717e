"""word2vec: counts, the limit of row gradients, exact and full losses in one step, bad input."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssl_jax.core.errors import UserError
from ssl_jax.core.length import Length
from ssl_jax.core.method import DataSpec, Vocabulary, Weights, loss_and_aux
from ssl_jax.core.named_methods import load
from ssl_jax.modalities.text import TEXT
from ssl_jax.views import words as words_lib
from tests.methods.table import ROWS

SPECIAL = (0, 1, 2, 3, 4)
VOCABULARY = Vocabulary(size=20, pad=0, unk=1, cls=2, sep=3, mask=4, special=SPECIAL)
LENGTH = Length(total_steps=10, steps_per_epoch=10, eval_every=10, checkpoint_every=10)


def make(length=16, **changes):
    config = ROWS["word2vec"].load(**{f"method__{key}": x for key, x in changes.items()})
    spec = TEXT.spec(length, VOCABULARY, 100, None, {})
    assert isinstance(spec, DataSpec)
    return load(config, spec, LENGTH)


def batch_of(seed=0, n=4, length=16):
    rng = np.random.default_rng(seed)
    tokens = rng.integers(1, 20, (n, length)).astype(np.int32)
    tokens[:, 0], tokens[:, -1] = 2, 3
    segment = np.ones((n, length), np.int32)
    segment[0, 10:] = 0
    return {"tokens": tokens, "segment": segment}


def refresh(method, batch):
    def encode_all(function, *, total):
        assert total
        return {"counts": function(None, None, batch)["counts"].sum(axis=0)}

    return method.refresh(None, encode_all, key=None, step=0)["words"]


def test_words_are_counted_without_special_tokens_and_padding():
    method, batch = make(sample=1e-2), batch_of()
    tables = refresh(method, batch)
    real = batch["tokens"][batch["segment"] > 0]
    counts = np.bincount(real, minlength=20)
    counts[list(SPECIAL)] = 0
    np.testing.assert_array_equal(tables["keep"], words_lib.keep_probability(counts, 1e-2))
    np.testing.assert_allclose(tables["noise"], counts**0.75 / (counts**0.75).sum(), rtol=1e-6)
    buffers = jax.eval_shape(method.init, jax.random.key(0), batch)[1]["words"]
    assert jax.tree.map(lambda x: (x.shape, x.dtype), tables) == jax.tree.map(
        lambda x: (x.shape, x.dtype), buffers
    )


def test_data_without_words_are_one_line():
    batch = batch_of()
    with pytest.raises(UserError, match=r"0 words that occur data.options.min_count times"):
        refresh(make(), batch | {"tokens": np.full_like(batch["tokens"], 1)})
    few = {name: x[:1, :4] for name, x in batch.items()} | {"tokens": np.array([[2, 7, 8, 3]])}
    with pytest.raises(UserError, match=r"2 words, which is no more than one window .*window=3"):
        refresh(make(), few)
    with pytest.raises(UserError, match=r"rows have 16 tokens, which is less than a window"):
        make(window=9)


@pytest.fixture(scope="module")
def outcomes():
    """Loss kind -> (loss, metrics, gradients) with the same tables, CBOW and all words kept."""
    batch, key = batch_of(), jax.random.key(3)
    out = {}
    for kind, limit in [
        ("softmax", 1e9), ("negative_sampling", 1e9), ("shared_negatives", 1e9),
        ("shared_negatives", 0.5),
    ]:  # fmt: skip
        method = make(architecture="cbow", loss=kind, sample=0.0, max_pairs=limit)
        params, _ = method.init(jax.random.key(0), batch)
        normal = np.random.default_rng(1).normal
        params = jax.tree.map(lambda x, f=normal: jnp.asarray(f(size=x.shape), x.dtype), params)
        buffers = {"words": refresh(method, batch)}

        def loss(params, method=method, buffers=buffers):
            w = Weights(params, buffers)
            views = method.views(jax.random.split(key, 4), batch, key=key, step=0)
            return loss_and_aux(method, w, views, key=key, step=0)

        (value, aux), grads = jax.jit(jax.value_and_grad(loss, has_aux=True))(params)
        out[kind, limit] = float(value), aux.metrics, grads
    return out


def test_no_gradient_is_longer_than_that_of_max_pairs_pairs(outcomes):
    """With the same draws, rows are scaled by min(1, max_pairs / m) and keep their directions."""
    free, limited = (outcomes["shared_negatives", limit] for limit in (1e9, 0.5))
    assert free[0] == limited[0]
    for name in ("encoder", "output"):
        x, y = (jax.tree.leaves(grads[name])[0] for grads in (free[2], limited[2]))
        x, y = np.asarray(x), np.asarray(y)
        seen = np.linalg.norm(x, axis=1) > 0
        assert seen.sum() > 5 and not seen[0]
        ratio = np.linalg.norm(y[seen], axis=1) / np.linalg.norm(x[seen], axis=1)
        cosine = np.sum(x[seen] * y[seen], axis=1)
        cosine /= np.linalg.norm(x[seen], axis=1) * np.linalg.norm(y[seen], axis=1)
        np.testing.assert_allclose(cosine, 1, atol=1e-5)
        assert np.all(ratio <= 0.5 + 1e-5)  # every word is in one pair at least


def test_all_losses_predict_the_same_words(outcomes):
    """The draws of words and windows do not depend on the loss."""
    metrics = [metrics for _, metrics, _ in outcomes.values()]
    for other in metrics[1:]:
        np.testing.assert_array_equal(other["kept_share"], metrics[0]["kept_share"])
        np.testing.assert_array_equal(other["pairs_per_word"], metrics[0]["pairs_per_word"])
    assert all(np.isfinite(value) for value, _, _ in outcomes.values())
    assert metrics[0]["left_out_share"] == 0


def test_features_are_means_of_the_vectors_of_words():
    method, batch = make(), batch_of()
    params, buffers = method.init(jax.random.key(0), batch)
    h = method.features(Weights(params, buffers), batch)["h"]
    table = np.asarray(method.token_vectors(params))
    for row in range(4):
        tokens = batch["tokens"][row][batch["segment"][row] > 0]
        np.testing.assert_allclose(h[row], table[tokens[tokens > 4]].mean(axis=0), atol=1e-7)
