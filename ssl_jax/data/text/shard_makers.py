"""Makes the shards of a token cache, here or in worker processes."""

from __future__ import annotations

import collections
import multiprocessing
import os
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from typing import Any, NamedTuple

import numpy as np

from ssl_jax.data.text import token_cache
from ssl_jax.data.text.corpus import Part, sentences
from ssl_jax.data.text.token_cache import Shard
from ssl_jax.data.text.tokenizer import Tokenizer
from ssl_jax.data.workers import init_worker

_AT_ONCE = 1 << 20  # characters tokenized at a time: their encodings take fifty times as much


class Task(NamedTuple):
    """A shard to be made."""

    path: str
    parts: list[Part]
    labels: list[int]  # of each part
    facts: dict[str, Any]


def make_shard(task: Task, tokenizer: Tokenizer) -> dict[str, Any]:
    """Tokenizes and writes a shard. Returns its record."""
    dtype = token_cache.dtype_of(tokenizer.vocabulary)
    ids: list[np.ndarray] = []
    lengths: list[np.ndarray] = []
    pieces: list[str] = []
    owners: list[int] = []  # the document of each piece
    document, waiting = -1, 0

    def encode() -> None:
        nonlocal pieces, waiting
        tokens, counts = tokenizer.encode(pieces)
        ids.append(tokens.astype(dtype))
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
    counts, tokens = np.concatenate(lengths), np.concatenate(ids)
    some = counts > 0
    encoded = [os.fsencode(task.parts[row].name) for row in starts]
    shard = Shard(
        tokens=tokens,
        sentence_tokens=counts[some].astype(np.uint32),
        document_sentences=np.bincount(np.array(owners)[some], minlength=len(starts)).astype(
            np.uint32
        ),
        label=np.array([task.labels[row] for row in starts], np.int32),
        names=np.frombuffer(b"".join(encoded), np.uint8),
        name_ends=np.cumsum([len(name) for name in encoded], dtype=np.int64),
    )
    unknown = int(np.count_nonzero(tokens == tokenizer.vocabulary.unk))
    return token_cache.write_shard(task.path, shard, {**task.facts, "unknown": unknown})


class Makers:
    """Makes shards, here or in worker processes, and hands back their records in order."""

    def __init__(self, workers: int, tokenizer: Tokenizer):
        self._workers, self._tokenizer = workers, tokenizer
        self._pool: ProcessPoolExecutor | None = None
        self._waiting: collections.deque[Any] = collections.deque()

    def keep(self, record: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """Takes a shard that is there."""
        self._waiting.append(record)
        yield from self._ready(2 * self._workers)

    def make(self, task: Task) -> Iterator[dict[str, Any]]:
        """Takes a shard to be made."""
        if self._workers == 0:
            self._waiting.append(make_shard(task, self._tokenizer))
        elif self._pool is None and not any(isinstance(one, Task) for one in self._waiting):
            self._waiting.append(task)  # if it stays the only one, no process is worth its start
        else:
            pool = self._started()
            for i, one in enumerate(self._waiting):
                if isinstance(one, Task):
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
            if isinstance(first, Task):
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

    def __enter__(self) -> Makers:
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


def _in_worker(task: Task) -> dict[str, Any]:
    return make_shard(task, _tokenizer_here)
