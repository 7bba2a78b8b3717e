"""`pairs:FILE`: pairs of images that show the same or not, one a line.

    photos/a.jpg photos/b.jpg 1
    photos/a.jpg photos/c.jpg 0

Columns are separated by tabs, commas or blanks; the last one is 1, 0, `same` or `different`. Paths
are relative to the folder of the file. See `ssl_jax.data.tuples` for what a batch is.
"""

from __future__ import annotations

import os

import numpy as np

from ssl_jax.core.errors import UserError
from ssl_jax.data.request import Request
from ssl_jax.data.tuple_kind import TupleKind
from ssl_jax.data.tuples import TupleFile, Tuples, lines

_SAME = {"1": True, "same": True, "0": False, "different": False}
_COLUMNS = "path path same"


def dataset(location: str, request: Request) -> TupleFile:
    """The pairs of a file.

    Raises:
      UserError: the file cannot be read, or a line is no pair.
    """
    rows = lines("pairs", location, _COLUMNS)
    same = []
    for row in rows:
        if row[2] not in _SAME:
            raise UserError(
                f"pairs:{location} has {row[2]!r} in the last column; write one of "
                f"{', '.join(_SAME)}"
            )
        same.append(_SAME[row[2]])
    first = 2 * np.arange(len(rows))
    labels = np.stack([first, first + ~np.array(same)], axis=1).reshape(-1).astype(np.int32)
    root = os.path.dirname(os.path.expanduser(location))
    tuples = Tuples([path for row in rows for path in row[:2]], labels)
    return TupleFile(f"pairs:{location}", root, request, tuples, 2)


KIND = TupleKind(name="pairs", location="FILE", dataset=dataset, group_size=2)
