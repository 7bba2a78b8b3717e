"""Errors that a command prints as one clear line, without a traceback."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """A mistake in a config, a path or a command line.

    The commands print its message as one line and exit with 1. The message names the bad value and
    how to fix it.
    """


class RunError(RuntimeError):
    """An error that ends a run although its config is valid: a full disk, a non-finite loss.

    It is printed like a UserError. The message says what is kept and how to continue.
    """


def nearest(word: str, known: Iterable[str]) -> str:
    """` Did you mean 'x'?` with the known name closest to `word`, or an empty string."""
    close = closest(word, known)
    return f" Did you mean {close!r}?" if close else ""


def closest(word: str, known: Iterable[str]) -> str:
    """The known name closest to `word`; "" if none is close."""
    return next(iter(difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)), "")
