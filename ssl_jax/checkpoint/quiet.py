"""Keeps Orbax from talking: what matters of its troubles is raised as one error anyway.

Setting the logger `ssl_jax.checkpoint` to DEBUG lets everything through.
"""

from __future__ import annotations

import logging
import sys
from typing import Any

_log = logging.getLogger("ssl_jax.checkpoint")


def silence_orbax() -> None:
    """Drops Orbax's log records, and the tracebacks of operations it has aborted.

    It logs each barrier it waits at. When one read or write fails it leaves those of all other
    arrays half-way; as these end or are collected, later and on other threads, Python would print a
    traceback for each.
    """
    for name in ("absl", "asyncio"):
        logger = logging.getLogger(name)
        if not any(isinstance(other, _NotOrbax) for other in logger.filters):
            logger.addFilter(_NotOrbax())
    if not isinstance(sys.unraisablehook, _UnraisableHook):
        sys.unraisablehook = _UnraisableHook(sys.unraisablehook)


# Of a module's path, or in a message: temporary folders and the database format have their names.
_MARKS = ("/orbax/", ".orbax-checkpoint", "tensorstore", "OCDBT")


class _NotOrbax(logging.Filter):
    """Drops what Orbax's modules log, and what asyncio logs of their tasks and TensorStore's."""

    def filter(self, record: logging.LogRecord) -> bool:
        source = record.getMessage() if record.name == "asyncio" else record.pathname
        dropped = any(mark in source for mark in _MARKS)
        return not dropped or _log.isEnabledFor(logging.DEBUG)


class _UnraisableHook:
    """Passes everything on except what aborted operations of Orbax leave behind."""

    def __init__(self, previous: Any):
        self._previous = previous

    def __call__(self, unraisable: Any) -> None:
        code = getattr(unraisable.object, "cr_code", None)
        of_orbax = code is not None and "/orbax/" in code.co_filename
        error = unraisable.exc_value
        late = isinstance(error, RuntimeError) and str(error) == "Event loop is closed"
        if not (of_orbax or late) or _log.isEnabledFor(logging.DEBUG):
            self._previous(unraisable)
