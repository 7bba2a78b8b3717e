"""Bounds of values, and the words that say them."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from typing import Any


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
