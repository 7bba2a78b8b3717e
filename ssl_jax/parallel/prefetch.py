"""Prepares batches and moves them to the devices one or two steps ahead."""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

_END = object()


class Prefetcher(Iterator[Any]):
    """An iterator whose items are prepared on a background thread.

    `wait_seconds` is the total time that the consumer has waited; its share of the wall-clock time
    shows whether data or compute limits a run. Close it, or use it as a context manager, to stop
    the thread.
    """

    def __init__(self, iterator: Iterator[Any], put: Callable[[Any], Any], size: int = 2):
        if size < 1:
            raise ValueError(f"size {size}: prefetch at least 1 item")
        self.wait_seconds = 0.0
        self._ready: queue.Queue[tuple[Any, BaseException | None]] = queue.Queue(size)
        self._stop = threading.Event()
        # A daemon, because a blocked iterator must not keep the program alive.
        self._thread = threading.Thread(
            target=self._fill, args=(iterator, put), name="prefetch", daemon=True
        )
        self._thread.start()

    def _fill(self, iterator: Iterator[Any], put: Callable[[Any], Any]) -> None:
        try:
            for item in iterator:
                if self._stop.is_set() or not self._offer(put(item), None):
                    return
            self._offer(_END, None)
        except BaseException as error:
            self._offer(_END, error)

    def _offer(self, item: Any, error: BaseException | None) -> bool:
        """Waits for space in the queue and adds the item; False if the prefetcher is closed."""
        while not self._stop.is_set():
            with contextlib.suppress(queue.Full):
                self._ready.put((item, error), timeout=0.1)
                return True
        return False

    def __iter__(self) -> Prefetcher:
        return self

    def __next__(self) -> Any:
        if self._stop.is_set():
            raise StopIteration
        start = time.perf_counter()
        item, error = self._ready.get()
        self.wait_seconds += time.perf_counter() - start
        if item is _END:
            self.close()
            if error is not None:
                raise error
            raise StopIteration
        return item

    def close(self) -> None:
        """Stops the thread and discards the prepared items. Repeated calls have no effect."""
        self._stop.set()
        with contextlib.suppress(queue.Empty):
            while True:
                self._ready.get_nowait()
        if self._thread is not threading.current_thread():
            self._thread.join(timeout=5)

    def __enter__(self) -> Prefetcher:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()


def prefetch_to_device(
    iterator: Iterator[Any], put: Callable[[Any], Any], size: int = 2
) -> Prefetcher:
    """Iterates `put(item)` for the items of `iterator`, keeping `size` of them ready.

    Args:
        iterator: host batches. Its exceptions reach the consumer after the batches before them.
        put: moves a host batch to the devices, such as `to_global` with its other arguments bound.
            It runs on the background thread and must not start a collective.
        size: batches held ready beyond the one in use; each occupies device memory.
    """
    return Prefetcher(iterator, put, size)
