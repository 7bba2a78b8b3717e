"""`market1501:DIR`: people seen by six cameras (Zheng et al. 2015), as the set is unpacked.

    DIR/bounding_box_train/0002_c1s1_000451_03.jpg     split `train`
    DIR/query/0001_c1s1_001051_00.jpg                  split `query`
    DIR/bounding_box_test/0000_c1s1_000151_01.jpg      split `gallery`

A name begins with the identity and the camera. Identity -1 (junk) is left out. 0000 are
distractors, a class of the gallery that no query has. The camera is a factor: with it the
evaluation `retrieval` leaves out what the protocol leaves out:
`eval.test_split="query" eval.retrieval.gallery="gallery"`. Labels of people who are not in `train`
come after those of `train`, and `num_classes` of `train` counts its own ones.
"""

from __future__ import annotations

import os
import re

import numpy as np

from ssl_jax.core.errors import UserError
from ssl_jax.data.folders import folder_at
from ssl_jax.data.image_files import Listed, ListedImages, image_files
from ssl_jax.data.image_kind import ImageKind
from ssl_jax.data.kind import Facts
from ssl_jax.data.request import Request

FOLDERS = {"train": "bounding_box_train", "query": "query", "gallery": "bounding_box_test"}
SIZES = {"train": 12936, "query": 3368, "gallery": 15913}
NUM_CLASSES = 751  # of train
_NAME = re.compile(r"(-1|\d+)_c(\d+)")


def dataset(location: str, request: Request) -> ListedImages:
    """The images below DIR.

    Raises:
      UserError: a folder is missing, or a file has another name.
    """
    root = folder_at("market1501", location)
    by_split = {}
    for split, folder in FOLDERS.items():
        top = folder_at("market1501", os.path.join(root, folder))
        named = [(f"{folder}/{path}", *_identity(top, path)) for path in sorted(image_files(top))]
        by_split[split] = [entry for entry in named if entry[1] != "-1"]
    people = {split: {identity for _, identity, _ in rows} for split, rows in by_split.items()}
    trained = tuple(sorted(people["train"]))
    others = sorted((people["query"] | people["gallery"]) - people["train"])
    every = trained + tuple(others)
    number_of = {identity: label for label, identity in enumerate(every)}
    parts = {
        split: Listed(
            [path for path, _, _ in rows],
            np.array([number_of[identity] for _, identity, _ in rows], np.int32),
            trained if split == "train" else every,
            {"camera": np.array([camera for _, _, camera in rows], np.int32)},
        )
        for split, rows in by_split.items()
    }
    return ListedImages(f"market1501:{location}", root, request, parts)


def _identity(top: str, path: str) -> tuple[str, int]:
    """Identity and camera of a file."""
    match = _NAME.match(os.path.basename(path))
    if match is None:
        raise UserError(f"{top}/{path} is not named as in Market-1501: 0002_c1s1_000451_03.jpg")
    return match[1], int(match[2])


KIND = ImageKind(
    name="market1501",
    location="DIR",
    dataset=dataset,
    known=lambda location, options: Facts(SIZES, NUM_CLASSES),
)
