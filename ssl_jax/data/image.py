"""Encoded images to uint8 arrays: the whole image on a square canvas, or random crops of it.

Paper-scale recipes crop on the host, from the original: an 8% crop of a 256-pixel canvas is 72
pixels wide, of a usual photograph about 120. Colour stays on the device.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import math
from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image

from ssl_jax.core.errors import UserError
from ssl_jax.core.families import array_name
from ssl_jax.data.crops import Box, Boxes, HostCrops, center_box

# Names of image files end so.
EXTENSIONS = (
    ".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".jp2",
)  # fmt: skip
# Decoders and `Image.reduce` shrink cheaply by whole factors while the image stays this many times
# larger than the result; bicubic resampling does the rest, indistinguishably from doing it all.
_REDUCING_GAP = 2.0
_ORIENTATION = 0x0112
# "I" is how Pillow opens some 16-bit files.
_WIDE_MODES = ("I", "I;16", "I;16B", "I;16L", "I;16N")
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
      size: side of the whole image in pixels.
      channels: 1 (luminance) or 3 (RGB).
      center: side of the central square over the image's shorter side; 0.875 is "resize to 256,
        crop the centre 224".
      crops: random crops by family, which replace the whole image; empty: the whole image.

    Raises:
      UserError: a value out of range.
    """

    size: int
    channels: int = 3
    center: float = 1.0
    crops: Mapping[str, HostCrops] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        for key, value, good, rule in (
            ("image_size", self.size, self.size >= 1, "at least 1"),
            ("channels", self.channels, self.channels in (1, 3), "1 or 3"),
            ("center", self.center, 0 < self.center <= 1, "in (0, 1]"),
        ):
            if not good:
                raise UserError(f"data.{key} is {value}; it must be {rule}")

    @property
    def whole(self) -> Canvas:
        """The same without crops, as evaluation reads images."""
        return dataclasses.replace(self, crops={})

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes of an example's arrays: `image` [h w c], or `image/FAMILY` [v h w c] each."""
        if not self.crops:
            return {"image": (self.size, self.size, self.channels)}
        sides = {name: crops.size or self.size for name, crops in self.crops.items()}
        return {
            array_name(name): (crops.count, sides[name], sides[name], self.channels)
            for name, crops in self.crops.items()
        }

    def boxes(self, seed: int, step: int, position: int) -> Boxes:
        """What to cut out of an image: the boxes of all crops, family by family.

        Args:
          seed, step: name the batch.
          position: of the image in the global batch.
        """
        if not self.crops:
            return lambda width, height: [center_box(width, height, self.center)]
        families = [
            (crops, crops.draws(name, seed, step, position)) for name, crops in self.crops.items()
        ]
        return lambda width, height: [
            box for crops, draws in families for box in crops.boxes(width, height, draws)
        ]

    def render(self, encoded: bytes | np.ndarray, boxes: Boxes) -> dict[str, np.ndarray]:
        """Decodes an image once, cuts out and resizes: uint8 arrays with the shapes `shapes`.

        Args:
          encoded: an image file's bytes, or an image uint8 or uint16 [h w] or [h w c].
          boxes: from `self.boxes`.

        Raises:
          ValueError, OSError and whatever Pillow's readers raise: not an image, or a broken one.
        """
        shapes = self.shapes
        counts = [shape[0] if self.crops else 1 for shape in shapes.values()]
        sides = np.repeat([shape[-2] for shape in shapes.values()], counts).tolist()
        image, cut = decode(encoded, self.channels, boxes, sides)
        squares = iter([
            image.resize((side, side), Image.Resampling.BICUBIC, box, _REDUCING_GAP)
            for box, side in zip(cut, sides, strict=True)
        ])  # fmt: skip
        return {
            name: np.stack([np.asarray(next(squares)) for _ in range(count)]).reshape(shape)
            for (name, shape), count in zip(shapes.items(), counts, strict=True)
        }


def on_canvas(images: np.ndarray, canvas: Canvas) -> np.ndarray:
    """Images in memory uint8 [n h w c] on a canvas without crops, uint8 [n s s c']."""
    if canvas.shapes["image"] == images.shape[1:] and canvas.center == 1:
        return np.ascontiguousarray(images)
    boxes = canvas.boxes(0, 0, 0)
    return np.stack([canvas.render(image, boxes)["image"] for image in images])


def decode(
    encoded: bytes | np.ndarray, channels: int, boxes: Boxes, sides: Sequence[int]
) -> tuple[Image.Image, list[Box]]:
    """The upright image in mode L or RGB, perhaps already reduced, and the boxes in its pixels.

    Args:
      encoded: as in `Canvas.render`.
      channels: 1 or 3.
      boxes: called with the width and height of the image, upright and unreduced.
      sides: pixels that each box will be resized to; they bound the reduction.
    """
    image = _open(encoded)
    if image.format not in ("JPEG", "MPO"):  # those keep their header apart from their pixels
        image.load()
    orientation = _orientation(image)
    width, height = image.size
    upright = (height, width) if orientation >= 5 else (width, height)
    cut = boxes(*upright)
    scales = (
        side / min(right - left, bottom - top)
        for (left, top, right, bottom), side in zip(cut, sides, strict=True)
    )
    needed = min(1.0, _REDUCING_GAP * max(scales))
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


def largest_wide_value(encoded: bytes | np.ndarray) -> int | None:
    """The largest value of an image with 16 bits a value; None of other images.

    Of colour images the lower bytes are not known: it is then the largest possible value.

    Args:
      encoded: as in `Canvas.render`.

    Raises:
      ValueError, OSError and whatever Pillow's readers raise: not an image, or a broken one.
    """
    image = _open(encoded)
    if image.mode in _WIDE_MODES:
        return int(np.asarray(image).max())
    # Pillow reads 16-bit colours by their upper byte; only the PNG's tiles tell.
    if not any(";16" in str(tile[3]) for tile in image.tile):
        return None
    return int(np.asarray(image.convert("RGB")).max()) << 8 | 0xFF


def to_mode(image: Image.Image, mode: str) -> Image.Image:
    """To "L" or "RGB". 16 bits become 8 by their upper byte; transparency shows white.

    Raises:
      ValueError: a mode without a defined range, such as 32-bit floats.
    """
    if image.mode == mode:
        return image
    if image.mode in _WIDE_MODES:
        # Pillow's own conversion clips at 255.
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
