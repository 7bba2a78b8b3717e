"""A console for tables on the terminal, and for files and pipes, where no column is cut."""

from __future__ import annotations

import sys
from typing import Any

from rich.console import Console

_WIDE = 1000  # columns in files and pipes


def make_console(**options: Any) -> Console:
    """A console for standard output, as wide as the terminal.

    In files and pipes it is as wide as its tables; rich would assume 80 columns and cut them.

    Args:
      options: of `rich.console.Console`.
    """
    if not sys.stdout.isatty():
        options.setdefault("width", _WIDE)
    return Console(**options)
