"""Lists the steps of a run, selects the steps to keep, and deletes steps."""

from __future__ import annotations

import re
from collections.abc import Mapping

import jax
import orbax.checkpoint as ocp
from etils import epath

from ssl_jax.core.storage import is_object_store

_DELETED = ".deleted"
_COMPLETE = "commit_success.txt"  # Orbax writes it last if it cannot rename
_LEFTOVER = re.compile(rf"\d+({re.escape(_DELETED)}|\.orbax-checkpoint-tmp.*)")


def to_keep(
    scores: Mapping[int, float | None], *, keep_latest: int, keep_best: int, best_mode: str
) -> set[int]:
    """The newest steps, and the steps with the best scores; among equal scores the later ones."""
    return {*sorted(scores)[-keep_latest:], *ranked(scores, best_mode)[:keep_best]}


def ranked(scores: Mapping[int, float | None], best_mode: str) -> list[int]:
    """Steps that have a score, best first."""
    sign = 1 if best_mode == "max" else -1
    scored = [step for step, score in scores.items() if score is not None]
    return sorted(scored, key=lambda step: (sign * scores[step], step), reverse=True)


def committed(directory: epath.Path) -> list[int]:
    """The completely written steps, increasing."""
    return sorted(ocp.path.step.checkpoint_steps(directory)) if directory.is_dir() else []


def delete(directory: epath.Path, step: int) -> None:
    """Removes a committed step atomically: other programs never see a part of it.

    Only the first process removes it.
    """
    path = directory / str(step)
    if jax.process_index() != 0 or not path.exists():
        return
    if is_object_store(path):  # it cannot rename: the mark of a complete step is removed first
        (path / _COMPLETE).unlink(missing_ok=True)
    else:
        path = path.rename(directory / f"{step}{_DELETED}")
    path.rmtree(missing_ok=True)


def delete_leftovers(directory: epath.Path) -> None:
    """Removes the files of a killed or failed save and of an interrupted deletion.

    Only the first process removes them.
    """
    if jax.process_index() != 0 or not directory.is_dir():
        return
    whole = {str(step) for step in committed(directory)}
    for path in directory.iterdir():
        # Object stores cannot rename: a step has its final name while it is being written.
        unfinished = is_object_store(path) and path.name.isdigit() and path.name not in whole
        if unfinished or _LEFTOVER.fullmatch(path.name):
            path.rmtree(missing_ok=True)
