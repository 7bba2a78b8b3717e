"""Text to token ids and back: WordPiece (BERT), byte-level BPE (RoBERTa, GPT-2), whole words.

A tokenizer is trained on the corpus, or comes from the files that are published beside a model. The
algorithms are those of the `tokenizers` library; what is here makes training repeatable, finds the
special tokens, and reads "[MASK]" in a corpus as three words and not as a special token.
"""

from __future__ import annotations

import array
import collections
import hashlib
import itertools
import json
import os
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

from ssl_jax.core.errors import UserError, nearest
from ssl_jax.core.method import Vocabulary
from ssl_jax.data.text.tokenizer_files import read_settings

# Family -> its special tokens in the order of their ids: those of BERT's uncased and cased models,
# and of RoBERTa's, as their trainers number them.
FAMILIES = {
    "wordpiece": {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"},
    "bpe": {"cls": "<s>", "pad": "<pad>", "sep": "</s>", "unk": "<unk>", "mask": "<mask>"},
    "words": {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"},
}
VOCAB_SIZES = {"wordpiece": 30_522, "bpe": 50_265}  # of the published models
VOCAB_SIZES["words"] = 1_000_000  # at most: `min_count` decides
# Letters, digits and _, and what joins them within a word. All else separates words.
_WORD = r"\w+(?:['’-]\w+)*"
# T5's tokens for missing spans of a text.
_SENTINEL = re.compile(r"<extra_id_([0-9]+)>")
_WORD_END = "</w>"  # ends a token of GPT-1 that ends a word
_CONTINUES = "##"  # begins a WordPiece token that continues a word
_MAX_ALPHABET = 1000  # characters of a trained WordPiece vocabulary; Wikipedia has many thousands
_BLANKS = "ĠĊĉč"  # space, newline, tab and carriage return as byte-level BPE writes them
_END = np.uint32(0xFFFFFFFF)  # no token's id
_REMEMBERED = 1 << 20  # pieces, in about 150 MB
_LONGEST = 32  # characters of a piece that is remembered; scripts without blanks have long ones
_AT_ONCE = 1 << 16
_FILES = "tokenizer.json, vocab.txt, or vocab.json with merges.txt"

Texts = Callable[[], Iterable[str]]  # a corpus, from its beginning at every call


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
        pattern = _independent(json.loads(self.to_json()))
        self._words = None if pattern is None else _Words(backend, pattern)

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
        if self._words is not None:
            return self._words.encode(texts)
        encoded = _ids(self.backend, texts)
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


def _ids(backend: tokenizers.Tokenizer, texts: Sequence[str]) -> list[list[int]]:
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


def _independent(parts: dict[str, Any]) -> re.Pattern[str] | None:
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


class _Words:
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
        """As `Tokenizer.encode`."""
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
            for piece, ids in zip(some, _ids(self._backend, some), strict=True):
                self._known[piece] = array.array("I", ids).tobytes()
        found = np.frombuffer(b"".join(map(self._known.__getitem__, pieces)), np.uint32)
        for piece in missing:
            if len(piece) > _LONGEST:
                del self._known[piece]
        ends = np.flatnonzero(found == _END)
        lengths = np.diff(ends, prepend=-1) - 1
        return found[found != _END], lengths


def family_vocabulary(family: str, size: int | None = None, sentinels: int = 0) -> Vocabulary:
    """The Vocabulary that `train` gives, if the corpus has enough words for its size.

    Raises:
      UserError: no such family, or too small a vocabulary.
    """
    _check_family(family)
    ids = {kind: i for i, kind in enumerate(FAMILIES[family])}
    size = VOCAB_SIZES[family] if size is None else size
    if size <= len(ids) + sentinels:
        raise UserError(
            f"vocab_size is {size}, too few for {sentinels} sentinels and {len(ids)} special tokens"
        )
    last = tuple(range(size - 1, size - 1 - sentinels, -1))
    special = (*range(len(ids)), *reversed(last))
    return Vocabulary(size=size, special=special, sentinels=last, **ids)


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
    _check_family(family)
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
        backend = _bpe(models.BPE())
        trainer = trainers.BpeTrainer(
            vocab_size=size, special_tokens=special, initial_alphabet=alphabet, show_progress=False
        )
        backend.train_from_iterator(texts(), trainer)
    elif family == "words":
        backend = _train_words(texts, special, size, lowercase, min_count)
    else:
        backend = _train_wordpiece(texts, special, size, lowercase)
    backend.add_special_tokens([f"<extra_id_{i}>" for i in reversed(range(sentinels))])
    return _with_special(backend, family)


def _train_wordpiece(
    texts: Texts, special: list[str], size: int, lowercase: bool
) -> tokenizers.Tokenizer:
    learner = _wordpiece(models.WordPiece(unk_token=special[1]), lowercase)
    # The library numbers the letters that continue words in the order of a hash table, another one
    # in every process, and breaks ties between merges by these numbers. Given as special tokens,
    # which come first, they have an order.
    counts: collections.Counter[str] = collections.Counter()
    for text in texts():
        counts.update(learner.normalizer.normalize_str(text))
    usual = sorted(counts, key=lambda letter: (-counts[letter], letter))
    usual = [letter for letter in usual if not letter.isspace()]
    letters = sorted(usual[: min(_MAX_ALPHABET, (size - len(special)) // 4)])
    first = [*special, *letters, *(_CONTINUES + letter for letter in letters)]
    trainer = trainers.WordPieceTrainer(
        vocab_size=size,
        special_tokens=first,
        initial_alphabet=letters,
        limit_alphabet=len(letters),
        continuing_subword_prefix=_CONTINUES,
        show_progress=False,
    )
    learner.train_from_iterator(texts(), trainer)
    vocab = learner.get_vocab(with_added_tokens=True)
    return _wordpiece(models.WordPiece(vocab, unk_token=special[1]), lowercase)


def _train_words(
    texts: Texts, special: list[str], size: int, lowercase: bool, min_count: int
) -> tokenizers.Tokenizer:
    """The most frequent words, in the order of their frequency and the alphabet."""
    backend = tokenizers.Tokenizer(models.WordLevel(unk_token=special[1]))
    if lowercase:
        backend.normalizer = normalizers.Lowercase()
    backend.pre_tokenizer = pre_tokenizers.Split(
        tokenizers.Regex(_WORD), behavior="removed", invert=True
    )
    trainer = trainers.WordLevelTrainer(
        vocab_size=size, min_frequency=min_count, special_tokens=special, show_progress=False
    )
    backend.train_from_iterator(texts(), trainer)
    if backend.get_vocab_size() == len(special):
        raise UserError(
            f"no word of the text occurs {min_count} times; set a smaller data.options.min_count"
        )
    return backend


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
        found = [name for name in names if os.path.exists(os.path.join(path, name))]
        if not found:
            raise UserError(f"tokenizer {path} holds no tokenizer: {_FILES}")
        path = os.path.join(path, found[0])
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
            if any(token.endswith(_WORD_END) for token in vocab):
                backend = _bpe_of_words(vocab, pairs)
            else:
                model = models.BPE(vocab, pairs)
                backend = _bpe(model, add_prefix_space=bool(settings.add_prefix_space))
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
    backend = _wordpiece(
        models.WordPiece(vocab, unk_token="[UNK]"),
        lowercase,
        strip_accents=settings.strip_accents,
        handle_chinese_chars=settings.tokenize_chinese_chars is not False,
    )
    settings.add_tokens(backend, path)
    return _with_special(backend, "wordpiece")


def _with_special(backend: tokenizers.Tokenizer, family: str) -> Tokenizer:
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
    return Tokenizer(backend)


def _wordpiece(
    model: models.WordPiece, lowercase: bool, **normalizer: bool | None
) -> tokenizers.Tokenizer:
    """BERT's words around a model."""
    backend = tokenizers.Tokenizer(model)
    backend.normalizer = normalizers.BertNormalizer(lowercase=lowercase, **normalizer)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece(prefix=_CONTINUES)
    return backend


def _bpe(model: models.BPE, *, add_prefix_space: bool = False) -> tokenizers.Tokenizer:
    """GPT-2's words around a model."""
    backend = tokenizers.Tokenizer(model)
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=add_prefix_space)
    backend.decoder = decoders.ByteLevel()
    return backend


def _bpe_of_words(vocab: dict[str, int], merges: list[tuple[str, str]]) -> tokenizers.Tokenizer:
    """GPT-1's tokenizer: BPE of the characters of BERT's uncased words, with marked ends."""
    model = models.BPE(vocab, merges, unk_token="<unk>", end_of_word_suffix=_WORD_END)
    backend = tokenizers.Tokenizer(model)
    backend.normalizer = normalizers.BertNormalizer(lowercase=True)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.BPEDecoder(suffix=_WORD_END)
    return backend


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


def _check_family(family: str) -> None:
    if family not in FAMILIES:
        raise UserError(
            f"unknown kind of tokenizer {family!r}; kinds: {', '.join(FAMILIES)}."
            f"{nearest(family, FAMILIES)}"
        )
