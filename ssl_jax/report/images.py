"""Images as data URIs, small enough for one page."""

from __future__ import annotations

import base64
import dataclasses
import io

import numpy as np
from PIL import Image

LOSSLESS_SIDE = 48  # larger pictures are stored as JPEG


@dataclasses.dataclass(frozen=True)
class Picture:
    """An image as the page shows it.

    Attributes:
      uri: its pixels, `data:image/...`.
      name: text for screen readers and tooltips.
      pixelated: whether it is so small that the page enlarges it without smoothing.
    """

    uri: str
    name: str
    pixelated: bool

    @classmethod
    def from_array(cls, image: np.ndarray, name: str, max_side: int) -> Picture:
        """A picture of an image [h w c], scaled down to sides of at most `max_side` pixels."""
        return cls(data_uri(image, max_side), name, max(image.shape[:2]) <= LOSSLESS_SIDE)


def as_uint8(image: np.ndarray) -> np.ndarray:
    """uint8, or float in [0, 1] (clipped; nan is black) -> uint8."""
    if image.dtype == np.uint8:
        return image
    if np.issubdtype(image.dtype, np.integer) or image.dtype == bool:
        return np.clip(image, 0, 255).astype(np.uint8)
    image = np.nan_to_num(np.asarray(image, np.float32), nan=0.0)
    return np.round(np.clip(image, 0, 1) * 255).astype(np.uint8)


def data_uri(image: np.ndarray, max_side: int) -> str:
    """[h w c], c = 1 or 3, as `data:image/...`; scaled down so that no side exceeds `max_side`."""
    image = as_uint8(image)
    picture = Image.fromarray(image[..., 0] if image.shape[-1] != 3 else image)
    if max(picture.size) > max_side:
        picture.thumbnail((max_side, max_side), Image.Resampling.LANCZOS)
    out = io.BytesIO()
    if max(picture.size) <= LOSSLESS_SIDE:
        picture.save(out, "png", optimize=True)
        kind = "png"
    else:
        picture.save(out, "jpeg", quality=85, optimize=True)
        kind = "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(out.getvalue()).decode('ascii')}"
