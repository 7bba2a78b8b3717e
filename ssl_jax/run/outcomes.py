"""outcomes.npz: what the final evaluations of a run predict of each test example.

Arrays are named "EVALUATION/ARRAY": "linear/predicted" and "linear/label" int [n],
"multilabel/scores" and "multilabel/labels" [n k], in the order of the test split.
"""

from __future__ import annotations

import io
from collections.abc import Mapping

import numpy as np
from etils import epath

from ssl_jax.core import storage

NAME = "outcomes.npz"
Outcomes = Mapping[str, Mapping[str, np.ndarray]]


def write(workdir: epath.PathLike, outcomes: Outcomes) -> None:
    """Writes the outcomes of a run, by evaluation and array."""
    file = io.BytesIO()
    arrays = {f"{e}/{name}": array for e, own in outcomes.items() for name, array in own.items()}
    np.savez_compressed(file, **arrays)
    storage.write_whole(epath.Path(workdir) / NAME, file.getvalue())


def read(workdir: epath.PathLike, evaluation: str) -> dict[str, np.ndarray] | None:
    """The arrays of one evaluation by name; None if the run has none."""
    path = epath.Path(workdir) / NAME
    if not path.exists():
        return None
    with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
        own = {
            name.removeprefix(f"{evaluation}/"): arrays[name]
            for name in arrays.files
            if name.startswith(f"{evaluation}/")
        }
    return own or None
