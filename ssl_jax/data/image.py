"""Encoded images to uint8 canvases of one size, and random crops cut on the host.

Paper-scale recipes crop on the host, from the original: an 8% crop of a 256-pixel canvas is 72
pixels wide, of a usual photograph about 120. Colour stays on the device.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import math
from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image

from ssl_jax.core.errors import UserError
from ssl_jax.data import counter

Box = tuple[float, float, float, float]  # left, top, right, bottom in pixels of the upright image
Boxes = Callable[[int, int], Sequence[Box]]  # (width, height) -> boxes

ASPECT_RATIOS = (3 / 4, 4 / 3)  # width / height of random crops
_ATTEMPTS = 10
# Decoders and `Image.reduce` shrink cheaply by whole factors while the image stays this many times
# larger than the result; bicubic resampling does the rest, indistinguishably from doing it all.
_REDUCING_GAP = 2.0
_ORIENTATION = 0x0112
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


@dataclasses.dataclass(frozen=True)
class Canvas:
    """What the host makes of every image.

    Attributes:
      size: side in pixels.
      channels: 1 (luminance) or 3 (RGB).
      views: number of random resized crops of an image; 0: the image's central square.
      crop_scale: smallest and largest area of a random crop, as a fraction of the image's.
      center: side of the central square over the image's shorter side; 0.875 is "resize to 256,
        crop the centre 224".

    Raises:
      UserError: a value out of range.
    """

    size: int
    channels: int = 3
    views: int = 0
    crop_scale: tuple[float, float] = (0.08, 1.0)
    center: float = 1.0

    def __post_init__(self) -> None:
        low, high = self.crop_scale
        for key, value, good, rule in (
            ("image_size", self.size, self.size >= 1, "at least 1"),
            ("channels", self.channels, self.channels in (1, 3), "1 or 3"),
            ("host_views", self.views, self.views >= 0, "0 or more"),
            ("host_crop_scale", self.crop_scale, 0 < low <= high <= 1, "0 < low <= high <= 1"),
            ("center", self.center, 0 < self.center <= 1, "in (0, 1]"),
        ):
            if not good:
                raise UserError(f"data.{key} is {value}; it must be {rule}")

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one example's image: [h w c], or [v h w c] with v random crops."""
        one = (self.size, self.size, self.channels)
        return (self.views, *one) if self.views else one

    def boxes(self, stream: int, position: int) -> Boxes:
        """What to cut out of the image at `position` of a batch; `stream` names the batch."""
        if not self.views:
            return lambda width, height: [center_box(width, height, self.center)]
        draws_per_crop = 4 * _ATTEMPTS
        first = position * self.views * draws_per_crop
        count = self.views * draws_per_crop
        draws = counter.uniform(stream, first + np.arange(count)).reshape(self.views, _ATTEMPTS, 4)
        return lambda width, height: [
            random_box(width, height, crop, self.crop_scale) for crop in draws
        ]

    def render(self, encoded: bytes | np.ndarray, boxes: Boxes) -> np.ndarray:
        """Decodes, cuts out and resizes: uint8 of `shape`.

        Args:
          encoded: an image file's bytes, or an image uint8 or uint16 [h w] or [h w c].
          boxes: from `self.boxes`.

        Raises:
          ValueError, OSError and whatever Pillow's readers raise: not an image, or a broken one.
        """
        image, cut = decode(encoded, self.channels, boxes, self.size)
        views = [
            image.resize((self.size, self.size), Image.Resampling.BICUBIC, box, _REDUCING_GAP)
            for box in cut
        ]
        arrays = [np.asarray(view).reshape(self.size, self.size, self.channels) for view in views]
        return np.stack(arrays) if self.views else arrays[0]


def center_box(width: int, height: int, fraction: float = 1.0) -> Box:
    """The central square with a side of `fraction` times the shorter side."""
    side = fraction * min(width, height)
    left, top = (width - side) / 2, (height - side) / 2
    return left, top, left + side, top + side


def random_box(width: int, height: int, draws: np.ndarray, scale: tuple[float, float]) -> Box:
    """A random crop: area uniform in `scale` of the image's, aspect ratio uniform in 3/4..4/3.

    As SimCLR (Chen et al. 2020, App. A): a crop that does not fit is drawn again; if ten do not,
    the largest central box with an admissible aspect ratio is taken.

    Args:
      width, height: of the image.
      draws: uniform numbers in [0, 1), float [attempts 4].
      scale: smallest and largest area.
    """
    low, high = ASPECT_RATIOS
    for area_draw, aspect_draw, x_draw, y_draw in draws.tolist():
        area = (scale[0] + area_draw * (scale[1] - scale[0])) * width * height
        aspect = low + aspect_draw * (high - low)
        w, h = math.sqrt(area * aspect), math.sqrt(area / aspect)
        if w <= width and h <= height:
            left, top = x_draw * (width - w), y_draw * (height - h)
            return left, top, left + w, top + h
    w, h = min(width, height * high), min(height, width / low)
    return (width - w) / 2, (height - h) / 2, (width + w) / 2, (height + h) / 2


def decode(
    encoded: bytes | np.ndarray, channels: int, boxes: Boxes, size: int
) -> tuple[Image.Image, list[Box]]:
    """The upright image in mode L or RGB, perhaps already reduced, and the boxes in its pixels.

    Args:
      encoded: as in `Canvas.render`.
      channels: 1 or 3.
      boxes: asked with the width and height of the image, upright and unreduced.
      size: pixels that every box will be resized to; bounds the reduction.
    """
    image = _open(encoded)
    if image.format not in ("JPEG", "MPO"):  # those keep their header apart from their pixels
        image.load()
    orientation = _orientation(image)
    width, height = image.size
    upright = (height, width) if orientation >= 5 else (width, height)
    cut = boxes(*upright)
    shortest = min(min(right - left, bottom - top) for left, top, right, bottom in cut)
    needed = min(1.0, _REDUCING_GAP * size / shortest)
    # JPEG only: the decoder skips frequencies (and, for grey, colour) that the result cannot show.
    mode = "L" if channels == 1 else "RGB"
    image.draft(mode, (math.ceil(width * needed), math.ceil(height * needed)))
    image.load()
    image = to_mode(image, mode)
    if orientation in _UPRIGHT:
        image = image.transpose(_UPRIGHT[orientation])
    x, y = image.width / upright[0], image.height / upright[1]
    if (x, y) != (1.0, 1.0):
        cut = [
            (left * x, top * y, min(right * x, image.width), min(bottom * y, image.height))
            for left, top, right, bottom in cut
        ]
    return image, list(cut)


def _open(encoded: bytes | np.ndarray) -> Image.Image:
    if isinstance(encoded, np.ndarray):
        return Image.fromarray(encoded[..., 0] if encoded.shape[-1] == 1 else encoded)
    if not encoded:
        raise ValueError("the file is empty")
    try:
        return Image.open(io.BytesIO(encoded))
    except Image.UnidentifiedImageError:  # its message names a BytesIO object
        raise ValueError("not an image file") from None


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation: 1 is upright, 5 to 8 lie on their side."""
    with contextlib.suppress(Exception):  # a broken EXIF block does not make an image unreadable
        return int(image.getexif().get(_ORIENTATION, 1))
    return 1


def to_mode(image: Image.Image, mode: str) -> Image.Image:
    """To "L" or "RGB". 16 bits become 8 by their upper byte; transparency shows white.

    Raises:
      ValueError: a mode without a defined range, such as 32-bit floats.
    """
    if image.mode == mode:
        return image
    if image.mode in ("I", "I;16", "I;16B", "I;16L", "I;16N"):
        # Pillow's own conversion clips at 255. "I" is how it opens some 16-bit files.
        wide = np.asarray(image).astype(np.int64)
        if wide.min() < 0 or wide.max() > 0xFFFF:
            raise ValueError("a 32-bit integer image; save it with 8 or 16 bits")
        image = Image.fromarray((wide >> 8).astype(np.uint8))
    elif image.mode == "F":
        raise ValueError("a floating-point image; save it with 8 or 16 bits")
    elif image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        image = Image.alpha_composite(white, image)
    return image.convert(mode)
