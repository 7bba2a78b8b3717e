"""Kinds of tokenizers: their special tokens, and what divides a text into words around a model."""

from __future__ import annotations

import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors

from ssl_jax.core.errors import UserError, nearest
from ssl_jax.core.method import Vocabulary

# Family -> its special tokens in the order of their ids: those of BERT's uncased and cased models,
# and of RoBERTa's, as their trainers number them.
FAMILIES = {
    "wordpiece": {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"},
    "bpe": {"cls": "<s>", "pad": "<pad>", "sep": "</s>", "unk": "<unk>", "mask": "<mask>"},
    "words": {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"},
}
VOCAB_SIZES = {"wordpiece": 30_522, "bpe": 50_265}  # of the published models
VOCAB_SIZES["words"] = 1_000_000  # at most: `min_count` decides
CONTINUES = "##"  # begins a WordPiece token that continues a word
WORD_END = "</w>"  # ends a token of GPT-1 that ends a word
# Letters, digits and _, and what joins them within a word. All else separates words.
_WORD = r"\w+(?:['’-]\w+)*"


def family_vocabulary(family: str, size: int | None = None, sentinels: int = 0) -> Vocabulary:
    """The Vocabulary that training gives, if the corpus has enough words for its size.

    Raises:
      UserError: no such family, or too small a vocabulary.
    """
    check_family(family)
    ids = {kind: i for i, kind in enumerate(FAMILIES[family])}
    size = VOCAB_SIZES[family] if size is None else size
    if size <= len(ids) + sentinels:
        raise UserError(
            f"vocab_size is {size}, too few for {sentinels} sentinels and {len(ids)} special tokens"
        )
    last = tuple(range(size - 1, size - 1 - sentinels, -1))
    special = (*range(len(ids)), *reversed(last))
    return Vocabulary(size=size, special=special, sentinels=last, **ids)


def check_family(family: str) -> None:
    """Raises `UserError` unless `family` is one of `FAMILIES`."""
    if family not in FAMILIES:
        raise UserError(
            f"unknown kind of tokenizer {family!r}; kinds: {', '.join(FAMILIES)}."
            f"{nearest(family, FAMILIES)}"
        )


def flag_special(backend: tokenizers.Tokenizer, family: str) -> None:
    """Flags the special tokens and says how they frame texts; rows are framed without it."""
    tokens = FAMILIES[family]
    backend.add_special_tokens(list(tokens.values()))
    cls, sep = tokens["cls"], tokens["sep"]
    backend.post_processor = processors.TemplateProcessing(
        single=f"{cls} $A {sep}",
        pair=f"{cls} $A {sep} $B:1 {sep}:1"
        if family == "wordpiece"
        else f"{cls} $A {sep} {sep} $B {sep}",
        special_tokens=[(token, backend.token_to_id(token)) for token in (cls, sep)],
    )


def wordpiece(
    model: models.WordPiece, lowercase: bool, **normalizer: bool | None
) -> tokenizers.Tokenizer:
    """BERT's words around a model."""
    backend = tokenizers.Tokenizer(model)
    backend.normalizer = normalizers.BertNormalizer(lowercase=lowercase, **normalizer)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece(prefix=CONTINUES)
    return backend


def bpe(model: models.BPE, *, add_prefix_space: bool = False) -> tokenizers.Tokenizer:
    """GPT-2's words around a model."""
    backend = tokenizers.Tokenizer(model)
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=add_prefix_space)
    backend.decoder = decoders.ByteLevel()
    return backend


def bpe_of_words(vocab: dict[str, int], merges: list[tuple[str, str]]) -> tokenizers.Tokenizer:
    """GPT-1's tokenizer: BPE of the characters of BERT's uncased words, with marked ends."""
    model = models.BPE(vocab, merges, unk_token="<unk>", end_of_word_suffix=WORD_END)
    backend = tokenizers.Tokenizer(model)
    backend.normalizer = normalizers.BertNormalizer(lowercase=True)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.BPEDecoder(suffix=WORD_END)
    return backend


def words(lowercase: bool) -> tokenizers.Tokenizer:
    """A tokenizer of whole words, still without any."""
    backend = tokenizers.Tokenizer(models.WordLevel(unk_token=FAMILIES["words"]["unk"]))
    if lowercase:
        backend.normalizer = normalizers.Lowercase()
    backend.pre_tokenizer = pre_tokenizers.Split(
        tokenizers.Regex(_WORD), behavior="removed", invert=True
    )
    return backend
