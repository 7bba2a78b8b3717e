"""What features still know of how an image was changed (SimCLR, Chen et al. 2020, Table 3).

Images are changed at random before they are encoded, and a nonlinear probe (`mlp`) says from the
features what was done to them:

    color     which images were made grey (a fifth of them)     chance 80%
    rotation  by which multiple of 90 degrees they were turned  25%
    noise     which have Gaussian noise on them (half)          50%
    sobel     of which only the edges are left (half)           50%

What pretraining makes its views invariant to, a projection head throws away and h keeps. Colour is
among SimCLR's augmentations; the other three have to be added to see it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import NamedTuple

import jax
import jax.numpy as jnp

from ssl_jax.core.errors import UserError, nearest
from ssl_jax.views.color import grayscale
from ssl_jax.views.filters import gaussian_noise, sobel
from ssl_jax.views.geometry import rotate90

Array = jax.Array
NOISE_STD = 0.1


class Task(NamedTuple):
    """One change.

    Attributes:
      share: of the images, to be changed; of more than two classes all are, uniformly.
      classes: label classes.
      change: (keys [n], float images [n h w c] in [0, 1], label [n]) -> images.
    """

    share: float
    classes: int
    change: Callable[[Array, Array, Array], Array]


def _if_one(op: Callable[..., Array]) -> Callable[[Array, Array, Array], Array]:
    """An op of the views, which changes every image it is given, on those of label 1."""

    def change(keys: Array, images: Array, label: Array) -> Array:
        return jnp.where((label == 1)[:, None, None, None], op(keys, images), images)

    return change


def _turn(keys: Array, images: Array, label: Array) -> Array:
    del keys
    return rotate90(images, label)


TASKS: Mapping[str, Task] = MappingProxyType(
    {
        "color": Task(0.2, 2, _if_one(functools.partial(grayscale, p=1.0))),
        "rotation": Task(1.0, 4, _turn),
        "noise": Task(0.5, 2, _if_one(functools.partial(gaussian_noise, std=NOISE_STD, p=1.0))),
        "sobel": Task(0.5, 2, _if_one(functools.partial(sobel, p=1.0))),
    }
)


def task(name: str) -> Task:
    """The change of that name.

    Raises:
      UserError: there is none.
    """
    if name not in TASKS:
        raise UserError(
            f"eval.transformations: there is no {name!r}; there are {', '.join(TASKS)}."
            f"{nearest(name, TASKS)}"
        )
    return TASKS[name]


@functools.partial(jax.jit, static_argnames="name")
def transform(name: str, images: Array, index: Array) -> tuple[Array, Array]:
    """Changes images, each as its number says.

    Args:
      name: of the change.
      images: uint8 [n h w c], or floating in [0, 1].
      index: int32 [n], the images' numbers.

    Returns:
      float32 [n h w c] in [0, 1], and what was done to each, int32 [n].
    """
    share, classes, change = task(name)
    keys = jax.vmap(functools.partial(jax.random.fold_in, jax.random.key(0)))(index)
    label_keys, change_keys = jnp.unstack(jax.vmap(jax.random.split)(keys), axis=1)
    drawn = jax.vmap(jax.random.uniform)(label_keys)
    label = jnp.where(classes > 2, jnp.floor(drawn * classes), drawn < share).astype(jnp.int32)
    if images.dtype == jnp.uint8:
        images = images.astype(jnp.float32) / 255
    return change(change_keys, images.astype(jnp.float32), label), label
