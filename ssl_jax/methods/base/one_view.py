"""The image input of a classifier: one random view for training, a fixed view for evaluation.

Methods that classify get their input only from an object with this interface, so that `OneText` can
replace `OneView` for text.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax

from ssl_jax import modalities
from ssl_jax.core.errors import UserError
from ssl_jax.core.items import Item, augmented_views
from ssl_jax.core.method import Array, Batch, DataSpec, Method, Weights
from ssl_jax.views import main_images, to_show, train_and_eval


@dataclasses.dataclass(frozen=True)
class OneView:
    """Computes the inputs of an encoder from batches of images.

    Attributes:
      shape: (h, w, c) of a view.
      recipe: (keys [n], images) -> views [n 1 h w c].
      eval_view: images -> [n h w c].
      normalization: (mean, std) of the views by channel; None: views are in [0, 1].
    """

    shape: tuple[int, int, int]
    recipe: Callable[[Array, Array], Array]
    eval_view: Callable[[Array], Array]
    normalization: tuple[tuple[float, ...], tuple[float, ...]] | None = None

    def train(self, keys: Array, batch: Batch) -> Array:
        """A random view of each image, [n h w c]; `keys` [n] has one key per image."""
        return self.recipe(keys, main_images(batch))[:, 0]

    def evaluate(self, batch: Batch) -> Array:
        """The evaluation view of each image, [n h w c]; not random."""
        return self.eval_view(batch["image"])

    def show(self, keys: Array, batch: Batch) -> dict[str, Item]:
        """The training views for the report page."""
        views = self.recipe(keys, main_images(batch))
        return augmented_views(to_show(views, self.normalization), batch)


@dataclasses.dataclass(frozen=True)
class OneViewMethod(Method):
    """Base of methods that have their inputs from `view`, a `OneView` or what stands in for it."""

    def eval_view(self, images: Array) -> Array:
        """The inputs of the encoder in evaluation [n h' w' c], of uint8 images [n h w c]."""
        return self.view.eval_view(images)

    def show(self, w: Weights, keys: Array, batch: Batch) -> dict[str, Item]:
        """The training views."""
        del w
        return self.view.show(keys, batch)


def make_one_view(config: Any, spec: DataSpec, *, dtype: str | None = None) -> OneView:
    """Makes the views that the config section views describes.

    If the training views end with `normalize`, the evaluation views do too.

    Args:
      config: the whole config.
      spec: the data.
      dtype: dtype of the views; None: `config.dtype`.

    Raises:
      UserError: the data are not images, or the section has a bad value.
    """
    modalities.require(config, spec, "image")
    image = main_images(spec.batch(1))
    views = train_and_eval(config.views, image, num_views=1, dtype=dtype or config.dtype)
    keys = jax.random.split(jax.random.key(0), 1)
    return OneView(shape=jax.eval_shape(views.recipe, keys, image).shape[2:], **views._asdict())


def make_pixel_view(config: Any, spec: DataSpec, reason: str) -> OneView:
    """The view of a method whose targets are pixels: float32 in [0, 1]; nets cast their inputs.

    Args:
      config: the whole config.
      spec: the data.
      reason: why views must not be normalised, the start of the error message.

    Raises:
      UserError: the data are not images, or the section views has a bad value or normalises views.
    """
    if "normalize" in config.views.ops:
        raise UserError(f"{reason}; remove normalize from views.ops")
    return make_one_view(config, spec, dtype="float32")
