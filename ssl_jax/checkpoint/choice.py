"""Decides which checkpoint of a run is meant."""

from __future__ import annotations

from etils import epath
from ml_collections import ConfigDict

from ssl_jax.core.errors import UserError


def takes_best(config: ConfigDict) -> bool:
    """Whether the results of a run come from its best checkpoint instead of its last."""
    return config.eval.final_checkpoint == "best" or config.early_stopping.patience > 0


def folder_and_step(source: str) -> tuple[str, int | None]:
    """The parts of `RUN@STEP`; the step is None without `@STEP`.

    Only digits after the last `@` are a step, and a path that exists as it stands has none. So
    folders may have an `@` in their names.

    Raises:
      UserError: RUN is a run, and what follows `@` is no number.
    """
    folder, at, step = source.rpartition("@")
    if not at or epath.Path(source).exists():
        return source, None
    if step.isdecimal():
        return folder, int(step)
    if (epath.Path(folder) / "config.json").exists():
        raise UserError(f"{source} is not a run; after @ stands a step, a number")
    return source, None
