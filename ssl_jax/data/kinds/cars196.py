"""`cars196:DIR`: the 196 car models of Cars (Krause et al. 2013), as they are unpacked.

    DIR/cars_annos.mat  DIR/car_ims/000001.jpg

Metric learning trains on the first 98 models of both splits and retrieves the other 98:
`data.split="all" data.classes="train half" eval.train_split="all" eval.test_split="all"`.
"""

from __future__ import annotations

import os

import numpy as np

from ssl_jax.core.errors import UserError
from ssl_jax.data.folders import folder_at
from ssl_jax.data.image_files import Listed, ListedImages
from ssl_jax.data.image_kind import ImageKind
from ssl_jax.data.kind import Facts
from ssl_jax.data.request import Request

SIZES = {"train": 8144, "test": 8041}
NUM_CLASSES = 196


def dataset(location: str, request: Request) -> ListedImages:
    """The images below DIR.

    Raises:
      UserError: there is no `cars_annos.mat`, or it is not that of Cars.
    """
    from scipy.io import loadmat

    root = folder_at("cars196", location)
    path = os.path.join(root, "cars_annos.mat")
    try:
        content = loadmat(path, squeeze_me=True)
        rows = np.atleast_1d(content["annotations"])
        paths = [str(row["relative_im_path"]) for row in rows]
        labels = np.array([int(row["class"]) - 1 for row in rows], np.int32)
        is_test = np.array([bool(row["test"]) for row in rows])
        classes = tuple(str(name) for name in np.atleast_1d(content["class_names"]))
    except Exception as error:  # SciPy's reader raises all kinds on other files
        raise UserError(f"{path} cannot be read as the annotations of Cars: {error}") from error
    if not len(labels) or labels.min() < 0 or labels.max() >= len(classes):
        raise UserError(f"{path} has labels beyond its {len(classes)} class names")
    parts = {
        split: Listed([paths[i] for i in np.flatnonzero(chosen)], labels[chosen], classes)
        for split, chosen in (("train", ~is_test), ("test", is_test))
    }
    return ListedImages(f"cars196:{location}", root, request, parts)


KIND = ImageKind(
    name="cars196",
    location="DIR",
    dataset=dataset,
    known=lambda location, options: Facts(SIZES, NUM_CLASSES),
)
