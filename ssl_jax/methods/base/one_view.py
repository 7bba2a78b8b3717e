"""The image input of a classifier: one random view for training, a fixed view for evaluation.

Methods that classify see their input only through an object like `OneView`, so that one which
tokenises text can stand in its place.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax

from ssl_jax import modalities
from ssl_jax.core.items import Item, augmented_views
from ssl_jax.core.method import Array, Batch, DataSpec
from ssl_jax.views import main_images, to_show, train_and_eval


@dataclasses.dataclass(frozen=True)
class OneView:
    """What an encoder takes, made of batches.

    Attributes:
      shape: of one view, (h, w, c).
      recipe: (keys [n], images) -> views [n 1 h w c].
      eval_view: images -> [n h w c].
      normalization: the views' (mean, std) by channel, None where they are in [0, 1].
    """

    shape: tuple[int, int, int]
    recipe: Callable[[Array, Array], Array]
    eval_view: Callable[[Array], Array]
    normalization: tuple[tuple[float, ...], tuple[float, ...]] | None = None

    def train(self, keys: Array, batch: Batch) -> Array:
        """A random view of each image, [n h w c]; `keys` [n] are one an image."""
        return self.recipe(keys, main_images(batch))[:, 0]

    def evaluate(self, batch: Batch) -> Array:
        """The whole image, [n h w c], nothing random."""
        return self.eval_view(batch["image"])

    def show(self, keys: Array, batch: Batch) -> dict[str, Item]:
        """The training views for the report page."""
        views = self.recipe(keys, main_images(batch))
        return augmented_views(to_show(views, self.normalization), batch)


def make_one_view(config: Any, spec: DataSpec, *, dtype: str | None = None) -> OneView:
    """What the config's section views says; where it ends in `normalize`, evaluation does too.

    Args:
      config: the whole config.
      spec: of the data.
      dtype: of the views; None: `config.dtype`.
    """
    modalities.require(config, spec, "image")
    image = main_images(spec.batch(1))
    views = train_and_eval(config.views, image, num_views=1, dtype=dtype or config.dtype)
    keys = jax.random.split(jax.random.key(0), 1)
    return OneView(shape=jax.eval_shape(views.recipe, keys, image).shape[2:], **views._asdict())
