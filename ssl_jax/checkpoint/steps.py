"""Which steps there are, which of them to keep, and how one is removed."""

from __future__ import annotations

import re
from collections.abc import Mapping

import jax
import orbax.checkpoint as ocp
from etils import epath

from ssl_jax.core.storage import is_object_store

_DELETED = ".deleted"
_WHOLE = "commit_success.txt"  # Orbax writes it last, where it cannot rename
_LEFTOVER = re.compile(rf"\d+({re.escape(_DELETED)}|\.orbax-checkpoint-tmp.*)")


def to_keep(
    scores: Mapping[int, float | None], *, keep_latest: int, keep_best: int, best_mode: str
) -> set[int]:
    """The newest steps, and those with the best scores; of equal scores the later ones."""
    return {*sorted(scores)[-keep_latest:], *ranked(scores, best_mode)[:keep_best]}


def ranked(scores: Mapping[int, float | None], best_mode: str) -> list[int]:
    """Steps that have a score, best first."""
    sign = 1 if best_mode == "max" else -1
    scored = [step for step, score in scores.items() if score is not None]
    return sorted(scored, key=lambda step: (sign * scores[step], step), reverse=True)


def committed(directory: epath.Path) -> list[int]:
    """Steps that were written to the end, increasing."""
    return sorted(ocp.path.step.checkpoint_steps(directory)) if directory.is_dir() else []


def delete(directory: epath.Path, step: int) -> None:
    """Removes a committed step such that at no moment half of it is to be seen.

    Of several processes the first does it.
    """
    path = directory / str(step)
    if jax.process_index() != 0 or not path.exists():
        return
    if is_object_store(path):  # no renaming there: what marks the step as whole goes first
        (path / _WHOLE).unlink(missing_ok=True)
    else:
        path = path.rename(directory / f"{step}{_DELETED}")
    path.rmtree(missing_ok=True)


def delete_leftovers(directory: epath.Path) -> None:
    """Removes what a killed or failed save, or an interrupted deletion, has left behind.

    Of several processes the first does it.
    """
    if jax.process_index() != 0 or not directory.is_dir():
        return
    whole = {str(step) for step in committed(directory)}
    for path in directory.iterdir():
        # Object stores cannot rename: there a step has its final name while it is written.
        unfinished = is_object_store(path) and path.name.isdigit() and path.name not in whole
        if unfinished or _LEFTOVER.fullmatch(path.name):
            path.rmtree(missing_ok=True)
