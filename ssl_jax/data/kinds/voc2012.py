"""`voc2012:DIR`: the 21 classes of PASCAL VOC 2012 segmentation, as VOCdevkit/VOC2012 is unpacked.

    DIR/JPEGImages/2007_000032.jpg            images
    DIR/SegmentationClass/2007_000032.png     their masks; 0 is background, 255 does not count
    DIR/ImageSets/Segmentation/train.txt      and val.txt, trainval.txt: names, one a line

`test` is another name of `val`, as the masks of the test images are not public.
"""

from __future__ import annotations

import os

from ssl_jax.core.errors import UserError
from ssl_jax.data.folders import folder_at
from ssl_jax.data.image_files import table
from ssl_jax.data.image_kind import ImageKind
from ssl_jax.data.kind import Facts
from ssl_jax.data.request import Request
from ssl_jax.data.segmented import Segmented

# Everingham et al. 2010: background, and the classes in the alphabetical order of their names.
CLASSES = (
    "background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair",
    "cow", "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa",
    "train", "tvmonitor",
)  # fmt: skip
SIZES = {"train": 1464, "val": 1449}
ALIASES = {"validation": "val", "test": "val"}


def dataset(location: str, request: Request) -> Segmented:
    """The images below DIR that have masks.

    Raises:
      UserError: no such folder, or a list of names is missing.
    """
    root = folder_at("voc2012", location)
    lists = os.path.join(root, "ImageSets", "Segmentation")
    parts = {}
    for split in SIZES:
        path = os.path.join(lists, f"{split}.txt")
        if not os.path.exists(path):
            raise UserError(
                f"voc2012:{location} has no ImageSets/Segmentation/{split}.txt; name the folder "
                "VOCdevkit/VOC2012 that JPEGImages is in"
            )
        names = [name for (name,) in table(path, 1)]
        parts[split] = {f"JPEGImages/{name}.jpg": f"SegmentationClass/{name}.png" for name in names}
    return Segmented(f"voc2012:{location}", root, request, CLASSES, parts, aliases=ALIASES)


KIND = ImageKind(
    name="voc2012",
    location="DIR",
    dataset=dataset,
    known=lambda location, options: Facts(SIZES, None, aliases=ALIASES),
)
