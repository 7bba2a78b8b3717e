"""`jsonl:PATTERN`: files with a JSON object on each line, one document each.

jsonl:/data/c4/{split}-*.json.gz     {"text": "...", "label": "en"}

Without `{split}` in the pattern everything is `train`. With the option `task` each object is a
labelled example; for task=tags its text is a list of words and its label a list of their classes.

Lines are read by Python's json module. pyarrow's reader turns texts that look like dates into
dates, wants one type for all labels, and refuses lines of over a megabyte.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ssl_jax.core.errors import UserError, nearest
from ssl_jax.data.labelled import tables
from ssl_jax.data.labelled.examples import FileExamples, Text, Words, check_pairs
from ssl_jax.data.labelled.tables import Keys, Record
from ssl_jax.data.text import corpus as corpus_lib
from ssl_jax.data.text.json_lines import objects, whole_characters
from ssl_jax.data.text.option_types import Errors, LabelKey, TextKey, TextPairKey
from ssl_jax.data.text.text_kind import TextKind
from ssl_jax.tasks.labels import document_label


def corpus(
    location: str,
    *,
    text_key: TextKey = "text",
    label_key: LabelKey = None,
    errors: Errors = "strict",
) -> JsonLines:
    """The files that match `location`: a path with *, **, ?, {a,b}, {000..010} or {split}.

    A label is an integer or the name of a class.

    Raises:
      UserError: no file matches.
    """
    return JsonLines("jsonl", location, errors, text_key=text_key, label_key=label_key)


def examples(
    location: str,
    task: str,
    *,
    text_key: TextKey = "text",
    text_pair_key: TextPairKey = None,
    label_key: LabelKey = "label",
    errors: Errors = "strict",
) -> LabelledLines:
    """The labelled examples in the files that match `location`.

    Raises:
      UserError: no file matches, or pairs of texts are asked for and the task has none.
    """
    check_pairs(task, text_pair_key)
    return LabelledLines(location, task, errors, Keys(text_key, text_pair_key, label_key))


class LabelledLines(FileExamples):
    """Files of JSON objects that are labelled examples."""

    def __init__(self, location: str, task: str, errors: str, keys: Keys):
        super().__init__("jsonl", location, task, errors)
        self._keys = keys

    def read_file(self, path: str) -> Iterator[Text | Words]:
        return tables.examples(self._records(path), self.task, self._keys)

    def _records(self, path: str) -> Iterator[Record]:
        for _, where, record in objects(path, self.errors):
            yield Record(where, whole_characters(record, self.errors, where))


class JsonLines(corpus_lib.FileCorpus):
    """Files of JSON objects."""

    def file_parts(self, path: str) -> Iterator[corpus_lib.Part]:
        options = self.description["options"]
        for number, where, record in objects(path, self.errors):
            text = _value(record, "text_key", options["text_key"], where)
            if not isinstance(text, str):
                raise UserError(f"{where}: {options['text_key']!r} is {text!r:.40}, not a text")
            text = whole_characters(text, self.errors, where)
            label = None
            if options["label_key"] is not None:
                label = _value(record, "label_key", options["label_key"], where)
                label = document_label(label, where)
            yield from corpus_lib.documents(f"{path}:{number}", text, label)


def _value(record: dict[str, Any], option: str, key: str, where: str) -> Any:
    if key not in record:
        raise UserError(
            f"{where} has no key {key!r}; keys: {', '.join(record)}."
            f"{nearest(key, record)} Set data.options.{option}"
        )
    return record[key]


KIND = TextKind(
    name="jsonl",
    location="PATTERN",
    corpus=corpus,
    examples=examples,
    example_tasks=("classify", "regress", "tags"),
)
