"""What a report shows of a trained run: images and their neighbours, or text and guessed words."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import numpy as np

from ssl_jax import data, parallel, report
from ssl_jax.core.errors import UserError
from ssl_jax.data.text.tokenizer import Tokenizer
from ssl_jax.experiment.build import Experiment, question_keys
from ssl_jax.experiment.train_step import TrainState
from ssl_jax.run.probing import Prober
from ssl_jax.views import main_images

_MAP_POINTS = 1500  # of the embedding map and the neighbour gallery
_SHOWN_VIEWS = 8  # training images whose views the report shows
_PASSAGES = 6  # held-out texts with hidden words that the report shows
_PASSAGE_TOKENS = 72  # of each
_GUESSES = 4  # of each hidden token
_SHOWN_WORDS = 24  # whose neighbours the report shows
_NEIGHBOURS = 8


def words(experiment: Experiment, prober: Prober, state: TrainState) -> dict[str, Any]:
    """What the report shows of a language model: its guesses, and the neighbours of words."""
    source, method = prober.test, experiment.method
    pieces = _pieces(Tokenizer.from_json(source.tokenizer_json()))
    batch = source.batch(np.linspace(0, len(source) - 1, min(_PASSAGES, len(source))).astype(int))
    ask = jax.jit(functools.partial(method.guesses, count=_GUESSES))
    found = ask(state.weights, question_keys(batch["index"]), batch)
    passages = []
    if found is not None:
        found = parallel.gather(found)
        for row, tokens in enumerate(batch["tokens"]):
            real = min(int((batch["segment"][row] > 0).sum()), _PASSAGE_TOKENS)
            hidden = [
                report.HiddenToken(
                    int(place),
                    pieces[tokens[place]].strip(),
                    [
                        (pieces[guess].strip(), float(share))
                        for guess, share in zip(guesses, shares, strict=True)
                    ],
                )
                for place, weight, guesses, shares in zip(
                    *(found[key][row] for key in ("positions", "weights", "guesses", "shares")),
                    strict=True,
                )
                if weight > 0 and place < real
            ]
            passages.append(report.Passage([pieces[token] for token in tokens[:real]], hidden))
    neighbours = {}
    vectors = method.token_vectors(state.params)
    if vectors is not None:
        neighbours = _word_neighbours(parallel.gather(vectors), prober.token_counts, pieces)
    return {"passages": passages, "word_neighbours": neighbours}


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


def _word_neighbours(
    vectors: np.ndarray, counts: np.ndarray, pieces: list[str]
) -> dict[str, list[tuple[str, float]]]:
    """Frequent words that are not among the most frequent, each with its nearest words."""
    words = [i for i in np.argsort(-counts, kind="stable") if counts[i] and _is_word(pieces[i])]
    unit = vectors[words]
    unit = unit / np.maximum(np.linalg.norm(unit, axis=1, keepdims=True), 1e-12)
    found = {}
    # The first hundred are articles, pronouns and the like.
    for number in range(min(100, len(words) // 4), len(words), 10)[:_SHOWN_WORDS]:
        cosine = unit @ unit[number]
        cosine[number] = -np.inf
        nearest = np.argsort(-cosine, kind="stable")[:_NEIGHBOURS]
        found[pieces[words[number]].strip()] = [
            (pieces[words[i]].strip(), float(cosine[i])) for i in nearest
        ]
    return found


def _is_word(piece: str) -> bool:
    return piece.startswith(" ") and len(piece) > 3 and piece[1:].isalpha()


def pictures(
    experiment: Experiment, prober: Prober, apply: Any, state: TrainState, source: data.Source
) -> dict[str, Any]:
    """What the report shows of images: a map, neighbours and views."""
    gallery = _gallery(prober, lambda batch: apply(state.weights, batch))
    shown = _example_views(experiment, source)
    return dict(
        pixels=gallery.pixels,
        embedding=gallery.h,
        labels=gallery.labels,
        class_names=gallery.class_names,
        split=gallery.split,
        originals=shown[0] if shown else None,
        views=shown[1] if shown else None,
    )


def _example_views(
    experiment: Experiment, source: data.Source
) -> tuple[np.ndarray, np.ndarray] | None:
    """Training images and the views made of them: [m h w c] and [m v h w c]."""
    batch = source.batch(np.arange(min(_SHOWN_VIEWS, len(source))))
    keys = jax.random.split(jax.random.key(experiment.config.seed), len(batch["index"]))
    views = jax.jit(experiment.method.example_views)(keys, batch)
    if views is None:
        return None
    original = batch["image"] if "image" in batch else main_images(batch)[:, 0]
    return original, np.asarray(views, np.float32)


@dataclasses.dataclass(frozen=True)
class _Gallery:
    """Images and their features, for the map and the neighbours."""

    pixels: np.ndarray  # uint8 (n, h, w, c)
    h: np.ndarray  # (n, d)
    labels: np.ndarray | None  # (n,)
    class_names: tuple[str, ...]
    split: str


def _gallery(prober: Prober, encode: Any) -> _Gallery:
    """Of the held-out split; of the training split where there are no labels to hold out for."""
    section = prober.config.eval
    source = prober.test if prober.labelled else prober.train
    split = section.test_split if prober.labelled else section.train_split
    chosen = np.arange(len(source))
    if len(source) > _MAP_POINTS:
        rng = np.random.default_rng(prober.config.seed)
        chosen = np.sort(rng.choice(len(source), _MAP_POINTS, replace=False))
    features = prober.features(encode, source, chosen)
    return _Gallery(
        pixels=source.batch(features["index"])["image"],
        h=features["h"],
        labels=features["label"] if prober.labelled else None,
        class_names=source.class_names or (),
        split=f"{len(chosen)} images of {prober.dataset}[{split}]",
    )
