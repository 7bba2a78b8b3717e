"""Makes a token cache from a corpus: in shards, by several processes, restartable.

One process reads the corpus and deals it out in shards of a fixed number of characters; what a
shard consists of, and so every byte of the cache, does not depend on who makes it or on how often
the work was interrupted. A shard that is there is kept if its contents are whole and the text it
was made from is the one just read.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import fcntl
import hashlib
import json
import logging
import multiprocessing
import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import BrokenExecutor, Future, ProcessPoolExecutor
from typing import Any, NamedTuple

import numpy as np

from ssl_jax.data import counter
from ssl_jax.data.text import token_cache, tokenizer
from ssl_jax.data.text.corpus import Corpus, Part, hash_of, sentences
from ssl_jax.data.text.token_cache import Shard, TokenCache
from ssl_jax.data.text.tokenizer import Tokenizer
from ssl_jax.data.workers import init_worker
from ssl_jax.errors import RunError, UserError

SHARD = 1 << 25  # characters of a shard, about 16 MB of tokens
_AT_ONCE = 1 << 20  # characters tokenized at a time: their encodings take fifty times as much
_SAMPLE = 4  # keeps the draw of documents apart from the other streams
_LOCK = ".lock"
_LINE_SECONDS = 5.0

Say = Callable[[str], None]


@dataclasses.dataclass(frozen=True)
class TokenizerOptions:
    """Which tokenizer a corpus is prepared with.

    Attributes:
      tokenizer: "wordpiece" or "bpe", trained on the split `train`; or the path of a tokenizer's
        files (see `tokenizer.load`).
      vocab_size: of a trained tokenizer; default 30,522 and 50,265.
      lowercase: of WordPiece, whether text is lower-cased; default for a trained one: yes.
      tokenizer_fraction: share of the documents a trained tokenizer sees, in (0, 1].
    """

    tokenizer: str = "wordpiece"
    vocab_size: int | None = None
    lowercase: bool | None = None
    tokenizer_fraction: float = 1.0

    @property
    def trained(self) -> bool:
        return self.tokenizer in tokenizer.FAMILIES

    def load(self) -> Tokenizer:
        """The tokenizer of files.

        Raises:
          UserError: they cannot be read, or are of another size than `vocab_size`.
        """
        loaded = tokenizer.load(self.tokenizer, lowercase=self.lowercase)
        if self.vocab_size not in (None, loaded.vocabulary.size):
            raise UserError(
                f"vocab_size is {self.vocab_size}, but tokenizer {self.tokenizer} has "
                f"{loaded.vocabulary.size:,} tokens; leave vocab_size out"
            )
        return loaded

    def identity(self) -> dict[str, Any]:
        """What tells tokenizers apart, JSON.

        Raises:
          UserError: as `load`, or a bad value.
        """
        if not 0 < self.tokenizer_fraction <= 1:
            raise UserError(
                f"tokenizer_fraction is {self.tokenizer_fraction}; use a number above 0 and up to 1"
            )
        if self.lowercase is not None and self.tokenizer == "bpe":
            raise UserError("lowercase is an option of WordPiece; leave it out for tokenizer=bpe")
        if not self.trained:
            return {"hash": self.load().digest}
        values = dataclasses.asdict(self)
        values["vocab_size"] = self.vocab_size or tokenizer.VOCAB_SIZES[self.tokenizer]
        values["lowercase"] = self.tokenizer == "wordpiece" and self.lowercase is not False
        return values

    def make(self, corpus: Corpus) -> Tokenizer:
        """Loads or trains the tokenizer.

        Raises:
          UserError: as `load` and `tokenizer.train`, or there is nothing to train on.
        """
        if not self.trained:
            return self.load()
        split = "train" if "train" in corpus.splits else corpus.splits[0]
        found = False

        def texts() -> Iterator[str]:
            nonlocal found
            kept, number = True, 0
            for part in corpus.parts(split):
                if not part.continues:
                    kept = _drawn(number, self.tokenizer_fraction)
                    number += 1
                if kept:
                    found = True
                    yield part.text

        lowercase = self.lowercase is not False
        made = tokenizer.train(texts, self.tokenizer, self.vocab_size, lowercase=lowercase)
        if not found:
            raise UserError(f"{_title(corpus)}[{split}] has no text to train a tokenizer on")
        return made


def _drawn(number: int, fraction: float) -> bool:
    return (
        fraction == 1 or counter.uniform(counter.key(0, _SAMPLE), np.array([number]))[0] < fraction
    )


def identity(corpus: Corpus, options: TokenizerOptions, shard_characters: int) -> dict[str, Any]:
    """What tells caches apart, JSON."""
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
        f"preparing the tokens of {_title(corpus)} once, in {directory} (for a large corpus: "
        "python -m ssl_jax.prepare_text, with several processes)"
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
    wanted = identity(corpus, options, shard_characters)
    try:
        with _alone(directory, say):
            if os.path.exists(os.path.join(directory, token_cache.MANIFEST)):
                done = _finished(directory, wanted, say)
                if done is not None:
                    return done
            else:
                _begin(directory, wanted, say)
            return _Preparation(corpus, options, directory, workers, shard_characters, say).run(
                wanted
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


def _finished(directory: str, wanted: dict[str, Any], say: Say) -> TokenCache | None:
    """The finished cache in `directory`; None if parts of it have to be made again.

    Raises:
      UserError: it is one of something else.
    """
    path = os.path.join(directory, token_cache.MANIFEST)
    _compare(directory, token_cache.read_manifest(directory)["identity"], wanted)
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
    token_cache.write_json(os.path.join(directory, token_cache.UNFINISHED), wanted)
    os.remove(path)
    return None


def _begin(directory: str, wanted: dict[str, Any], say: Say) -> None:
    """Marks the directory as an unfinished cache, or checks that it is the one wanted."""
    path = os.path.join(directory, token_cache.UNFINISHED)
    if os.path.exists(path):
        with open(path, encoding="utf-8") as file:
            _compare(directory, json.load(file), wanted)
        say(f"going on with {directory}")
        return
    others = sorted(name for name in os.listdir(directory) if not name.startswith("."))
    others = [name for name in others if not name.endswith(".writing")]
    if others:
        raise UserError(
            f"{directory} is not empty and holds no token cache ({others[0]}); choose another"
        )
    token_cache.write_json(path, wanted)


def _compare(directory: str, found: dict[str, Any], wanted: dict[str, Any]) -> None:
    if found == wanted:
        return
    flat_found, flat_wanted = _flat(found), _flat(wanted)
    keys = sorted(flat_found.keys() | flat_wanted.keys())
    changes = [
        f"{key}: {flat_found.get(key)} -> {flat_wanted.get(key)}"
        for key in keys
        if flat_found.get(key) != flat_wanted.get(key)
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


class _Task(NamedTuple):
    """A shard to be made."""

    path: str
    parts: list[Part]
    labels: list[int]  # of each part
    facts: dict[str, Any]


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

    def run(self, wanted: dict[str, Any]) -> TokenCache:
        self._tokenizer = self._settle_tokenizer()
        self._began = self._said = time.monotonic()
        records: dict[str, list[dict[str, Any]]] = {split: [] for split in self._corpus.splits}
        with _Makers(self._workers, self._tokenizer) as makers:
            for split in self._corpus.splits:
                for record in self._made_or_kept(split, makers):
                    records[split].append(record)
                    self._progress(split, records[split])
        splits = {split: _split_facts(shards) for split, shards in records.items()}
        for split, facts in splits.items():
            self._check(split, facts)
        class_names = self._corpus.class_names or tuple(self._labels)
        token_cache.write_manifest(
            self._directory, self._tokenizer, splits, identity=wanted,
            class_names=class_names or None,
            num_classes=len(class_names) or self._largest_label + 1 or None,
        )  # fmt: skip
        self._clear({record["file"] for shards in records.values() for record in shards})
        for split, facts in splits.items():
            self._say(
                f"{split}: {facts['documents']:,} documents, {facts['tokens']:,} tokens, "
                f"{facts['characters'] / max(facts['tokens'], 1):.2f} characters a token"
            )
        for note in self._corpus.notes():
            self._say(f"note: {note}")
        return TokenCache(self._directory)

    def _settle_tokenizer(self) -> Tokenizer:
        """The tokenizer of an earlier attempt, or a new one, which is written down."""
        path = os.path.join(self._directory, token_cache.TOKENIZER)
        with contextlib.suppress(OSError, ValueError), open(path, encoding="utf-8") as file:
            return Tokenizer.from_json(file.read())
        if self._options.trained:
            self._say(f"training a {self._options.tokenizer} tokenizer on {_title(self._corpus)}")
        made = self._options.make(self._corpus)
        self._say(f"tokenizer of {made.vocabulary.size:,} tokens: {path}")
        token_cache.write_file(path, made.to_json().encode())
        return made

    def _made_or_kept(self, split: str, makers: _Makers) -> Iterator[dict[str, Any]]:
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
                yield from makers.make(_Task(path, parts, labels, facts))
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
        where = f"{_title(self._corpus)}[{split}]"
        if not facts["shards"]:
            notes = "; ".join(self._corpus.notes())
            raise UserError(f"{where} has no text" + (f": {notes}" if notes else ""))
        if not facts["tokens"]:
            raise UserError(
                f"{where} has {facts['characters']:,} characters, but the tokenizer makes no token "
                "of them; use one that fits the text, e.g. tokenizer=bpe"
            )

    def _clear(self, wanted: set[str]) -> None:
        """Removes what other attempts have left."""
        for name in os.listdir(self._directory):
            shard = name.endswith(".safetensors") and name not in wanted
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
    documents = sum(record["documents"] - record["continues"] for record in records)
    return totals | {"documents": documents, "shards": records}


def _title(corpus: Corpus) -> str:
    location = corpus.description.get("location")
    return corpus.description["kind"] + (f":{location}" if location else "")


def make_shard(task: _Task, made: Tokenizer) -> dict[str, Any]:
    """Tokenizes and writes a shard. Returns its record."""
    dtype = token_cache.dtype_of(made.vocabulary)
    ids: list[np.ndarray] = []
    lengths: list[np.ndarray] = []
    pieces: list[str] = []
    owners: list[int] = []  # the document of each piece
    document, waiting = -1, 0

    def encode() -> None:
        nonlocal pieces, waiting
        found, counts = made.encode(pieces)
        ids.append(found.astype(dtype))
        lengths.append(counts)
        pieces, waiting = [], 0

    starts = []
    for row, part in enumerate(task.parts):
        if not part.continues or row == 0:
            document += 1
            starts.append(row)
        cut = sentences(part.text)
        owners += [document] * len(cut)
        pieces += cut
        waiting += len(part.text)
        if waiting >= _AT_ONCE:
            encode()
    encode()
    counts = np.concatenate(lengths)
    some = counts > 0
    encoded = [os.fsencode(task.parts[row].name) for row in starts]
    shard = Shard(
        tokens=np.concatenate(ids),
        sentence_tokens=counts[some].astype(np.uint32),
        document_sentences=np.bincount(np.array(owners)[some], minlength=len(starts)).astype(
            np.uint32
        ),
        label=np.array([task.labels[row] for row in starts], np.int32),
        names=np.frombuffer(b"".join(encoded), np.uint8),
        name_ends=np.cumsum([len(name) for name in encoded], dtype=np.int64),
    )
    return token_cache.write_shard(task.path, shard, task.facts)


class _Makers:
    """Makes shards, here or in worker processes, and hands back their records in order."""

    def __init__(self, workers: int, made: Tokenizer):
        self._workers, self._tokenizer = workers, made
        self._pool: ProcessPoolExecutor | None = None
        self._waiting: collections.deque[Any] = collections.deque()

    def keep(self, record: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """Takes a shard that is there."""
        self._waiting.append(record)
        yield from self._ready(2 * self._workers)

    def make(self, task: _Task) -> Iterator[dict[str, Any]]:
        """Takes a shard to be made."""
        if self._workers == 0:
            self._waiting.append(make_shard(task, self._tokenizer))
        elif self._pool is None and not any(isinstance(one, _Task) for one in self._waiting):
            self._waiting.append(task)  # if it stays the only one, no process is worth its start
        else:
            pool = self._started()
            for i, one in enumerate(self._waiting):
                if isinstance(one, _Task):
                    self._waiting[i] = pool.submit(_in_worker, one)
            self._waiting.append(pool.submit(_in_worker, task))
        yield from self._ready(2 * self._workers)

    def rest(self) -> Iterator[dict[str, Any]]:
        """Waits for all that is left."""
        yield from self._ready(0)

    def _ready(self, allowed: int) -> Iterator[dict[str, Any]]:
        """The records that are there, and so many that at most `allowed` are waited for."""
        while self._waiting:
            first = self._waiting[0]
            if isinstance(first, _Task):
                if allowed:
                    return
                first = make_shard(first, self._tokenizer)
            if isinstance(first, Future):
                if len(self._waiting) <= allowed and not first.done():
                    return
                first = first.result()
            self._waiting.popleft()
            yield first

    def _started(self) -> ProcessPoolExecutor:
        if self._pool is None:
            self._pool = ProcessPoolExecutor(
                self._workers,
                multiprocessing.get_context("spawn"),
                initializer=_init_maker,
                initargs=(self._tokenizer.to_json(),),
            )
        return self._pool

    def __enter__(self) -> _Makers:
        return self

    def __exit__(self, *_: Any) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)


_tokenizer_here: Tokenizer | None = None


def _init_maker(text: str) -> None:
    """Runs first in every worker process."""
    global _tokenizer_here
    init_worker()
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # the processes are the parallelism
    _tokenizer_here = Tokenizer.from_json(text)


def _in_worker(task: _Task) -> dict[str, Any]:
    return make_shard(task, _tokenizer_here)
