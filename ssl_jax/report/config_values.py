"""A config as the page shows it: dotted keys and values as text."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np


@dataclasses.dataclass(frozen=True)
class Group:
    """The keys of one section of a config.

    Attributes:
      name: of the section, dotted; empty for the keys of none.
      entries: (key, value) as text.
    """

    name: str
    entries: tuple[tuple[str, str], ...]


def flatten(tree: Any, prefix: str = "") -> dict[str, Any]:
    """Nested mappings -> dotted key -> value."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if hasattr(value, "items"):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def groups(config: Mapping[str, Any]) -> list[Group]:
    """All keys of a config by section, the sections sorted."""
    entries: dict[str, list[tuple[str, str]]] = {}
    for dotted, value in flatten(config).items():
        section, _, key = dotted.rpartition(".")
        entries.setdefault(section, []).append((key, as_text(value)))
    return [Group(section, tuple(entries[section])) for section in sorted(entries)]


def as_text(value: Any) -> str:
    """A value of a config as text: None -> "–", floats with six digits."""
    if value is None:
        return "–"
    if isinstance(value, (list, tuple)):
        return "(" + ", ".join(as_text(item) for item in value) + ")"
    if isinstance(value, (float, np.floating)):
        return f"{value:.6g}"
    return str(value) if value != "" else '""'
