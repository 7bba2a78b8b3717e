"""Texts packed into shared rows have the losses they have in rows of their own, token by token."""

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from ssl_jax import data
from ssl_jax.experiment.build import Experiment
from ssl_jax.losses import token_cross_entropy
from tests.methods import table
from tests.methods.rows import short_text

SENTENCES = [
    "One row holds many.",
    "This is another text.",
    "Short.",
    "And a third one of some words.",
]


@pytest.fixture
def corpus(tmp_path):
    """Documents of different lengths, none longer than a row."""
    path = tmp_path / "texts.txt"
    texts = [" ".join(SENTENCES[i % 4] for i in range(n % 2 + 1)) for n in range(40)]
    texts = [f"{text} {SENTENCES[n % 4]}" for n, text in enumerate(texts)]
    path.write_text("\n\n".join(texts) + "\n")
    return f"text:{path}"


def token_losses(experiment, params, source, *, apart=True):
    """Tokens of a text -> its losses, of each text with these tokens; nothing is hidden.

    Args:
      apart: False: the texts of a row see each other.
    """
    method = experiment.method

    @jax.jit
    def of_batch(text):
        _, out = method._encode(params, text, train=False)
        vectors, bias = method._vectors(params, out["tokens"], None)
        return token_cross_entropy(vectors, method.token_vectors(params), bias, text["tokens"])[0]

    batch = source.batch(np.arange(len(source)))
    segment = batch["segment"] if apart else np.minimum(batch["segment"], 1)
    text = {name: batch[name] for name in ("tokens", "position")}
    losses = of_batch({**text, "segment": segment, "type": np.zeros_like(segment)})
    found = {}
    for row, segments in enumerate(batch["segment"]):
        for number in range(1, segments.max() + 1):
            place = segments == number
            found.setdefault(tuple(batch["tokens"][row, place]), []).append(losses[row, place])
    return found


def furthest(packed, padded):
    """The largest difference between a token's losses."""
    assert packed.keys() == padded.keys()
    differences = [
        np.abs(np.asarray(losses) - of_text[0]).max()
        for tokens, of_text in padded.items()
        for losses in (*packed[tokens], *of_text)
    ]
    assert all(len(packed[tokens]) == len(of_text) for tokens, of_text in padded.items())
    return max(differences)


@pytest.mark.slow
def test_packing_changes_no_loss(corpus, tmp_path):
    options = dict(short_text.TEXT_OPTIONS, cache_dir=str(tmp_path / "cache"), vocab_size=120)
    packed, padded = (data.load(corpus, rows=kind, **options) for kind in ("packed", "padded"))
    config = table.ROWS["bert"].load(
        data__name=corpus, data__options=ConfigDict(dict(options, rows="packed")),
        method__next_sentence=False, method__num_masks=0, model__depth=2,
    )  # fmt: skip
    experiment = Experiment.build(config, packed.spec)
    params = jax.tree.map(lambda p: 3 * p, experiment.init_state().params)
    assert len(packed) < len(padded)
    alone = token_losses(experiment, params, padded)
    assert furthest(token_losses(experiment, params, packed), alone) < 1e-5
    # And it is the segments that keep texts apart.
    assert furthest(token_losses(experiment, params, packed, apart=False), alone) > 1e-3
