"""Labelled text from records with named fields: rows of a table, JSON objects.

Which field is what, the options say: `text_key` and perhaps `text_pair_key` the texts, `label_key`
the label. Of task=tags, `text_key` names a list of words and `label_key` a list of their classes.
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from ssl_jax.core.errors import UserError, nearest
from ssl_jax.data.labelled.tasks import Text, Words


class Record(NamedTuple):
    """Named values.

    Attributes:
      where: names it in messages, e.g. "reviews.csv, line 3".
      fields: its values by name.
    """

    where: str
    fields: Mapping[str, Any]


class Keys(NamedTuple):
    """The names of the fields that count; the last two may be missing."""

    text: str = "text"
    pair: str | None = None
    label: str | None = "label"


def examples(records: Iterator[Record], task: str, keys: Keys) -> Iterator[Text | Words]:
    """The examples that records are.

    Args:
      records: of one split.
      task: classify, regress or tags.
      keys: which fields they are made of.

    Raises:
      UserError: a field is missing, or is not what it should be.
    """
    read = _words if task == "tags" else _text
    for record in records:
        yield read(record, task, keys)


def value(record: Record, key: str, option: str) -> Any:
    """The field `key` of a record, which `option` names.

    Raises:
      UserError: it has none.
    """
    if key not in record.fields:
        raise UserError(
            f"{record.where} has no {key!r}; it has {', '.join(map(str, record.fields))}."
            f"{nearest(key, map(str, record.fields))} Set data.options.{option}"
        )
    return record.fields[key]


def _text(record: Record, task: str, keys: Keys) -> Text:
    first = _string(record, keys.text, "text_key")
    second = None if keys.pair is None else _string(record, keys.pair, "text_pair_key")
    label = None if keys.label is None else value(record, keys.label, "label_key")
    if label is not None:
        read = number if task == "regress" else class_name
        label = read(label, f"{record.where}: {keys.label!r}")
    return Text(record.where, first, second, label)


def _string(record: Record, key: str, option: str) -> str:
    text = value(record, key, option)
    if not isinstance(text, str):
        raise UserError(f"{record.where}: {key!r} is {text!r:.40}, not a text")
    return text


def class_name(label: Any, where: str) -> str | None:
    """What a class is called whose label is read as `label`; None for -1 and a blank text.

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

    Raises:
      UserError: it is no finite number.
    """
    if isinstance(label, str) and not label.strip():
        return None
    try:
        read = math.nan if isinstance(label, bool) else float(label)
        bad = math.isinf(read) or isinstance(label, bool)
    except (TypeError, ValueError):
        bad = True
    if bad:
        raise UserError(f"{where} is {label!r:.40}, not a number; task=regress needs numbers")
    return None if math.isnan(read) else read


def _words(record: Record, task: str, keys: Keys) -> Words:
    del task
    words = _strings(record, keys.text, "text_key")
    tags = None if keys.label is None else value(record, keys.label, "label_key")
    if tags is not None:
        if not isinstance(tags, Sequence) or isinstance(tags, str):
            raise UserError(f"{record.where}: {keys.label!r} is {tags!r:.40}, not a list of tags")
        tags = [class_name(tag, f"{record.where}: {keys.label!r}") for tag in tags]
        if len(tags) != len(words):
            raise UserError(f"{record.where} has {len(words)} words and {len(tags)} tags")
    return Words(record.where, words, tags)


def _strings(record: Record, key: str, option: str) -> Sequence[str]:
    words = value(record, key, option)
    listed = isinstance(words, Sequence) and not isinstance(words, str)
    if not listed or not all(isinstance(word, str) for word in words):
        raise UserError(f"{record.where}: {key!r} is {words!r:.40}, not a list of words")
    return words
