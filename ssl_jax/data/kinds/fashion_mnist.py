"""`fashion_mnist`: 70,000 articles of clothing in 10 classes, 28x28 grey pixels (Xiao et al. 2017).

The four IDX files are looked for where Debian's package dataset-fashion-mnist puts them, or in
`data.options.folder`. `tfds:fashion_mnist` is the same data set, downloaded.
"""

from __future__ import annotations

import os
from typing import Annotated

from ssl_jax.core.errors import UserError
from ssl_jax.data import idx
from ssl_jax.data.image_kind import ImageKind
from ssl_jax.data.kind import Facts
from ssl_jax.data.request import Request

FOLDER = "/usr/share/datasets/fashion-mnist"
SIZES = {"train": 60_000, "test": 10_000}
CLASS_NAMES = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag",
    "Ankle boot",
)  # fmt: skip
IMAGE_SIZE = 28
CHANNELS = 1


def dataset(
    location: str,
    request: Request,
    *,
    folder: Annotated[str, "Where the files are; empty: where Debian's package puts them."] = "",
) -> idx.IdxImages:
    """Fashion-MNIST; `location` is empty.

    Raises:
      UserError: it is not there.
    """
    del location
    request.refuse_host_crops("fashion_mnist")
    if not folder and not os.path.isdir(FOLDER):
        raise UserError(
            "fashion_mnist is not installed: install Debian's package dataset-fashion-mnist, name "
            "the folder of its four files (data.options.folder), or use tfds:fashion_mnist, which "
            "downloads it"
        )
    files = idx.files_of(folder or FOLDER, "fashion_mnist")
    canvas = request.canvas(IMAGE_SIZE, CHANNELS)
    return idx.IdxImages("fashion_mnist", files, canvas, class_names=CLASS_NAMES)


FACTS = Facts(SIZES, len(CLASS_NAMES), IMAGE_SIZE, CHANNELS)
KIND = ImageKind(name="fashion_mnist", dataset=dataset, known=lambda location, options: FACTS)
