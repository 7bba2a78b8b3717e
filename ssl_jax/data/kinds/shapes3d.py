"""`shapes3d:FILE`: 480,000 images of an object in a room with known factors (Burgess & Kim 2018).

FILE is `3dshapes.h5` of https://github.com/google-deepmind/3d-shapes. Its images are all
combinations of the hues of floor, wall and object (10 each), scale (8), shape (4) and orientation
(15). `tfds:shapes3d` is the same data set. Reading it needs h5py: pip install 'ssl_jax[h5]'.

Images stay in the file, and are read when they are needed.
"""

from __future__ import annotations

import os
import threading
from typing import Annotated, Any, Literal

import numpy as np

from ssl_jax.core.errors import UserError
from ssl_jax.data import grids
from ssl_jax.data.image_kind import ImageKind
from ssl_jax.data.request import Request

FACTORS = ("floor_hue", "wall_hue", "object_hue", "scale", "shape", "orientation")
NUM_IMAGES, NUM_VALUES, CHANNELS = 480_000, (10, 10, 10, 8, 4, 15), 3


def dataset(
    location: str,
    request: Request,
    *,
    label: Annotated[
        Literal["floor_hue", "wall_hue", "object_hue", "scale", "shape", "orientation"],
        "Factor that is the label.",
    ] = "shape",
) -> grids.Grid:
    """The images of the file `location`.

    Raises:
      UserError: it is not there, or no file of this kind, or h5py is not installed.
    """
    request.refuse_host_crops("shapes3d")
    name, path = f"shapes3d:{location}", os.path.expanduser(location)
    h5py = _h5py(name)
    try:
        with h5py.File(path, "r") as file:
            for key in ("images", "labels"):
                if key not in file:
                    raise UserError(f"{name} has no array {key}; it has {', '.join(file)}")
            images, labels = file["images"], file["labels"][:]
            if images.dtype != np.uint8 or images.ndim != 4:
                raise UserError(
                    f"{name}: images is {images.dtype} {images.shape}; expected uint8 "
                    "(n, height, width, channels)"
                )
            count = len(images)
    except OSError as error:
        raise UserError(f"{name} cannot be read: {error}") from None
    values = [np.unique(column, return_inverse=True)[1] for column in labels.T]
    canvas = request.canvas(grids.IMAGE_SIZE, CHANNELS)
    classes = np.stack(values, axis=1).astype(np.int64)
    return grids.Grid(name, H5Images(path, count), classes, FACTORS, label, canvas)


def _h5py(name: str) -> Any:
    try:
        import h5py
    except ImportError as error:
        raise UserError(f"{name} needs h5py ({error}); pip install 'ssl_jax[h5]'") from None
    return h5py


class H5Images:
    """The array `images` of an HDF5 file. Each process opens the file for itself.

    Args:
      path: of the file.
      count: number of images.
    """

    def __init__(self, path: str, count: int):
        self._path, self._count = path, count
        self._opened: tuple[int, Any] | None = None
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self._path, "count": self._count}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)

    def __len__(self) -> int:
        return self._count

    def read(self, numbers: np.ndarray) -> np.ndarray:
        # HDF5 reads rows in increasing order, each once.
        rows, inverse = np.unique(numbers, return_inverse=True)
        with self._lock:
            if self._opened is None or self._opened[0] != os.getpid():
                self._opened = os.getpid(), _h5py(self._path).File(self._path, "r")
            return self._opened[1]["images"][rows][inverse]


KIND = ImageKind(
    name="shapes3d",
    location="FILE",
    dataset=dataset,
    known=lambda location, options: grids.facts(
        NUM_IMAGES, NUM_VALUES[FACTORS.index(options["label"])], CHANNELS
    ),
)
