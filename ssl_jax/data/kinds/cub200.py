"""`cub200:DIR`: the 200 bird species of CUB-200-2011 (Wah et al. 2011), as they are unpacked.

    DIR/images.txt  DIR/image_class_labels.txt  DIR/train_test_split.txt  DIR/classes.txt
    DIR/images/001.Black_footed_Albatross/Black_footed_Albatross_0001_796111.jpg

Metric learning trains on the first 100 species of both splits and retrieves the other 100:
`data.split="all" data.classes="train half" eval.train_split="all" eval.test_split="all"`.
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

SIZES = {"train": 5994, "test": 5788}
NUM_CLASSES = 200


def dataset(location: str, request: Request) -> ListedImages:
    """The images below DIR.

    Raises:
      UserError: a list is missing, or the lists do not agree.
    """
    root = folder_at("cub200", location)
    names = dict(table(os.path.join(root, "classes.txt"), 2))
    path_of = dict(table(os.path.join(root, "images.txt"), 2))
    class_of = dict(table(os.path.join(root, "image_class_labels.txt"), 2))
    is_train = dict(table(os.path.join(root, "train_test_split.txt"), 2))
    if not path_of.keys() == class_of.keys() == is_train.keys():
        raise UserError(f"the lists in {root} are about different images")
    numbers = sorted(names, key=int)
    number_of = {name: label for label, name in enumerate(numbers)}
    if unknown := sorted(set(class_of.values()) - set(number_of)):
        raise UserError(f"{root}/classes.txt lacks class {unknown[0]}")
    classes = tuple(names[number] for number in numbers)
    parts = {}
    for split, flag in (("train", "1"), ("test", "0")):
        images = [image for image, value in is_train.items() if value == flag]
        paths = [f"images/{path_of[image]}" for image in images]
        labels = np.array([number_of[class_of[image]] for image in images], np.int32)
        parts[split] = Listed(paths, labels, classes)
    return ListedImages(f"cub200:{location}", root, request, parts)


KIND = ImageKind(
    name="cub200",
    location="DIR",
    dataset=dataset,
    known=lambda location, options: Facts(SIZES, NUM_CLASSES),
)
