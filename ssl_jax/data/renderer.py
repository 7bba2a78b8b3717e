"""The interface of data sets that render images from factors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import numpy as np
from jaxtyping import Float

if TYPE_CHECKING:
    from ssl_jax.data.source import ImageSource


class Renderer(Protocol):
    """Draws factors from their distribution, and renders images from factors."""

    def draw(self, rng: np.random.Generator, count: int) -> Float[np.ndarray, "n f"]:
        """The factors of `count` new examples, float32, all independent."""

    def source(self, factors: Float[np.ndarray, "n f"]) -> ImageSource:
        """A source of the images with these factors; they are rendered when they are read."""
