"""Pairs of texts for next sentence prediction, as BERT makes them (Devlin et al. 2018, A.2).

Of a document, sentences are collected until they reach a target length, nearly always that of the
row; for a tenth of the documents it is drawn between 2 and that. A random part of the sentences is
A. In half of the cases B is the others: label 0. Else B comes from a random place of another
document, label 1, and the others are collected again. A single sentence has no other: its B is
always random, which is why label 1 is the more frequent. What is too long loses tokens at the
front or the end of the longer one, at random. (google-research/bert, create_pretraining_data.py)
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ssl_jax.core.errors import UserError
from ssl_jax.data import counter

# Sentences of a document that are gone through one after the other; longer documents are cut into
# sections, which are gone through side by side.
_SECTION = 1024
_DRAWS = 5  # random numbers a pair


class Pairs(NamedTuple):
    """Runs of tokens, int64 [n] each, and the label: 0 if B follows A, 1 if it is random."""

    a_start: np.ndarray
    a_length: np.ndarray
    b_start: np.ndarray
    b_length: np.ndarray
    next: np.ndarray


def sample(
    sentence_start: np.ndarray,
    num_sentences: np.ndarray,
    token_start: np.ndarray,
    length: int,
    short_probability: float,
    seed: int,
) -> Pairs:
    """Draws the pairs of documents.

    Args:
      sentence_start, num_sentences: int64 [d], which sentences are a document.
      token_start: int64 [s+1], the token at which each sentence of the corpus begins, and the end.
      length: of a row; a pair has length - 3 tokens at most.
      short_probability: how many documents give short pairs.
      seed: of all that is random; what is drawn for a pair depends on it and on the pair's first
        sentence alone.

    Raises:
      UserError: there is only one document.
    """
    if len(num_sentences) < 2:
        raise UserError(
            "rows=pairs takes the random half of its pairs from other documents, and there is only "
            "one; check what a document is (data.options.document), or use rows=packed"
        )
    room = length - 3
    documents = np.arange(len(num_sentences))
    short = (
        counter.uniform(counter.key(seed, counter.Stream.PAIRS, 0), sentence_start)
        < short_probability
    )
    drawn = _below(
        counter.key(seed, counter.Stream.PAIRS, 1),
        sentence_start,
        np.full_like(documents, room - 1),
    )
    target = np.where(short, 2 + drawn, room)

    sections = -(-num_sentences // _SECTION)
    owner = np.repeat(documents, sections)
    inside = (
        np.arange(len(owner)) - np.repeat(np.cumsum(sections) - sections, sections)
    ) * _SECTION
    at = sentence_start[owner] + inside
    stop = np.minimum(at + _SECTION, (sentence_start + num_sentences)[owner])

    streams = [counter.key(seed, counter.Stream.PAIRS, 2 + draw) for draw in range(_DRAWS)]
    pairs = []
    while len(at):
        goal = target[owner]
        # The chunk ends with the sentence that reaches the target.
        end = np.searchsorted(token_start, token_start[at] + goal, side="left")
        end = np.clip(end, at + 1, stop)
        sentences = end - at
        middle = at + np.where(sentences > 1, 1 + _below(streams[0], at, sentences - 1), 1)
        random = (sentences == 1) | (counter.uniform(streams[1], at) < 0.5)
        a_length = token_start[middle] - token_start[at]

        other = _below(streams[2], at, np.full_like(at, len(documents) - 1))
        other += other >= owner  # any document but this one
        first = sentence_start[other] + _below(streams[3], at, num_sentences[other])
        last = np.searchsorted(token_start, token_start[first] + goal - a_length, side="left")
        last = np.clip(last, first + 1, (sentence_start + num_sentences)[other])
        b_first, b_last = np.where(random, first, middle), np.where(random, last, end)
        pairs.append(
            (at, token_start[at], a_length, token_start[b_first],
             token_start[b_last] - token_start[b_first], random)
        )  # fmt: skip
        at = np.where(random, middle, end)
        going = at < stop
        at, stop, owner = at[going], stop[going], owner[going]
    first, *columns = (np.concatenate(parts) for parts in zip(*pairs, strict=True))
    order = np.argsort(first, kind="stable")
    a_start, a_length, b_start, b_length, random = (column[order] for column in columns)
    cut_a, cut_b = _excess(a_length, b_length, room)
    return Pairs(
        a_start=a_start + _front(counter.key(streams[4], 0), first[order], cut_a),
        a_length=a_length - cut_a,
        b_start=b_start + _front(counter.key(streams[4], 1), first[order], cut_b),
        b_length=b_length - cut_b,
        next=random.astype(np.int32),
    )


def _below(stream: int, counters: np.ndarray, bounds: np.ndarray) -> np.ndarray:
    """Integers in [0, bound), int64; 0 where the bound is 0."""
    return np.floor(counter.uniform(stream, counters) * bounds).astype(np.int64)


def _excess(a: np.ndarray, b: np.ndarray, room: int) -> tuple[np.ndarray, np.ndarray]:
    """How many tokens A and B lose if always the longer one (of equals: B) loses one."""
    excess = np.maximum(a + b - room, 0)
    from_longer = np.minimum(excess, np.abs(a - b))
    shared = excess - from_longer  # from both in turns, B first
    cut_a = np.where(a > b, from_longer, 0) + shared // 2
    return cut_a, excess - cut_a


def _front(stream: int, counters: np.ndarray, cuts: np.ndarray) -> np.ndarray:
    """How many of the tokens cut off are at the front, each with probability 1/2: int64 [n]."""
    words = -(-cuts // 64)
    out = np.zeros(len(cuts), np.int64)
    for word in range(int(words.max(initial=0))):
        rows = np.flatnonzero(words > word)
        bits = counter.bits(counter.key(stream, word), counters[rows])
        width = np.minimum(cuts[rows] - 64 * word, 64).astype(np.uint64)
        out[rows] += np.bitwise_count(bits >> (np.uint64(64) - width))
    return out
