"""Words with vectors of unit length, and files of questions about them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from ssl_jax.core.errors import UserError
from ssl_jax.core.method import DataSpec, Method
from ssl_jax.evals.model import Model


def has_word_vectors(method: Method, spec: DataSpec) -> bool:
    """Whether the method has a vector for each token of its vocabulary."""
    return hasattr(method, "token_vectors") and spec.vocabulary is not None


@dataclasses.dataclass(frozen=True)
class WordSpace:
    """Words in the order of their frequency.

    Attributes:
      words: in lower case, which are all different.
      unit: float32 [v d], their vectors at unit length.
      row_of: word -> its row.
    """

    words: Sequence[str]
    unit: np.ndarray
    row_of: Mapping[str, int]

    @classmethod
    def of(cls, vectors: np.ndarray, texts: Sequence[str], counts: np.ndarray, size: int):
        """The `size` most frequent words that are single tokens.

        Capitals do not count, as in the released tool: of words that differ in them alone, the most
        frequent one stands for all.

        Args:
          vectors: float [v d], of all tokens.
          texts: every token as text, with a blank before those that begin a word.
          counts: int [v], how often each token occurs; tokens without any are left out.
          size: most words to keep.
        """
        row_of: dict[str, int] = {}
        tokens = []
        for token in np.argsort(-counts, kind="stable"):
            word = texts[token].strip().lower()
            if len(tokens) == size or not counts[token]:
                break
            if texts[token].startswith(" ") and word and word not in row_of:
                row_of[word] = len(tokens)
                tokens.append(token)
        unit = np.asarray(vectors, np.float32)[tokens]
        unit = unit / np.maximum(np.linalg.norm(unit, axis=1, keepdims=True), 1e-12)
        return cls(tuple(row_of), unit, row_of)

    @classmethod
    def of_model(cls, model: Model, prober: Any, size: int):
        """`of` the word vectors of a model, with the counts of (a sample of) the train split."""
        vectors = np.asarray(model.method.token_vectors(model.weights.params))
        return cls.of(vectors, prober.test.token_texts(), prober.token_counts, size)

    def rows(self, words: Iterable[str]) -> list[int] | None:
        """The rows of words; None if one is unknown."""
        rows = [self.row_of.get(word.lower()) for word in words]
        return None if None in rows else rows


def read_lines(path: str, key: str) -> list[tuple[int, str]]:
    """(number from 1, text) of the lines of a file that are neither blank nor comments (#).

    Args:
      path: of a file in UTF-8.
      key: the config key that names it, for messages.

    Raises:
      UserError: it cannot be read, or has no lines.
    """
    try:
        with open(path, encoding="utf-8-sig") as file:
            text = file.read()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8"
        raise UserError(f"{key}={path} cannot be read: {reason}") from None
    lines = [
        (number, line.strip())
        for number, line in enumerate(text.split("\n"), 1)
        if line.strip() and not line.startswith("#")
    ]
    if not lines:
        raise UserError(f"{key}={path} has no lines")
    return lines
