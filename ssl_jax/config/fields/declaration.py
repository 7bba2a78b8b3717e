"""What declares a section: its keys, from a dataclass or a function, and the types of keys."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import operator
import types
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

from ssl_jax.config.fields.bounds import Bound, each


class _Required:
    def __repr__(self) -> str:
        return "(required)"


REQUIRED = _Required()


@dataclasses.dataclass(frozen=True)
class Key:
    """One key of a section.

    Attributes:
      type: its annotation, an `Annotated` included.
      default: its default, or REQUIRED. Of a section, a dict.
      doc: what it means.
      marks: what else the `Annotated` holds, neither a bound nor a text.
    """

    type: Any
    default: Any = REQUIRED
    doc: str = ""
    marks: tuple[Any, ...] = ()


@dataclasses.dataclass(frozen=True, eq=False)
class Section:
    """The keys of a section, and what is made of their values.

    Attributes:
      keys: by name.
      make: called with all keys as keyword arguments; returns what `read` returns.
    """

    keys: Mapping[str, Key]
    make: Callable[..., Any] = dict

    def replace(self, **keys: Any) -> Section:
        """A copy with other types for some keys, such as a declaration for an open section.

        Their documentation stays, and their default is the declaration's.
        """
        changed = {
            name: Key(declaration, defaults(declaration), self.keys[name].doc)
            for name, declaration in keys.items()
        }
        return Section({**self.keys, **changed}, self.make)


def section(declaration: Any) -> Section:
    """The section that a dataclass, a function or a `Section` declares."""
    return declaration if isinstance(declaration, Section) else _section(declaration)


def defaults(declaration: Any) -> dict[str, Any]:
    """The default of each key that has one; sections are dicts."""
    out = {}
    for name, key in section(declaration).keys.items():
        if (nested := as_section(key.type)) is not None and key.default is REQUIRED:
            out[name] = defaults(nested)
        elif key.default is not REQUIRED:
            out[name] = plain(key.default)
    return out


@functools.cache
def _section(declaration: Any) -> Section:
    if dataclasses.is_dataclass(declaration):
        hints = get_type_hints(declaration, include_extras=True)
        keys = {}
        for field in dataclasses.fields(declaration):
            default = REQUIRED if field.default is dataclasses.MISSING else field.default
            if field.default_factory is not dataclasses.MISSING:
                default = field.default_factory()
            keys[field.name] = _key(hints[field.name], default)
        return Section(keys, declaration)
    function = declaration
    while isinstance(function, functools.partial):
        function = function.func
    hints = get_type_hints(function, include_extras=True)
    keys = {}
    for parameter in inspect.signature(declaration).parameters.values():
        hint = hints.get(parameter.name)
        if parameter.kind is parameter.KEYWORD_ONLY and get_origin(hint) is Annotated:
            default = REQUIRED if parameter.default is parameter.empty else parameter.default
            keys[parameter.name] = _key(hint, default)
    return Section(keys)


def _key(hint: Any, default: Any) -> Key:
    extras = getattr(hint, "__metadata__", ()) if get_origin(hint) is Annotated else ()
    doc = " ".join(text for text in extras if isinstance(text, str))
    marks = tuple(item for item in extras if not isinstance(item, (str, Bound, each)))
    return Key(hint, default, " ".join(doc.split()), marks)


def plain(value: Any) -> Any:
    """Sections as dicts, dataclasses too."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name))
                for field in dataclasses.fields(value)}  # fmt: skip
    if hasattr(value, "items"):
        return {key: plain(item) for key, item in value.items()}
    return value


def split(kind: Any) -> tuple[Any, list[Bound]]:
    """The type without Annotated, and its bounds; those of `each` moved to the items."""
    if get_origin(kind) is not Annotated:
        return kind, []
    base, extras = kind.__origin__, kind.__metadata__
    if of_items := tuple(extra.bound for extra in extras if isinstance(extra, each)):
        base = _bound_items(base, of_items)
    return base, [extra for extra in extras if isinstance(extra, Bound)]


def _bound_items(base: Any, bounds: tuple[Bound, ...]) -> Any:
    if get_origin(base) in (Union, types.UnionType):
        members = (_bound_items(member, bounds) for member in get_args(base))
        return functools.reduce(operator.or_, members)
    if get_origin(base) is not tuple:
        return base
    items = (
        item if item is Ellipsis else functools.reduce(lambda t, b: Annotated[t, b], bounds, item)
        for item in get_args(base)
    )
    return tuple[tuple(items)]


def union_members(union: Any) -> list[Any]:
    """Of a union, None last; of another type, the type."""
    base, bounds = split(union)
    if get_origin(base) not in (Union, types.UnionType):
        return [union]
    args = sorted(get_args(base), key=lambda member: member is type(None))
    return [member for arg in args for member in ([arg] if bounds else union_members(arg))]


def as_section(kind: Any) -> Section | None:
    base, _ = split(kind)
    if isinstance(base, Section):
        return base
    is_function = isinstance(base, (types.FunctionType, functools.partial))
    if is_function or (isinstance(base, type) and dataclasses.is_dataclass(base)):
        return section(base)
    return None


def open_section(kind: Any) -> Any | None:
    """The type of the items of an open section, None of other types."""
    base, _ = split(kind)
    if get_origin(base) in (dict, Mapping):
        return get_args(base)[1]
    return Any if base in (dict, Mapping) else None
