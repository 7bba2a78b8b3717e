"""Makes a token cache from a corpus: in shards, by several processes, restartable.

One process reads the corpus and divides it into shards of a fixed number of characters. Every byte
of the cache is independent of the number of processes and of interruptions. A shard that exists is
kept if its contents are intact and it was made from the same text.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import BrokenExecutor
from typing import Any

from ssl_jax.core.errors import RunError, UserError
from ssl_jax.data import class_names
from ssl_jax.data.text import token_cache
from ssl_jax.data.text.corpus import Corpus, Part, hash_of
from ssl_jax.data.text.shard_makers import Makers, Task
from ssl_jax.data.text.token_cache import TokenCache
from ssl_jax.data.text.tokenizer import Tokenizer
from ssl_jax.data.text.tokenizer_options import TokenizerOptions

SHARD = 1 << 25  # characters of a shard, about 16 MB of tokens
_LOCK = ".lock"
_LINE_SECONDS = 5.0
_UNKNOWN = 0.05  # share of a split's tokens from which on it is said that they are unknown ones

Say = Callable[[str], None]


def identity(corpus: Corpus, options: TokenizerOptions, shard_characters: int) -> dict[str, Any]:
    """What distinguishes a cache from others, as JSON."""
    facts = {
        "format": token_cache.FORMAT,
        "corpus": corpus.description,
        "tokenizer": options.identity(),
        "shard_characters": shard_characters,
    }
    return json.loads(json.dumps(facts))  # as it is read again


def cached(
    corpus: Corpus,
    options: TokenizerOptions,
    folder: str,
    *,
    workers: int = 0,
    say: Say | None = None,
) -> TokenCache:
    """The cache of a corpus below `folder`, prepared now if it is not there.

    Its own folder is named by all that it depends on, the times at which the corpus's files were
    changed included.

    Raises:
      UserError, RunError: as `prepare`.
    """
    say = say or logging.getLogger(__name__).warning
    key = hash_of([identity(corpus, options, SHARD), corpus.version()])
    directory = os.path.join(os.path.expanduser(folder), key)
    if os.path.exists(os.path.join(directory, token_cache.MANIFEST)):
        return TokenCache(directory)
    say(
        f"preparing the tokens of {corpus.title} once, in {directory} (for a large corpus: "
        "ssl_jax prepare_text, with several processes)"
    )
    return prepare(corpus, options, directory, workers=workers, say=say)


def prepare(
    corpus: Corpus,
    options: TokenizerOptions,
    directory: str,
    *,
    workers: int = 0,
    shard_characters: int = SHARD,
    say: Say = print,
) -> TokenCache:
    """Makes a token cache, or finishes one, or checks one that is finished.

    Args:
      corpus: the documents.
      options: of the tokenizer.
      directory: where to, made if missing. Another process that prepares it is waited for.
      workers: processes that tokenize; 0: this process alone.
      shard_characters: characters of a shard.
      say: takes lines on how it goes.

    Raises:
      UserError: the directory holds something else, or the corpus cannot be read or has no tokens.
      RunError: the directory cannot be written to, or a worker process died.
    """
    expected = identity(corpus, options, shard_characters)
    try:
        with _alone(directory, say):
            if os.path.exists(os.path.join(directory, token_cache.MANIFEST)):
                done = _finished(directory, expected, say)
                if done is not None:
                    return done
            else:
                _begin(directory, expected, say)
            return _Preparation(corpus, options, directory, workers, shard_characters, say).run(
                expected
            )
    except OSError as error:
        raise RunError(
            f"{directory} cannot be written: {error}; shards that are finished are kept, the same "
            "command goes on"
        ) from error
    except BrokenExecutor:
        raise RunError(
            "a worker process died, perhaps for lack of memory: use fewer workers; shards that are "
            "finished are kept, the same command goes on"
        ) from None


@contextlib.contextmanager
def _alone(directory: str, say: Say) -> Iterator[None]:
    """Keeps other processes out of the directory, also ones of which this one knows nothing."""
    os.makedirs(directory, exist_ok=True)
    with open(os.path.join(directory, _LOCK), "a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"waiting for another process that prepares {directory}")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _finished(directory: str, expected: dict[str, Any], say: Say) -> TokenCache | None:
    """The finished cache in `directory`; None if parts of it have to be made again.

    Raises:
      UserError: it is one of something else.
    """
    path = os.path.join(directory, token_cache.MANIFEST)
    _compare(directory, token_cache.read_manifest(directory)["identity"], expected)
    try:
        cache = TokenCache(directory)
        _ = cache.tokenizer
        broken = cache.damaged()
    except UserError as error:
        broken = [str(error)]
    if not broken:
        say(f"{directory} is finished: nothing to do")
        return cache
    say(f"{directory} is damaged ({broken[0]}): making what is broken again")
    token_cache.write_json(os.path.join(directory, token_cache.UNFINISHED), expected)
    os.remove(path)
    return None


def _begin(directory: str, expected: dict[str, Any], say: Say) -> None:
    """Marks the directory as an unfinished cache, or checks that it is the one wanted."""
    path = os.path.join(directory, token_cache.UNFINISHED)
    if os.path.exists(path):
        with open(path, encoding="utf-8") as file:
            _compare(directory, json.load(file), expected)
        say(f"going on with {directory}")
        return
    others = sorted(name for name in os.listdir(directory) if not name.startswith("."))
    others = [name for name in others if not name.endswith(".writing")]
    if others:
        raise UserError(
            f"{directory} is not empty and holds no token cache ({others[0]}); choose another"
        )
    token_cache.write_json(path, expected)


def _compare(directory: str, stored: dict[str, Any], expected: dict[str, Any]) -> None:
    if stored == expected:
        return
    flat_stored, flat_expected = _flat(stored), _flat(expected)
    keys = sorted(flat_stored.keys() | flat_expected.keys())
    changes = [
        f"{key}: {flat_stored.get(key)} -> {flat_expected.get(key)}"
        for key in keys
        if flat_stored.get(key) != flat_expected.get(key)
    ]
    raise UserError(
        f"{directory} holds a cache of something else ({'; '.join(changes)}); choose another "
        "directory, or delete it"
    )


def _flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    out: dict[str, Any] = {}
    for key, value in tree.items():
        out |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return out


class _Preparation:
    """One run of `prepare`, once it is alone in its directory."""

    def __init__(
        self, corpus: Corpus, options: TokenizerOptions, directory: str, workers: int,
        shard_characters: int, say: Say,
    ):  # fmt: skip
        self._corpus, self._options, self._directory = corpus, options, directory
        self._workers, self._characters, self._say = workers, shard_characters, say
        self._labels: dict[str, int] = {}  # of classes known by name, as they come
        self._largest_label = -1
        self._made = 0  # characters

    def run(self, expected: dict[str, Any]) -> TokenCache:
        self._tokenizer = self._settle_tokenizer()
        self._began = self._said = time.monotonic()
        records: dict[str, list[dict[str, Any]]] = {split: [] for split in self._corpus.splits}
        with Makers(self._workers, self._tokenizer) as makers:
            for split in self._corpus.splits:
                for record in self._made_or_kept(split, makers):
                    records[split].append(record)
                    self._progress(split, records[split])
        splits = {split: _split_facts(shards) for split, shards in records.items()}
        for split, facts in splits.items():
            self._check(split, facts)
        met = tuple(self._labels)  # in the order in which the documents name them
        names = self._corpus.class_names or class_names.in_order(met)
        token_cache.write_manifest(
            self._directory, self._tokenizer, splits, identity=expected,
            class_names=names or None,
            class_numbers=None if self._corpus.class_names else [names.index(one) for one in met],
            num_classes=len(names) or self._largest_label + 1 or None,
        )  # fmt: skip
        self._clear({record["file"] for shards in records.values() for record in shards})
        for split, facts in splits.items():
            self._say(
                f"{split}: {facts['documents']:,} documents, {facts['tokens']:,} tokens, "
                f"{facts['characters'] / max(facts['tokens'], 1):.2f} characters a token"
            )
        for note in (*self._corpus.notes(), *self._notes(splits)):
            self._say(f"note: {note}")
        return TokenCache(self._directory)

    def _notes(self, splits: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
        """Where the tokenizer is not what was asked for, or does not suit the text."""
        if self._options.tokenizer == "words":  # rare words are meant to be unknown
            return
        vocabulary, asked = self._tokenizer.vocabulary, self._options.wanted_size
        if asked is not None and vocabulary.size < asked:
            yield (
                f"the text makes no more than {vocabulary.size:,} tokens, not the {asked:,} of "
                "vocab_size; a run that sets the size takes "
                f"data.options.vocab_size={vocabulary.size}"
            )
        for split, facts in splits.items():
            share = facts["unknown"] / max(facts["tokens"], 1)
            if share > _UNKNOWN:
                name = self._tokenizer.backend.id_to_token(vocabulary.unk)
                yield (
                    f"{share:.1%} of the tokens of {split} are {name}: the tokenizer hardly knows "
                    "this text; use one that fits it, e.g. tokenizer=bpe"
                )

    def _settle_tokenizer(self) -> Tokenizer:
        """The tokenizer of an earlier attempt, or a new one, which is written down."""
        path = os.path.join(self._directory, token_cache.TOKENIZER)
        with contextlib.suppress(OSError, ValueError), open(path, encoding="utf-8") as file:
            return Tokenizer.from_json(file.read())
        if self._options.trained:
            self._say(f"training a {self._options.tokenizer} tokenizer on {self._corpus.title}")
        tokenizer = self._options.make(self._corpus)
        self._say(f"tokenizer of {tokenizer.vocabulary.size:,} tokens: {path}")
        token_cache.write_file(path, tokenizer.to_json().encode())
        return tokenizer

    def _made_or_kept(self, split: str, makers: Makers) -> Iterator[dict[str, Any]]:
        """The records of a split's shards, in order."""
        for number, (parts, characters) in enumerate(
            _shards(self._corpus, split, self._characters)
        ):
            labels = [self._label(part) for part in parts]
            facts = {
                "split": split,
                "continues": parts[0].continues,
                "characters": characters,
                "text": _text_hash(parts, labels),
                "tokenizer": self._tokenizer.digest,
            }
            name = token_cache.shard_name(split, number)
            path = os.path.join(self._directory, name)
            kept = token_cache.check_shard(path)
            if kept is not None and facts.items() <= kept.items():
                yield from makers.keep(kept)
            else:
                self._made += characters
                yield from makers.make(Task(path, parts, labels, facts))
        yield from makers.rest()

    def _label(self, part: Part) -> int:
        if isinstance(part.label, str):
            return self._labels.setdefault(part.label, len(self._labels))
        label = -1 if part.label is None else part.label
        if label >= 0 and self._labels:
            raise UserError(
                f"{part.name} has the label {label}, others have names such as "
                f"{next(iter(self._labels))!r}; use one or the other"
            )
        self._largest_label = max(self._largest_label, label)
        return label

    def _progress(self, split: str, records: Sequence[dict[str, Any]]) -> None:
        now = time.monotonic()
        if now - self._said > _LINE_SECONDS:
            self._said = now
            rate = self._made / 1e6 / max(now - self._began, 1e-9)
            tokens = sum(record["tokens"] for record in records)
            self._say(f"{split}: shard {len(records):,}, {tokens:,} tokens, {rate:.1f} MB/s")

    def _check(self, split: str, facts: dict[str, Any]) -> None:
        where = f"{self._corpus.title}[{split}]"
        if not facts["shards"]:
            notes = "; ".join(self._corpus.notes())
            raise UserError(f"{where} has no text" + (f": {notes}" if notes else ""))
        if not facts["tokens"]:
            raise UserError(
                f"{where} has {facts['characters']:,} characters, but the tokenizer makes no token "
                "of them; use one that fits the text, e.g. tokenizer=bpe"
            )

    def _clear(self, kept: set[str]) -> None:
        """Removes what other attempts have left."""
        for name in os.listdir(self._directory):
            shard = name.endswith(".safetensors") and name not in kept
            if shard or name == token_cache.UNFINISHED or name.endswith(".writing"):
                os.remove(os.path.join(self._directory, name))


def _shards(corpus: Corpus, split: str, characters: int) -> Iterator[tuple[list[Part], int]]:
    """The parts of each shard, and their characters."""
    parts: list[Part] = []
    held = 0
    for part in corpus.parts(split):
        parts.append(part)
        held += len(part.text)
        if held >= characters:
            yield parts, held
            parts, held = [], 0
    if parts:
        yield parts, held


def _text_hash(parts: Sequence[Part], labels: Sequence[int]) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for part, label in zip(parts, labels, strict=True):
        text = part.text.encode("utf-8", "surrogatepass")
        digest.update(f"{len(text)} {label} {part.continues} {part.name!r} ".encode())
        digest.update(text)
    return digest.hexdigest()


def _split_facts(records: list[dict[str, Any]]) -> dict[str, Any]:
    keys = ("characters", "sentences", "tokens")
    totals = {key: sum(record[key] for record in records) for key in keys}
    # Shards that were kept may be older than this count.
    totals["unknown"] = sum(record.get("unknown", 0) for record in records)
    documents = sum(record["documents"] - record["continues"] for record in records)
    return totals | {"documents": documents, "shards": records}
