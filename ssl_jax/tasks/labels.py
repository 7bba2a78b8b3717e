"""Reads labels from files: names of classes, and numbers.

The same rule holds for every format (csv, JSON lines, Parquet, TFDS), whether it has types or not:

- a class is a text without the blanks around it, or a whole number: the numbers 1 and 1.0 and the
  text "1" are one class;
- null, a blank text and the number nan are no label;
- -1 is no label either, as a number and as a text, unless `data.options.class_names` lists it.

For task=regress every number is a label, -1 too. A corpus of documents knows classes by name or by
number from 0.
"""

from __future__ import annotations

import math
import numbers
import re
from typing import Any

from ssl_jax.core.errors import UserError

NO_CLASS = "-1"  # no label, unless a class is called so
_MINUS_ONE = re.compile(r"-1(\.0*)?")


def class_name(label: Any, where: str) -> str | None:
    """The name of the class that a label stands for, perhaps `NO_CLASS`; None for no label.

    Args:
      label: what was read.
      where: names it in messages.

    Raises:
      UserError: it is neither a name nor a whole number.
    """
    if label is None:
        return None
    if isinstance(label, str):
        text = label.strip()
        return NO_CLASS if _MINUS_ONE.fullmatch(text) else text or None
    if isinstance(label, bool):
        return str(label).lower()
    if isinstance(label, numbers.Real) and float(label).is_integer():
        return str(int(label))
    if isinstance(label, float) and math.isnan(label):
        return None
    if isinstance(label, numbers.Real):
        raise UserError(f"{where} is {label!r}, no class; set data.options.task=regress")
    raise UserError(f"{where} is {label!r:.40}, neither a class's name nor a number")


def document_label(label: Any, where: str) -> int | str | None:
    """The label of a document: its class's number or name; None for no label.

    Args:
      label: what was read.
      where: names the document.

    Raises:
      UserError: it is neither a name nor a number from -1.
    """
    is_bool = isinstance(label, bool)
    whole = isinstance(label, numbers.Real) and not is_bool and float(label).is_integer()
    not_a_number = isinstance(label, float) and math.isnan(label)
    if not (label is None or isinstance(label, str) or not_a_number or (whole and label >= -1)):
        raise UserError(
            f"{where}: label {label!r:.40} is neither a class's name nor a number from 0"
        )
    name = class_name(label, where)
    if name in (None, NO_CLASS):
        return None
    return name if isinstance(label, str) else int(label)


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
