"""Converts the values of keys to their types, and refuses those that are none."""

from __future__ import annotations

import ast
import numbers
import reprlib
import types
from collections.abc import Mapping
from typing import Any, Literal, Union, get_args, get_origin

from ssl_jax.config.fields.declaration import (
    LEFT_OUT,
    REQUIRED,
    Key,
    Section,
    as_section,
    plain,
    split,
    union_members,
)
from ssl_jax.core.errors import UserError, nearest

_MAX_INT = 2**32 - 1  # the largest seed; larger counts would not fit into memory
_MAX_FLOAT = 3.4e38  # what a float32 holds
_BOOLEANS = {"true": True, "false": False, "1": True, "0": False}


class RefusedError(Exception):
    """A value that its type does not take."""


def convert_section(declared: Section, values: Any, where: str, *, make: bool) -> Any:
    """The values of a section as their types have them, and the defaults of the other keys.

    Args:
      make: return what the section makes of its values, and not a dict.

    Raises:
      UserError: as `read`.
    """
    if not hasattr(values, "items"):
        raise UserError(f"{where} is {_show(values)}; it has to be a section: key=value pairs")
    values = {str(name): value for name, value in values.items()}
    others = {
        name: key_of(declared, name, join(where, name)).type
        for name in values
        if name not in declared.keys
    }
    out = {}
    for name, key in declared.keys.items():
        path, nested = join(where, name), as_section(key.type)
        if name in values:
            out[name] = convert_key(key.type, plain(values[name]), path, make=make)
        elif key.default is LEFT_OUT:
            continue
        elif nested is not None:
            filled = {} if key.default is REQUIRED else plain(key.default)
            out[name] = convert_section(nested, filled, path, make=make)
        elif key.default is REQUIRED:
            raise UserError(f"{path} is missing; use {type_text(key.type)}")
        else:
            out[name] = key.default
    for name, kind in others.items():
        out[name] = convert_key(kind, plain(values[name]), join(where, name), make=make)
    return declared.make(**out) if make else out


def key_of(declared: Section, name: str, path: str) -> Key:
    """The key called `name` of a section.

    Raises:
      UserError: there is none.
    """
    if name in declared.keys:
        return declared.keys[name]
    if declared.others is not None:
        return Key(declared.others)
    if declared.hint:
        raise UserError(f"there is no config key {path} yet; {declared.hint}")
    names = ", ".join(sorted(declared.keys)) or "none"
    raise UserError(
        f"unknown config key {path}; known keys: {names}.{nearest(name, declared.keys)}"
    )


def convert_key(kind: Any, value: Any, path: str, *, make: bool) -> Any:
    """As `convert`. Raises only UserError."""
    try:
        return convert(kind, value, path, make=make)
    except RefusedError:
        raise refusal(path, value, kind) from None


def convert(kind: Any, value: Any, path: str, *, make: bool) -> Any:
    """`value` as its type has it. Raises RefusedError, and UserError for a key of a section."""
    base, bounds = split(kind)
    if base is Any and hasattr(value, "items"):
        base = Mapping
    elif base is Any and isinstance(value, (tuple, list)):
        base = tuple
    origin = get_origin(base)
    if (nested := as_section(base)) is not None:
        return convert_section(nested, value, path, make=make)
    if origin in (Union, types.UnionType):
        out = _member(base, value, path, make=make)
    elif origin is Literal:
        out = value
        if not any(type(choice) is type(value) and choice == value for choice in get_args(base)):
            raise RefusedError
    elif base is tuple or origin is tuple:
        out = _tuple(get_args(base) or (Any, ...), value, path, make=make)
    else:
        out = _scalar(base, value)
    if out is not None and not all(bound.holds(out) for bound in bounds):
        raise RefusedError
    return out


def _member(union: Any, value: Any, path: str, *, make: bool) -> Any:
    for member in union_members(union):
        if as_section(member) is not None and not hasattr(value, "items"):
            continue
        try:
            return convert(member, value, path, make=make)
        except RefusedError:
            continue
    raise RefusedError


def _tuple(items: tuple[Any, ...], value: Any, path: str, *, make: bool) -> tuple:
    if not isinstance(value, (tuple, list)):
        raise RefusedError
    kinds = (items[0],) * len(value) if items[-1] is Ellipsis else items
    if len(kinds) != len(value):
        raise RefusedError
    return tuple(
        convert(kind, item, path, make=make) for kind, item in zip(kinds, value, strict=True)
    )


def _scalar(base: Any, value: Any) -> Any:
    is_number = _is_number(value)
    if is_number and not _fits(value):
        raise RefusedError
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
    raise RefusedError


def _is_number(value: Any) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def _fits(number: numbers.Real) -> bool:
    """Whether the types that computations have hold it; not so NaN and infinity."""
    return abs(number) <= (_MAX_INT if isinstance(number, numbers.Integral) else _MAX_FLOAT)


def readings(kind: Any, text: str) -> list[Any]:
    """The values that `text` may stand for, the likeliest first."""
    members = [split(member)[0] for member in union_members(kind)]
    literal = literal_or_text(text)
    out: list[Any] = []
    if text == "None" and type(None) in members:
        return [None]
    if bool in members and text.lower() in _BOOLEANS:
        out.append(_BOOLEANS[text.lower()])
    is_text = str in members or any(
        get_origin(member) is Literal and text in get_args(member) for member in members
    )
    out += [text, literal] if is_text and not {int, float} & set(members) else [literal, text]
    for member in members:
        if (member is tuple or get_origin(member) is tuple) and not isinstance(literal, tuple):
            out += [tuple(part.strip() for part in text.split(",") if part.strip()),
                         (literal,)]  # fmt: skip
    return out


def literal_or_text(text: str) -> Any:
    """The Python literal that `text` is, or else the text."""
    try:
        return ast.literal_eval(text)
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        return text


def type_text(kind: Any) -> str:
    """What a type takes, in words: "a whole number above 0, or None"."""
    base, bounds = split(kind)
    if bounds:
        members = union_members(base)
        *values, last = [type_text(member) for member in members if member is not type(None)]
        is_tuple = get_origin(split(members[0])[0]) is tuple
        last += ("; " if is_tuple else " ") + " and ".join(bound.text for bound in bounds)
        none = ["None"] if type(None) in members else []
        return " or ".join([*values, last, *none])
    if as_section(base) is not None:
        return "a section"
    origin = get_origin(base)
    if origin is Literal:
        choices = ", ".join(map(str, get_args(base)))
        return f"one of {choices}" if len(get_args(base)) > 1 else choices
    if origin is tuple:
        items = get_args(base)
        if items[-1] is Ellipsis:
            return f"a tuple, each item {type_text(items[0])}"
        shape = "a pair" if len(items) == 2 else f"a tuple of {len(items)}"
        if len(set(map(type_text, items))) == 1:
            return f"{shape}, each item {type_text(items[0])}"
        return f"a tuple ({', '.join(map(type_text, items))})"
    if origin in (Union, types.UnionType):
        return " or ".join(map(type_text, union_members(base)))
    return {
        bool: "True or False",
        int: "a whole number",
        float: "a number",
        str: "a text",
        tuple: "a tuple",
        type(None): "None",
        Any: "a value",
    }[base]


def refusal(path: str, value: Any, kind: Any) -> UserError:
    """The error of a value that its type does not take."""
    text = type_text(kind)
    if isinstance(value, float) and not _fits(value):
        text = text.replace("a number", "a finite number").replace("a value", "a finite value")
    number = literal_or_text(value) if isinstance(value, str) else value
    items = number if isinstance(number, (tuple, list)) else (number,)
    if any(_is_number(x) and isinstance(x, numbers.Integral) and not _fits(x) for x in items):
        text = text.replace("a whole number", f"a whole number of at most {_MAX_INT} and", 1)
    near = _nearest_choice(kind, value)
    return UserError(f"{path} is {_show(value)}; use {text}{'.' if near else ''}{near}")


def _nearest_choice(kind: Any, value: Any) -> str:
    """What `nearest` says of a text or the first bad text of a tuple, where there are choices."""
    bases = [split(member)[0] for member in union_members(kind)]
    choices = [choice for base in bases if get_origin(base) is Literal for choice in get_args(base)]
    if isinstance(value, str):
        return nearest(value, [choice for choice in choices if isinstance(choice, str)])
    if isinstance(value, (tuple, list)):
        items = [get_args(base)[0] for base in bases if get_origin(base) is tuple]
        return next(filter(None, (_nearest_choice(item, x) for item in items for x in value)), "")
    return ""


_repr = reprlib.Repr()
_repr.maxstring = _repr.maxother = _repr.maxlong = 80


def _show(value: Any) -> str:
    return _repr.repr(value)


def join(where: str, key: str) -> str:
    return f"{where}.{key}" if where else key
