"""Reads tokenizers from the files that are published beside a model.

The settings beside a vocabulary:

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
from tokenizers import models

from ssl_jax.core import storage
from ssl_jax.core.errors import UserError, nearest
from ssl_jax.data.text import tokenizer_families as families
from ssl_jax.data.text.tokenizer import Tokenizer
from ssl_jax.data.text.tokenizer_families import FAMILIES, WORD_END

_CONFIG, _ADDED = "tokenizer_config.json", "added_tokens.json"
_FLAGS = ("do_lower_case", "strip_accents", "tokenize_chinese_chars", "add_prefix_space",
          "do_basic_tokenize")  # fmt: skip
_FILES = "tokenizer.json, vocab.txt, or vocab.json with merges.txt"


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


def load(path: str, *, lowercase: bool | None = None) -> Tokenizer:
    """Reads a tokenizer from the files that are published beside a model.

    Args:
      path: BERT's `vocab.txt`, RoBERTa's, GPT-2's or GPT-1's `vocab.json` (its `merges.txt` lies
        beside it), a `tokenizer.json` of any model, or a folder with one of them. Beside a
        vocabulary, `tokenizer_config.json` and `added_tokens.json` are read too. A `vocab.txt`
        without [MASK] gets one behind its last token.
      lowercase: of a `vocab.txt`: whether text is lower-cased; default what its
        `tokenizer_config.json` says, else whether no token has a capital letter.

    Raises:
      UserError: no such file, or it is not a tokenizer.
    """
    path = os.path.expanduser(path)
    if os.path.isdir(path):
        names = ("tokenizer.json", "vocab.txt", "vocab.json")
        present = [name for name in names if os.path.exists(os.path.join(path, name))]
        if not present:
            raise UserError(f"tokenizer {path} holds no tokenizer: {_FILES}")
        path = os.path.join(path, present[0])
    if not os.path.isfile(path):
        raise UserError(
            f"tokenizer {path!r} is neither {' nor '.join(FAMILIES)} nor a file: {_FILES}."
            f"{nearest(path, FAMILIES)}"
        )
    try:
        if path.endswith(".txt"):
            return _published_wordpiece(path, lowercase)
        if os.path.basename(path) == "vocab.json":
            merges = os.path.join(os.path.dirname(path), "merges.txt")
            if not os.path.isfile(merges):
                raise UserError(f"tokenizer {path} lacks the file beside it: merges.txt")
            settings = read_settings(path)
            vocab, pairs = models.BPE.read_file(path, merges)
            if any(token.endswith(WORD_END) for token in vocab):
                backend = families.bpe_of_words(vocab, pairs)
            else:
                model = models.BPE(vocab, pairs)
                backend = families.bpe(model, add_prefix_space=bool(settings.add_prefix_space))
            settings.add_tokens(backend, path)
            return Tokenizer(backend)
        with open(path, encoding="utf-8") as file:
            return Tokenizer.from_json(file.read())
    except UserError:
        raise
    except Exception as error:  # of the library, of JSON, of the encoding
        reason = " ".join(str(error).split())
        raise UserError(f"tokenizer {path} cannot be read ({reason}); give {_FILES}") from None


def _published_wordpiece(path: str, lowercase: bool | None) -> Tokenizer:
    with open(path, encoding="utf-8") as file:
        tokens = file.read().split("\n")
    tokens = tokens[:-1] if tokens[-1] == "" else tokens
    tokens = [token.removesuffix("\r") for token in tokens]
    vocab = {token: i for i, token in enumerate(tokens)}
    settings = read_settings(path)
    needed = [token for kind, token in FAMILIES["wordpiece"].items() if kind != "mask"]
    missing = [token for token in needed if token not in vocab]
    if missing:
        raise UserError(f"tokenizer {path} lacks {', '.join(missing)}: no vocab.txt of BERT's")
    if lowercase is None:
        lowercase = settings.do_lower_case
    if lowercase is None:
        lowercase = not any(token != token.lower() and token[0] != "[" for token in tokens if token)
    backend = families.wordpiece(
        models.WordPiece(vocab, unk_token="[UNK]"),
        lowercase,
        strip_accents=settings.strip_accents,
        handle_chinese_chars=settings.tokenize_chinese_chars is not False,
    )
    settings.add_tokens(backend, path)
    families.flag_special(backend, "wordpiece")
    return Tokenizer(backend)


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
