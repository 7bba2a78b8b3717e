"""Random crops that the host cuts, by family: where they lie in an image.

config.data.host_crops = {"global": dict(count=2, size=224, scale=(0.4, 1.0)),
                          "local": dict(count=8, size=96, scale=(0.05, 0.4))}
"""

from __future__ import annotations

import dataclasses
import functools
import math
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any

import numpy as np

from ssl_jax.config import fields
from ssl_jax.config.fields import between, each, increasing, positive, positive_fraction
from ssl_jax.core.errors import UserError
from ssl_jax.core.families import MAIN
from ssl_jax.data import counter

Box = tuple[float, float, float, float]  # left, top, right, bottom in pixels of the upright image
Boxes = Callable[[int, int], Sequence[Box]]  # (width, height) -> boxes

RATIO = (3 / 4, 4 / 3)
_ATTEMPTS = 10


@dataclasses.dataclass(frozen=True)
class HostCrops:
    """The random crops of one family, `config.data.host_crops.FAMILY`."""

    count: Annotated[int, between(1, 1_000), "Crops of each image; 1: all views share it."]
    size: Annotated[int | None, between(1, 32_768), "Side in pixels; None: data.image_size."] = None
    scale: Annotated[
        tuple[float, float], each(positive_fraction), increasing,
        "Smallest and largest area of a crop, as a fraction of the image's.",
    ] = (0.08, 1.0)  # fmt: skip
    ratio: Annotated[
        tuple[float, float], each(positive), increasing,
        "Smallest and largest width / height of a crop.",
    ] = RATIO  # fmt: skip

    def draws(self, family: str, seed: int, step: int, position: int) -> np.ndarray:
        """The random numbers of an image's crops, float64 [count attempts 4] in [0, 1).

        They depend on the family's name and not on what other families there are.

        Args:
          family: its name.
          seed, step: name the batch.
          position: of the image in the global batch.
        """
        count = self.count * _ATTEMPTS * 4
        draws = counter.uniform(_stream(family, seed, step), position * count + np.arange(count))
        return draws.reshape(self.count, _ATTEMPTS, 4)

    def boxes(self, width: int, height: int, draws: np.ndarray) -> list[Box]:
        """The crops of an image of this size."""
        return [random_box(width, height, crop, self.scale, self.ratio) for crop in draws]


@functools.lru_cache(maxsize=256)
def _stream(family: str, seed: int, step: int) -> int:
    """The main family draws as it would alone; the others mix their name into the key."""
    words = () if family == MAIN else (zlib.crc32(family.encode()),)
    return counter.key(seed, counter.Stream.CROPS, step, *words)


def read_families(section: Mapping[str, Any]) -> dict[str, HostCrops]:
    """Reads `config.data.host_crops`: family -> its crops.

    Raises:
      UserError: a bad name, key or value.
    """
    families = {}
    for name, crops in section.items():
        if not str(name).isidentifier():
            raise UserError(
                f"data.host_crops has a family {name!r}; use letters, digits and underscores"
            )
        families[name] = (
            crops
            if isinstance(crops, HostCrops)
            else fields.read(HostCrops, crops, f"data.host_crops.{name}")
        )
    return families


def center_box(width: int, height: int, fraction: float = 1.0) -> Box:
    """The central square with a side of `fraction` times the shorter side."""
    side = fraction * min(width, height)
    left, top = (width - side) / 2, (height - side) / 2
    return left, top, left + side, top + side


def random_box(
    width: int,
    height: int,
    draws: np.ndarray,
    scale: tuple[float, float],
    ratio: tuple[float, float] = RATIO,
) -> Box:
    """A random crop: area uniform in `scale` of the image's, aspect ratio uniform in `ratio`.

    As SimCLR (Chen et al. 2020, App. A): a crop that does not fit is drawn again; if ten do not,
    the largest central box with an admissible aspect ratio is taken.

    Args:
      width, height: of the image.
      draws: uniform numbers in [0, 1), float [attempts 4].
      scale: smallest and largest area.
      ratio: smallest and largest width / height.
    """
    low, high = ratio
    for area_draw, aspect_draw, x_draw, y_draw in draws.tolist():
        area = (scale[0] + area_draw * (scale[1] - scale[0])) * width * height
        aspect = low + aspect_draw * (high - low)
        w, h = math.sqrt(area * aspect), math.sqrt(area / aspect)
        if w <= width and h <= height:
            left, top = x_draw * (width - w), y_draw * (height - h)
            return left, top, left + w, top + h
    w, h = min(width, height * high), min(height, width / low)
    return (width - w) / 2, (height - h) / 2, (width + w) / 2, (height + h) / 2
