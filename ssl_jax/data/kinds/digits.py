"""`digits`: the 1797 handwritten digits that come with scikit-learn, 8x8 pixels.

From the UCI test set of Alpaydin and Kaynak (1998). Needs no download. `test` is 20% of every
class, drawn once and for all; `train` is the rest.
"""

from __future__ import annotations

import functools
import importlib.util
import pathlib

import numpy as np

from ssl_jax.data import counter
from ssl_jax.data.image import Canvas
from ssl_jax.data.image_kind import ImageKind
from ssl_jax.data.image_source import ArraySource
from ssl_jax.data.kind import Facts
from ssl_jax.data.request import Request

SPLITS = ("train", "test")
SIZES = {"train": 1438, "test": 359}
NUM_CLASSES = 10
IMAGE_SIZE = 8
CHANNELS = 1


def dataset(location: str, request: Request) -> Digits:
    """The data set; `location` is empty."""
    del location
    request.refuse_host_crops("digits")
    return Digits(request.canvas(IMAGE_SIZE, CHANNELS))


class Digits:
    """Digits on a canvas, in both splits."""

    splits = SPLITS

    def __init__(self, canvas: Canvas):
        self._canvas = canvas

    def source(self, split: str) -> ArraySource:
        images, labels = _load()
        rows = split_rows(labels)[split]
        boxes = self._canvas.boxes(0, 0, 0)
        return ArraySource(
            name=f"digits[{split}]",
            canvas=self._canvas,
            images=np.stack([self._canvas.render(image, boxes)["image"] for image in images[rows]]),
            labels=labels[rows],
            num_classes=NUM_CLASSES,
            class_names=tuple(map(str, range(NUM_CLASSES))),
        )


@functools.cache
def _load() -> tuple[np.ndarray, np.ndarray]:
    """All images, uint8 [1797 8 8 1] over the whole range 0..255, and labels int32 [1797]."""
    pixels, labels = np.split(_table(), [IMAGE_SIZE**2], axis=1)
    images = np.round(pixels * (255 / 16)).astype(np.uint8)
    return images.reshape(-1, IMAGE_SIZE, IMAGE_SIZE, 1), labels[:, 0].astype(np.int32)


def _table() -> np.ndarray:
    """float64 [1797 65]: 64 pixels of 0 to 16, and the label.

    From the file itself where it lies as usual: `sklearn.datasets` takes over a second to import.
    """
    package = importlib.util.find_spec("sklearn").origin
    file = pathlib.Path(package).parent / "datasets" / "data" / "digits.csv.gz"
    if file.exists():
        return np.loadtxt(file, delimiter=",")
    from sklearn.datasets import load_digits

    bunch = load_digits()
    return np.column_stack([bunch.data, bunch.target])


def split_rows(labels: np.ndarray) -> dict[str, np.ndarray]:
    """Rows of train and test, in a fixed random order: a slice of either is a random sample."""
    order = np.argsort(counter.bits(counter.key(0), np.arange(len(labels))))
    test = np.zeros(len(labels), bool)
    for label in np.unique(labels):
        of_class = order[labels[order] == label]
        test[of_class[: round(0.2 * len(of_class))]] = True
    return {"train": order[~test[order]], "test": order[test[order]]}


FACTS = Facts(SIZES, NUM_CLASSES, IMAGE_SIZE, CHANNELS)
KIND = ImageKind(name="digits", dataset=dataset, known=lambda location, options: FACTS)
