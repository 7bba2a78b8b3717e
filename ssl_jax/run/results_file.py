"""Reads results.json, the final results of a run."""

from __future__ import annotations

from typing import Any

from etils import epath

from ssl_jax.core import storage
from ssl_jax.core.errors import UserError

NAME = "results.json"


def read(workdir: epath.PathLike) -> dict[str, Any]:
    """The content of the results.json of a run; empty if the run has none.

    Args:
      workdir: the folder of the run.

    Raises:
      UserError: the file is damaged. The run computes the results again and replaces it.
    """
    path = epath.Path(workdir) / NAME
    if not path.exists():
        return {}
    results = storage.read_json(path)
    not_computed = results.get("not_computed", {})
    is_whole = (
        isinstance(results.get("step"), int)
        and isinstance(results.get("results"), dict)
        and isinstance(not_computed, dict)
        and all(isinstance(reasons, dict) for reasons in not_computed.values())
    )
    if not is_whole:
        raise UserError(f"{path} is damaged: it lacks the step or the results")
    return results
