"""`ade20k:DIR`: the 150 classes of ADE20K scene parsing, as ADEChallengeData2016 is unpacked.

DIR/images/training/ADE_train_00000001.jpg         20,210 images; validation: 2,000
DIR/annotations/training/ADE_train_00000001.png    their masks: 1 to 150; 0 does not count
DIR/objectInfo150.txt                              names of the classes, if it is there
"""

from __future__ import annotations

import os

from ssl_jax.core.errors import UserError
from ssl_jax.data.folders import folder_at
from ssl_jax.data.image_kind import ImageKind
from ssl_jax.data.kind import Facts
from ssl_jax.data.request import Request
from ssl_jax.data.segmented import Segmented, paired

NUM_CLASSES = 150
SIZES = {"train": 20_210, "validation": 2000}
ALIASES = {"val": "validation", "test": "validation"}
_FOLDERS = {"train": "training", "validation": "validation"}


def dataset(location: str, request: Request) -> Segmented:
    """The images below DIR.

    Raises:
      UserError: no such folder, an image has no mask, or the list of classes is damaged.
    """
    name = f"ade20k:{location}"
    root = folder_at("ade20k", location)
    parts = {
        split: paired(name, root, f"images/{folder}", f"annotations/{folder}")
        for split, folder in _FOLDERS.items()
    }
    classes = _class_names(os.path.join(root, "objectInfo150.txt"))
    return Segmented(name, root, request, classes, parts, first=1, aliases=ALIASES)


def _class_names(path: str) -> tuple[str, ...]:
    """The first names of the classes: the last column of a table with one line of headings."""
    if not os.path.exists(path):
        return tuple(str(number) for number in range(1, NUM_CLASSES + 1))
    with open(path, encoding="utf-8") as file:
        rows = file.read().splitlines()[1:]
    if len(rows) != NUM_CLASSES:
        raise UserError(f"{path} has {len(rows)} classes instead of {NUM_CLASSES}")
    return tuple(row.split("\t")[-1].split(",")[0].strip() for row in rows)


KIND = ImageKind(
    name="ade20k",
    location="DIR",
    dataset=dataset,
    known=lambda location, options: Facts(SIZES, None, aliases=ALIASES),
)
