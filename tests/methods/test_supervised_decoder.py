"""Fine-tuning a decoder as GPT-1: the texts, the loss against loops in float64, and mistakes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssl_jax.core.errors import UserError
from ssl_jax.methods.base.one_text import with_extract_token
from tests.methods.test_methods import build


def test_the_last_token_of_a_text_is_the_extract_token():
    tokens = jnp.array([[2, 7, 8, 3, 0, 0], [2, 7, 3, 3, 9, 3]])
    text = {"tokens": tokens, "segment": (tokens > 0).astype(jnp.int32)}
    got = with_extract_token(text, 4)
    assert got["tokens"].tolist() == [[2, 7, 8, 4, 0, 0], [2, 7, 3, 3, 9, 4]]
    assert got["segment"] is text["segment"]


def log_softmax(x):
    x = x - x.max(axis=-1, keepdims=True)
    return x - np.log(np.exp(x).sum(axis=-1, keepdims=True))


@pytest.mark.slow
def test_the_loss_is_that_of_classes_and_half_that_of_next_tokens():
    options = {"model__dropout": 0.0, "model__attention_dropout": 0.0, "method__head_dropout": 0.0}
    experiment, source = build("supervised-gpt", **options)
    method, w = experiment.method, experiment.init_state().weights
    # Confident weights, so that no two losses are equal.
    w = w._replace(params=jax.tree.map(lambda x: 4 * x, w.params))
    batch = {name: jnp.asarray(x) for name, x in source.batch(np.arange(6)).items()}
    batch["label"] = batch["label"].at[2].set(-1)
    key, step = jax.random.key(0), jnp.zeros((), jnp.int32)
    views = method.views(jax.random.split(key, 6), batch, key=key, step=step)

    @jax.jit
    def loss_of(w):
        encoded, _ = method.encode(w, views, key=key, step=step)
        return method.objective(w, encoded, key=key, step=step)

    loss, aux = loss_of(w)
    text = jax.tree.map(np.asarray, views["x"])
    mask = experiment.spec.vocabulary.mask
    (_, out), _ = method.classifier.encoder.apply(w.params["encoder"], {}, text, train=False)
    vectors = np.asarray(out["tokens"], np.float64)
    table = np.asarray(w.params["encoder"]["embed"]["token"]["embedding"], np.float64)
    head = jax.tree.map(lambda x: np.asarray(x, np.float64), w.params["head"]["out"])
    of_classes, of_tokens = [], []
    for row in range(6):
        count = int((text["segment"][row] > 0).sum())
        assert text["tokens"][row, count - 1] == mask
        label = int(batch["label"][row])
        if label < 0:
            continue
        logits = vectors[row, count - 1] @ head["kernel"] + head["bias"]
        of_classes.append(-log_softmax(logits)[label])
        log_p = log_softmax(vectors[row] @ table.T)
        of_tokens.append(np.mean([-log_p[i, text["tokens"][row, i + 1]] for i in range(count - 1)]))
    assert len(of_classes) == 5
    expected = np.mean(of_classes) + 0.5 * np.mean(of_tokens)
    assert float(loss) == pytest.approx(expected, rel=2e-5)
    assert float(aux.metrics["lm_loss"]) == pytest.approx(np.mean(of_tokens), rel=2e-5)
    assert set(method.features(w, batch)) >= {"h", "logits"}


@pytest.mark.parametrize(
    ("row", "options", "message"),
    [
        ("supervised-gpt", {"model__pool": "mean"}, "model.pool is 'mean', and a decoder is fine-"),
        ("supervised-gpt", {"method__freeze_encoder": True}, "which method.freeze_encoder=True fr"),
        ("supervised-text", {"method__lm_weight": 0.5}, "bert_tiny does not predict the next tok"),
    ],
)
def test_bad_options_are_said_in_one_line(row, options, message):
    with pytest.raises(UserError, match=message) as told:
        build(row, **options)
    assert "\n" not in str(told.value)
