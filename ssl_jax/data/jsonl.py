"""`jsonl:PATTERN`: files with a JSON object a line, of which each holds a document.

jsonl:/data/c4/{split}-*.json.gz     {"text": "...", "label": "en"}

Without `{split}` in the pattern everything is `train`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from ssl_jax.data import corpus as corpus_lib
from ssl_jax.errors import UserError, nearest


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


class JsonLines(corpus_lib.FileCorpus):
    """Files of JSON objects."""

    def file_parts(self, path: str) -> Iterator[corpus_lib.Part]:
        options = self.description["options"]
        for number, line in corpus_lib.lines(path, self.errors):
            if not line.strip():
                continue
            where = f"{path}, line {number}"
            try:
                record = json.loads(line)
            except ValueError as error:
                raise UserError(f"{where} is not JSON: {error}") from None
            if not isinstance(record, dict):
                raise UserError(f"{where} is {line[:40]!r}; it must be an object, {{...}}")
            text = _value(record, "text_key", options["text_key"], where)
            if not isinstance(text, str):
                raise UserError(f"{where}: {options['text_key']!r} is {text!r:.40}, not a text")
            text = self._valid(text, where)
            label = None
            if options["label_key"] is not None:
                label = _value(record, "label_key", options["label_key"], where)
                corpus_lib.check_label(label, where)
            yield from corpus_lib.documents(f"{path}:{number}", text, label)

    def _valid(self, text: str, where: str) -> str:
        """The text without halves of characters, which JSON can spell but UTF-8 cannot."""
        try:
            text.encode()
        except UnicodeEncodeError as error:
            if self.errors == "strict":
                raise UserError(
                    f"{where} has half a character, {error.object[error.start]!r}; repair it, or "
                    "set data.options.errors=replace"
                ) from None
            return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        return text


def _value(record: dict[str, Any], option: str, key: str, where: str) -> Any:
    if key not in record:
        raise UserError(
            f"{where} has no key {key!r}; keys: {', '.join(record)}."
            f"{nearest(key, record)} Set data.options.{option}"
        )
    return record[key]
