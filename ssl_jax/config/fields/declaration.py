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


class _Missing:
    def __init__(self, text: str):
        self._text = text

    def __repr__(self) -> str:
        return self._text


REQUIRED = _Missing("(required)")  # a key without a default
LEFT_OUT = _Missing("(not set)")  # a key that stays out of the section where it is not set


@dataclasses.dataclass(frozen=True)
class Key:
    """One key of a section.

    Attributes:
      type: its annotation, an `Annotated` included.
      default: its default, REQUIRED or LEFT_OUT. A section that is REQUIRED may be left out if its
        keys have defaults.
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
      others: type of keys that `keys` does not name; None where there are none.
      hint: what to do about a key that there is not, for its message; "": nothing but to use one of
        `keys`.
    """

    keys: Mapping[str, Key]
    make: Callable[..., Any] = dict
    others: Any = None
    hint: str = ""

    def replace(self, **declarations: Any) -> Section:
        """A copy in which some keys are sections with these declarations."""
        changed = {
            name: Key(declaration, REQUIRED, self.keys[name].doc if name in self.keys else "")
            for name, declaration in declarations.items()
        }
        return dataclasses.replace(self, keys={**self.keys, **changed})

    def partial(self) -> Section:
        """A section of any of the keys, those of sections in it too: overrides of others."""
        keys = {}
        for name, key in self.keys.items():
            nested = as_section(key.type)
            keys[name] = Key(nested.partial() if nested else key.type, LEFT_OUT, key.doc, key.marks)
        return Section(keys, others=self.others)


def section(declaration: Any) -> Section:
    """The section that a dataclass, a function or a `Section` declares."""
    declaration, _ = split(declaration)
    return declaration if isinstance(declaration, Section) else _section(declaration)


def defaults(declaration: Any) -> dict[str, Any]:
    """The default of each key that has one; sections are dicts."""
    out = {}
    for name, key in section(declaration).keys.items():
        if key.default is REQUIRED and (nested := as_section(key.type)) is not None:
            out[name] = defaults(nested)
        elif key.default not in (REQUIRED, LEFT_OUT):
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
    """The section that a type declares, None of the types of values."""
    base, _ = split(kind)
    if isinstance(base, Section):
        return base
    if base in (dict, Mapping):
        return Section({}, others=Any)
    if get_origin(base) in (dict, Mapping):
        return Section({}, others=get_args(base)[1])
    is_function = isinstance(base, (types.FunctionType, functools.partial))
    if is_function or (isinstance(base, type) and dataclasses.is_dataclass(base)):
        return section(base)
    return None
