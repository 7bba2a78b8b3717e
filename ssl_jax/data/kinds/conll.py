"""`conll:PATTERN`: words in columns, one a line, and a blank line between sentences.

    conll:/data/ner/{split}.txt

    -DOCSTART- -X- O O

    EU NNP B-NP B-ORG
    rejects VBZ B-VP O

Columns are separated by tabs where a line has one, else by blanks. Lines whose word, or whose
beginning, is -DOCSTART- begin a document, which sub-splits do not cut; without any, a sentence
stands alone. Every other line is a word, also one that begins with `#`; lines that begin with
`data.options.comment` are left out. If a line with `#` has other columns than the words of its
file, it is likely a comment, and an error asks for that option. Without `{split}` in the pattern
everything is `train`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Annotated

from ssl_jax.core.errors import UserError
from ssl_jax.data.labelled.examples import FileExamples, Words
from ssl_jax.data.text import corpus as corpus_lib
from ssl_jax.data.text.option_types import Errors
from ssl_jax.data.text.text_kind import TextKind

_DOCUMENT = "-DOCSTART-"
# Not all that Unicode calls a blank: a word may hold one that does not break.
_BLANKS = re.compile(r"[ \t]+")


def examples(
    location: str,
    task: str = "tags",
    *,
    word_column: Annotated[
        int, "Column of the word, from 0; a negative number counts from the end."
    ] = 0,
    tag_column: Annotated[
        int, "Column of the word's class, from 0; a negative number counts from the end."
    ] = -1,
    comment: Annotated[
        str | None, 'Lines that begin with this are left out, e.g. "# "; None: no comments.'
    ] = None,
    errors: Errors = "strict",
) -> Columns:
    """The files that match `location`: a path with *, **, ?, {a,b}, {000..010} or {split}.

    Raises:
      UserError: no file matches.
    """
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
        layout: tuple[bool, int] | None = None  # of the first line without #: tabs, columns
        hashes: list[tuple[int, str, tuple[bool, int]]] = []  # lines with #, until that is known

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
            columns = line.split("\t") if "\t" in line else _BLANKS.split(line)
            if line.startswith("#"):
                hashes.append((number, line, ("\t" in line, len(columns))))
            elif layout is None:
                layout = "\t" in line, len(columns)
            if layout is not None:
                self._check_hashes(hashes, layout, path)
                hashes.clear()
            word = self._column(columns, self._word, "word_column", path, number)
            if word == _DOCUMENT:
                yield from sentence()
                document += 1
                continue
            if not words:
                first = number
            words.append(word)
            tags.append(self._column(columns, self._tag, "tag_column", path, number))
        yield from sentence()

    @staticmethod
    def _check_hashes(
        hashes: list[tuple[int, str, tuple[bool, int]]], layout: tuple[bool, int], path: str
    ) -> None:
        """Raises UserError if one of the lines that begin with # is likely a comment."""
        for number, line, line_layout in hashes:
            if line_layout != layout:
                raise UserError(
                    f"{path}, line {number} begins with # and has other columns than the words of "
                    f"the file: {line!r:.60}; if it is a comment, set data.options.comment='#'"
                )

    def _column(self, columns: list[str], at: int, option: str, path: str, number: int) -> str:
        enough = -len(columns) <= at < len(columns)
        if not enough or (len(columns) == 1 and self._word != self._tag):
            raise UserError(
                f"{path}, line {number} has {len(columns)} column{'s' * (len(columns) > 1)}; "
                f"{option} is {at}. A word and its class stand on a line, and a blank line between "
                f"sentences; set data.options.{option}"
            )
        return columns[at].strip()


KIND = TextKind(
    name="conll", location="PATTERN", examples=examples, example_tasks=("tags",), task="tags"
)
