"""N-gram models of tokens: the baselines of models that predict the next token.

Interpolated Kneser-Ney smoothing (Kneser & Ney 1995; Chen & Goodman 1999, Sec. 2.7 and 4.1.3):

    p(w | h) = (max(c(h w) - D, 0) + D N(h) p(w | h')) / c(h)

h' is h without its first token. c counts occurrences for the longest h. For a shorter h, c(h w) is
the number of different tokens in front of h w. c(h) is the sum of c(h w) over w, and N(h) is the
number of different w with c(h w) > 0. If h does not occur, p(w | h) = p(w | h'). The recursion ends
at 1 / V. D = 0.75.

The contexts of a token are the tokens before it in its row, as for a transformer that is trained on
these rows; at the start of a row they are shorter.
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import numpy as np

DISCOUNT = 0.75


class _Level(NamedTuple):
    """Statistics for contexts of one length.

    Attributes:
      grams: int64 [g], sorted; the id of a context times the size of the vocabulary, plus a token.
      counts: float64 [g], c(h w).
      totals, different: float64 [contexts], c(h) and N(h) by id of the context.
    """

    grams: np.ndarray
    counts: np.ndarray
    totals: np.ndarray
    different: np.ndarray


@dataclasses.dataclass(frozen=True)
class NgramModel:
    """A fitted model.

    Attributes:
      vocab_size: V.
      contexts: for each length from 1, the sorted keys int64 of the contexts of that length; the id
        of a context is its place. The key of a context is the id of the context without its first
        token times V, plus the first token.
      levels: for each length of a context from 0.
    """

    vocab_size: int
    contexts: tuple[np.ndarray, ...]
    levels: tuple[_Level, ...]

    @classmethod
    def fit(
        cls, previous: np.ndarray, targets: np.ndarray, *, order: int, vocab_size: int
    ) -> NgramModel:
        """Counts the n-grams of rows.

        Args:
          previous: int [n l], tokens.
          targets: int [n l], the token after each; -1 where there is none.
          order: n; the contexts have up to n - 1 tokens.
          vocab_size: V.
        """
        ids = np.zeros(previous.shape, np.int64)
        is_target = targets >= 0
        contexts, keys = [], [targets[is_target].astype(np.int64)]
        masks = [is_target]
        for length in range(1, order):
            key = _extended(ids, previous, length, vocab_size)
            known = key[key >= 0]
            contexts.append(np.unique(known))
            ids = np.full(previous.shape, -1, np.int64)
            ids[key >= 0] = np.searchsorted(contexts[-1], known)
            masks.append(is_target & (ids >= 0))
            keys.append(ids[masks[-1]] * vocab_size + targets[masks[-1]])
        levels: list[_Level] = []
        for length in range(order):
            chosen = keys[length]
            if length < order - 1:  # one occurrence of each different n-gram that is longer by one
                inside = np.flatnonzero(masks[length + 1][masks[length]])
                _, first = np.unique(keys[length + 1], return_index=True)
                chosen = chosen[inside[first]]
            grams, counts = np.unique(chosen, return_counts=True)
            context = grams // vocab_size
            number = len(contexts[length - 1]) if length else 1
            totals = np.bincount(context, counts, minlength=number)
            different = np.bincount(context, minlength=number).astype(np.float64)
            levels.append(_Level(grams, counts.astype(np.float64), totals, different))
        return cls(vocab_size, tuple(contexts), tuple(levels))

    def log_probabilities(self, previous: np.ndarray, targets: np.ndarray) -> np.ndarray:
        """log p of the targets, nats, float64 [n l]; without meaning where there is no target.

        Args:
          previous, targets: as of `fit`.
        """
        target = np.maximum(targets, 0).astype(np.int64)
        p = np.full(previous.shape, 1 / self.vocab_size)
        ids = np.zeros(previous.shape, np.int64)
        for length, level in enumerate(self.levels):
            if length:
                key = _extended(ids, previous, length, self.vocab_size)
                ids = _places(self.contexts[length - 1], key)
            total = np.where(ids >= 0, level.totals[ids], 0)
            place = _places(level.grams, np.where(ids >= 0, ids * self.vocab_size + target, -1))
            count = np.where(place >= 0, level.counts[place], 0)
            kept = np.maximum(count - DISCOUNT, 0) + DISCOUNT * level.different[ids] * p
            p = np.where(total > 0, kept / np.maximum(total, 1), p)
        return np.log(p)


def _extended(ids: np.ndarray, previous: np.ndarray, length: int, vocab_size: int) -> np.ndarray:
    """Keys of contexts of `length` tokens, from the ids of those of one token less; -1 for none."""
    key = np.full(previous.shape, -1, np.int64)
    first = previous[:, : previous.shape[1] - length + 1]  # of each context
    shorter = ids[:, length - 1 :]
    key[:, length - 1 :] = np.where(shorter >= 0, shorter * vocab_size + first, -1)
    return key


def _places(ordered: np.ndarray, keys: np.ndarray) -> np.ndarray:
    """The places of keys in a sorted array, -1 for those that are not in it."""
    if not len(ordered):
        return np.full(keys.shape, -1, np.int64)
    place = np.minimum(np.searchsorted(ordered, keys), len(ordered) - 1)
    return np.where(ordered[place] == keys, place, -1)
