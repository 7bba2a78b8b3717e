"""The tokenizer that a corpus is prepared with: read from files, or trained on the corpus."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Annotated, Any

import numpy as np

from ssl_jax.config.fields import between, positive, positive_fraction
from ssl_jax.core.errors import UserError
from ssl_jax.core.method import Vocabulary
from ssl_jax.data import counter
from ssl_jax.data.text import tokenizer_families, tokenizer_files, tokenizer_training
from ssl_jax.data.text.corpus import Corpus
from ssl_jax.data.text.tokenizer import Tokenizer


@dataclasses.dataclass(frozen=True)
class TokenizerOptions:
    """Which tokenizer a corpus is prepared with."""

    tokenizer: Annotated[
        str,
        "wordpiece, bpe or words, trained on the split `train`; or the path of a tokenizer's "
        "files; or init_from: that of the run or folder that the run starts from.",
    ] = "wordpiece"
    vocab_size: Annotated[
        int | None, positive,
        "Tokens of a trained tokenizer; None: 30,522 (wordpiece), 50,265 (bpe) or all words that "
        "occur min_count times.",
    ] = None  # fmt: skip
    min_count: Annotated[
        int, positive, "Of tokenizer=words: how often a word must occur; rarer ones are unknown."
    ] = 5
    lowercase: Annotated[
        bool | None, "Whether WordPiece or words are lower-cased; None: trained ones are."
    ] = None
    tokenizer_fraction: Annotated[
        float, positive_fraction, "Share of the documents that a tokenizer is trained on."
    ] = 1.0
    sentinels: Annotated[
        int, between(0, 10_000),
        "Tokens of a trained tokenizer that stand for missing spans of a text; T5 has 100.",
    ] = 0  # fmt: skip

    @property
    def trained(self) -> bool:
        return self.tokenizer in tokenizer_families.FAMILIES

    @property
    def unknown_size(self) -> bool:
        """Whether no option says how many tokens a trained tokenizer has."""
        return self.trained and self.vocab_size is None

    @property
    def wanted_size(self) -> int | None:
        """Tokens of a trained tokenizer, of which a small corpus gives fewer; None of files."""
        return (
            self.vocab_size or tokenizer_families.VOCAB_SIZES[self.tokenizer]
            if self.trained
            else None
        )

    def load(self) -> Tokenizer:
        """The tokenizer of files.

        Raises:
          UserError: they cannot be read, or are of another size than `vocab_size`.
        """
        loaded = tokenizer_files.load(self.tokenizer, lowercase=self.lowercase)
        if self.vocab_size not in (None, loaded.vocabulary.size):
            raise UserError(
                f"vocab_size is {self.vocab_size}, but tokenizer {self.tokenizer} has "
                f"{loaded.vocabulary.size:,} tokens; leave vocab_size out"
            )
        return loaded

    def identity(self) -> dict[str, Any]:
        """What distinguishes it from other tokenizers, as JSON.

        Raises:
          UserError: as `load`, or a bad value.
        """
        if self.lowercase is not None and self.tokenizer == "bpe":
            raise UserError("lowercase is no option of tokenizer=bpe; leave it out")
        if not self.trained:
            return {"hash": self.load().digest}
        values = dataclasses.asdict(self)
        values["vocab_size"] = self.wanted_size
        values["lowercase"] = self.tokenizer != "bpe" and self.lowercase is not False
        if self.tokenizer != "words":
            del values["min_count"]
        if not self.sentinels:
            del values["sentinels"]
        return values

    def vocabulary(self) -> Vocabulary:
        """That of the tokenizer's files, or of a trained tokenizer, which need not be there yet.

        Raises:
          UserError: as `load`, or a trained one cannot be of this size.
        """
        if not self.trained:
            return self.load().vocabulary
        return tokenizer_families.family_vocabulary(self.tokenizer, self.vocab_size, self.sentinels)

    def make(self, corpus: Corpus) -> Tokenizer:
        """Loads or trains the tokenizer.

        Raises:
          UserError: as `load` and `tokenizer_training.train`, or there is nothing to train on.
        """
        if not self.trained:
            return self.load()
        split = "train" if "train" in corpus.splits else corpus.splits[0]
        has_text = False

        def texts() -> Iterator[str]:
            nonlocal has_text
            kept, number = True, 0
            for part in corpus.parts(split):
                if not part.continues:
                    kept = _drawn(number, self.tokenizer_fraction)
                    number += 1
                if kept:
                    has_text = True
                    yield part.text

        lowercase = self.lowercase is not False
        tokenizer = tokenizer_training.train(
            texts,
            self.tokenizer,
            self.vocab_size,
            lowercase=lowercase,
            min_count=self.min_count,
            sentinels=self.sentinels,
        )
        if not has_text:
            raise UserError(f"{corpus.title}[{split}] has no text to train a tokenizer on")
        return tokenizer


def _drawn(number: int, fraction: float) -> bool:
    return (
        fraction == 1
        or counter.uniform(counter.key(0, counter.Stream.TOKENIZER), np.array([number]))[0]
        < fraction
    )
