"""Tokenizes texts piece by piece, and remembers the tokens of pieces."""

from __future__ import annotations

import array
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import tokenizers

_END = np.uint32(0xFFFFFFFF)  # no token's id
_REMEMBERED = 1 << 20  # pieces, in about 150 MB
_LONGEST = 32  # characters of a piece that is remembered; scripts without blanks have long ones
_AT_ONCE = 1 << 16


def token_ids(backend: tokenizers.Tokenizer, texts: Sequence[str]) -> list[list[int]]:
    """The ids of each text, without special tokens."""
    return [found.ids for found in backend.encode_batch_fast(texts, add_special_tokens=False)]


# Pieces of a text whose tokens do not depend on the others. BERT's words end at blanks and at ASCII
# punctuation, whatever else ends them.
_BERT_PIECES = re.compile(r"[^ \t\r\n!-/:-@\[-`{-~]+|[!-/:-@\[-`{-~]")
_BLANK_PIECES = re.compile(r"\S+")  # no word has a blank
# GPT-2's words as its regular expression has them, where they and what follows are ASCII. All else
# is taken with the blanks in front of it, up to the next blank of which Python and the library
# agree that it is one.
_GPT2_PIECES = re.compile(
    r"""(?>'s|'t|'re|'ve|'m|'ll|'d|[ ]?[A-Za-z]++|[ ]?[0-9]++|[ ]?[!-/:-@\[-`{-~]++)
        (?![^\t-\r\x20-\x7e])
    | [\t-\r ]+(?=[\t-\r ][!-~])
    | [\t-\r](?=[!-~])
    | \s*\S+(?:[^\S \t\r\n]\s*\S+)*
    | \s+""",
    re.VERBOSE,
)


def independent_pieces(parts: dict[str, Any]) -> re.Pattern[str] | None:
    """Matches pieces that may be tokenized one by one, None if that is not known of a tokenizer."""
    if any(not token["special"] for token in parts["added_tokens"]):
        return None  # they may hold blanks
    kind = parts["model"]["type"]
    normalizer = (parts["normalizer"] or {}).get("type")
    words = parts["pre_tokenizer"] or {}
    if kind == "WordPiece" and normalizer in (None, "BertNormalizer"):
        return _BERT_PIECES if words.get("type") == "BertPreTokenizer" else None
    if kind == "WordLevel" and normalizer in (None, "Lowercase"):
        return _BLANK_PIECES if words.get("type") == "Split" else None
    if kind == "BPE" and normalizer is None and not parts["model"]["dropout"]:
        plain = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True}
        return _GPT2_PIECES if plain.items() <= words.items() else None
    return None


class PieceMemory:
    """Tokenizes with a memory: a text consists of few different pieces.

    Looking a piece up takes a tenth of the time in which the library tokenizes it.

    Args:
      backend: the library's tokenizer.
      pieces: matches the pieces of a text.
    """

    def __init__(self, backend: tokenizers.Tokenizer, pieces: re.Pattern[str]):
        self._backend, self._pieces = backend, pieces
        self._forget()

    def _forget(self) -> None:
        # The ids of pieces, as the bytes of uint32. The end of a text has an id of its own.
        self._known: dict[str | None, bytes] = {None: _END.tobytes()}

    def encode(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Ids and lengths of texts, as `Tokenizer.encode`."""
        pieces: list[str | None] = []
        find = self._pieces.findall
        for text in texts:
            pieces += find(text)
            pieces.append(None)
        missing = list(set(pieces).difference(self._known))
        if len(self._known) + len(missing) > _REMEMBERED:
            self._forget()
            missing = list(set(pieces).difference(self._known))
        for start in range(0, len(missing), _AT_ONCE):
            some = missing[start : start + _AT_ONCE]
            for piece, ids in zip(some, token_ids(self._backend, some), strict=True):
                self._known[piece] = array.array("I", ids).tobytes()
        tokens = np.frombuffer(b"".join(map(self._known.__getitem__, pieces)), np.uint32)
        for piece in missing:
            if len(piece) > _LONGEST:
                del self._known[piece]
        ends = np.flatnonzero(tokens == _END)
        lengths = np.diff(ends, prepend=-1) - 1
        return tokens[tokens != _END], lengths
