"""`parquet:PATTERN`: Parquet files with a document in each row.

    parquet:/data/fineweb/*.parquet
    parquet:/data/reviews/{split}-*.parquet

Without `{split}` in the pattern everything is `train`. Files are read a few rows at a time. With
the option `task` each row is a labelled example; for task=tags its text is a list of words and its
label a list of their classes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ssl_jax.core.errors import UserError, nearest
from ssl_jax.data.labelled import tables
from ssl_jax.data.labelled.examples import FileExamples, Text, Words, check_pairs
from ssl_jax.data.labelled.tables import Keys, Record
from ssl_jax.data.text import corpus as corpus_lib
from ssl_jax.data.text.option_types import LabelKey, TextKey, TextPairKey
from ssl_jax.data.text.text_kind import TextKind
from ssl_jax.tasks.labels import document_label

_ROWS = 256  # read at a time


def corpus(
    location: str, *, text_key: TextKey = "text", label_key: LabelKey = None
) -> ParquetFiles:
    """The files that match `location`: a path with *, **, ?, {a,b}, {000..010} or {split}.

    Labels are integers or the names of classes.

    Raises:
      UserError: no file matches.
    """
    return ParquetFiles("parquet", location, text_key=text_key, label_key=label_key)


def examples(
    location: str,
    task: str,
    *,
    text_key: TextKey = "text",
    text_pair_key: TextPairKey = None,
    label_key: LabelKey = "label",
) -> LabelledRows:
    """The labelled examples in the files that match `location`.

    Raises:
      UserError: no file matches.
    """
    check_pairs(task, text_pair_key)
    return LabelledRows("parquet", location, task, keys=Keys(text_key, text_pair_key, label_key))


class LabelledRows(FileExamples):
    """Parquet files of labelled examples."""

    def __init__(self, kind: str, location: str, task: str, *, keys: Keys):
        super().__init__(kind, location, task)
        self._keys = keys

    def read_file(self, path: str) -> Iterator[Text | Words]:
        return tables.examples(self._records(path), self.task, self._keys)

    def _records(self, path: str) -> Iterator[Record]:
        options = dict(zip(("text_key", "text_pair_key", "label_key"), self._keys, strict=True))
        used = {option: key for option, key in options.items() if key is not None}
        for number, row in enumerate(_rows(path, used)):
            fields = dict(zip(used.values(), row, strict=True))
            yield Record(f"{path}, row {number}", fields)


class ParquetFiles(corpus_lib.FileCorpus):
    """Parquet files."""

    def file_parts(self, path: str) -> Iterator[corpus_lib.Part]:
        options = self.description["options"]
        keys = {name: options[name] for name in ("text_key", "label_key") if options[name]}
        for number, row in enumerate(_rows(path, keys)):
            yield from self._document(path, number, *row)

    def _document(
        self, path: str, number: int, text: object, label: object = None
    ) -> Iterator[corpus_lib.Part]:
        where = f"{path}, row {number}"
        if not isinstance(text, str):
            key = self.description["options"]["text_key"]
            raise UserError(f"{where}: column {key!r} is {text!r:.40}, not a text")
        label = document_label(label, where)
        return corpus_lib.documents(f"{path}:{number}", text, label)


def _rows(path: str, keys: Mapping[str, str]) -> Iterator[tuple[Any, ...]]:
    """The rows of a file, of which only some columns are read.

    Args:
      path: of the file.
      keys: option -> the column that it names.

    Raises:
      UserError: there is no such column, or the file cannot be read.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            present = file.schema_arrow.names
            for option, key in keys.items():
                if key not in present:
                    raise UserError(
                        f"{path} has no column {key!r}; columns: {', '.join(present)}."
                        f"{nearest(key, present)} Set data.options.{option}"
                    )
            for batch in file.iter_batches(_ROWS, columns=list(keys.values())):
                columns = (batch.column(key).to_pylist() for key in keys.values())
                yield from zip(*columns, strict=True)
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{path} cannot be read: {' '.join(str(error).split())}") from None


KIND = TextKind(
    name="parquet",
    location="PATTERN",
    corpus=corpus,
    examples=examples,
    example_tasks=("classify", "regress", "tags"),
)
