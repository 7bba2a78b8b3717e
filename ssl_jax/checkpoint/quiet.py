"""Silences the log output of Orbax, whose failures are raised as one error anyway.

Set the logger `ssl_jax.checkpoint` to DEBUG to see all of it.
"""

from __future__ import annotations

import logging
import sys
import warnings
from typing import Any

_log = logging.getLogger("ssl_jax.checkpoint")


def silence_orbax() -> None:
    """Drops Orbax's log records and the tracebacks of operations that it aborted.

    Orbax logs each barrier. If one read or write fails, Orbax aborts those of all other arrays.
    When they end or are garbage-collected, later and in other threads, Python would print a
    traceback for each of them.
    """
    for name in ("absl", "asyncio"):
        logger = logging.getLogger(name)
        if not any(isinstance(other, _NotOrbax) for other in logger.filters):
            logger.addFilter(_NotOrbax())
    if not isinstance(sys.unraisablehook, _UnraisableHook):
        sys.unraisablehook = _UnraisableHook(sys.unraisablehook)
    if not _log.isEnabledFor(logging.DEBUG):
        # Orbax prepares the writes of all parts of an array. Those that it aborts never start.
        warnings.filterwarnings("ignore", _NEVER_STARTED, RuntimeWarning)


# Names of the coroutines in which Orbax reads and writes arrays, in Python's warning about them.
_NEVER_STARTED = r"coroutine '\w*serialize\w*(\.<locals>\.\w+)?' was never awaited"

# Marks of Orbax in the path of a module or in a message.
_MARKS = ("/orbax/", ".orbax-checkpoint", "tensorstore", "OCDBT")


class _NotOrbax(logging.Filter):
    """Drops records of Orbax's modules, and asyncio's records of Orbax and TensorStore tasks."""

    def filter(self, record: logging.LogRecord) -> bool:
        source = record.getMessage() if record.name == "asyncio" else record.pathname
        dropped = any(mark in source for mark in _MARKS)
        return not dropped or _log.isEnabledFor(logging.DEBUG)


class _UnraisableHook:
    """Passes on all unraisable errors except those of aborted Orbax operations."""

    def __init__(self, previous: Any):
        self._previous = previous

    def __call__(self, unraisable: Any) -> None:
        code = getattr(unraisable.object, "cr_code", None)
        of_orbax = code is not None and "/orbax/" in code.co_filename
        error = unraisable.exc_value
        late = isinstance(error, RuntimeError) and str(error) == "Event loop is closed"
        if not (of_orbax or late) or _log.isEnabledFor(logging.DEBUG):
            self._previous(unraisable)
