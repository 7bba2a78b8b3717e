"""Reads and describes sections."""

from __future__ import annotations

import dataclasses
from typing import Any

from ssl_jax.config.fields.declaration import (
    Key,
    Section,
    as_section,
    section,
)
from ssl_jax.config.fields.values import (
    RefusedError,
    convert,
    convert_section,
    join,
    key_of,
    literal_or_text,
    readings,
    refusal,
    type_text,
)
from ssl_jax.core.errors import UserError


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
    return convert_section(section(declaration), values, where, make=True)


def check(declaration: Any, values: Any, where: str) -> dict[str, Any]:
    """As `read`, but returns nested dicts of all keys, sections included."""
    return convert_section(section(declaration), values, where, make=False)


def describe(declaration: Any, where: str = "") -> list[Field]:
    """Every key of a section and of the sections in it, in the order of declaration.

    A section whose keys are not known is one `Field`; one without keys is none.
    """
    out = []
    for name, key in section(declaration).keys.items():
        path, nested = join(where, name), as_section(key.type)
        if nested is not None and (nested.keys or (nested.others is None and not nested.hint)):
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
    kind, path = find(declaration, key, where).type, join(where, key)
    if (nested := as_section(kind)) is not None:
        value = literal_or_text(text)
        if not isinstance(value, dict):
            names = f"set one of {', '.join(sorted(nested.keys))}" if nested.keys else (
                f"set its keys, {path}.KEY")  # fmt: skip
            raise UserError(f"config key {path} is a section; {names}")
        return check(nested, value, path)
    for value in readings(kind, text):
        try:
            return convert(kind, value, path, make=False)
        except RefusedError:
            continue
    raise refusal(path, text, kind)


def find(declaration: Any, key: str, where: str = "") -> Key:
    """The key at a dotted path.

    Raises:
      UserError: there is none.
    """
    node, path = Key(section(declaration)), where
    for name in key.split("."):
        nested = Section({}, others=Any) if node.type is Any else as_section(node.type)
        if nested is None:
            raise UserError(f"config key {path} is a value, so there is no {join(where, key)}")
        path = join(path, name)
        node = key_of(nested, name, path)
    return node
