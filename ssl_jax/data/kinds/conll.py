"""`conll:PATTERN`: words in columns, one a line, and a blank line between sentences.

    conll:/data/ner/{split}.txt

    -DOCSTART- -X- O O

    EU NNP B-NP B-ORG
    rejects VBZ B-VP O

Columns are separated by tabs where a line has one, else by blanks. Lines that begin with -DOCSTART-
begin a document, which sub-splits do not cut; without any, a sentence stands alone. Without
`{split}` in the pattern everything is `train`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from ssl_jax.core.errors import UserError
from ssl_jax.data.labelled.tasks import FileExamples, Words, check_task
from ssl_jax.data.text import corpus as corpus_lib

_DOCUMENT = "-DOCSTART-"
# Not all that Unicode calls a blank: a word may hold one that does not break.
_BLANKS = re.compile(r"[ \t]+")


def examples(
    location: str,
    task: str = "tags",
    *,
    word_column: int = 0,
    tag_column: int = -1,
    comment: str | None = None,
    errors: str = "strict",
) -> Columns:
    """The files that match `location`: a path with *, **, ?, {a,b}, {000..010} or {split}.

    Args:
      location: the pattern.
      task: tags.
      word_column: which column is the word, from 0; negative from the end.
      tag_column: which one is its class.
      comment: lines that begin so are left out, e.g. "# "; default none.
      errors: "strict", or "replace": bytes that are no UTF-8 become U+FFFD.

    Raises:
      UserError: no file matches, or a bad value.
    """
    check_task(task, ("tags",))
    return Columns(location, task, errors, word_column, tag_column, comment)


class Columns(FileExamples):
    """Files of words in columns."""

    def __init__(
        self, location: str, task: str, errors: str, word_column: int, tag_column: int,
        comment: str | None,
    ):  # fmt: skip
        super().__init__("conll", location, task, errors)
        self._word, self._tag, self._comment = word_column, tag_column, comment

    def read_file(self, path: str) -> Iterator[Words]:
        words: list[str] = []
        tags: list[str] = []
        document, first = 0, 1

        def sentence() -> Iterator[Words]:
            if words:
                group = f"{path}:{document}" if document else None
                yield Words(f"{path}, line {first}", tuple(words), tuple(tags), group)
                words.clear()
                tags.clear()

        for number, line in corpus_lib.lines(path, self.errors):
            line = line.strip(" \t\r")
            if not line or line.startswith(_DOCUMENT):
                yield from sentence()
                document += bool(line)
                continue
            if self._comment and line.startswith(self._comment):
                continue
            if not words:
                first = number
            columns = line.split("\t") if "\t" in line else _BLANKS.split(line)
            words.append(self._column(columns, self._word, "word_column", path, number))
            tags.append(self._column(columns, self._tag, "tag_column", path, number))
        yield from sentence()

    def _column(self, columns: list[str], at: int, option: str, path: str, number: int) -> str:
        enough = -len(columns) <= at < len(columns)
        if not enough or (len(columns) == 1 and self._word != self._tag):
            raise UserError(
                f"{path}, line {number} has {len(columns)} column{'s' * (len(columns) > 1)}; "
                f"{option} is {at}. A word and its class stand on a line, and a blank line between "
                f"sentences; set data.options.{option}"
            )
        return columns[at].strip()
