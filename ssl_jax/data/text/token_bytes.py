"""The bytes of text that each token of a byte-level tokenizer stands for."""

from __future__ import annotations

import json

from ssl_jax.data.text.tokenizer import Tokenizer


def token_bytes(tokenizer: Tokenizer) -> list[bytes] | None:
    """The bytes of every token; special tokens have none.

    Concatenated over the tokens of a text they are the text in UTF-8.

    Returns:
      A list with one entry per token id. None if the tokenizer is not byte-level or normalises
      text: its tokens do not determine the text.
    """
    parts = json.loads(tokenizer.to_json())
    is_byte_level = (parts["decoder"] or {}).get("type") == "ByteLevel"
    if parts["model"]["type"] != "BPE" or parts["normalizer"] or not is_byte_level:
        return None
    literal = {token["id"]: token["content"] for token in parts["added_tokens"]}
    byte_of = _bytes_by_letter()
    contents = []
    for token in range(tokenizer.vocabulary.size):
        name = tokenizer.backend.id_to_token(token) or ""
        if token in tokenizer.vocabulary.special:
            contents.append(b"")
        elif token in literal or not byte_of.keys() >= set(name):
            contents.append(name.encode("utf-8"))
        else:
            contents.append(bytes(byte_of[letter] for letter in name))
    return contents


def _bytes_by_letter() -> dict[str, int]:
    """The letters that stand for bytes in GPT-2's vocabulary.

    Visible letters of Latin-1 stand for themselves, other bytes for the letters from 256 on.
    """
    visible = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    hidden = [byte for byte in range(256) if byte not in visible]
    letters = {chr(byte): byte for byte in visible}
    return letters | {chr(256 + number): byte for number, byte in enumerate(hidden)}
