"""Labelled text from records with named fields: rows of a table, JSON objects.

The options name the fields: `text_key` and perhaps `text_pair_key` the texts, `label_key` the
label. For task=tags, `text_key` names a list of words and `label_key` a list of their classes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from ssl_jax.core.errors import UserError, nearest
from ssl_jax.data.labelled.examples import Text, Words
from ssl_jax.tasks.base import Task
from ssl_jax.tasks.registry import TASKS


class Record(NamedTuple):
    """Named values.

    Attributes:
      where: names it in messages, e.g. "reviews.csv, line 3".
      fields: its values by name.
    """

    where: str
    fields: Mapping[str, Any]


class Keys(NamedTuple):
    """The names of the fields that are used; None for a field that is not there."""

    text: str = "text"
    pair: str | None = None
    label: str | None = "label"


def examples(records: Iterator[Record], task: str, keys: Keys) -> Iterator[Text | Words]:
    """Makes examples of records.

    Args:
      records: of one split.
      task: classify, regress or tags.
      keys: which fields they are made of.

    Raises:
      UserError: a field is missing, or is not what it should be.
    """
    about = TASKS[task]
    read = _words if about.example == "words" else _text
    for record in records:
        yield read(record, about, keys)


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


def _text(record: Record, task: Task, keys: Keys) -> Text:
    first = _string(record, keys.text, "text_key")
    second = None if keys.pair is None else _string(record, keys.pair, "text_pair_key")
    label = None if keys.label is None else value(record, keys.label, "label_key")
    if label is not None:
        label = task.parse_label(label, f"{record.where}: {keys.label!r}")
    return Text(record.where, first, second, label)


def _string(record: Record, key: str, option: str) -> str:
    text = value(record, key, option)
    if not isinstance(text, str):
        raise UserError(f"{record.where}: {key!r} is {text!r:.40}, not a text")
    return text


def _words(record: Record, task: Task, keys: Keys) -> Words:
    words = _strings(record, keys.text, "text_key")
    tags = None if keys.label is None else value(record, keys.label, "label_key")
    if tags is not None:
        tags = task.parse_label(tags, f"{record.where}: {keys.label!r}")
        if len(tags) != len(words):
            raise UserError(f"{record.where} has {len(words)} words and {len(tags)} tags")
    return Words(record.where, words, tags)


def _strings(record: Record, key: str, option: str) -> Sequence[str]:
    words = value(record, key, option)
    listed = isinstance(words, Sequence) and not isinstance(words, str)
    if not listed or not all(isinstance(word, str) for word in words):
        raise UserError(f"{record.where}: {key!r} is {words!r:.40}, not a list of words")
    return words
