"""A console for tables on the terminal, and for files and pipes, where no column is cut."""

from __future__ import annotations

import sys
from typing import Any

from rich.console import Console

_WIDE = 1000  # columns off a terminal, which has a width of its own


def make_console(**options: Any) -> Console:
    """A console for standard output: as wide as the terminal, or, off one, as wide as its tables.

    Off a terminal rich assumes 80 columns and shortens what does not fit.

    Args:
      options: of `rich.console.Console`.
    """
    if not sys.stdout.isatty():
        options.setdefault("width", _WIDE)
    return Console(**options)
