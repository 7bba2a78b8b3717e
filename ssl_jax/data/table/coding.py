"""Tables of texts as arrays: which columns are numbers, and numbers of categories."""

from __future__ import annotations

import collections
import math
from collections.abc import Sequence

import numpy as np

from ssl_jax.core.columns import Columns
from ssl_jax.core.errors import UserError, nearest
from ssl_jax.data.class_names import in_order
from ssl_jax.data.table.raw import Raw

MAX_CATEGORIES = 1000  # of a column


def columns_of(
    table: Raw, *, label: str | None, ignore: Sequence[str], categories: Sequence[str]
) -> Columns:
    """The columns of a table, as its rows have them.

    A column has numbers if all values that are not missing are numbers, and `categories` does not
    name it. Categories are numbered by their names.

    Args:
      table: the train split.
      label: the column of the label, which is none of them.
      ignore: columns that are left out.
      categories: columns of categories that look like numbers, such as postal codes.

    Raises:
      UserError: an option names a column that is not there; a column has no value or too many
        categories; or nothing is left.
    """
    for option, names in (("ignore", ignore), ("categories", categories)):
        for name in names:
            check_column(table, name, option)
    kept = [name for name in table.columns if name != label and name not in ignore]
    if not kept:
        raise UserError(f"{table.where} has no column but the label and data.options.ignore")
    values, means, deviations = [], [], []
    for name in kept:
        present = [value for value in table.columns[name] if value]
        if not present:
            raise UserError(
                f"{table.where}: column {name!r} has no value; name it in data.options.ignore"
            )
        numbers = None if name in categories else _numbers(present)
        if numbers is None:
            texts = in_order(collections.Counter(present))
            if len(texts) > MAX_CATEGORIES:
                raise UserError(
                    f"{table.where}: column {name!r} has {len(texts):,} different texts, such as "
                    f"{texts[0]!r:.40}; at most {MAX_CATEGORIES:,} categories are learned: name it "
                    "in data.options.ignore"
                )
            values.append(texts)
            means.append(0.0)
            deviations.append(1.0)
            continue
        deviation = float(np.std(numbers))
        values.append(())
        means.append(float(np.mean(numbers)))
        deviations.append(deviation if deviation > 0 else 1.0)
    return Columns(tuple(kept), tuple(values), tuple(means), tuple(deviations))


def coded(table: Raw, columns: Columns) -> np.ndarray:
    """The rows of a table, float32 [n c]: NaN for missing numbers, 0 for unknown categories.

    Raises:
      UserError: a column is missing, or a text stands in a column of numbers.
    """
    out = np.empty((len(table), len(columns)), np.float32)
    for i, (name, values) in enumerate(zip(columns.names, columns.values, strict=True)):
        check_column(table, name, None)
        texts = table.columns[name]
        if values:
            number_of = {value: number for number, value in enumerate(values, 1)}
            out[:, i] = [number_of.get(text, 0) for text in texts]
            continue
        for row, text in enumerate(texts):
            number = _number(text) if text else math.nan
            if number is None:
                raise UserError(
                    f"{table.where}, row {row}: column {name!r} is {text!r:.40}, not a number; "
                    "mend it, leave it empty, or name the column in data.options.categories"
                )
            out[row, i] = number
    return out


def classes_of(tables: Sequence[Raw], label: str) -> tuple[str, ...]:
    """The classes of all splits in their order.

    Raises:
      UserError: a split has no such column, or there is no class.
    """
    for table in tables:
        check_column(table, label, "label")
    classes = {value for table in tables for value in table.columns[label]} - {""}
    if not classes:
        raise UserError(f"{tables[0].where}: the label {label!r} has no value")
    return in_order(classes)


def labels_of(table: Raw, label: str | None, classes: Sequence[str]) -> np.ndarray:
    """The classes of the rows, int32 [n]; -1 where the label is missing."""
    if label is None:
        return np.full(len(table), -1, np.int32)
    number_of = {name: number for number, name in enumerate(classes)}
    return np.array([number_of.get(value, -1) for value in table.columns[label]], np.int32)


def check_column(table: Raw, name: str, option: str | None) -> None:
    """Raises UserError if a table lacks a column, which an option or the run names."""
    if name in table.columns:
        return
    whose = f"data.options.{option} names" if option else "the run has"
    way_out = {"label": "; set data.options.label to the column of the classes, or to None"}
    raise UserError(
        f"{whose} a column {name!r}, but {table.where} has {', '.join(table.columns)}."
        f"{nearest(name, table.columns)}" + way_out.get(option or "", "")
    )


def _numbers(texts: Sequence[str]) -> np.ndarray | None:
    """The texts as numbers; None if one is no number."""
    numbers = [_number(text) for text in texts]
    return None if None in numbers else np.array(numbers, np.float64)


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if abs(number) < np.finfo(np.float32).max else None
