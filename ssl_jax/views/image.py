"""Builds one function for the views of images, from a recipe of random ops in the config.

A recipe lists its ops in order, and has a sub-dict of parameters for each op:

    views.ops = ("random_resized_crop", "flip", "color_jitter", "grayscale", "gaussian_blur")
    views.random_resized_crop = dict(size=224)
    views.gaussian_blur = dict(p=1.0)
    views.overrides = {"1": {"ops": (..., "solarize"), "gaussian_blur": {"p": 0.1}}}

Parameters that are not set have the defaults of the op (`default_parameters`). `overrides` changes
the recipe of single views, given by index: here the asymmetric second view of BYOL. It may set
parameters, the list of ops, or both.

Random numbers: each example has its own key, view v uses `fold_in(key, v)`, and each op folds in
its *name*. So the numbers of an op do not change when other ops are removed, nor with the number of
devices or the split into micro-batches.
"""

from __future__ import annotations

import functools
import itertools
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from ssl_jax.core.errors import UserError
from ssl_jax.views.affine import random_affine
from ssl_jax.views.color import color_jitter, grayscale, normalize, solarize, standardize
from ssl_jax.views.erasing import random_erasing
from ssl_jax.views.filters import cutout, gaussian_blur, gaussian_noise, sobel
from ssl_jax.views.geometry import (
    center_crop,
    central_box,
    flip,
    mirror_after,
    mirror_before,
    random_resized_crop,
    random_rotate90,
    resize,
    rotate90,
    sample_crops,
    sample_flips,
)
from ssl_jax.views.ops import fold_in
from ssl_jax.views.rand_augment import rand_augment
from ssl_jax.views.recipe import (
    OPS,
    Recipe,
    Step,
    default_parameters,
    normalization,
    read_families,
    read_recipes,
)
from ssl_jax.views.resample import Method, Size, crop_and_resize
from ssl_jax.views.table import check_ops

__all__ = [
    "OPS",
    "center_crop",
    "color_jitter",
    "cutout",
    "default_parameters",
    "eval_view",
    "flip",
    "gaussian_blur",
    "gaussian_noise",
    "grayscale",
    "make_views",
    "normalize",
    "rand_augment",
    "random_affine",
    "random_erasing",
    "random_resized_crop",
    "random_rotate90",
    "resize",
    "rotate90",
    "sobel",
    "solarize",
    "to_show",
    "train_and_eval",
]


def make_views(
    views_config: Mapping[str, Any],
    *,
    num_views: int = 2,
    dtype: DTypeLike = jnp.float32,
    family: str | None = None,
) -> Callable[[jax.Array, jax.Array], jax.Array]:
    """Makes `views(keys, images) -> [n num_views H W C]` of `dtype` with values in [0, 1].

    Args:
      views_config: the recipe, a ConfigDict or any mapping (see the module's docstring).
      num_views: number of views of each image.
      dtype: dtype of the views; float32 or bfloat16.
      family: the key of `views_config.families` of these views; None: the top-level recipe, which
        must then be the only one (see `ssl_jax.views.families` for several).

    Returns:
      A function to call under jit. `keys` `[n]` has one key per image. `images` are uint8
      `[n h w c]`, or crops made on the host: `[n v h w c]` with v >= num_views, where view j uses
      crop j, or with v = 1, where all views use the same crop. If the batch is sharded over
      devices, images are not moved.

    Raises:
      UserError: an unknown op, parameter or view, or a bad value; when called, too few host crops,
        or views of different sizes.
    """
    dtype = jnp.dtype(dtype)
    if family is None and (names := read_families(views_config)):
        raise UserError(
            f"views.families.{next(iter(names))}: the views of this method are all of one size; "
            "families are for methods of several crops, such as dino"
        )
    # Consecutive views with the same recipe are one batch [n g ...] -> [(n g) ...]: this halves the
    # program to compile and needs no copy to concatenate them.
    recipes = read_recipes(views_config, num_views, family)
    for recipe in recipes:
        check_ops([step.op for step in recipe], table=False)
    groups = [
        (_plan(recipe, dtype), [view for view, _ in members])
        for recipe, members in itertools.groupby(enumerate(recipes), key=lambda item: item[1])
    ]

    def views(keys: jax.Array, images: jax.Array) -> jax.Array:
        _check_images(images, num_views)
        group_views = []
        for plan, members in groups:
            view_keys = jnp.stack([fold_in(keys, view) for view in members], axis=1)  # [n g]
            group_views.append(_run(plan, view_keys, _sources(images, members), dtype))
        shapes = {group.shape[2:] for group in group_views}
        if len(shapes) > 1:
            raise UserError(
                f"the views differ in size, {sorted(shapes)}; make each size a family of its own "
                "in views.families"
            )
        return jnp.concatenate(group_views, axis=1)

    return views


def _check_images(images: jax.Array, num_views: int) -> None:
    if images.ndim not in (4, 5):
        raise ValueError(f"images must be [n h w c] or [n v h w c], got shape {images.shape}")
    if images.ndim == 5 and 1 < images.shape[1] < num_views:
        raise UserError(
            f"{num_views} views were asked of {images.shape[1]} host crops an image; "
            f"set the count of data.host_crops to {num_views}, to 1 for one crop that all views "
            "share, or leave data.host_crops out to crop on the device"
        )


def _sources(images: jax.Array, members: Sequence[int]) -> jax.Array:
    """The source images of the g consecutive views `members`: `[n g h w c]`."""
    if images.ndim == 5 and images.shape[1] > 1:
        return images[:, members[0] : members[-1] + 1]
    if images.ndim == 5:
        images = images[:, 0]
    return jnp.broadcast_to(images[:, None], (images.shape[0], len(members), *images.shape[1:]))


# A step of a plan takes keys [n g] and lines [(n g) h c w], and returns lines.
PlannedStep = Callable[[jax.Array, jax.Array], jax.Array]


def _run(
    plan: Sequence[PlannedStep], view_keys: jax.Array, images: jax.Array, dtype: jnp.dtype
) -> jax.Array:
    """Applies the plan to images `[n g h w c]`, with one key for each view `[n g]`."""
    n, g, *example = images.shape
    lines = images.reshape(n * g, *example).swapaxes(2, 3)
    for step in plan:
        lines = step(view_keys, lines)
    views = _to_float(lines, dtype).swapaxes(2, 3)
    return views.reshape(n, g, *views.shape[1:])


def _plan(recipe: Recipe, dtype: jnp.dtype) -> list[PlannedStep]:
    """The recipe as functions; a flip next to a crop is merged into the crop."""
    plan, steps = [], list(recipe)
    while steps:
        names = [step.op for step in steps[:2]]
        if names == ["random_resized_crop", "flip"]:
            plan.append(_crop_step(steps.pop(0), steps.pop(0), flip_first=False, dtype=dtype))
        elif names == ["flip", "random_resized_crop"]:
            mirror = steps.pop(0)
            plan.append(_crop_step(steps.pop(0), mirror, flip_first=True, dtype=dtype))
        elif names[0] == "random_resized_crop":
            plan.append(_crop_step(steps.pop(0), None, flip_first=False, dtype=dtype))
        else:
            plan.append(_op_step(steps.pop(0), dtype))
    return plan


def _op_step(step: Step, dtype: jnp.dtype) -> PlannedStep:
    def run(view_keys, lines):
        keys = _op_keys(view_keys, step)
        return OPS[step.op].on_lines(keys, _to_float(lines, dtype), **step.parameters)

    return run


def _crop_step(crop: Step, mirror: Step | None, *, flip_first: bool, dtype) -> PlannedStep:
    """Crop and flip in one resampling, which accepts uint8 lines (`resample_rows`)."""
    parameters = dict(crop.parameters)
    sampled = {name: parameters.pop(name) for name in ("scale", "ratio", "log_ratio")}

    def run(view_keys, lines):
        _, height, _, width = lines.shape
        boxes = sample_crops(_op_keys(view_keys, crop), (height, width), **sampled)
        if mirror is not None:
            flipped = sample_flips(_op_keys(view_keys, mirror), **mirror.parameters)
            if flip_first:
                boxes = mirror_before(boxes, flipped, width)
            else:
                boxes = mirror_after(boxes, flipped)
        return crop_and_resize(lines, boxes, **parameters, dtype=dtype)

    return run


def _op_keys(view_keys: jax.Array, step: Step) -> jax.Array:
    """The op's key for each of the (n g) rows of the batch, from the views' keys `[n g]`."""
    tag = zlib.crc32(f"{step.op}/{step.occurrence}".encode())
    return fold_in(view_keys.reshape(-1, *view_keys.shape[2:]), np.uint32(tag))


def _to_float(images: jax.Array, dtype: jnp.dtype) -> jax.Array:
    if images.dtype == jnp.uint8:
        return (images.astype(jnp.float32) / 255).astype(dtype)
    return images.astype(dtype)


def eval_view(
    images: jax.Array,
    *,
    size: Size,
    crop_fraction: float | None = 0.875,
    method: Method = "bicubic",
    antialias: bool = True,
    mean: tuple[float, ...] | None = None,
    std: tuple[float, ...] | None = None,
    dtype: DTypeLike = jnp.float32,
) -> jax.Array:
    """The evaluation view, from which features are computed: a central crop, resized.

    Args:
      images: uint8 `[n h w c]`, or floating with values in [0, 1].
      size: size of the output.
      crop_fraction: side of the central square over the shorter side. 0.875 = 224/256 is the usual
        resize to 256 and crop of 224; 1 keeps the whole shorter side; None resizes the whole image,
        also if it is not square.
      mean, std: normalise by channel, as in training (see `normalize`).

    Returns:
      `[n size size c]` of `dtype`.
    """
    lines = images.swapaxes(2, 3)
    box = central_box(lines.shape[1], lines.shape[3], crop_fraction)
    lines = crop_and_resize(
        lines, jnp.array(box), size=size, method=method, antialias=antialias, dtype=dtype
    )
    if mean is not None or std is not None:
        lines = standardize(lines, mean or (0.0,), std or (1.0,)).astype(dtype)
    return lines.swapaxes(2, 3)


class TrainAndEval(NamedTuple):
    """The training views of a recipe, and the matching evaluation view.

    Attributes:
      recipe: (keys [n], images) -> views [n v h w c].
      eval_view: images -> [n h w c], of the size of the training views; keeps the whole shorter
        side.
      normalization: (mean, std) of the views by channel; None: views are in [0, 1].
    """

    recipe: Callable[[jax.Array, jax.Array], jax.Array]
    eval_view: Callable[[jax.Array], jax.Array]
    normalization: tuple[tuple[float, ...], tuple[float, ...]] | None


def train_and_eval(
    views_config: Mapping[str, Any],
    image: jax.ShapeDtypeStruct,
    *,
    num_views: int,
    dtype: DTypeLike = jnp.float32,
) -> TrainAndEval:
    """Makes training and evaluation views. If the recipe has `normalize`, both are normalised.

    Args:
      views_config, num_views, dtype: as in `make_views`.
      image: shape of a batch of images, `[1 h w c]` or `[1 v h w c]`.

    Raises:
      UserError: as `make_views`.
    """
    recipe = make_views(views_config, num_views=num_views, dtype=dtype)
    size = jax.eval_shape(recipe, jax.random.split(jax.random.key(0), 1), image).shape[2:4]
    statistics = normalization(read_recipes(views_config, num_views)[0])
    mean = std = None
    if statistics is not None:
        mean, std = (tuple(statistics[name]) for name in ("mean", "std"))
    evaluation_view = functools.partial(
        eval_view, size=size, crop_fraction=1.0, mean=mean, std=std, dtype=dtype
    )
    return TrainAndEval(recipe, evaluation_view, None if mean is None else (mean, std))


def to_show(
    views: jax.Array, normalization: tuple[tuple[float, ...], tuple[float, ...]] | None
) -> jax.Array:
    """Undoes the normalisation of views `[... h w c]`: images in [0, 1]."""
    if normalization is None:
        return views
    mean, std = (jnp.array(values, jnp.float32) for values in normalization)
    return jnp.clip(views * std + mean, 0, 1)
