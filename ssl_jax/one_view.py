"""One random view of each image for training, and the fixed one for evaluation.

Methods that classify see their input only through an object like `OneView`, so that one which
tokenises text can stand in its place.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from ssl_jax.method import Array, Batch, DataSpec
from ssl_jax.views import eval_view, make_views
from ssl_jax.views.recipe import read_recipes


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
        return self.recipe(keys, batch["image"])[:, 0]

    def evaluate(self, batch: Batch) -> Array:
        """The whole image, [n h w c], nothing random."""
        return self.eval_view(batch["image"])

    def show(self, keys: Array, batch: Batch) -> Array:
        """The training views as images in [0, 1], [n 1 h w c]."""
        views = self.recipe(keys, batch["image"])
        if self.normalization is None:
            return views
        mean, std = (jnp.array(values, jnp.float32) for values in self.normalization)
        return jnp.clip(views * std + mean, 0, 1)


def make_one_view(config: Any, spec: DataSpec) -> OneView:
    """What the config's section views says; where it ends in `normalize`, evaluation does too."""
    recipe = make_views(config.views, num_views=1, dtype=config.dtype)
    image = spec.batch(1)["image"]
    shape = jax.eval_shape(recipe, jax.random.split(jax.random.key(0), 1), image).shape[2:]
    steps = read_recipes(config.views, 1)[0]
    mean = std = None
    if steps and steps[-1].op == "normalize":
        mean, std = (tuple(steps[-1].parameters[name]) for name in ("mean", "std"))
    return OneView(
        shape=shape,
        recipe=recipe,
        eval_view=functools.partial(
            eval_view, size=shape[:2], crop_fraction=1.0, mean=mean, std=std, dtype=config.dtype
        ),
        normalization=None if mean is None else (mean, std),
    )
