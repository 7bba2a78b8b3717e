"""`segmented:DIR`: images with a PNG for each that has the class of every pixel.

    DIR/images/train/a.jpg    DIR/masks/train/a.png
    DIR/images/test/b.jpg     DIR/masks/test/b.png

The folders below `images` are the splits. 255 in a mask does not count.
"""

from __future__ import annotations

import os
from typing import Annotated

from ssl_jax.config.fields import between
from ssl_jax.core.errors import UserError
from ssl_jax.data.folders import folder_at
from ssl_jax.data.image_kind import ImageKind
from ssl_jax.data.request import Request
from ssl_jax.data.segmented import Segmented, paired


def dataset(
    location: str,
    request: Request,
    *,
    num_classes: Annotated[int, between(2, 255), "Classes of the masks."] = 2,
    zero_counts: Annotated[
        bool, "Whether 0 in a mask is the first class; if not, it does not count, as in ADE20K."
    ] = True,
) -> Segmented:
    """The images below DIR/images.

    Raises:
      UserError: no such folder, no splits, or an image has no mask.
    """
    name = f"segmented:{location}"
    root = folder_at("segmented", location)
    images = os.path.join(root, "images")
    splits = (
        sorted(entry.name for entry in os.scandir(images) if entry.is_dir())
        if (os.path.isdir(images))
        else []
    )
    if not splits:
        raise UserError(f"{name} has no folders of images below images/, e.g. images/train")
    parts = {
        split: paired(name, root, f"images/{split}", f"masks/{split}")
        for split in sorted(splits, key=lambda split: (split != "train", split))
    }
    first = 0 if zero_counts else 1
    classes = tuple(map(str, range(first, first + num_classes)))
    return Segmented(name, root, request, classes, parts, first=first)


KIND = ImageKind(name="segmented", location="DIR", dataset=dataset)
