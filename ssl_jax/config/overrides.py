"""Config keys set from text, as on a command line: `optimizer.base_lr=0.3`."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from ssl_jax.core.errors import UserError, nearest

# Sections whose keys a config file need not list: their reader knows them.
OPEN = ("data.options", "data.sampler", "data.host_crops")
_BOOLEANS = {"true": True, "false": False, "1": True, "0": False}


def apply(config: ConfigDict, values: Mapping[str, Any]) -> ConfigDict:
    """Sets dotted keys in a copy of `config`.

    Args:
      config: what `load` returned, not yet resolved.
      values: dotted key -> value; text is read as the type that the key has.

    Raises:
      UserError: there is no such key, or the text is no such value.
    """
    config = config.copy_and_resolve_references()
    with config.unlocked():
        for path, value in values.items():
            section, key = _find(config, path)
            known = key in section
            if isinstance(value, str):
                value = _read(path, value, section.get_type(key) if known else None,
                              section[key] if known else None)  # fmt: skip
            if known:
                del section[key]  # a key's type is fixed; None and sections would be refused
            section[key] = value
    return config


def _find(config: ConfigDict, path: str) -> tuple[ConfigDict, str]:
    node, walked = config, []
    *sections, last = path.split(".")
    for part in (*sections, last):
        if not isinstance(node, ConfigDict):
            raise UserError(f"config key {'.'.join(walked)} is a value, so there is no {path}")
        if part not in node:
            if part == last and ".".join(walked) in OPEN:
                return node, part
            known = sorted(node)
            raise UserError(
                f"unknown config key {'.'.join([*walked, part])}; known keys: "
                f"{', '.join(known)}.{nearest(part, known)}"
            )
        if part is last and len(walked) == len(sections):
            return node, part
        node = node[part]
        walked.append(part)
    raise AssertionError(path)


def _read(path: str, text: str, kind: type | None, before: Any) -> Any:
    """`text` as a value of `kind`; None: as a Python literal, or else as text."""
    if isinstance(before, ConfigDict):
        raise UserError(f"config key {path} is a section; set one of {', '.join(sorted(before))}")
    if kind is str and text != "None":
        return text
    if kind is bool and text.lower() in _BOOLEANS:
        return _BOOLEANS[text.lower()]
    try:
        value = ast.literal_eval(text)
    except (SyntaxError, ValueError):
        value = text
    if value is None or kind in (None, type(None)):
        return value
    if kind is tuple and isinstance(value, (tuple, list)):
        return tuple(value)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if type(value) is not kind:
        raise UserError(f"config key {path} is {text!r}; it takes {_NAMES.get(kind, kind)}")
    return value


_NAMES = {
    bool: "True or False",
    int: "a whole number",
    float: "a number",
    tuple: "values in parentheses, such as (1, 2)",
}
