"""`triplets:FILE`: an image, one of the same and one of something else, one triplet a line.

    photos/anchor.jpg photos/positive.jpg photos/negative.jpg

Columns are separated by tabs, commas or blanks. Paths are relative to the folder of the file. See
`ssl_jax.data.tuples` for what a batch is.
"""

from __future__ import annotations

import os

import numpy as np

from ssl_jax.data.request import Request
from ssl_jax.data.tuple_kind import TupleKind
from ssl_jax.data.tuples import TupleFile, Tuples, lines


def dataset(location: str, request: Request) -> TupleFile:
    """The triplets of a file.

    Raises:
      UserError: the file cannot be read, or a line is no triplet.
    """
    rows = lines("triplets", location, "anchor positive negative")
    labels = (2 * np.arange(len(rows))[:, None] + np.array([0, 0, 1])).reshape(-1)
    root = os.path.dirname(os.path.expanduser(location))
    tuples = Tuples([path for row in rows for path in row], labels.astype(np.int32))
    return TupleFile(f"triplets:{location}", root, request, tuples, 3)


KIND = TupleKind(name="triplets", location="FILE", dataset=dataset, group_size=3)
