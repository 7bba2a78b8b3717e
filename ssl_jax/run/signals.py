"""Handles SIGTERM and SIGINT: finish the step, save, and exit with the right code."""

from __future__ import annotations

import signal
import time
import types
from typing import Any

import jax

from ssl_jax import parallel

# Google Cloud stops a spot machine 30 s after the signal; most of that is left for saving.
AGREE_SECONDS = 5.0


class StopRequest:
    """A context in which the first SIGTERM or SIGINT sets a flag; a second one acts as usual.

    Attributes:
      signum: the signal received, or None.
    """

    _SIGNALS = (signal.SIGTERM, signal.SIGINT)

    def __init__(self) -> None:
        self.signum: int | None = None
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> StopRequest:
        for signum in self._SIGNALS:
            self._previous[signum] = signal.signal(signum, self._receive)
        return self

    def __exit__(self, *_: object) -> None:
        for signum, handler in self._previous.items():
            signal.signal(signum, handler)

    def _receive(self, signum: int, frame: types.FrameType | None) -> None:
        del frame
        self.signum = signum
        signal.signal(signum, self._previous[signum])

    def __bool__(self) -> bool:
        return self.signum is not None

    @property
    def exit_code(self) -> int:
        """128 + the signal's number: 143 for SIGTERM, 130 for SIGINT."""
        return 128 + (self.signum or signal.SIGTERM)


class SharedStop:
    """Lets all processes of a run stop at the same step after one of them got a signal.

    The processes agree by a collective, which waits for their steps. So they do not agree at every
    step, but at logged steps and, if these are far apart, about every `AGREE_SECONDS`. They also
    agree on how many steps that is.

    Args:
      request: the signal that this process received.
      start: the step before the first.
      every: steps between two logged steps.
    """

    def __init__(self, request: StopRequest, start: int, every: int):
        self._request, self._every = request, every
        self._last_agreed, self._next = start, start + 1
        self._time = time.monotonic()

    def after(self, step: int) -> bool:
        """Whether to stop after this step. Every process calls it after every step."""
        if jax.process_count() == 1:
            return bool(self._request)
        if step % self._every and step < self._next:
            return False
        now = time.monotonic()
        seconds_per_step = max((now - self._time) / (step - self._last_agreed), 1e-6)
        interval = max(1, int(AGREE_SECONDS / seconds_per_step))  # in steps
        answers = parallel.from_all_processes([int(bool(self._request)), min(interval, 2**30)])
        self._last_agreed, self._time = step, now
        self._next = step + int(answers[:, 1].min())
        return bool(answers[:, 0].any())
