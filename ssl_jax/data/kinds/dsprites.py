"""`dsprites:FILE`: 737,280 white shapes on black with known factors (Matthey et al. 2017).

FILE is `dsprites_ndarray_co1sh3sc6or40x32y32_64x64.npz` of
https://github.com/google-deepmind/dsprites-dataset. Its images are all combinations of colour (1),
shape (3), scale (6), orientation (40), x and y (32 each). `tfds:dsprites` is the same data set.

The file is compressed, so it is read once, in parts, and kept with one bit a pixel: 378 MB.
"""

from __future__ import annotations

import os
import zipfile
import zlib
from typing import IO, Annotated, Literal

import numpy as np

from ssl_jax.core.errors import UserError
from ssl_jax.data import grids
from ssl_jax.data.image_kind import ImageKind
from ssl_jax.data.request import Request

FACTORS = ("color", "shape", "scale", "orientation", "x", "y")
NUM_IMAGES, NUM_VALUES, CHANNELS = 737_280, (1, 3, 6, 40, 32, 32), 1
_READ_AT_A_TIME = 1 << 24  # bytes


def dataset(
    location: str,
    request: Request,
    *,
    label: Annotated[
        Literal["color", "shape", "scale", "orientation", "x", "y"], "Factor that is the label."
    ] = "shape",
) -> grids.Grid:
    """The images of the file `location`.

    Raises:
      UserError: it is not there, or no file of this kind.
    """
    request.refuse_host_crops("dsprites")
    name, path = f"dsprites:{location}", os.path.expanduser(location)
    try:
        with zipfile.ZipFile(path) as archive:
            with archive.open("latents_classes.npy") as file:
                classes = np.lib.format.read_array(file)
            with archive.open("imgs.npy") as file:
                images = _read_bits(name, file)
    except KeyError as error:
        raise UserError(f"{name} has no array {_array_of(error)}; it has {_names(path)}") from None
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise UserError(f"{name} cannot be read: {error}") from None
    canvas = request.canvas(grids.IMAGE_SIZE, CHANNELS)
    return grids.Grid(name, images, classes.astype(np.int64), FACTORS, label, canvas)


def _array_of(error: KeyError) -> str:
    return "imgs" if "imgs" in str(error) else "latents_classes"


def _names(path: str) -> str:
    with zipfile.ZipFile(path) as archive:
        return ", ".join(name.removesuffix(".npy") for name in archive.namelist()) or "none"


class BitImages:
    """Black and white images with one bit a pixel.

    Args:
      bits: uint8 [n b], the pixels of each image, eight a byte.
      shape: (h, w) of an image.
    """

    def __init__(self, bits: np.ndarray, shape: tuple[int, int]):
        self._bits, self._shape = bits, shape

    def __len__(self) -> int:
        return len(self._bits)

    def read(self, numbers: np.ndarray) -> np.ndarray:
        pixels = np.unpackbits(self._bits[numbers], axis=1, count=int(np.prod(self._shape)))
        return (255 * pixels).reshape(len(numbers), *self._shape, 1)


def _read_bits(name: str, file: IO[bytes]) -> BitImages:
    """An array uint8 [n h w] of zeros and ones, some images at a time.

    Raises:
      UserError: it has another type or shape, or other values.
      ValueError: it is damaged.
    """
    version = np.lib.format.read_magic(file)
    read_header = {
        (1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0,
    }[version]  # fmt: skip
    shape, is_fortran, dtype = read_header(file)
    if dtype != np.uint8 or len(shape) != 3 or is_fortran:
        raise UserError(f"{name}: imgs is {dtype} {shape}; expected uint8 (n, height, width)")
    size = int(np.prod(shape[1:]))
    bits = np.empty((shape[0], -(-size // 8)), np.uint8)
    step = max(1, _READ_AT_A_TIME // size)
    for start in range(0, shape[0], step):
        count = min(step, shape[0] - start)
        content = file.read(count * size)
        if len(content) != count * size:
            raise ValueError("imgs ends too early; fetch the file again")
        pixels = np.frombuffer(content, np.uint8).reshape(count, size)
        if pixels.max() > 1:
            raise UserError(f"{name}: imgs has the value {pixels.max()}; pixels are 0 or 1")
        bits[start : start + count] = np.packbits(pixels, axis=1)
    return BitImages(bits, shape[1:])


KIND = ImageKind(
    name="dsprites",
    location="FILE",
    dataset=dataset,
    known=lambda location, options: grids.facts(
        NUM_IMAGES, NUM_VALUES[FACTORS.index(options["label"])], CHANNELS
    ),
)
