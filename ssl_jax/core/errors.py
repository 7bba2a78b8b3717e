"""Errors that a command prints as one clear line, without a traceback."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """A mistake in a config, a path or a command line.

    The commands print its message as one line and exit with 1; it names the bad value and the way
    out.
    """


class RunError(RuntimeError):
    """What ends a run although its config is in order: a full disk, a loss that is not finite.

    Printed like a UserError: the message says what is kept and how to go on.
    """


def nearest(word: str, known: Iterable[str]) -> str:
    """` Did you mean 'x'?` for the known name closest to `word`, or an empty string."""
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f" Did you mean {close[0]!r}?" if close else ""
