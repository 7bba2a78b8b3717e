"""The one reader of config sections: keys with types, bounds and a line of documentation.

A section is declared once: by the fields of a dataclass, or by the keyword-only parameters of a
function whose type is `Annotated`.

    @dataclasses.dataclass(frozen=True)
    class HyperParameters:
        temperature: Annotated[float, positive, "Temperature of the softmax."] = 0.1
        loss: Annotated[Literal["nce", "softmax"], "Which loss."] = "nce"
        bn_groups: Annotated[int | None, positive, "BatchNorm groups; None: one."] = None
        widths: Annotated[tuple[int, ...], each(positive), not_empty, "Channels."] = (64, 128)

    hyper = fields.read(HyperParameters, config.method, "method")      # a HyperParameters
    fields.read(HyperParameters, {"temperature": -1}, "method")
    # UserError: method.temperature is -1; use a number above 0
    fields.defaults(HyperParameters)                # {"temperature": 0.1, "loss": "nce", ...}
    fields.describe(HyperParameters, "method")      # [Field("method.temperature", "a number ...
    fields.parse(HyperParameters, "widths", "(8, 16)")                 # text of a command line

    def evaluate(train, test, *, num_classes: int, k: Annotated[int, positive, "Neighbours."] = 200)
    fields.read(evaluate, config.eval.knn, "eval.knn")                 # {"k": 200}

Types: bool, int, float (whole numbers are numbers), str, Literal, tuple[T, ...], tuple[T, T],
unions such as `X | None`, sections (a dataclass, a function or a `Section`), Mapping[str, T] for
open sections, and Any. NaN and infinity are never accepted. Bounds of a tuple's items are given by
`each`, or by a type such as `tuple[Annotated[int, positive], ...]`. A bound does not apply to None.
"""

from __future__ import annotations

import ast
import dataclasses
import functools
import inspect
import math
import numbers
import operator
import re
import reprlib
import types
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from ssl_jax.core.errors import UserError, nearest

_MAX_INT = 2**63 - 1  # what an int64 holds
_BOOLEANS = {"true": True, "false": False, "1": True, "0": False}


@dataclasses.dataclass(frozen=True)
class Bound:
    """What a value has to fulfil, and the words that say it behind the type: "above 0"."""

    text: str
    holds: Callable[[Any], bool]


@dataclasses.dataclass(frozen=True)
class each:
    """Applies a bound to each item of a tuple."""

    bound: Bound


positive = Bound("above 0", lambda x: x > 0)
not_negative = Bound("of at least 0", lambda x: x >= 0)
fraction = Bound("from 0 to 1", lambda x: 0 <= x <= 1)
positive_fraction = Bound("above 0, at most 1", lambda x: 0 < x <= 1)
open_fraction = Bound("above 0 and below 1", lambda x: 0 < x < 1)
below_one = Bound("of at least 0 and below 1", lambda x: 0 <= x < 1)
not_empty = Bound("at least one item", lambda items: len(items) > 0)
increasing = Bound("in increasing order", lambda items: list(items) == sorted(items))


def at_least(low: float) -> Bound:
    """low <= x."""
    return Bound(f"of at least {low}", lambda x: x >= low)


def at_most(high: float) -> Bound:
    """x <= high."""
    return Bound(f"of at most {high}", lambda x: x <= high)


def between(low: float, high: float) -> Bound:
    """low <= x <= high."""
    return Bound(f"from {low} to {high}", lambda x: low <= x <= high)


def _is_regex(text: str) -> bool:
    try:
        re.compile(text)
    except re.error:
        return False
    return True


regex = Bound("that is a regular expression", _is_regex)


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


@dataclasses.dataclass(frozen=True)
class Field:
    """One key as documentation shows it.

    Attributes:
      path: dotted, e.g. "method.temperature".
      type: what it takes in words, e.g. "a number above 0".
      default: its default, or REQUIRED.
      doc: what it means.
    """

    path: str
    type: str
    default: Any
    doc: str


def section(declaration: Any) -> Section:
    """The section that a dataclass, a function or a `Section` declares."""
    return declaration if isinstance(declaration, Section) else _section(declaration)


def read(declaration: Any, values: Any, where: str) -> Any:
    """Reads a config section.

    Args:
      declaration: a dataclass, a function or a `Section`.
      values: a ConfigDict or mapping. Keys that it lacks have their default.
      where: the section's path for error messages, e.g. "method"; "" for the whole config.

    Returns:
      An instance of the dataclass; the keyword arguments, a dict, of a function. Lists have become
      tuples, and whole numbers floats where the type is float.

    Raises:
      UserError: an unknown or missing key, or a value that its key does not take.
    """
    return _read(section(declaration), values, where, make=True)


def check(declaration: Any, values: Any, where: str) -> dict[str, Any]:
    """As `read`, but returns nested dicts of all keys, sections included."""
    return _read(section(declaration), values, where, make=False)


def defaults(declaration: Any) -> dict[str, Any]:
    """The default of each key that has one; sections are dicts."""
    out = {}
    for name, key in section(declaration).keys.items():
        if (nested := _as_section(key.type)) is not None and key.default is REQUIRED:
            out[name] = defaults(nested)
        elif key.default is not REQUIRED:
            out[name] = _plain(key.default)
    return out


def describe(declaration: Any, where: str = "") -> list[Field]:
    """Every key of a section and of the sections in it, in the order of declaration."""
    out = []
    for name, key in section(declaration).keys.items():
        path = _join(where, name)
        if (nested := _as_section(key.type)) is not None:
            out += describe(nested, path)
        else:
            out.append(Field(path, type_text(key.type), key.default, key.doc))
    return out


def parse(declaration: Any, key: str, text: str, where: str = "") -> Any:
    """The value that text of a command line means for a key.

    Text of a `str` key is taken as it stands, other text as a Python literal. A tuple may be
    written without parentheses: `knn,linear`.

    Args:
      declaration: as of `read`.
      key: dotted path of the key from the section, e.g. "knn.k".
      text: e.g. "(8, 16)", "None", "1e-3".
      where: the section's path for error messages.

    Raises:
      UserError: there is no such key, or the text is no value that it takes.
    """
    kind, path = find(declaration, key, where).type, _join(where, key)
    if (nested := _as_section(kind)) is not None:
        value = _literal(text)
        if not isinstance(value, dict):
            raise UserError(
                f"config key {path} is a section; set one of {', '.join(sorted(nested.keys))}"
            )
        return check(nested, value, path)
    for value in _readings(kind, text):
        try:
            return _value(kind, value, path, make=False)
        except _RefusedError:
            continue
    raise _refusal(path, text, kind)


def find(declaration: Any, key: str, where: str = "") -> Key:
    """The key at a dotted path; of an open section, whatever the path.

    Raises:
      UserError: there is none.
    """
    node, path = Key(section(declaration)), where
    for name in key.split("."):
        nested = _as_section(node.type)
        if nested is None:
            is_any = _split(node.type)[0] is Any
            items = Any if is_any else _open_section(node.type)
            if items is None:
                raise UserError(f"config key {path} is a value, so there is no {_join(where, key)}")
            node = Key(items)
        elif name not in nested.keys:
            raise _unknown(_join(path, name), name, nested.keys)
        else:
            node = nested.keys[name]
        path = _join(path, name)
    return node


def type_text(kind: Any) -> str:
    """What a type takes, in words: "a whole number above 0, or None"."""
    base, bounds = _split(kind)
    if bounds:
        members = _members(base)
        *values, last = [type_text(member) for member in members if member is not type(None)]
        is_tuple = get_origin(_split(members[0])[0]) is tuple
        last += ("; " if is_tuple else " ") + " and ".join(bound.text for bound in bounds)
        none = ["None"] if type(None) in members else []
        return " or ".join([*values, last, *none])
    if _as_section(base) is not None or _open_section(base) is not None:
        return "a section"
    origin = get_origin(base)
    if origin is Literal:
        return f"one of {', '.join(map(str, get_args(base)))}"
    if origin is tuple:
        items = get_args(base)
        if items[-1] is Ellipsis:
            return f"a tuple, each item {type_text(items[0])}"
        shape = "a pair" if len(items) == 2 else f"a tuple of {len(items)}"
        if len(set(map(type_text, items))) == 1:
            return f"{shape}, each item {type_text(items[0])}"
        return f"a tuple ({', '.join(map(type_text, items))})"
    if origin in (Union, types.UnionType):
        return " or ".join(map(type_text, _members(base)))
    return {
        bool: "True or False",
        int: "a whole number",
        float: "a number",
        str: "a text",
        tuple: "a tuple",
        type(None): "None",
        Any: "a value",
    }[base]


# What follows is how the functions above do it.


class _RefusedError(Exception):
    """A value that its type does not take."""


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


def _read(known: Section, values: Any, where: str, *, make: bool) -> Any:
    if not hasattr(values, "items"):
        raise UserError(f"{where} is {_show(values)}; it has to be a section: key=value pairs")
    values = dict(values.items())
    for name in values:
        if name not in known.keys:
            raise _unknown(_join(where, str(name)), str(name), known.keys)
    out = {}
    for name, key in known.keys.items():
        path, nested = _join(where, name), _as_section(key.type)
        if name not in values and key.default is REQUIRED and nested is None:
            raise UserError(f"{path} is missing; use {type_text(key.type)}")
        value = values.get(name, {} if key.default is REQUIRED else key.default)
        if name not in values and nested is None:
            out[name] = value
            continue
        try:
            out[name] = _value(key.type, _plain(value), path, make=make)
        except _RefusedError:
            raise _refusal(path, value, key.type) from None
    return known.make(**out) if make else out


def _value(kind: Any, value: Any, path: str, *, make: bool) -> Any:
    """`value` as its type has it. Raises _RefusedError, and UserError for a key of a section."""
    base, bounds = _split(kind)
    if (nested := _as_section(base)) is not None:
        return _read(nested, value, path, make=make)
    if base is Any and hasattr(value, "items"):
        base = Mapping
    elif base is Any and isinstance(value, (tuple, list)):
        base = tuple
    origin = get_origin(base)
    if origin in (Union, types.UnionType):
        out = _member(base, value, path, make=make)
    elif (items := _open_section(base)) is not None:
        if not hasattr(value, "items"):
            raise _RefusedError
        out = {}
        for name, item in value.items():
            try:
                out[name] = _value(items, item, _join(path, str(name)), make=make)
            except _RefusedError:
                raise _refusal(_join(path, str(name)), item, items) from None
    elif origin is Literal:
        out = value
        if not any(type(choice) is type(value) and choice == value for choice in get_args(base)):
            raise _RefusedError
    elif base is tuple or origin is tuple:
        out = _tuple(get_args(base) or (Any, ...), value, path, make=make)
    else:
        out = _scalar(base, value)
    if out is not None and not all(bound.holds(out) for bound in bounds):
        raise _RefusedError
    return out


def _member(union: Any, value: Any, path: str, *, make: bool) -> Any:
    for member in _members(union):
        is_section = _as_section(member) is not None or _open_section(member) is not None
        if is_section and not hasattr(value, "items"):
            continue
        try:
            return _value(member, value, path, make=make)
        except _RefusedError:
            continue
    raise _RefusedError


def _tuple(items: tuple[Any, ...], value: Any, path: str, *, make: bool) -> tuple:
    if not isinstance(value, (tuple, list)):
        raise _RefusedError
    kinds = (items[0],) * len(value) if items[-1] is Ellipsis else items
    if len(kinds) != len(value):
        raise _RefusedError
    return tuple(
        _value(kind, item, path, make=make) for kind, item in zip(kinds, value, strict=True)
    )


def _scalar(base: Any, value: Any) -> Any:
    is_number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    if is_number and not (abs(value) <= _MAX_INT if isinstance(value, numbers.Integral) else
                          math.isfinite(value)):  # fmt: skip
        raise _RefusedError
    if base is Any:
        return value
    if base is float and is_number:
        return float(value)
    if base is int and is_number and isinstance(value, numbers.Integral):
        return int(value)
    if base in (bool, str) and isinstance(value, base):
        return value
    if base is type(None) and value is None:
        return None
    raise _RefusedError


def _split(kind: Any) -> tuple[Any, list[Bound]]:
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


def _members(union: Any) -> list[Any]:
    """Of a union, None last; of another type, the type."""
    base, bounds = _split(union)
    if get_origin(base) not in (Union, types.UnionType):
        return [union]
    args = sorted(get_args(base), key=lambda member: member is type(None))
    return [member for arg in args for member in ([arg] if bounds else _members(arg))]


def _as_section(kind: Any) -> Section | None:
    base, _ = _split(kind)
    if isinstance(base, Section):
        return base
    is_function = isinstance(base, (types.FunctionType, functools.partial))
    if is_function or (isinstance(base, type) and dataclasses.is_dataclass(base)):
        return section(base)
    return None


def _open_section(kind: Any) -> Any | None:
    """The type of the items of an open section, None of other types."""
    base, _ = _split(kind)
    if get_origin(base) in (dict, Mapping):
        return get_args(base)[1]
    return Any if base in (dict, Mapping) else None


def _readings(kind: Any, text: str) -> list[Any]:
    """The values that `text` may stand for, the likeliest first."""
    members = [_split(member)[0] for member in _members(kind)]
    literal = _literal(text)
    readings: list[Any] = []
    if text == "None" and type(None) in members:
        return [None]
    if bool in members and text.lower() in _BOOLEANS:
        readings.append(_BOOLEANS[text.lower()])
    is_text = str in members or any(
        get_origin(member) is Literal and text in get_args(member) for member in members
    )
    readings += [text, literal] if is_text and not {int, float} & set(members) else [literal, text]
    for member in members:
        if (member is tuple or get_origin(member) is tuple) and not isinstance(literal, tuple):
            readings += [tuple(part.strip() for part in text.split(",") if part.strip()),
                         (literal,)]  # fmt: skip
    return readings


def _literal(text: str) -> Any:
    """The Python literal that `text` is, or else the text."""
    try:
        return ast.literal_eval(text)
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        return text


def _plain(value: Any) -> Any:
    """Sections as dicts, dataclasses too."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: _plain(getattr(value, field.name))
                for field in dataclasses.fields(value)}  # fmt: skip
    if hasattr(value, "items"):
        return {key: _plain(item) for key, item in value.items()}
    return value


def _refusal(path: str, value: Any, kind: Any) -> UserError:
    text = type_text(kind)
    if isinstance(value, float) and not math.isfinite(value):
        text = text.replace("a number", "a finite number").replace("a value", "a finite value")
    choices = [choice for member in _members(kind) for choice in _choices(member)]
    near = nearest(value, choices) if isinstance(value, str) and choices else ""
    return UserError(f"{path} is {_show(value)}; use {text}{'.' if near else ''}{near}")


def _choices(kind: Any) -> list[str]:
    base, _ = _split(kind)
    return [choice for choice in get_args(base) if isinstance(choice, str)] if (
        get_origin(base) is Literal
    ) else []  # fmt: skip


def _unknown(path: str, name: str, known: Mapping[str, Any]) -> UserError:
    names = ", ".join(sorted(known)) or "none"
    return UserError(f"unknown config key {path}; known keys: {names}.{nearest(name, known)}")


_repr = reprlib.Repr()
_repr.maxstring = _repr.maxother = _repr.maxlong = 80


def _show(value: Any) -> str:
    return _repr.repr(value)


def _join(where: str, key: str) -> str:
    return f"{where}.{key}" if where else key
