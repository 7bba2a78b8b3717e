"""What the report page shows of a trained model: its own items, a map, neighbours, words."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from ssl_jax import data, parallel
from ssl_jax.core.errors import UserError
from ssl_jax.core.items import Item
from ssl_jax.core.method import Weights
from ssl_jax.data.text.tokenizer import Tokenizer
from ssl_jax.experiment.build import Experiment, question_keys
from ssl_jax.run.probing import Prober

_MAP_POINTS = 1500  # of the embedding map and the neighbour gallery
_SHOWN_EXAMPLES = 6  # of which the method shows something


def shown_items(
    experiment: Experiment, prober: Prober, w: Weights, source: data.Source
) -> dict[str, Item]:
    """What the method shows of a few examples, as NumPy arrays: see `Method.show`.

    They are of the test split, where it has the arrays that the method is trained on, else of the
    training data. What is hidden of an example is the same as in the evaluation.

    Args:
      experiment: what ran.
      prober: of the splits.
      w: the weights.
      source: the training data.
    """
    examples = _examples(prober, source)
    rows = np.linspace(0, len(examples) - 1, min(_SHOWN_EXAMPLES, len(examples))).astype(int)
    batch = examples.batch(rows)
    items = jax.jit(experiment.method.show)(w, question_keys(batch["index"]), batch)
    return parallel.gather(items)


def _examples(prober: Prober, source: data.Source) -> data.Source:
    try:
        test = prober.test
    except UserError:  # there is no such split, and nothing is scored
        return source
    return test if test.spec.arrays == source.spec.arrays else source


def words(prober: Prober) -> dict[str, Any]:
    """Of text, every token as people read it, and how often each occurs."""
    pieces = _pieces(Tokenizer.from_json(prober.test.tokenizer_json()))
    return {"pieces": pieces, "token_counts": prober.token_counts}


def _pieces(tokenizer: Any) -> list[str]:
    """Every token as text; those that begin a word, with a blank before it."""
    size = tokenizer.vocabulary.size
    try:
        starts = tokenizer.word_starts()
    except UserError:  # it does not mark them
        starts = np.ones(size, bool)
    pieces = []
    for token in range(size):
        name = tokenizer.backend.id_to_token(token) or ""
        if token not in tokenizer.vocabulary.special:
            # One token alone; what marks that it continues a word is no part of the text.
            name = tokenizer.decode([token]).strip().removeprefix("##") or name
        pieces.append(f" {name}" if starts[token] else name)
    return pieces


def embedding(prober: Prober, encode: Any) -> dict[str, Any]:
    """Images with their features, for the map and the neighbours.

    They are of the test split; of the training split where there are no labels to hold out for.
    """
    section = prober.config.eval
    source = prober.test if prober.labelled else prober.train
    split = section.test_split if prober.labelled else section.train_split
    chosen = np.arange(len(source))
    if len(source) > _MAP_POINTS:
        rng = np.random.default_rng(prober.config.seed)
        chosen = np.sort(rng.choice(len(source), _MAP_POINTS, replace=False))
    features = prober.features(lambda batch: {"h": encode(batch)["h"]}, source, chosen)
    return dict(
        pixels=source.batch(features["index"])["image"],
        embedding=features["h"],
        labels=features["label"] if prober.labelled else None,
        class_names=source.class_names or (),
        split=f"{len(chosen)} images of {prober.dataset}[{split}]",
    )
