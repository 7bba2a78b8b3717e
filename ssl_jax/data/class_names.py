"""Names of classes: their order, and classes of two data sets matched by name.

A label is the number of its class. Two data sets with the same classes may number them differently,
so labels that a classifier was not trained on are renumbered by the names of the classes.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from ssl_jax.core.errors import UserError
from ssl_jax.data.source import Source

_SHOWN = 8


def in_order(names: Iterable[str]) -> tuple[str, ...]:
    """The names in the order in which classes are numbered: 0, 1, 2, 10, b, B2, b10.

    Runs of digits are compared as numbers and letters without regard to case. Names that differ in
    case or in leading zeros only are in the order of their characters.
    """
    return tuple(sorted(names, key=_sort_key))


def _sort_key(name: str) -> tuple[Any, ...]:
    if re.fullmatch(r"-?[0-9]+", name):
        return ((0, int(name), ""),), name
    parts = re.findall(r"[0-9]+|[^0-9]+", name.casefold())
    return tuple((0, int(p), "") if p.isdecimal() else (1, 0, p) for p in parts), name


def numbers_in(target: Sequence[str], names: Sequence[str]) -> np.ndarray | None:
    """The number in `target` of each class of `names`, int32 [c].

    None unless both hold the same names, each once, or are equal.
    """
    if tuple(names) == tuple(target):
        return np.arange(len(names), dtype=np.int32)
    if sorted(names) != sorted(target) or len(set(names)) < len(names):
        return None
    number_of = {name: number for number, name in enumerate(target)}
    return np.array([number_of[name] for name in names], np.int32)


def matched(source: Source, names: Sequence[str] | None) -> Source:
    """The same examples, their classes numbered as in `names` if those are the same classes.

    A source of other classes, or one that knows no names, is returned as it is.
    """
    if names is None or source.class_names is None or tuple(names) == tuple(source.class_names):
        return source
    numbers = numbers_in(names, source.class_names)
    # Labelled text is read by name already: data.options.class_names.
    if numbers is None or source.spec.task is not None or not source.examples_are_labelled:
        return source
    labels = source.read_labels()
    if labels is not None:
        known = labels >= 0
        source = source.relabelled(np.where(known, numbers[labels], -1).astype(np.int32))
    return dataclasses.replace(source, class_names=tuple(names))


def ordered(source: Source, names: Sequence[str]) -> Source:
    """The same examples, their classes numbered as in `names`, which have to be their names.

    A source that knows no names gets these.

    Raises:
      UserError: the classes are others, or more.
    """
    if source.class_names is None and (source.num_classes or 0) <= len(names):
        return dataclasses.replace(source, class_names=tuple(names), num_classes=len(names))
    named = matched(source, names)
    if named.class_names != tuple(names):
        raise UserError(
            f"data.class_names is {shown(names)}, and the classes of {source.name} are "
            f"{shown(source.class_names)}; name each of them once, or leave it unset"
            + " and set data.options.class_names"
            * (source.spec.task is not None)
        )
    return named


def check_same(
    names: Sequence[str] | None, other: Sequence[str] | None, where: str, way_out: str
) -> None:
    """Checks that data have the classes of a run.

    Args:
      names: of the run's classes; None: it knows none.
      other: of the data, likewise.
      where: the data, for the message.
      way_out: what to do if they differ.

    Raises:
      UserError: both have names, and not the same ones.
    """
    if names is None or other is None or numbers_in(names, other) is not None:
        return
    raise UserError(
        f"the run knows the classes {shown(names)}, and those of {where} are {shown(other)}; "
        f"{way_out}"
    )


def shown(names: Sequence[str] | None) -> str:
    """The names for a message, the first of them if there are many."""
    if names is None:
        return "unnamed"
    more = f", ... ({len(names)} classes)" if len(names) > _SHOWN else ""
    return ", ".join(f"{name:.40}" for name in names[:_SHOWN]) + more
