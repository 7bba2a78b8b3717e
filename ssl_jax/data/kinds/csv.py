"""`csv:PATTERN`: comma- or tab-separated files with a labelled example on each line.

    csv:/data/reviews/{split}.csv     text,label
    csv:/data/pairs.tsv               tabs between the columns

The first line names the columns. Without `{split}` in the pattern everything is `train`.

The files are read by Python's csv module. pyarrow's reader drops characters of malformed quotes
without an error, does not say on which line an error is, and refuses fields of over a megabyte.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator
from typing import Annotated

from ssl_jax.config.fields import Bound
from ssl_jax.core.errors import UserError
from ssl_jax.data.labelled import tables
from ssl_jax.data.labelled.examples import FileExamples, Text
from ssl_jax.data.labelled.tables import Keys, Record
from ssl_jax.data.text import corpus as corpus_lib
from ssl_jax.data.text.option_types import Errors, LabelKey, TextKey, TextPairKey
from ssl_jax.data.text.text_kind import TextKind

one_character = Bound("of one character", lambda text: len(text) == 1)
_LONGEST = 1 << 24  # characters of a field; a quote that is left open would take the whole file
_TABS = (".tsv", ".tab")
_PACKED = (".gz", ".bz2", ".xz")


def examples(
    location: str,
    task: str = "classify",
    *,
    text_key: TextKey = "text",
    text_pair_key: TextPairKey = None,
    label_key: LabelKey = "label",
    delimiter: Annotated[
        str | None,
        one_character,
        "What stands between columns; None: a tab in .tsv files, else a comma.",
    ] = None,
    quotes: Annotated[
        bool | None,
        'Whether "..." may hold delimiters and line ends; None: not in .tsv files.',
    ] = None,
    errors: Errors = "strict",
) -> Tables:
    """The files that match `location`: a path with *, **, ?, {a,b}, {000..010} or {split}.

    A blank label is none, and -1 is none; see `ssl_jax.tasks.labels`.

    Raises:
      UserError: no file matches.
    """
    keys = Keys(text_key, text_pair_key, label_key)
    return Tables(location, task, errors, keys, delimiter, quotes)


class Tables(FileExamples):
    """Files of comma- or tab-separated values."""

    def __init__(
        self,
        location: str,
        task: str,
        errors: str,
        keys: Keys,
        delimiter: str | None,
        quotes: bool | None,
    ):
        super().__init__("csv", location, task, errors)
        self._keys, self._delimiter, self._quotes = keys, delimiter, quotes

    def read_file(self, path: str) -> Iterator[Text]:
        return tables.examples(self._records(path), self.task, self._keys)

    def _records(self, path: str) -> Iterator[Record]:
        base, end = os.path.splitext(path)
        end = os.path.splitext(base)[1] if end in _PACKED else end
        tabs = end.lower() in _TABS
        quotes = self._quotes if self._quotes is not None else not tabs
        lines = (f"{line}\n" for _, line in corpus_lib.lines(path, self.errors))
        csv.field_size_limit(max(csv.field_size_limit(), _LONGEST))
        rows = csv.reader(
            lines,
            delimiter=self._delimiter or ("\t" if tabs else ","),
            quoting=csv.QUOTE_MINIMAL if quotes else csv.QUOTE_NONE,
            strict=True,
        )
        try:
            header = [name.strip() for name in next(rows, [])]
            if not any(header):
                raise UserError(f"{path} is empty; its first line must name the columns")
            twice = [name for name in header if header.count(name) > 1]
            if twice:
                raise UserError(f"{path} has two columns {twice[0]!r}; rename one")
            start = rows.line_num + 1
            for row in rows:
                where, start = f"{path}, line {start}", rows.line_num + 1
                if not row:
                    continue
                if len(row) != len(header):
                    raise UserError(
                        f"{where} has {len(row)} columns, but the first line names {len(header)}; "
                        "quote fields that hold delimiters, or set data.options.delimiter or "
                        "data.options.quotes"
                    )
                yield Record(where, dict(zip(header, row, strict=True)))
        except csv.Error as error:
            hint = "is a quote left open? data.options.quotes=False takes quotes as they are"
            raise UserError(f"{path}, line {rows.line_num}: {error}; {hint}") from None


KIND = TextKind(
    name="csv",
    location="PATTERN",
    examples=examples,
    example_tasks=("classify", "regress"),
    task="classify",
)
