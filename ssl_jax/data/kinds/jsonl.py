"""`jsonl:PATTERN`: files with a JSON object a line, of which each holds a document.

jsonl:/data/c4/{split}-*.json.gz     {"text": "...", "label": "en"}

Without `{split}` in the pattern everything is `train`. With the option `task` each object is a
labelled example; of task=tags its text is a list of words and its label a list of their classes.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from ssl_jax.core.errors import UserError, nearest
from ssl_jax.data.labelled import tables
from ssl_jax.data.labelled.tables import Keys, Record
from ssl_jax.data.labelled.tasks import FileExamples, Text, Words, check_pairs, check_task
from ssl_jax.data.text import corpus as corpus_lib


def corpus(
    location: str, *, text_key: str = "text", label_key: str | None = None, errors: str = "strict"
) -> JsonLines:
    """The files that match `location`: a path with *, **, ?, {a,b}, {000..010} or {split}.

    Args:
      text_key: the key of the text.
      label_key: the key of the label, an integer or a class's name; default none.
      errors: "strict", or "replace": bytes that are no UTF-8 become U+FFFD.

    Raises:
      UserError: no file matches, or a bad value.
    """
    return JsonLines("jsonl", location, errors, text_key=text_key, label_key=label_key)


def examples(
    location: str,
    task: str,
    *,
    text_key: str = "text",
    text_pair_key: str | None = None,
    label_key: str | None = "label",
    errors: str = "strict",
) -> LabelledLines:
    """The labelled examples in the files that match `location`.

    Args:
      location: the pattern.
      task: classify, regress or tags; questions and answers are `squad:PATTERN`.
      text_key, text_pair_key: keys of the text, and of a second one if there are pairs.
      label_key: key of the label; None: there are no labels.
      errors: as of `corpus`.

    Raises:
      UserError: no file matches, or a bad value.
    """
    check_task(task, ("classify", "regress", "tags"))
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
        for _, where, found in objects(path, self.errors):
            yield Record(where, whole_characters(found, self.errors, where))


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
                corpus_lib.check_label(label, where)
            yield from corpus_lib.documents(f"{path}:{number}", text, label)


def objects(path: str, errors: str) -> Iterator[tuple[int, str, dict[str, Any]]]:
    """(number from 1, what to call it in messages, object) of each line that is not blank.

    Args:
      path: of the file.
      errors: "strict" or "replace".

    Raises:
      UserError: a line is not a JSON object, or the file cannot be read.
    """
    for number, line in corpus_lib.lines(path, errors):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        try:
            found = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise UserError(f"{where} is not JSON: {error}") from None
        if not isinstance(found, dict):
            raise UserError(f"{where} is {line[:40]!r}; it must be an object, {{...}}")
        yield number, where, found


def whole_characters(value: Any, errors: str, where: str) -> Any:
    """What JSON holds without halves of characters, which it can spell but UTF-8 cannot.

    Raises:
      UserError: there is one, and `errors` is "strict".
    """
    if isinstance(value, list):
        return [whole_characters(one, errors, where) for one in value]
    if isinstance(value, dict):
        return {key: whole_characters(one, errors, where) for key, one in value.items()}
    if not isinstance(value, str):
        return value
    try:
        value.encode()
    except UnicodeEncodeError as error:
        if errors == "strict":
            raise UserError(
                f"{where} has half a character, {error.object[error.start]!r}; repair it, or "
                "set data.options.errors=replace"
            ) from None
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return value


def _value(record: dict[str, Any], option: str, key: str, where: str) -> Any:
    if key not in record:
        raise UserError(
            f"{where} has no key {key!r}; keys: {', '.join(record)}."
            f"{nearest(key, record)} Set data.options.{option}"
        )
    return record[key]
