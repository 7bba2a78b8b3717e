"""`idx:DIR`: MNIST and data sets in its format (KMNIST, EMNIST, your own), four files in a folder.

The names and the format of the files are described in `ssl_jax.data.idx`. Where a folder holds
several data sets, as that of EMNIST does, the location also says how the names begin:
`idx:emnist/emnist-letters`.
"""

from __future__ import annotations

from typing import Annotated

from ssl_jax.data import idx
from ssl_jax.data.image_kind import ImageKind
from ssl_jax.data.request import Request

CHANNELS = 1


def dataset(
    location: str,
    request: Request,
    *,
    transpose: Annotated[
        bool, "Swap rows and columns: the images of EMNIST are stored column by column."
    ] = False,
) -> idx.IdxImages:
    """The IDX files at `location`.

    Raises:
      UserError: see `idx.files_of`.
    """
    request.refuse_host_crops("idx")
    files = idx.files_of(location, "idx")
    first = next(path for (_, part), path in files.items() if part == "images")
    canvas = request.canvas(idx.image_size(first), CHANNELS)
    return idx.IdxImages(f"idx:{location}", files, canvas, transpose=transpose)


KIND = ImageKind(name="idx", location="DIR", dataset=dataset)
