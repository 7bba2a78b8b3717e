"""The settings that stand beside the vocabulary of a published tokenizer.

    tokenizer_config.json   do_lower_case, strip_accents, tokenize_chinese_chars, add_prefix_space,
                            and added_tokens_decoder
    added_tokens.json       tokens with ids behind the vocabulary

They are read as the transformers library reads them.
"""

from __future__ import annotations

import dataclasses
import os
from typing import Any

import tokenizers

from ssl_jax.core import storage
from ssl_jax.core.errors import UserError

_CONFIG, _ADDED = "tokenizer_config.json", "added_tokens.json"
_FLAGS = ("do_lower_case", "strip_accents", "tokenize_chinese_chars", "add_prefix_space",
          "do_basic_tokenize")  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Settings:
    """What the files say; None where they say nothing.

    Attributes:
      do_lower_case: whether WordPiece lower-cases.
      strip_accents: whether it strips accents; None: if it lower-cases.
      tokenize_chinese_chars: whether it takes Chinese characters for words; None: it does.
      add_prefix_space: whether byte-level BPE puts a blank before the text; None: it does not.
      do_basic_tokenize: whether WordPiece divides a text into words first; None: it does.
      added: id -> token behind the vocabulary.
    """

    do_lower_case: bool | None = None
    strip_accents: bool | None = None
    tokenize_chinese_chars: bool | None = None
    add_prefix_space: bool | None = None
    do_basic_tokenize: bool | None = None
    added: dict[int, tokenizers.AddedToken] = dataclasses.field(default_factory=dict)

    def add_tokens(self, backend: tokenizers.Tokenizer, where: str) -> None:
        """Adds the tokens behind the vocabulary.

        Args:
          backend: the tokenizer, with its vocabulary only.
          where: its path, for messages.

        Raises:
          UserError: their ids do not follow those of the vocabulary.
        """
        for number, token in sorted(self.added.items()):
            if backend.token_to_id(token.content) is None:
                backend.add_tokens([token])
            if backend.token_to_id(token.content) != number:
                raise UserError(
                    f"tokenizer {where}: {token.content!r:.40} is added as token {number}, and it "
                    f"would be {backend.token_to_id(token.content)} behind the vocabulary"
                )


def read_settings(vocabulary: str) -> Settings:
    """The settings beside a vocabulary.

    Args:
      vocabulary: path of a vocab.txt or vocab.json.

    Raises:
      UserError: a file is damaged, or a setting is of another type or unknown here.
    """
    folder = os.path.dirname(vocabulary)
    config = _json(os.path.join(folder, _CONFIG))
    flags = {name: config.get(name) for name in _FLAGS}
    for name, value in flags.items():
        if value is not None and not isinstance(value, bool):
            raise UserError(f"{os.path.join(folder, _CONFIG)}: {name} is {value!r:.40}, no bool")
    if flags["do_basic_tokenize"] is False:
        raise UserError(
            f"{os.path.join(folder, _CONFIG)} has do_basic_tokenize false, which is not known here"
        )
    added = {}
    for token, number in _json(os.path.join(folder, _ADDED)).items():
        added[_number(number, folder, _ADDED)] = tokenizers.AddedToken(token, normalized=True)
    for number, token in (config.get("added_tokens_decoder") or {}).items():
        added[_number(number, folder, _CONFIG)] = tokenizers.AddedToken(
            token["content"],
            # Not special: a text may hold it, unlike [CLS] and so on.
            **{name: bool(token.get(name)) for name in ("lstrip", "rstrip", "single_word")},
            normalized=bool(token.get("normalized", not token.get("special"))),
        )
    return Settings(**flags, added=added)


def _json(path: str) -> dict[str, Any]:
    return storage.read_json(path) if os.path.exists(path) else {}


def _number(value: Any, folder: str, name: str) -> int:
    try:
        return int(value)
    except (TypeError, ValueError):
        raise UserError(f"{os.path.join(folder, name)}: {value!r:.40} is no id") from None
