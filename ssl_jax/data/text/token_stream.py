"""Rows of a stream of tokens, for models that predict the next token (GPT-3, App. B).

    stream    eot d_1 eot d_2 ... eot d_n
    row i     tokens iL to iL + L - 1 of the stream; the last row is padded

d_i are the tokens of document i, and eot is the end-of-text token, the vocabulary's `sep` ("</s>",
or "<|endoftext|>" in GPT-2's vocabulary). `next_token` is the token that follows each token, and
eot at the end of the stream. So every token of every document, and every end of a document, is
predicted exactly once.

A document with the eot before it is a segment of its own. A document that continues from the
row before begins with its next token, at position 0.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from ssl_jax.core.errors import UserError
from ssl_jax.data.ragged import ragged_arange
from ssl_jax.data.text.token_cache import TokenCache

NO_TOKEN = -1  # `next_token` of padding


@dataclasses.dataclass(frozen=True)
class TokenStream:
    """The documents of a stream.

    Attributes:
      start: int64 [d], the first token of each document in the cache.
      offset: int64 [d+1], the place in the stream of the eot before each document, and the end.
      row_length: tokens of a row.
    """

    start: np.ndarray
    offset: np.ndarray
    row_length: int

    @classmethod
    def of(cls, cache: TokenCache, chosen: np.ndarray, row_length: int) -> TokenStream:
        """The stream of documents.

        Args:
          cache: the tokens.
          chosen: int [d], the documents, in the order of the stream.
          row_length: tokens of a row.

        Raises:
          UserError: the documents do not fill one row.
        """
        lengths = cache.documents.num_tokens[chosen] + 1
        stream = cls(
            cache.documents.token_start[chosen],
            np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
            row_length,
        )
        if stream.num_tokens < row_length:
            raise UserError(
                f"the {len(chosen):,} documents have {stream.num_tokens:,} tokens, less than a row "
                f"of {row_length:,}; use more text, or data.options.sequence_length="
                f"{stream.num_tokens} or less"
            )
        return stream

    @property
    def num_tokens(self) -> int:
        """Tokens in all rows, without padding."""
        return int(self.offset[-1])

    def __len__(self) -> int:
        return -(-self.num_tokens // self.row_length)

    def read(
        self, cache: TokenCache, word_starts: np.ndarray | None, rows: np.ndarray
    ) -> dict[str, np.ndarray]:
        """Reads rows.

        Args:
          cache: the tokens.
          word_starts: bool [v], the tokens that begin a word; None: not asked for.
          rows: int [n].

        Returns:
          `tokens`, `segment`, `position` and `next_token`, int32 [n l]; with `word_starts` also
          `word_start`, bool [n l].
        """
        length, vocabulary = self.row_length, cache.vocabulary
        first = rows.astype(np.int64) * length
        stop = np.minimum(first + length, self.num_tokens)
        head, last = (np.searchsorted(self.offset, x, side="right") - 1 for x in (first, stop - 1))
        counts = last - head + 1
        number = ragged_arange(counts)  # of a segment within its row, from 0
        row = np.repeat(np.arange(len(rows)), counts)
        document = np.repeat(head, counts) + number
        begin = np.maximum(self.offset[document], first[row])  # of a segment, in the stream
        size = np.minimum(self.offset[document + 1], stop[row]) - begin
        has_eot = begin == self.offset[document]
        place = row * length + begin - first[row]

        tokens = np.full(len(rows) * length, vocabulary.pad, np.int32)
        tokens[place[has_eot]] = vocabulary.sep
        source = self.start[document] + begin + has_eot - self.offset[document] - 1
        some = size > has_eot
        cache.read(source[some], (size - has_eot)[some], tokens, (place + has_eot)[some])
        is_token = np.arange(length) < (stop - first)[:, None]
        arrays = {"tokens": tokens.reshape(len(rows), length)}
        for name, values in (
            ("segment", np.repeat(number + 1, size)),
            ("position", ragged_arange(size)),
        ):
            arrays[name] = np.zeros(is_token.shape, np.int32)
            arrays[name][is_token] = values
        following = np.full(is_token.shape, NO_TOKEN, np.int32)
        following[:, :-1] = np.where(is_token[:, 1:], arrays["tokens"][:, 1:], NO_TOKEN)
        following[np.arange(len(rows)), stop - first - 1] = self._at(cache, last, stop)
        if word_starts is not None:
            starts = word_starts[tokens]
            starts[(place + has_eot)[some]] = True  # a segment may begin within a word
            arrays["word_start"] = starts.reshape(is_token.shape) & is_token
        return arrays | {"next_token": following}

    def _at(self, cache: TokenCache, document: np.ndarray, place: np.ndarray) -> np.ndarray:
        """The tokens at places in or right behind a document, int32 [n]."""
        tokens = np.full(len(place), cache.vocabulary.sep, np.int32)
        (inside,) = np.nonzero(place < self.offset[document + 1])
        source = (self.start[document] + place - self.offset[document] - 1)[inside]
        cache.read(source, np.ones_like(source), tokens, inside)
        return tokens
