"""Reads labels from files: names of classes, and numbers."""

from __future__ import annotations

import math
import numbers
from typing import Any

from ssl_jax.core.errors import UserError


def class_name(label: Any, where: str) -> str | None:
    """The name of the class that a label stands for; None for -1 and a blank text.

    Args:
      label: what was read.
      where: names it in messages.

    Raises:
      UserError: it is neither a name nor a whole number.
    """
    if isinstance(label, str):
        return label.strip() or None
    if isinstance(label, bool):
        return str(label).lower()
    if isinstance(label, numbers.Real) and float(label).is_integer():
        return None if label == -1 else str(int(label))
    if isinstance(label, float) and math.isnan(label):
        return None
    if isinstance(label, numbers.Real):
        raise UserError(f"{where} is {label!r}, no class; set data.options.task=regress")
    raise UserError(f"{where} is {label!r:.40}, neither a class's name nor a number")


def number(label: Any, where: str) -> float | None:
    """A label as a number; None for nan and a blank text.

    Args:
      label: what was read.
      where: names it in messages.

    Raises:
      UserError: it is no finite number.
    """
    if isinstance(label, str) and not label.strip():
        return None
    try:
        value = math.nan if isinstance(label, bool) else float(label)
        bad = math.isinf(value) or isinstance(label, bool)
    except (TypeError, ValueError):
        bad = True
    if bad:
        raise UserError(f"{where} is {label!r:.40}, not a number; task=regress needs numbers")
    return None if math.isnan(value) else value
