"""SIGTERM and SIGINT as requests: finish the step, save, leave with the right exit code."""

from __future__ import annotations

import signal
import time
import types
from typing import Any

import jax

from ssl_jax import parallel

ASK_SECONDS = 5.0  # of the 30 that Google Cloud gives a spot machine; the rest is to save in


class StopRequest:
    """While entered, the first SIGTERM or SIGINT only sets a flag; a second one acts as usual.

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
    """Whether a signal asks to stop, answered alike in all processes of a run at the same step.

    Agreeing is a collective, for which a process waits until its steps are done. It therefore
    happens not at every step but at those that are logged, and where these are far apart, about
    every `ASK_SECONDS`: after how many steps that is, the processes agree on as well.

    Args:
      request: what this process was asked.
      start: the step before the first.
      every: steps between two logged ones.
    """

    def __init__(self, request: StopRequest, start: int, every: int):
        self._request, self._every = request, every
        self._asked, self._next = start, start + 1
        self._time = time.monotonic()

    def after(self, step: int) -> bool:
        """Whether to stop after this step; called after each, by every process."""
        if jax.process_count() == 1:
            return bool(self._request)
        if step % self._every and step < self._next:
            return False
        now = time.monotonic()
        a_step = max((now - self._time) / (step - self._asked), 1e-6)
        within = max(1, int(ASK_SECONDS / a_step))
        answers = parallel.from_all_processes([int(bool(self._request)), min(within, 2**30)])
        self._asked, self._time = step, now
        self._next = step + int(answers[:, 1].min())
        return bool(answers[:, 0].any())
