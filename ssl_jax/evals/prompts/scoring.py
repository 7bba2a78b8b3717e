"""Log-probabilities of continuations under a decoder.

Rows are the end token, the context and the continuation, padded at their ends. A causal model does
not look ahead, so neither padding nor the other rows of a batch change a score. One jitted function
scores batches of one shape; rows are sorted by length, so that few shapes are needed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from ssl_jax.data.text.tokenizer import Tokenizer

_WIDTH = 16  # rows are padded to multiples


class Pair(NamedTuple):
    """A context and what follows it, as tokens. The context begins with the end token."""

    context: tuple[int, ...]
    continuation: tuple[int, ...]

    @property
    def inputs(self) -> int:
        """Tokens that the model reads: all but the last one."""
        return len(self.context) + len(self.continuation) - 1


class Scores(NamedTuple):
    """Of each pair.

    Attributes:
      log_p: float64 [n], the log-probability of the continuation, nats.
      is_greedy: bool [n], whether each of its tokens is the most likely one.
    """

    log_p: np.ndarray
    is_greedy: np.ndarray


def tokenized(tokenizer: Tokenizer, texts: Sequence[tuple[str, str]], end_token: int) -> list[Pair]:
    """Tokens of (context, continuation) pairs.

    As in lm-evaluation-harness, the whole text is tokenized and divided where the context alone
    would end. Where the continuation then has no tokens, it is tokenized on its own.

    Args:
      tokenizer: of the model.
      texts: a blank in front of an answer is part of the continuation.
      end_token: stands before the context.
    """
    contexts = _ids(tokenizer, [context for context, _ in texts])
    wholes = _ids(tokenizer, [context + continuation for context, continuation in texts])
    alone = _ids(tokenizer, [continuation for _, continuation in texts])
    pairs = []
    for context, whole, own in zip(contexts, wholes, alone, strict=True):
        if len(whole) > len(context):
            context, own = whole[: len(context)], whole[len(context) :]
        pairs.append(Pair((end_token, *context), tuple(own)))
    return pairs


def _ids(tokenizer: Tokenizer, texts: Sequence[str]) -> list[list[int]]:
    unique = list(dict.fromkeys(texts))
    ids, lengths = tokenizer.encode(unique)
    ends = np.cumsum(lengths)
    found = {
        text: ids[stop - length : stop].tolist()
        for text, stop, length in zip(unique, ends, lengths, strict=True)
    }
    return [found[text] for text in texts]


def log_likelihoods(
    held_out: Callable[[Mapping[str, Any]], Mapping[str, Any]],
    pairs: Sequence[Pair],
    *,
    context: int,
    pad: int,
    batch_size: int,
    place: Callable[[Mapping[str, np.ndarray]], Any] = lambda batch: batch,
    gather: Callable[[Any], Any] = lambda tree: tree,
) -> Scores:
    """Scores pairs.

    Args:
      held_out: batch -> `loss`, `hits` and `count` [n], `Method.held_out` of a decoder.
      pairs: those to score; equal ones are computed once. None has more `inputs` than `context`.
      context: positions of the model.
      pad: the token of padding.
      batch_size: rows at a time.
      place: puts a batch on the devices.
      gather: gets results from all devices.
    """
    unique = sorted(set(pairs), key=lambda pair: (pair.inputs, pair))
    found: dict[Pair, tuple[float, bool]] = {}
    for first in range(0, len(unique), batch_size):
        chunk = unique[first : first + batch_size]
        width = min(-(-chunk[-1].inputs // _WIDTH) * _WIDTH, context)
        rows = gather(held_out(place(_batch(chunk, batch_size, width, pad))))
        loss = np.asarray(rows["loss"], np.float64)[: len(chunk)]
        greedy = np.asarray(rows["hits"])[: len(chunk)] >= np.asarray(rows["count"])[: len(chunk)]
        found |= zip(chunk, zip((-loss).tolist(), greedy.tolist(), strict=True), strict=True)
    scores = [found[pair] for pair in pairs]
    return Scores(
        np.array([log_p for log_p, _ in scores]), np.array([is_greedy for _, is_greedy in scores])
    )


def _batch(chunk: Sequence[Pair], size: int, width: int, pad: int) -> dict[str, np.ndarray]:
    """The rows of pairs, filled up with rows without targets."""
    arrays = {
        "tokens": np.full((size, width), pad, np.int32),
        "segment": np.zeros((size, width), np.int32),
        "position": np.zeros((size, width), np.int32),
        "next_token": np.full((size, width), -1, np.int32),
        "index": np.zeros(size, np.int32),
        "label": np.full(size, -1, np.int32),
    }
    for row, (context, continuation) in enumerate(chunk):
        tokens = [*context, *continuation]
        count = len(tokens) - 1
        arrays["tokens"][row, :count] = tokens[:-1]
        arrays["segment"][row, :count] = 1
        arrays["position"][row, :count] = np.arange(count)
        arrays["next_token"][row, len(context) - 1 : count] = continuation
    return arrays
