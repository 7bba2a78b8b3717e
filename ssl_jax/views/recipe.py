"""Reads the recipes of views from a config and checks them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Annotated, Any, Literal

from ssl_jax.config import fields
from ssl_jax.config.fields import LEFT_OUT, Bound, Key, Section, between
from ssl_jax.core.errors import UserError
from ssl_jax.views import affine, color, distortion, erasing, filters, geometry, rand_augment
from ssl_jax.views.table import COLUMN_OPS

OPS: Mapping[str, Callable] = MappingProxyType(
    {
        op.__name__: op
        for op in (
            geometry.random_resized_crop,
            geometry.center_crop,
            geometry.resize,
            geometry.flip,
            geometry.random_rotate90,
            affine.random_affine,
            color.color_jitter,
            color.grayscale,
            color.solarize,
            filters.gaussian_blur,
            filters.gaussian_noise,
            filters.sobel,
            filters.cutout,
            rand_augment.rand_augment,
            distortion.elastic,
            distortion.tone_curve,
            distortion.crop_and_pad,
            distortion.drop_channels,
            color.normalize,
            erasing.random_erasing,
        )
    }
)

_ALL: Mapping[str, Callable] = MappingProxyType({**OPS, **COLUMN_OPS})


def _in_order(names: Sequence[str]) -> bool:
    """Whether `normalize` and `random_erasing`, if they are there, are the last ops."""
    names = list(names)
    for last in ("random_erasing", "normalize"):
        if names[-1:] == [last]:
            names.pop()
    return not {"random_erasing", "normalize"} & set(names)


# The parameters of each op that a config may override; only those that it sets.
_CHANGES = {name: Key(fields.section(op).partial(), LEFT_OUT) for name, op in _ALL.items()}
_OPS = Key(
    Annotated[
        tuple[Literal[tuple(_ALL)], ...],  # type: ignore[misc]  # known at run time
        Bound(
            "normalize last, as the others expect values in [0, 1]; random_erasing after it",
            lambda names: _in_order(names),
        ),
    ],
    LEFT_OUT,
    "The ops in order.",
)
_RECIPE = Section({"ops": _OPS, **_CHANGES})
_OVERRIDES = Key(
    Section({}, others=_RECIPE), LEFT_OUT, "Changes for single views, by the index of the view."
)
_FAMILY = Section(
    {
        "count": Key(Annotated[int, between(0, 1_000)], doc="Number of views of each image."),
        **_RECIPE.keys,
        "overrides": _OVERRIDES,
    }
)


def declaration(views_config: Mapping[str, Any]) -> Section:
    """Declares the config section of the views, with all parameters of the ops in `ops`."""
    ops = views_config.get("ops", ())
    used = ops if isinstance(ops, (tuple, list)) else ()
    parameters = {name: Key(op) if name in used else _CHANGES[name] for name, op in _ALL.items()}
    families = Key(Section({}, others=_FAMILY), LEFT_OUT, "Views of other sizes, by name.")
    return Section({"ops": _OPS, **parameters, "overrides": _OVERRIDES, "families": families})


@dataclasses.dataclass(frozen=True)
class Step:
    """One op of a recipe. `occurrence`, the number of earlier steps of the same op, is folded into
    its keys."""

    op: str
    occurrence: int
    parameters: Mapping[str, Any]


Recipe = tuple[Step, ...]


def normalization(recipe: Recipe) -> Mapping[str, Any] | None:
    """The parameters of a recipe's `normalize`; None: it has none, and views are in [0, 1]."""
    return next((step.parameters for step in recipe if step.op == "normalize"), None)


def default_parameters() -> dict[str, dict[str, Any]]:
    """The parameters of each op of images with their defaults."""
    return {name: fields.defaults(op) for name, op in OPS.items()}


def read_families(views_config: Mapping[str, Any]) -> dict[str, int]:
    """The families in `views.families`: name -> number of views of an image.

    A family of `count` 0 is left out.

    Raises:
      UserError: as `read_recipes`.
    """
    families = _checked(views_config).get("families", {})
    return {name: family["count"] for name, family in families.items() if family["count"]}


def read_recipes(
    views_config: Mapping[str, Any], num_views: int, family: str | None = None
) -> tuple[Recipe, ...]:
    """The recipe of each view, with defaults and overrides applied.

    Args:
      views_config: `ops`, one sub-dict for each op, `overrides`; a ConfigDict or any mapping.
      num_views: number of views.
      family: a key of `views_config.families`, whose section has the changes to the top-level
        recipe: `ops`, parameters, and `overrides` of its views. None: the top-level recipe.

    Raises:
      UserError: an unknown op, parameter or view, or a bad value.
    """
    config = _checked(views_config)
    families, overrides = config.pop("families", {}), config.pop("overrides", {})
    where, layers = "views", [config]
    if family is not None:
        section = families[family]
        del section["count"]
        where, overrides = f"views.families.{family}", section.pop("overrides", {})
        layers.append(section)
    overrides = {str(view): change for view, change in overrides.items()}
    for view in overrides:
        if view not in map(str, range(num_views)):
            raise UserError(
                f"{where}.overrides.{view} names no view: there are {num_views}, "
                f"{', '.join(map(repr, map(str, range(num_views))))}"
            )
    return tuple(_merge([*layers, overrides.get(str(view), {})]) for view in range(num_views))


def _checked(views_config: Mapping[str, Any]) -> dict[str, Any]:
    return fields.check(declaration(views_config), views_config, "views")


def _merge(layers: Sequence[Mapping[str, Any]]) -> Recipe:
    """Merges sections into one recipe; later sections override earlier ones."""
    parameters, ops = {name: fields.defaults(op) for name, op in _ALL.items()}, ()
    for section in layers:
        for name, value in section.items():
            if name == "ops":
                ops = value
            else:
                parameters[name] |= value
    return tuple(
        Step(name, ops[:position].count(name), MappingProxyType(parameters[name]))
        for position, name in enumerate(ops)
    )
