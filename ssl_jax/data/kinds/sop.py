"""`sop:DIR`: Stanford Online Products (Song et al. 2016), as it is unpacked.

    DIR/Ebay_train.txt  DIR/Ebay_test.txt     image_id class_id super_class_id path
    DIR/bicycle_final/111085122871_0.JPG

No product of `test` is in `train`: 11,318 products are trained on and 11,316 are retrieved. The
labels of `test` come after those of `train`, and `num_classes` of `train` counts its own ones.
"""

from __future__ import annotations

import os

import numpy as np

from ssl_jax.core.errors import UserError
from ssl_jax.data.folders import folder_at
from ssl_jax.data.image_files import Listed, ListedImages, table
from ssl_jax.data.image_kind import ImageKind
from ssl_jax.data.kind import Facts
from ssl_jax.data.request import Request

SIZES = {"train": 59551, "test": 60502}
NUM_CLASSES = 11318  # of train


def dataset(location: str, request: Request) -> ListedImages:
    """The images below DIR.

    Raises:
      UserError: a list is missing, or is not that of the data set.
    """
    root = folder_at("sop", location)
    parts: dict[str, Listed] = {}
    classes: tuple[str, ...] = ()
    for split in SIZES:
        path = os.path.join(root, f"Ebay_{split}.txt")
        rows = table(path, 4)
        if not rows or rows[0][0] != "image_id":
            raise UserError(f"{path} does not begin with image_id class_id super_class_id path")
        products = [row[1] for row in rows[1:]]
        if shared := sorted(set(products) & set(classes)):
            raise UserError(f"{path} has product {shared[0]}, which is in Ebay_train.txt too")
        classes += tuple(dict.fromkeys(products))
        number_of = {name: label for label, name in enumerate(classes)}
        labels = np.array([number_of[product] for product in products], np.int32)
        parts[split] = Listed([row[3] for row in rows[1:]], labels, classes)
    return ListedImages(f"sop:{location}", root, request, parts)


KIND = ImageKind(
    name="sop",
    location="DIR",
    dataset=dataset,
    known=lambda location, options: Facts(SIZES, NUM_CLASSES),
)
