"""The stream of batches: a pure function of the step, on any process.

Sources in memory are indexed in the calling thread, which is cheaper than handing data over.
Sources that decode are read through Grain, by threads or by worker processes. A Grain element is a
chunk of the rows of a step: one example would be too small (Grain's cost per element is comparable
to decoding), and a whole batch too large (4096 pairs of crops are over a gigabyte, and a worker
holds several). A chunk is a function of its number, so its contents depend neither on the number of
workers nor on the step at which the stream starts.
"""

from __future__ import annotations

import atexit
import dataclasses
import gc
import json
import math
import os
import sys
import threading
import time
import weakref
from collections.abc import Iterator
from typing import Any

import numpy as np

from ssl_jax.core.errors import UserError
from ssl_jax.data.samplers.base import Order, Sampler
from ssl_jax.data.samplers.groups import grouped_order
from ssl_jax.data.samplers.shuffle import Shuffle
from ssl_jax.data.source import Problem, Source
from ssl_jax.data.workers import cores, init_worker

Batch = dict[str, np.ndarray]

_CHUNK = 64  # examples handed over at a time
_ENDLESS = 1 << 40
_PADDING = -1
_SHARED_MEMORY = "/dev/shm"


def batches(
    source: Source,
    *,
    batch_size: int,
    seed: int,
    sampler: Sampler | None = None,
    start_step: int = 0,
    num_steps: int | None = None,
    rows: np.ndarray | None = None,
    workers: int = 0,
    prefetch: int = 2,
) -> Batches:
    """Training batches.

    Args:
      source: the data.
      batch_size: of the global batch.
      seed: of the order and of random crops.
      sampler: chooses the examples of every step; default a new random order every epoch.
      start_step: first step; the stream from here is the one that passes here.
      num_steps: how many batches to yield; default without end.
      rows: rows of the global batch that this process produces, int [n], in this order; default
        all.
      workers: processes that decode; 0: threads of this process, one a core.
      prefetch: batches to keep decoded ahead.

    Returns:
      An iterator of dicts of arrays, see `Source.batch`. Close it, or use it in a `with`, to end
      its workers at once. `source.problems` lists what could not be read.

    Raises:
      UserError: the batch is larger than the data set, the sampler does not suit the data, or a
        number is out of range.
    """
    sampler = sampler or Shuffle()
    labels = source.read_labels() if sampler.needs_labels else None
    order = grouped_order(sampler, len(source), batch_size, seed, labels, source.spec.group_size)
    plan = _Training(order, _local(rows, batch_size), seed)
    return Batches(source, plan, start_step, num_steps, workers, prefetch)


def epoch_batches(
    source: Source,
    batch_size: int,
    *,
    rows: np.ndarray | None = None,
    subset: np.ndarray | None = None,
    workers: int = 0,
    prefetch: int = 2,
) -> Batches:
    """Every example once, in order, for evaluation.

    Args:
      source: the data.
      batch_size: of the global batch; the last one is filled up.
      rows: as in `batches`.
      subset: examples to visit, in this order; default all.
      workers, prefetch: as in `batches`.

    Returns:
      An iterator as of `batches`, with a further key: `mask` bool [n] is False on rows that are
      padding (`index` and `label` -1) or whose example could not be read, which count for nothing.

    Raises:
      UserError: a number is out of range.
    """
    if batch_size < 1:
        raise UserError(f"batch_size is {batch_size}; it must be at least 1")
    subset = None if subset is None else np.asarray(subset)
    total = len(source if subset is None else subset)
    plan = _Epoch(total, subset, batch_size, _local(rows, batch_size))
    return Batches(source, plan, 0, -(-total // batch_size), workers, prefetch)


def _local(rows: np.ndarray | None, batch_size: int) -> np.ndarray:
    rows = np.arange(batch_size) if rows is None else np.asarray(rows)
    if len(rows) and not 0 <= rows.min() <= rows.max() < batch_size:
        raise ValueError(f"rows reach from {rows.min()} to {rows.max()} of {batch_size}")
    return rows


@dataclasses.dataclass(frozen=True)
class _Training:
    """The steps of training."""

    order: Order
    rows: np.ndarray
    seed: int
    masked = False

    def indices(self, step: int) -> np.ndarray:
        """The examples of `rows`, int [n]."""
        return self.order.indices(step)[self.rows]


@dataclasses.dataclass(frozen=True)
class _Epoch:
    """One pass in order; rows beyond the end are padding."""

    total: int
    subset: np.ndarray | None
    batch_size: int
    rows: np.ndarray
    seed = 0
    masked = True

    def indices(self, step: int) -> np.ndarray:
        at = step * self.batch_size + self.rows
        inside = at < self.total
        chosen = at if self.subset is None else self.subset[np.where(inside, at, 0)]
        return np.where(inside, chosen, _PADDING)


def _read(
    source: Source, plan: _Training | _Epoch, step: int, part: slice = slice(None)
) -> tuple[Batch, list[Problem]]:
    """A part of the rows of a step."""
    indices, positions = plan.indices(step)[part], plan.rows[part]
    real = indices != _PADDING
    arrays, problems = source.read(indices[real], positions[real], plan.seed, step)
    if not real.all():
        arrays = {key: _spread(value, real, source.padding(key)) for key, value in arrays.items()}
    if plan.masked:
        arrays["mask"] = real
        replaced = [problem.row for problem in problems]  # rows among the real ones
        arrays["mask"][np.flatnonzero(real)[replaced]] = False
    return arrays, problems


def _spread(value: np.ndarray, real: np.ndarray, fill: int) -> np.ndarray:
    """`value` at the real rows, `fill` elsewhere."""
    out = np.full((len(real), *value.shape[1:]), fill, value.dtype)
    out[real] = value
    return out


class Batches(Iterator[Batch]):
    """A stream of batches. Made by `batches` and `epoch_batches`."""

    _closed = True  # until it is made

    def __init__(
        self,
        source: Source,
        plan: _Training | _Epoch,
        start: int,
        count: int | None,
        workers: int,
        prefetch: int,
    ):
        if workers < 0 or prefetch < 1 or start < 0:
            raise UserError(
                f"workers {workers}, prefetch {prefetch} and start_step {start} must be at least "
                "0, 1 and 0"
            )
        self._source, self._plan = source, plan
        self._step, self._stop = start, start + (_ENDLESS if count is None else count)
        self._workers, self._prefetch = workers, prefetch
        self._chunks: Any = None  # Grain's iterator, once something is asked of it
        self._closed = False
        # A prefetching thread may be waiting for a batch when another one closes the stream.
        self._lock = threading.Lock()

    def __next__(self) -> Batch:
        with self._lock:
            if self._closed or self._step >= self._stop:
                self._close()
                raise StopIteration
            try:
                batch = self._direct() if self._source.in_memory else self._assemble()
            except BaseException:
                self._close()
                raise
            self._step += 1
            return batch

    def _direct(self) -> Batch:
        """One batch read here and now."""
        batch, problems = _read(self._source, self._plan, self._step)
        self._source.note(problems)
        return batch

    def _assemble(self) -> Batch:
        """One batch from its chunks."""
        total = len(self._plan.rows)
        if self._chunks is None:
            self._chunks = _start(
                self._source, self._plan, self._step, self._stop, self._workers, self._prefetch
            )
            if not _open_streams:  # registered late, this runs before Grain's own clearing up
                atexit.unregister(_close_all)
                atexit.register(_close_all)
            _open_streams.add(self)
        batch: Batch = {}
        for start in range(0, total, _CHUNK):
            chunk = next(self._chunks)
            problems = json.loads(bytes(chunk.pop("problems")) or "[]")
            self._source.note([Problem(*problem) for problem in problems])
            if total <= _CHUNK and not self._workers:  # arrays of workers are shared memory
                return chunk
            for key, value in chunk.items():
                if key not in batch:
                    batch[key] = np.empty((total, *value.shape[1:]), value.dtype)
                batch[key][start : start + len(value)] = value
        return batch

    def close(self) -> None:
        """Ends the stream and its workers. May be called again, and from any thread."""
        with self._lock:
            self._close()

    def _close(self) -> None:
        self._closed = True
        if self._chunks is not None:
            _open_streams.discard(self)
            self._chunks.close()
            self._chunks = None
            if self._workers:
                # Shared memory outlives a program. Grain's last chunks hang in reference cycles,
                # and a thread of Grain's gives their memory back, which exiting would cut short.
                gc.collect()
                time.sleep(0.05)

    def __enter__(self) -> Batches:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    def __del__(self) -> None:
        if not self._closed:
            self._close()


_open_streams: weakref.WeakSet[Batches] = weakref.WeakSet()


def _close_all() -> None:
    """Closes all streams before the interpreter shuts down."""
    for stream in list(_open_streams):
        if stream._lock.acquire(timeout=10):  # a daemon thread may be waiting for a batch
            stream._close()
            stream._lock.release()


@dataclasses.dataclass(frozen=True, repr=False)  # Grain logs it, and the source is large
class _Chunk:
    """Element k of the Grain pipeline: chunk k % chunks of step first + k // chunks."""

    source: Source
    plan: _Training | _Epoch
    first: int
    chunks: int

    def __call__(self, k: int) -> Batch:
        step, chunk = divmod(int(k), self.chunks)
        part = slice(chunk * _CHUNK, (chunk + 1) * _CHUNK)
        arrays, problems = _read(self.source, self.plan, self.first + step, part)
        text = json.dumps(problems).encode() if problems else b""
        return arrays | {"problems": np.frombuffer(text, np.uint8)}


def _start(
    source: Source,
    plan: _Training | _Epoch,
    first: int,
    stop: int,
    workers: int,
    prefetch: int,
) -> Any:
    """An iterator over the chunks of steps `first` up to `stop`, in order."""
    import grain  # takes a second, which runs on data in memory need not spend

    chunks = -(-len(plan.rows) // _CHUNK)
    elements = grain.MapDataset.range((stop - first) * chunks)
    elements = elements.map(_Chunk(source, plan, first, chunks))
    ahead = chunks * prefetch
    if workers == 0:
        threads = min(ahead, cores(), 16)
        return iter(elements.to_iter_dataset(grain.ReadOptions(threads, ahead)))
    _parse_flags()
    per_worker = -(-ahead // workers)  # at least 1, or the stream would stall on every worker
    serial = elements.to_iter_dataset(grain.ReadOptions(num_threads=0, prefetch_buffer_size=0))
    chunk = min(_CHUNK, len(plan.rows)) * _bytes_per_example(source)
    needed = 2 * workers * (per_worker + 1) * chunk
    smallest = 4096 if _shared_memory_left() > needed else sys.maxsize
    options = grain.experimental.DatasetOptions(min_shm_size=smallest)
    serial = grain.experimental.WithOptionsIterDataset(serial, options)
    parallel = serial.mp_prefetch(
        grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=per_worker),
        worker_init_fn=_init_worker,
    )
    return iter(parallel)


def _bytes_per_example(source: Source) -> int:
    """Bytes of an example in a batch, host crops of all families included."""
    arrays = source.spec.arrays.values()
    return sum(math.prod(array.shape) * array.dtype.itemsize for array in arrays)


def _shared_memory_left() -> int:
    """Bytes. Writing beyond them kills a process; containers often have 64 MB in all."""
    try:
        status = os.statvfs(_SHARED_MEMORY)
    except OSError:
        return 0
    return status.f_bavail * status.f_frsize


def _parse_flags() -> None:
    """Grain reads absl flags, which only programs started by absl have parsed."""
    from absl import flags

    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()


def _init_worker(index: int, count: int) -> None:
    """As Grain calls it."""
    del index, count
    init_worker()
