"""Every key of a config with its value and its meaning, as text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ml_collections import ConfigDict

from ssl_jax.config import fields
from ssl_jax.config.schema import schema
from ssl_jax.core.errors import UserError


def listing(config: ConfigDict) -> str:
    """A line for each key: `optimizer.base_lr = 0.3  # Peak learning rate ...`.

    Args:
      config: a resolved config.
    """
    declared = schema(config)
    lines, section = [], None
    for path, value in flat(fields.check(declared, config, "")):
        head = path.partition(".")[0] if "." in path else ""
        if section not in (None, head):
            lines.append("")
        section = head
        doc = _doc(declared, path)
        lines.append(f"{path} = {value!r}" + (f"  # {doc}" if doc else ""))
    return "\n".join(lines)


def _doc(declared: fields.Section, path: str) -> str:
    """The meaning of a key; "" of a part of a value, such as data.options.columns.names."""
    try:
        return fields.find(declared, path).doc
    except UserError:
        return ""


def flat(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted path, value) of each value, and of each empty section."""
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value
