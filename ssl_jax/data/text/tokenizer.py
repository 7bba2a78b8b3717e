"""Text to token ids and back: WordPiece (BERT), byte-level BPE (RoBERTa, GPT-2), whole words.

A tokenizer is trained on the corpus (`tokenizer_training`), or comes from the files that are
published beside a model (`tokenizer_files`). The algorithms are those of the `tokenizers` library;
what is here makes training repeatable, finds the special tokens, and reads "[MASK]" in a corpus as
three words and not as a special token.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import re
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import tokenizers
from tokenizers import models

from ssl_jax.core.errors import UserError
from ssl_jax.core.method import Vocabulary
from ssl_jax.data.text.piece_memory import PieceMemory, independent_pieces, token_ids
from ssl_jax.data.text.tokenizer_families import FAMILIES

# T5's tokens for missing spans of a text.
_SENTINEL = re.compile(r"<extra_id_([0-9]+)>")
_BLANKS = "ĠĊĉč"  # space, newline, tab and carriage return as byte-level BPE writes them


class Tokenizer:
    """A tokenizer of the `tokenizers` library with its vocabulary.

    Attributes:
      vocabulary: its size and special ids.
      digest: hash of all it consists of, hexadecimal.
    """

    def __init__(self, backend: tokenizers.Tokenizer):
        backend.no_padding()
        backend.no_truncation()
        # Text that looks like a special token is text.
        backend.encode_special_tokens = True
        self.backend = backend
        self.vocabulary = _vocabulary(backend)  # adds special tokens that are missing
        self.digest = hashlib.blake2b(self.to_json().encode(), digest_size=16).hexdigest()
        pattern = independent_pieces(json.loads(self.to_json()))
        self._memory = None if pattern is None else PieceMemory(backend, pattern)

    @classmethod
    def from_json(cls, text: str) -> Tokenizer:
        """Inverse of `to_json`; also reads what other programs have written in this format.

        Raises:
          ValueError: it is not a tokenizer.
        """
        try:
            return cls(tokenizers.Tokenizer.from_str(text))
        except Exception as error:  # the library raises nothing more special
            raise ValueError(str(error)) from None

    def to_json(self) -> str:
        """All there is to it, in the library's own format."""
        return self.backend.to_str()

    def encode(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Ids of texts, without special tokens.

        Returns:
          (ids, lengths): the ids of all texts one after the other, uint32 [t], and how many are of
          each, int64 [n].
        """
        if self._memory is not None:
            return self._memory.encode(texts)
        encoded = token_ids(self.backend, texts)
        lengths = np.fromiter(map(len, encoded), np.int64, len(encoded))
        ids = itertools.chain.from_iterable(encoded)
        return np.fromiter(ids, np.uint32, int(lengths.sum())), lengths

    def encode_with_sentinels(self, text: str) -> list[int]:
        """Ids of a text in which "<extra_id_0>" and so on are the sentinels of the vocabulary.

        Blanks in front of a sentinel are left out: they belong to the token behind it.
        """
        ids: list[int] = []
        pieces = _SENTINEL.split(text)  # text, number, text, ...
        for piece, number in itertools.zip_longest(pieces[::2], map(int, pieces[1::2])):
            known = number is not None and number < len(self.vocabulary.sentinels)
            if number is not None and not known:
                raise UserError(
                    f"{text!r:.60} has <extra_id_{number}>, but the tokenizer has "
                    f"{len(self.vocabulary.sentinels)} sentinels, counted from 0"
                )
            if piece := piece.rstrip() if known else piece:
                ids += self.encode([piece])[0].tolist()
            if known:
                ids.append(self.vocabulary.sentinels[number])
        return ids

    def decode(self, ids: Iterable[int]) -> str:
        """The text of ids. Byte-level BPE gives back what was encoded, WordPiece its words."""
        return self.backend.decode([int(i) for i in ids], skip_special_tokens=False)

    def token_texts(self) -> list[str]:
        """Every token as people read it; those that begin a word, with a blank before it."""
        size = self.vocabulary.size
        try:
            starts = self.word_starts()
        except UserError:  # it does not mark them
            starts = np.ones(size, bool)
        texts = []
        for token in range(size):
            name = self.backend.id_to_token(token) or ""
            if token not in self.vocabulary.special:
                # One token alone; what marks that it continues a word is not part of the text.
                name = self.decode([token]).strip().removeprefix("##") or name
            texts.append(f" {name}" if starts[token] else name)
        return texts

    def word_starts(self) -> np.ndarray:
        """Which tokens begin a word, bool [vocabulary.size]; special tokens do.

        Raises:
          UserError: the tokenizer does not mark where words begin.
        """
        parts = json.loads(self.to_json())
        tokens = {i: token for token, i in self.backend.get_vocab(with_added_tokens=True).items()}
        marks = json.dumps([parts["pre_tokenizer"], parts["decoder"]])
        if parts["model"]["type"] == "WordPiece":
            prefix = parts["model"]["continuing_subword_prefix"]
            starts = {i for i, token in tokens.items() if not token.startswith(prefix)}
        elif parts["model"]["type"] == "WordLevel":
            starts = set(tokens)
        elif "ByteLevel" in marks or "Metaspace" in marks:
            blanks = tuple(_BLANKS if "ByteLevel" in marks else "▁")
            starts = {i for i, token in tokens.items() if token.startswith(blanks)}
        else:
            raise UserError(
                f"word_start: a {parts['model']['type']} tokenizer that is neither byte-level nor "
                "has '▁' does not mark where words begin"
            )
        table = np.zeros(self.vocabulary.size, bool)
        table[[*starts, *self.vocabulary.special]] = True
        return table


def _vocabulary(backend: tokenizers.Tokenizer) -> Vocabulary:
    """Finds the special tokens; those missing are added behind the others."""
    ids = {}
    for kind in ("pad", "unk", "cls", "sep", "mask"):
        names = [family[kind] for family in FAMILIES.values()]
        if kind != "mask":
            names.append("<|endoftext|>")  # GPT-2's only one
        known = [name for name in names if backend.token_to_id(name) is not None]
        if not known:
            family = "wordpiece" if isinstance(backend.model, models.WordPiece) else "bpe"
            known = [FAMILIES[family][kind]]
        backend.add_special_tokens(known[:1])  # flags it, and adds it if need be
        ids[kind] = backend.token_to_id(known[0])
    added: dict[int, Any] = backend.get_added_tokens_decoder()
    sentinels = []
    while (token := backend.token_to_id(f"<extra_id_{len(sentinels)}>")) is not None:
        sentinels.append(token)
    special = {i for i, token in added.items() if token.special}
    special |= {*ids.values(), *sentinels}
    size = 1 + max(backend.get_vocab(with_added_tokens=True).values())
    return Vocabulary(size=size, special=tuple(sorted(special)), sentinels=tuple(sentinels), **ids)
