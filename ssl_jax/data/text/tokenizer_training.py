"""Trains tokenizers on a corpus. The algorithms are those of the `tokenizers` library."""

from __future__ import annotations

import collections
from collections.abc import Callable, Iterable

import tokenizers
from tokenizers import models, pre_tokenizers, trainers

from ssl_jax.core.errors import UserError
from ssl_jax.data.text import tokenizer_families as families
from ssl_jax.data.text.tokenizer import Tokenizer
from ssl_jax.data.text.tokenizer_families import CONTINUES, FAMILIES, VOCAB_SIZES

_MAX_ALPHABET = 1000  # characters of a trained WordPiece vocabulary; Wikipedia has many thousands

Texts = Callable[[], Iterable[str]]  # a corpus, from its beginning at every call


def train(
    texts: Texts,
    family: str,
    vocab_size: int | None = None,
    *,
    lowercase: bool = True,
    min_count: int = 5,
    sentinels: int = 0,
) -> Tokenizer:
    """Trains a tokenizer. The same texts give the same tokenizer, whatever the threads do.

    Args:
      texts: called for every pass over the corpus.
      family: "wordpiece" (BERT's normaliser and words), "bpe" (GPT-2's words, all bytes known) or
        "words" (every word is a token; punctuation is left out).
      vocab_size: default 30,522, 50,265 and 1,000,000. A small corpus gives fewer.
      lowercase: of WordPiece: lower case without accents, as BERT's uncased models have it; of
        words: lower case.
      min_count: of words: how often a word must occur; rarer ones are unknown.
      sentinels: how many of the tokens stand for missing spans. They have the last ids, in falling
        order (T5).

    Raises:
      UserError: no such family, too small a vocabulary, or no word occurs often enough.
    """
    families.check_family(family)
    special = list(FAMILIES[family].values())
    size = (VOCAB_SIZES[family] if vocab_size is None else vocab_size) - sentinels
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet()) if family == "bpe" else []
    least = len(special) + max(len(alphabet), 16)
    if size < least:
        raise UserError(
            f"vocab_size is {size + sentinels}; a {family} tokenizer needs at least "
            f"{least + sentinels}"
        )
    if family == "bpe":
        backend = families.bpe(models.BPE())
        trainer = trainers.BpeTrainer(
            vocab_size=size, special_tokens=special, initial_alphabet=alphabet, show_progress=False
        )
        backend.train_from_iterator(texts(), trainer)
    elif family == "words":
        backend = _train_words(texts, special, size, lowercase, min_count)
    else:
        backend = _train_wordpiece(texts, special, size, lowercase)
    backend.add_special_tokens([f"<extra_id_{i}>" for i in reversed(range(sentinels))])
    families.flag_special(backend, family)
    return Tokenizer(backend)


def _train_wordpiece(
    texts: Texts, special: list[str], size: int, lowercase: bool
) -> tokenizers.Tokenizer:
    learner = families.wordpiece(models.WordPiece(unk_token=special[1]), lowercase)
    # The library numbers the letters that continue words in the order of a hash table, another one
    # in every process, and breaks ties between merges by these numbers. Given as special tokens,
    # which come first, they have an order.
    counts: collections.Counter[str] = collections.Counter()
    for text in texts():
        counts.update(learner.normalizer.normalize_str(text))
    usual = sorted(counts, key=lambda letter: (-counts[letter], letter))
    usual = [letter for letter in usual if not letter.isspace()]
    letters = sorted(usual[: min(_MAX_ALPHABET, (size - len(special)) // 4)])
    first = [*special, *letters, *(CONTINUES + letter for letter in letters)]
    trainer = trainers.WordPieceTrainer(
        vocab_size=size,
        special_tokens=first,
        initial_alphabet=letters,
        limit_alphabet=len(letters),
        continuing_subword_prefix=CONTINUES,
        show_progress=False,
    )
    learner.train_from_iterator(texts(), trainer)
    vocab = learner.get_vocab(with_added_tokens=True)
    return families.wordpiece(models.WordPiece(vocab, unk_token=special[1]), lowercase)


def _train_words(
    texts: Texts, special: list[str], size: int, lowercase: bool, min_count: int
) -> tokenizers.Tokenizer:
    """The most frequent words, in the order of their frequency and the alphabet."""
    backend = families.words(lowercase)
    trainer = trainers.WordLevelTrainer(
        vocab_size=size, min_frequency=min_count, special_tokens=special, show_progress=False
    )
    backend.train_from_iterator(texts(), trainer)
    if backend.get_vocab_size() == len(special):
        raise UserError(
            f"no word of the text occurs {min_count} times; set a smaller data.options.min_count"
        )
    return backend
