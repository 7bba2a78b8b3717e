"""Prepares hidden words with a language model's guesses, and the nearest neighbours of words."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from ssl_jax.core import items
from ssl_jax.report.plain_text import short

_MAX_WORD = 24  # characters shown of a token
_MAX_TOKENS = 72  # shown of a passage
_WORDS, _NEIGHBOURS = 24, 8  # frequent words, and the nearest of each
_FUNCTION_WORDS = 100  # the most frequent words are articles, pronouns and the like


@dataclasses.dataclass(frozen=True)
class Word:
    """A token in its passage: the blank before it or "", its text, whether it is underlined."""

    blank: str
    text: str
    is_marked: bool


@dataclasses.dataclass(frozen=True)
class Guess:
    """A guess of the model for a hidden token, with its probability as text."""

    word: str
    percent: str
    is_right: bool


@dataclasses.dataclass(frozen=True)
class Hidden:
    """A hidden token and the model's guesses."""

    word: str
    guesses: tuple[Guess, ...]


@dataclasses.dataclass(frozen=True)
class Passage:
    """A row of tokens, and those of them that were hidden."""

    words: tuple[Word, ...]
    hidden: tuple[Hidden, ...]


@dataclasses.dataclass(frozen=True)
class Passages:
    """Rows of tokens under a note."""

    note: str
    passages: tuple[Passage, ...]


def passages(item: items.Passages, pieces: Sequence[str]) -> Passages | None:
    """Rows of text with their hidden tokens and the model's guesses; None without text.

    Args:
      item: the rows of tokens.
      pieces: every token as text, with a blank before those that begin a word.
    """
    count = len(item.tokens)
    if not count or not pieces:
        return None
    note = item.note
    if item.positions is not None:
        note += (
            " Underlined tokens were hidden. Beside them are the guesses of the model with their "
            "probabilities; the correct one is green."
        )
    if item.prompt_lengths is not None:
        note += " Underlined tokens are the model's."
    return Passages(note.strip(), tuple(_passage(item, row, pieces) for row in range(count)))


def _passage(item: items.Passages, row: int, pieces: Sequence[str]) -> Passage:
    tokens = np.asarray(item.tokens)[row]
    tokens = tokens[: min(int(item.lengths[row]), _MAX_TOKENS)]
    hidden = {}
    if item.positions is not None:
        hidden = {
            int(place): list(zip(guesses, shares, strict=True))
            for place, weight, guesses, shares in zip(
                item.positions[row], item.weights[row], item.guesses[row], item.shares[row],
                strict=True,
            )
            if weight > 0 and place < len(tokens)
        }  # fmt: skip
    marked = set(hidden)
    if item.prompt_lengths is not None:
        marked |= set(range(int(item.prompt_lengths[row]), len(tokens)))
    words = []
    for place, token in enumerate(tokens):
        piece = pieces[token]
        blank = " " if piece.startswith(" ") else ""
        words.append(Word(blank, piece.removeprefix(" "), place in marked))
    rows = []
    for place, guesses in hidden.items():
        answer = int(tokens[place])
        shown = tuple(
            Guess(_word(pieces[guess]), f"{100 * share:.0f}%", bool(guess == answer))
            for guess, share in guesses
        )
        rows.append(Hidden(_word(pieces[answer]), shown))
    return Passage(tuple(words), tuple(rows))


def _word(piece: str) -> str:
    return short(piece.strip(), _MAX_WORD)


def word_neighbours(
    vectors: np.ndarray, counts: np.ndarray, pieces: Sequence[str]
) -> dict[str, list[tuple[str, float]]]:
    """The nearest words of frequent words; the most frequent words are skipped.

    Args:
      vectors: float [v d], of the tokens.
      counts: int [v], how often each token occurs.
      pieces: as of `passages`.

    Returns:
      word -> (word, cosine), the nearest first.
    """
    words, unit = frequent_words(vectors, counts, pieces)
    out = {}
    for number in range(first_content_word(len(words)), len(words), 10)[:_WORDS]:
        cosine = unit @ unit[number]
        cosine[number] = -np.inf
        nearest = np.argsort(-cosine, kind="stable")[:_NEIGHBOURS]
        out[pieces[words[number]].strip()] = [
            (pieces[words[i]].strip(), float(cosine[i])) for i in nearest if np.isfinite(cosine[i])
        ]
    return out


def frequent_words(
    vectors: np.ndarray, counts: np.ndarray, pieces: Sequence[str]
) -> tuple[list[int], np.ndarray]:
    """The tokens that are words of three letters or more, and their vectors at unit length.

    Args:
      vectors, counts, pieces: as of `word_neighbours`.

    Returns:
      (words, unit): ids in the order of frequency, and float [w d].
    """
    words = [i for i in np.argsort(-counts, kind="stable") if counts[i] and _is_word(pieces[i])]
    unit = vectors[words]
    return words, unit / np.maximum(np.linalg.norm(unit, axis=1, keepdims=True), 1e-12)


def first_content_word(num_words: int) -> int:
    """How many of the most frequent words are articles, pronouns and the like."""
    return min(_FUNCTION_WORDS, num_words // 4)


def _is_word(piece: str) -> bool:
    return piece.startswith(" ") and len(piece) > 3 and piece[1:].isalpha()


@dataclasses.dataclass(frozen=True)
class Near:
    """A word and its cosine with another, as text."""

    word: str
    cosine: str


@dataclasses.dataclass(frozen=True)
class WordRow:
    """A word and those whose vectors are closest."""

    word: str
    nearest: tuple[Near, ...]


def neighbour_rows(nearest: Mapping[str, Sequence[tuple[str, float]]]) -> tuple[WordRow, ...]:
    """What `word_neighbours` returns, as text."""
    return tuple(
        WordRow(_word(word), tuple(Near(_word(near), f"{cosine:.2f}") for near, cosine in row))
        for word, row in nearest.items()
    )
