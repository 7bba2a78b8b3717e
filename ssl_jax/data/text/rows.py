"""Rows of tokens: how documents become the examples of a language model.

    packed          chunks of documents, each between cls and sep, as many in a row as fit: its own
                    segment number, its own positions from 0; every token of the corpus once
    padded          the same chunks, one in a row: the baseline of `packed`
    full_sentences  whole sentences that follow each other until the row is full, across the ends of
                    documents, where an extra sep stands (RoBERTa, Liu et al. 2019, section 4.2)
    pairs           cls A sep B sep, B being the text after A or a random one (BERT; see `pairs`)
    stream          documents one after the other, cut every sequence_length tokens, with the next
                    token of each token (GPT; see `token_stream`)

A plan says of each row which runs of tokens it consists of. It is made once, from the lengths of
documents and sentences alone; the tokens are read when a row is.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Annotated, Literal

import numpy as np

from ssl_jax.config.fields import at_least, fraction, positive
from ssl_jax.core.method import Vocabulary
from ssl_jax.data import counter
from ssl_jax.data.ragged import ragged_arange
from ssl_jax.data.text import packing, pairs
from ssl_jax.data.text.token_cache import TokenCache

KINDS = ("packed", "padded", "full_sentences", "pairs", "stream")
_CHAIN = 1024  # rows that are filled one after the other; chains are filled side by side


@dataclasses.dataclass(frozen=True)
class RowOptions:
    """What rows are like."""

    rows: Annotated[
        Literal["packed", "padded", "full_sentences", "pairs", "stream"],
        "How documents become rows: packed (chunks, as many as fit), padded (one chunk a row), "
        "full_sentences (RoBERTa), pairs (BERT) or stream (GPT).",
    ] = "packed"
    sequence_length: Annotated[
        int, at_least(8), "Tokens of a row, special tokens and padding included."
    ] = 128
    short_probability: Annotated[float, fraction, "Share of the pairs that are kept short."] = 0.1
    duplicates: Annotated[
        int,
        positive,
        "How often pairs go through the documents, each time with other draws; BERT: 10. An epoch "
        "is that much longer.",
    ] = 1
    word_start: Annotated[bool, "Whether batches say which tokens begin a word."] = False


@dataclasses.dataclass(frozen=True)
class Plan:
    """Which tokens the rows consist of.

    Attributes:
      start, length: int64 [p], runs of tokens of the cache.
      first: int64 [n+1]; row i consists of the runs first[i] up to first[i+1].
      framed: whether each run has its own cls and is a segment of its own; else only the row has
        a cls. A sep follows every run.
      document: int64 [n], the document of each row, where rows have one.
      next: int32 [n], of pairs: 0 where B follows A, 1 where it is random.
    """

    start: np.ndarray
    length: np.ndarray
    first: np.ndarray
    framed: bool
    document: np.ndarray | None = None
    next: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.first) - 1

    @property
    def num_tokens(self) -> int:
        """Tokens in all rows, special ones included, padding not."""
        frames = 2 * len(self.start) if self.framed else len(self.start) + len(self)
        return int(self.length.sum()) + frames


def plan(cache: TokenCache, chosen: np.ndarray, options: RowOptions, seed: int) -> Plan:
    """Plans the rows of documents, except for a stream.

    Args:
      cache: the tokens.
      chosen: int [d], the documents, in the order of the cache.
      options: what rows are like.
      seed: of what is random about pairs.

    Raises:
      UserError: pairs of fewer than two documents.
    """
    if options.rows in ("packed", "padded"):
        return _chunks(cache, chosen, options.sequence_length, options.rows == "packed")
    if options.rows == "full_sentences":
        return _full_sentences(cache, chosen, options.sequence_length)
    start, count = cache.documents.sentence_start[chosen], cache.documents.num_sentences[chosen]
    sampled = pairs.Pairs(*map(np.concatenate, zip(*(
        pairs.sample(
            start, count, cache.sentence_starts, options.sequence_length,
            options.short_probability, counter.key(seed, duplicate),
        )
        for duplicate in range(options.duplicates)
    ), strict=True)))  # fmt: skip
    return Plan(
        start=np.stack([sampled.a_start, sampled.b_start], axis=1).reshape(-1),
        length=np.stack([sampled.a_length, sampled.b_length], axis=1).reshape(-1),
        first=2 * np.arange(len(sampled.next) + 1),
        framed=False,
        next=sampled.next,
    )


def _chunks(cache: TokenCache, chosen: np.ndarray, length: int, packed: bool) -> Plan:
    """Documents cut every length - 2 tokens."""
    room = length - 2
    tokens = cache.documents.num_tokens[chosen]
    counts = -(-tokens // room)
    inside = ragged_arange(counts) * room
    start = np.repeat(cache.documents.token_start[chosen], counts) + inside
    lengths = np.minimum(np.repeat(tokens, counts) - inside, room)
    if not packed:
        document = np.repeat(chosen, counts)
        return Plan(start, lengths, np.arange(len(start) + 1), framed=True, document=document)
    order, first = packing.pack(lengths + 2, length)
    return Plan(start[order], lengths[order], first, framed=True)


def _full_sentences(cache: TokenCache, chosen: np.ndarray, length: int) -> Plan:
    """Sentences one after the other. One that is longer than a row is cut."""
    documents = cache.documents
    counts = documents.num_sentences[chosen]
    sentence = np.repeat(documents.sentence_start[chosen], counts) + ragged_arange(counts)
    sizes = cache.sentence_tokens[sentence].astype(np.int64)
    pieces = -(-sizes // (length - 2))
    inside = ragged_arange(pieces) * (length - 2)
    start = np.repeat(cache.sentence_starts[sentence], pieces) + inside
    sizes = np.minimum(np.repeat(sizes, pieces) - inside, length - 2)  # of what is never cut
    ends = np.cumsum(np.add.reduceat(pieces, np.cumsum(counts) - counts))  # of documents
    last = np.zeros(len(sizes), np.int64)
    last[ends - 1] = 1
    # A row is full when the next piece and a sep no longer fit. Every end of a document before it
    # has cost one sep more.
    before = np.cumsum(sizes + last) - sizes - last
    row_starts = _fill(before, before + sizes + 1, ends, length - 1)
    # What one row has of one document is one run: no blank lies between two sentences.
    begins = np.zeros(len(sizes), bool)
    begins[row_starts] = begins[0] = begins[ends[:-1]] = True
    heads = np.flatnonzero(begins)
    return Plan(
        start=start[heads],
        length=np.add.reduceat(sizes, heads),
        first=np.append(np.searchsorted(heads, row_starts), len(heads)),
        framed=False,
    )


def _fill(before: np.ndarray, behind: np.ndarray, ends: np.ndarray, room: int) -> np.ndarray:
    """Where rows begin if each takes pieces while behind[piece] - before[first piece] <= room.

    Args:
      before, behind: int64 [p], both increasing.
      ends: int64 [d], behind the last piece of each document.
      room: of a row.

    Returns:
      int64 [n], ascending. A row begins at 0, and at some document about every 1024 rows.
    """
    total = len(before)
    marks = np.arange(0, behind[-1], _CHAIN * room)
    heads = np.concatenate([[0], ends[:-1]])
    at = np.unique(heads[np.searchsorted(before[heads], marks, side="right") - 1])
    stops = np.append(at[1:], total)
    starts = []
    while len(at):
        starts.append(at)
        at = np.minimum(np.searchsorted(behind, before[at] + room, side="right"), stops)
        at, stops = at[at < stops], stops[at < stops]
    return np.sort(np.concatenate(starts))


class Reader:
    """Reads the rows of a plan as arrays.

    Args:
      cache: the tokens.
      plan: the contents of the rows.
      options: with which it was made.
    """

    def __init__(self, cache: TokenCache, plan: Plan, options: RowOptions):
        self._cache, self._plan, self._options = cache, plan, options
        self._vocabulary: Vocabulary = cache.vocabulary

    @functools.cached_property
    def _word_starts(self) -> np.ndarray:
        return self._cache.tokenizer.word_starts()

    def read(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        """Rows of the plan, int [n]; see `text_source` for the arrays."""
        plan, length = self._plan, self._options.sequence_length
        counts = plan.first[rows + 1] - plan.first[rows]
        number = ragged_arange(counts)  # of a run within its row
        runs = np.repeat(plan.first[rows], counts) + number
        row = np.repeat(np.arange(len(rows)), counts)
        sizes = plan.length[runs]
        spans = sizes + (2 if plan.framed else 1 + (number == 0))  # with cls, if any, and sep
        ends = np.cumsum(spans)
        heads = np.flatnonzero(number == 0)
        used = np.add.reduceat(spans, heads) if len(heads) else np.zeros(0, np.int64)
        before = ends - spans - np.repeat((ends - spans)[heads], counts)  # within the row
        place = row * length + before
        has_cls = plan.framed | (number == 0)

        tokens = np.full(len(rows) * length, self._vocabulary.pad, np.int32)
        tokens[place[has_cls]] = self._vocabulary.cls
        tokens[place + spans - 1] = self._vocabulary.sep
        self._cache.read(plan.start[runs], sizes, tokens, place + has_cls)
        real = np.arange(length) < used[:, None]  # [n l]
        arrays = {"tokens": tokens.reshape(len(rows), length)}
        if plan.framed:
            arrays["segment"] = _spread(real, np.repeat(number + 1, spans))
            arrays["position"] = _spread(real, ragged_arange(spans))
        else:
            arrays["segment"] = real.astype(np.int32)
            arrays["position"] = _spread(real, ragged_arange(used))
        if plan.next is not None:
            arrays["type"] = _spread(real, np.repeat(number, spans))
            arrays["next"] = plan.next[rows]
        if self._options.word_start:
            starts = self._word_starts[tokens]
            starts[place + has_cls] = True  # where a run begins within a word
            arrays["word_start"] = starts.reshape(len(rows), length) & real
        return arrays


def _spread(real: np.ndarray, values: np.ndarray) -> np.ndarray:
    """int32 [n l]: the values where `real`, row by row, else 0."""
    out = np.zeros(real.shape, np.int32)
    out[real] = values
    return out
