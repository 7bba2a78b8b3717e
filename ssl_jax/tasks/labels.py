"""Parses the labels in files: names of classes, and numbers.

The same rules hold for every format (csv, JSON lines, Parquet, TFDS), with or without types:

- a class is a text, without the blanks around it, or a whole number. The numbers 1 and 1.0 and the
  text "1" are the same class;
- null, a blank text and the number nan are no label;
- the number or text -1 is no label, unless `data.options.class_names` lists it.

For task=regress every number is a label, including -1. In a corpus of documents, classes have names
or numbers from 0.
"""

from __future__ import annotations

import math
import numbers
import re
from typing import Any

from ssl_jax.core.errors import UserError

NO_CLASS = "-1"  # no label, unless it is the name of a class
_MINUS_ONE = re.compile(r"-1(\.0*)?")


def class_name(label: Any, where: str) -> str | None:
    """The name of the class of a label, which may be `NO_CLASS`; None for no label.

    Args:
      label: the value in the file.
      where: names the label in messages.

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
        raise UserError(f"{where} is {label!r}, not a class; set data.options.task=regress")
    raise UserError(f"{where} is {label!r:.40}, neither the name of a class nor a number")


def document_label(label: Any, where: str) -> int | str | None:
    """The number or name of a document's class; None for no label.

    Args:
      label: the value in the file.
      where: names the document in messages.

    Raises:
      UserError: it is neither a name nor a whole number from -1.
    """
    is_bool = isinstance(label, bool)
    is_whole = isinstance(label, numbers.Real) and not is_bool and float(label).is_integer()
    is_nan = isinstance(label, float) and math.isnan(label)
    if not (label is None or isinstance(label, str) or is_nan or (is_whole and label >= -1)):
        raise UserError(
            f"{where}: label {label!r:.40} is neither the name of a class nor a number from 0"
        )
    name = class_name(label, where)
    if name in (None, NO_CLASS):
        return None
    return name if isinstance(label, str) else int(label)


def number(label: Any, where: str) -> float | None:
    """A label as a number; None for nan and a blank text.

    Args:
      label: the value in the file.
      where: names the label in messages.

    Raises:
      UserError: it is not a finite number.
    """
    if isinstance(label, str) and not label.strip():
        return None
    try:
        value = math.nan if isinstance(label, bool) else float(label)
        is_bad = math.isinf(value) or isinstance(label, bool)
    except (TypeError, ValueError):
        is_bad = True
    if is_bad:
        raise UserError(f"{where} is {label!r:.40}, not a number; task=regress needs numbers")
    return None if math.isnan(value) else value
