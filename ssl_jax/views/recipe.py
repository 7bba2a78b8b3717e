"""Reads the recipe of the views from a config, and refuses what it cannot mean."""

from __future__ import annotations

import dataclasses
import inspect
import numbers
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Literal, get_args, get_origin, get_type_hints

from ssl_jax.core.errors import UserError, nearest
from ssl_jax.views import affine, color, filters, geometry
from ssl_jax.views.resample import Size

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
            color.normalize,
        )
    }
)
_POSITIVE_RANGES = ("scale", "ratio", "sigma")  # parameters (low, high) with 0 < low <= high


@dataclasses.dataclass(frozen=True)
class Step:
    """One op of a recipe. `occurrence` counts earlier steps of the same op: they draw anew."""

    op: str
    occurrence: int
    parameters: Mapping[str, Any]


Recipe = tuple[Step, ...]


def default_parameters() -> dict[str, dict[str, Any]]:
    """Every op's parameters with their defaults, so that a config can list what can be set."""
    return {
        name: {
            parameter.name: parameter.default
            for parameter in inspect.signature(op).parameters.values()
            if parameter.kind is parameter.KEYWORD_ONLY
        }
        for name, op in OPS.items()
    }


def read_families(views_config: Mapping[str, Any]) -> dict[str, int]:
    """The families that `views.families` adds to the top-level recipe: name -> views of an image.

    A family of `count` 0 is left out.

    Raises:
      UserError: a family has no `count`, or one that is not a whole number of at least 0.
    """
    counts = {}
    for name, section in _plain(_plain(views_config).get("families", {})).items():
        count = _plain(section).get("count")
        if not _is_number(count, int) or count < 0:
            raise UserError(
                f"views.families.{name}.count is {count!r}; use the number of views of each image, "
                "such as 8"
            )
        if count:
            counts[name] = count
    return counts


def read_recipes(
    views_config: Mapping[str, Any], num_views: int, family: str | None = None
) -> tuple[Recipe, ...]:
    """The recipe of each view, defaults and overrides filled in.

    Args:
      views_config: `ops`, one sub-dict an op, `overrides`; a ConfigDict or any mapping.
      num_views: how many recipes.
      family: a key of `views_config.families`, whose section says what differs from the top-level
        recipe: `ops`, parameters, and `overrides` of its own views. None reads the top-level one.

    Raises:
      UserError: an unknown op, parameter or view, or a value the parameter cannot take.
    """
    config = _plain(views_config)
    families, overrides = config.pop("families", {}), config.pop("overrides", {})
    where, layers = "views", [("views", config)]
    if family is not None:
        section = _plain(families[family])
        section.pop("count", None)
        where, overrides = f"views.families.{family}", section.pop("overrides", {})
        layers.append((where, section))
    overrides = {str(view): _plain(change) for view, change in _plain(overrides).items()}
    for view in overrides:
        if view not in map(str, range(num_views)):
            raise UserError(
                f"{where}.overrides.{view} names no view: there are {num_views}, "
                f"{', '.join(map(repr, map(str, range(num_views))))}"
            )
    return tuple(
        _read_recipe([*layers, (f"{where}.overrides.{view}", overrides.get(str(view), {}))])
        for view in range(num_views)
    )


def _read_recipe(layers: Sequence[tuple[str, Mapping]]) -> Recipe:
    """The recipe that (path, section) pairs describe, of which later ones win."""
    parameters = default_parameters()
    ops = ()
    for path, part in layers:
        for name, value in part.items():
            if name == "ops":
                ops = tuple(value)
                _check_ops(path, ops)
                continue
            if name not in OPS:
                raise UserError(
                    f"{path}.{name}: there is no such op.{nearest(name, [*OPS, 'ops'])} "
                    f"The ops are {', '.join(OPS)}"
                )
            for parameter, setting in _plain(value).items():
                _check_parameter(f"{path}.{name}", OPS[name], parameter, setting)
                parameters[name][parameter] = setting
    return tuple(
        Step(name, ops[:position].count(name), MappingProxyType(parameters[name]))
        for position, name in enumerate(ops)
    )


def _plain(config: Mapping[str, Any]) -> dict[str, Any]:
    return config.to_dict() if hasattr(config, "to_dict") else dict(config)


def _check_ops(path: str, ops: Sequence[str]) -> None:
    for name in ops:
        if name not in OPS:
            raise UserError(
                f"{path}.ops: there is no op {name!r}.{nearest(name, OPS)} "
                f"The ops are {', '.join(OPS)}"
            )
    if "normalize" in ops[:-1]:
        raise UserError(
            f"{path}.ops: normalize must be the last; all others expect values in [0, 1]"
        )


def _check_parameter(path: str, op: Callable, name: str, value: Any) -> None:
    known = default_parameters()[op.__name__]
    if name not in known:
        raise UserError(
            f"{path}.{name}: {op.__name__} has no such parameter.{nearest(name, known)} "
            f"It has {', '.join(known)}"
        )
    wanted = _wanted(get_type_hints(op)[name], name, known[name], value)
    if wanted:
        raise UserError(f"{path}.{name} is {value!r}; use {wanted}")


def _wanted(annotation: Any, name: str, default: Any, value: Any) -> str:
    """What the parameter takes instead of `value`; empty if `value` will do."""
    if get_origin(annotation) is Literal:
        options = get_args(annotation)
        return "" if value in options else " or ".join(map(repr, options))
    if annotation == Size:
        sides = value if _is_numbers(value) and len(value) == 2 else (value,)
        lowest = 0 if default == 0 else 1
        good = all(_is_number(side, int) and side >= lowest for side in sides)
        return "" if good else "a number of pixels, or a pair (height, width)"
    if isinstance(default, bool):
        return "" if isinstance(value, bool) else "True or False"
    if isinstance(default, tuple):
        if not _is_numbers(value) or not value:
            return f"numbers in parentheses, such as {default}"
        if name in _POSITIVE_RANGES and not (len(value) == 2 and 0 < value[0] <= value[1]):
            return f"a pair (low, high) with 0 < low <= high, such as {default}"
        return ""
    if not _is_number(value, int if isinstance(default, int) else float):
        return f"{'a whole number' if isinstance(default, int) else 'a number'}, such as {default}"
    return "a probability, 0 to 1" if name == "p" and not 0 <= value <= 1 else ""


def _is_number(value: Any, kind: type) -> bool:
    wide = numbers.Integral if kind is int else numbers.Real
    return isinstance(value, wide) and not isinstance(value, bool)


def _is_numbers(value: Any) -> bool:
    return isinstance(value, (tuple, list)) and all(_is_number(item, float) for item in value)
