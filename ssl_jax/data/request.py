"""Options that every kind of data set has."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from ssl_jax.core.errors import UserError
from ssl_jax.data.crops import read_families
from ssl_jax.data.image import Canvas


@dataclasses.dataclass(frozen=True)
class Request:
    """Options that every kind of data set has; see `ssl_jax.data.load`."""

    image_size: int | None = None
    channels: int | None = None
    host_crops: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    center: float = 1.0
    strict: bool = False
    seed: int = 0

    def canvas(self, image_size: int | None = None, channels: int = 3) -> Canvas:
        """The canvas with these options; the data set's own size and channels are the defaults.

        Raises:
          UserError: no size is set and the images differ in size.
        """
        size = self.image_size or image_size
        if size is None:
            raise UserError(
                "data.image_size is not set and the images have no common size; set it to the "
                "side of the canvas in pixels, e.g. 224"
            )
        return Canvas(
            size=size,
            channels=self.channels or channels,
            center=self.center,
            crops=read_families(self.host_crops),
        )

    def refuse_host_crops(self, name: str) -> None:
        """Raises UserError if host crops are set for a data set of small arrays."""
        if self.host_crops:
            raise UserError(
                f"data.host_crops asks for crops ({', '.join(self.host_crops)}), but {name} is "
                "cropped on the device; leave it out"
            )

    def refuse_image_options(self, name: str, modality: str = "text") -> None:
        """Raises UserError if an option of images is set for a data set of another modality."""
        for option in ("image_size", "channels", "host_crops"):
            value = getattr(self, option)
            if value:
                raise UserError(
                    f"data.{option} is {value}, but {name} is {modality}; leave it unset"
                )
