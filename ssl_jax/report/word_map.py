"""A map of words: t-SNE of their vectors, with a label for each that has room."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from ssl_jax.report import maps, texts
from ssl_jax.report.plain_text import short

WIDTH, HEIGHT = 1000, 680  # of the drawing, in its own units
_WORDS = 400  # frequent words that take part
_FEWEST = 10  # words that make a map
_LETTER, _LINE = 6.6, 13  # size of a label's letter
_MARGIN = 40
_MAX_WORD = 16  # letters


@dataclasses.dataclass(frozen=True)
class Label:
    """A word at its place; x is its middle, y its baseline."""

    word: str
    x: float
    y: float


@dataclasses.dataclass(frozen=True)
class Map:
    """The labels of a map, and how many words took part."""

    width: int
    height: int
    labels: tuple[Label, ...]
    num_words: int


def draw(
    vectors: np.ndarray, counts: np.ndarray, pieces: Sequence[str], *, seed: int = 0
) -> Map | None:
    """The map of frequent words; None for a few words.

    The most frequent words, such as articles, are left out. Where labels would overlap, that of the
    more frequent word is shown.

    Args:
      vectors: float [v d], of the tokens.
      counts: int [v], how often each token occurs.
      pieces: every token as text, with a blank before those that begin a word.
      seed: of t-SNE.
    """
    words, unit = texts.frequent_words(vectors, counts, pieces)
    first = texts.first_content_word(len(words))
    words, unit = words[first : first + _WORDS], unit[first : first + _WORDS]
    if len(words) < _FEWEST:
        return None
    places = maps.project(unit, seed=seed)
    low, high = places.min(axis=0), places.max(axis=0)
    room = np.array([WIDTH, HEIGHT]) - 2 * _MARGIN
    places = _MARGIN + (places - low) / np.maximum(high - low, 1e-12) * room
    names = [short(pieces[word].strip(), _MAX_WORD) for word in words]
    labels = [
        Label(names[i], round(float(places[i, 0]), 1), round(float(places[i, 1]), 1))
        for i in _without_overlap(places, np.array([len(name) for name in names]))
    ]
    return Map(WIDTH, HEIGHT, tuple(labels), len(words))


def _without_overlap(places: np.ndarray, letters: np.ndarray) -> list[int]:
    """Labels in the order given, [n 2] and [n], without those that cover an earlier one."""
    half = letters * _LETTER / 2
    kept: list[int] = []
    for i in range(len(places)):
        apart = np.abs(places[kept] - places[i])  # (k, 2)
        covered = (apart[:, 0] < half[kept] + half[i]) & (apart[:, 1] < _LINE)
        if not covered.any():
            kept.append(i)
    return kept
