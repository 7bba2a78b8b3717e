"""Parts of a run's results that cannot be computed: each costs its own place, not the run."""

from __future__ import annotations

import logging
import math
import sys
from collections.abc import Mapping

import jax

from ssl_jax import parallel
from ssl_jax.core.errors import UserError

NotComputed = dict[str, dict[str, str]]
"""Row -> evaluation or metric -> why it has no value."""


def reason(error: Exception) -> str:
    """Why something failed, in one line."""
    text = " ".join(str(error).split()) or "no message"
    return text if isinstance(error, UserError) else f"{type(error).__name__}: {text}"


def warn(what: str, error: Exception) -> None:
    """Prints one line that says what failed, and logs the traceback at level INFO.

    Raises:
      Exception: `error` itself, if it says that another process of the run is gone. All that this
        process would compute fails then, and a restart has to compute it.
    """
    if parallel.lost_process(error):
        raise error
    if jax.process_index() == 0:
        print(f"warning: {what} failed: {reason(error)}", file=sys.stderr, flush=True)
    logging.getLogger(__name__).info("%s failed", what, exc_info=error)


def without_values_that_are_not_finite(
    metrics: Mapping[str, float], row: str, not_computed: NotComputed
) -> dict[str, float]:
    """The finite ones of `metrics`; the others are warned of and noted in `not_computed`.

    Args:
      metrics: values by name.
      row: of the results that they belong to.
      not_computed: gets an entry for each value that is left out.
    """
    for name, value in metrics.items():
        if not math.isfinite(value):
            error = UserError(f"its value is {value}")
            warn(f"{name!r} of {row}", error)
            not_computed.setdefault(row, {})[name] = reason(error)
    return {name: value for name, value in metrics.items() if math.isfinite(value)}
