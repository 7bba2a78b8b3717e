"""`csv:PATTERN`: comma- or tab-separated files with a labelled example on each line.

    csv:/data/reviews/{split}.csv     text,label
    csv:/data/pairs.tsv               tabs between the columns

The first line names the columns. Without `{split}` in the pattern everything is `train`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

from ssl_jax.config.fields import Bound
from ssl_jax.data import delimited
from ssl_jax.data.labelled import tables
from ssl_jax.data.labelled.examples import FileExamples, Text
from ssl_jax.data.labelled.tables import Keys, Record
from ssl_jax.data.text.option_types import Errors, LabelKey, TextKey, TextPairKey
from ssl_jax.data.text.text_kind import TextKind

one_character = Bound("of one character", lambda text: len(text) == 1)


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
        return delimited.records(
            path, delimiter=self._delimiter, quotes=self._quotes, errors=self.errors
        )


KIND = TextKind(
    name="csv",
    location="PATTERN",
    examples=examples,
    example_tasks=("classify", "regress"),
    task="classify",
)
