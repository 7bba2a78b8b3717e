"""Traces some updates of a run for xprof or Perfetto."""

from __future__ import annotations

import pathlib
import tempfile

import jax
from etils import epath

from ssl_jax.core import storage


class Profiler:
    """Traces the updates `first` to `last` into a folder, for xprof or Perfetto."""

    def __init__(self, steps: tuple[int, ...], directory: epath.Path):
        self._first, self._last = steps or (0, 0)
        self._directory = directory
        self._local: tempfile.TemporaryDirectory | None = None  # JAX cannot write to a store
        self._running = False

    def step(self, step: int) -> None:
        """Call this before the update that makes the state's step `step`."""
        if self._running and step > self._last:
            self.close()
        if step == self._first:
            if storage.is_object_store(self._directory):
                self._local = tempfile.TemporaryDirectory()
            jax.profiler.start_trace(self._local.name if self._local else str(self._directory))
            self._running = True

    def close(self) -> None:
        if self._running:
            jax.profiler.stop_trace()
            self._running = False
            if self._local:
                storage.upload(pathlib.Path(self._local.name), self._directory)
                self._local.cleanup()

    def __enter__(self) -> Profiler:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
