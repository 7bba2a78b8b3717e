"""Families of views: crops of several sizes, each size with its own recipe.

Multi-crop training (SwAV, Caron et al. 2020; DINO, Caron et al. 2021) takes a few large crops of an
image and many small ones. The top level of the config's section is the recipe of the main family;
`families` names the others, says how many views each has, and what differs in their recipe:

    views.ops = ("random_resized_crop", "flip", "color_jitter", "gaussian_blur")
    views.random_resized_crop = dict(size=224, scale=(0.4, 1.0))
    views.overrides = {"1": {"gaussian_blur": {"p": 0.1}}}
    views.families.local = dict(
        count=8, random_resized_crop=dict(size=96, scale=(0.05, 0.4)), gaussian_blur=dict(p=0.5)
    )

A family inherits the ops and parameters of the top level that its section does not set. It does not
inherit `overrides`, which belong to the views of one family.

Random numbers: the main family draws the same numbers with and without other families; every other
family folds its *name* into the keys of the examples. So adding, removing or resizing a family does
not change the views of the others.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from ssl_jax.core.errors import UserError, nearest
from ssl_jax.core.families import MAIN, array_name, host_families
from ssl_jax.views.image import TrainAndEval, make_views, train_and_eval
from ssl_jax.views.ops import fold_in
from ssl_jax.views.recipe import normalization, read_families, read_recipes

Images = jax.Array | Mapping[str, jax.Array]


def make_families(
    views_config: Mapping[str, Any],
    *,
    num_views: int = 2,
    main: str = MAIN,
    dtype: DTypeLike = jnp.float32,
) -> Callable[[jax.Array, Images], dict[str, jax.Array]]:
    """Makes `views(keys, images) -> {family: [n v H W C]}`; v, H and W differ between families.

    Args:
      views_config: the recipes, a ConfigDict or any mapping (see the module's docstring).
      num_views: views of the main family.
      main: name of the main family, whose recipe is the top level.
      dtype: dtype of the views; float32 or bfloat16.

    Returns:
      A function to call under jit. `keys` `[n]` has one key per image. `images` are uint8
      `[n h w c]`, from which all families are cropped, or {family: [n v h w c]} if the host has
      cropped them (see `family_images`); see `make_views` for the allowed shapes.

    Raises:
      UserError: as `make_views`; or a family has no count, or the name of the main family.
    """
    counts = family_counts(views_config, num_views=num_views, main=main)
    recipes = {
        name: make_views(views_config, num_views=count, dtype=dtype, family=name)
        for name, count in counts.items()
        if name != main
    }
    recipes[main] = make_views(_top_level(views_config), num_views=num_views, dtype=dtype)

    def views(keys: jax.Array, images: Images) -> dict[str, jax.Array]:
        by_family = images if isinstance(images, Mapping) else dict.fromkeys(counts, images)
        return {
            name: recipes[name](keys if name == main else _family_keys(keys, name), by_family[name])
            for name in counts
        }

    return views


def family_counts(
    views_config: Mapping[str, Any], *, num_views: int = 2, main: str = MAIN
) -> dict[str, int]:
    """Number of views of an image by family, the main family first.

    Raises:
      UserError: a family has no count, or the name of the main family.
    """
    other_counts = read_families(views_config)
    if main in other_counts:
        raise UserError(
            f"views.families.{main}: the recipe of the {main} views is the top level of views; "
            "give the family another name"
        )
    return {main: num_views, **other_counts}


def family_images(batch: Mapping[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    """The source images of each family: `image/NAME` if the host has cropped, else `image`.

    Args:
      batch: arrays or shapes by name.
      names: names of the families.

    Raises:
      UserError: the host has cropped some families and not others.
    """
    cropped = host_families(batch)
    for name in cropped:
        if name not in names:
            raise UserError(
                f"data.host_crops.{name} is not a family of views of this method; families: "
                f"{', '.join(names)}.{nearest(name, names)}"
            )
    missing = [name for name in names if name not in cropped]
    if cropped and missing:
        raise UserError(
            f"the host crops the views {', '.join(cropped)} but not {', '.join(missing)}; give "
            "data.host_crops an entry for each family, or none"
        )
    return {name: batch[array_name(name) if cropped else "image"] for name in names}


def main_images(batch: Mapping[str, Any]) -> Any:
    """The source images of a method with one family: `image/global`, or `image`.

    Raises:
      UserError: the host has cropped another family.
    """
    return family_images(batch, (MAIN,))[MAIN]


class FamiliesAndEval(NamedTuple):
    """The families of training views, and the matching evaluation view.

    Attributes:
      shapes: (v, h, w, c) of an image's views by family, the main family first.
      recipe: (keys [n], images) -> {family: views [n v h w c]}.
      eval_view: images -> [n h w c], of the size of the main family's views.
      normalization: (mean, std) by channel of the views of all families; None: views are in [0, 1].
    """

    shapes: dict[str, tuple[int, int, int, int]]
    recipe: Callable[[jax.Array, Images], dict[str, jax.Array]]
    eval_view: Callable[[jax.Array], jax.Array]
    normalization: tuple[tuple[float, ...], tuple[float, ...]] | None


def families_and_eval(
    views_config: Mapping[str, Any],
    batch: Mapping[str, jax.ShapeDtypeStruct],
    *,
    num_views: int = 2,
    main: str = MAIN,
    dtype: DTypeLike = jnp.float32,
) -> FamiliesAndEval:
    """`make_families` and the evaluation view; see `ssl_jax.views.train_and_eval`.

    Args:
      views_config, num_views, main, dtype: as in `make_families`.
      batch: shapes of the arrays of a batch, by name.

    Raises:
      UserError: as `make_families`; or families differ in `normalize`.
    """
    recipe = make_families(views_config, num_views=num_views, main=main, dtype=dtype)
    counts = family_counts(views_config, num_views=num_views, main=main)
    images = family_images(batch, tuple(counts))
    keys = jax.random.split(jax.random.key(0), images[main].shape[0])
    views = jax.eval_shape(recipe, keys, images)
    main_views: TrainAndEval = train_and_eval(
        _top_level(views_config), images[main], num_views=num_views, dtype=dtype
    )
    statistics = normalization(read_recipes(_top_level(views_config), num_views)[0])
    for name, count in counts.items():
        if name != main and any(
            normalization(steps) != statistics for steps in read_recipes(views_config, count, name)
        ):
            raise UserError(
                f"views.families.{name} must have the same normalize as views, because one "
                "encoder gets all of them"
            )
    shapes = {name: views[name].shape[1:] for name in counts}
    return FamiliesAndEval(shapes, recipe, main_views.eval_view, main_views.normalization)


def _top_level(views_config: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in dict(views_config).items() if key != "families"}


def _family_keys(keys: jax.Array, name: str) -> jax.Array:
    tag = np.uint32(zlib.crc32(f"family/{name}".encode()))
    return fold_in(keys, tag)
