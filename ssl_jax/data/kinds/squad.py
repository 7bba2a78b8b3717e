"""`squad:PATTERN`: questions to texts, in the format of SQuAD 1.1 and 2.0 or a JSON object a line.

    squad:/data/{split}-v2.0.json     {"data": [{"title": ..., "paragraphs": [...]}]}
    squad:/data/qa-{split}.jsonl      {"question": ..., "context": ..., "answers": {"text": ["..."],
                                       "answer_start": [17]}}

A line's answers may also be a list of {"text": ..., "answer_start": ...}; a missing `answer_start`
is the first place where the text stands. An empty list means that the text has no answer, no list
that it is not known. Articles (`title`), or else texts, are what sub-splits do not cut. Without
`{split}` in the pattern everything is `train`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from typing import Any

from ssl_jax.core.errors import UserError, nearest
from ssl_jax.data.labelled.examples import FileExamples, Question
from ssl_jax.data.text import corpus as corpus_lib
from ssl_jax.data.text.json_lines import objects, whole_characters
from ssl_jax.data.text.option_types import Errors
from ssl_jax.data.text.text_kind import TextKind

_PACKED = (".gz", ".bz2", ".xz")


def examples(location: str, task: str = "span", *, errors: Errors = "strict") -> Squad:
    """The files that match `location`: a path with *, **, ?, {a,b}, {000..010} or {split}.

    Raises:
      UserError: no file matches.
    """
    return Squad("squad", location, task, errors)


class Squad(FileExamples):
    """Files of questions and answers."""

    def read_file(self, path: str) -> Iterator[Question]:
        base, end = os.path.splitext(path)
        end = os.path.splitext(base)[1] if end in _PACKED else end
        if end in (".jsonl", ".ndjson"):
            for _, where, record in objects(path, self.errors):
                record = whole_characters(record, self.errors, where)
                yield _question(record, _get(record, "context", str, where), where, None)
        else:
            yield from self._articles(path)

    def _articles(self, path: str) -> Iterator[Question]:
        try:
            whole = json.loads("".join(corpus_lib.characters(path, self.errors)))
        except (ValueError, RecursionError) as error:
            if isinstance(error, UserError):
                raise
            raise UserError(f"{path} is not JSON: {error}") from None
        whole = whole_characters(whole, self.errors, path)
        if not isinstance(whole, dict):
            raise UserError(f'{path} is not in the format of SQuAD: {{"data": [...]}}')
        for article in _get(whole, "data", list, path):
            title = article.get("title") if isinstance(article, dict) else None
            for number, paragraph in enumerate(_get(article, "paragraphs", list, path)):
                where = f"{path}, {title or 'article'}, paragraph {number}"
                context = _get(paragraph, "context", str, where)
                for record in _get(paragraph, "qas", list, where):
                    yield _question(record, context, where, title)


def _question(record: Any, context: str, where: str, title: str | None) -> Question:
    question = _get(record, "question", str, where)
    name = str(record.get("id", where))
    where = f"{where}, question {name}" if "id" in record else where
    title = record.get("title", title)
    answers = None
    if _is_impossible(record.get("is_impossible"), where):
        answers = ()
    elif record.get("answers") is not None:
        answers = tuple(_answers(record["answers"], context, where))
    return Question(where, name, question.strip(), context, answers, title or context)


def _is_impossible(value: Any, where: str) -> bool:
    """What SQuAD 2 says of a question without an answer; some writers quote it."""
    known = {"true": True, "false": False, "1": True, "0": False, "none": False}
    word = str(value).strip().lower()
    if not isinstance(value, (bool, int, str, type(None))) or word not in known:
        raise UserError(f"{where}: is_impossible is {value!r:.40}; use true or false")
    return known[word]


def _answers(answers: Any, context: str, where: str) -> Iterator[tuple[str, int]]:
    if isinstance(answers, dict):
        texts = _get(answers, "text", list, where)
        starts = answers.get("answer_start", [None] * len(texts))
        if not isinstance(starts, list) or len(starts) != len(texts):
            raise UserError(f"{where} has {len(texts)} answers and not as many answer_start")
        answers = [
            {"text": text, "answer_start": start} for text, start in zip(texts, starts, strict=True)
        ]
    if not isinstance(answers, list):
        raise UserError(f"{where}: answers is {answers!r:.40}, neither a list nor an object")
    for answer in answers:
        text = _get(answer, "text", str, where)
        start = answer.get("answer_start")
        if start is not None and (not isinstance(start, int) or isinstance(start, bool)):
            raise UserError(f"{where}: answer_start is {start!r:.40}, not a character's number")
        yield text, context.find(text) if start is None else start


def _get(record: Any, key: str, kind: type, where: str) -> Any:
    """The value of a key, which must be there and of this type."""
    if not isinstance(record, Mapping):
        raise UserError(f"{where}: {record!r:.40} stands where an object with {key!r} should")
    if key not in record:
        has = ", ".join(record) or "nothing"
        raise UserError(f"{where} has no {key!r}; it has {has}.{nearest(key, record)}")
    value = record[key]
    if not isinstance(value, kind):
        what = {str: "a text", list: "a list"}[kind]
        raise UserError(f"{where}: {key!r} is {value!r:.40}, not {what}")
    return value


KIND = TextKind(
    name="squad", location="PATTERN", examples=examples, example_tasks=("span",), task="span"
)
