"""`parquet:PATTERN`: Parquet files with a document a row. Needs pyarrow.

    parquet:/data/fineweb/*.parquet
    parquet:/data/reviews/{split}-*.parquet

Without `{split}` in the pattern everything is `train`. Files are read a few rows at a time.
"""

from __future__ import annotations

from collections.abc import Iterator

from ssl_jax.data import corpus as corpus_lib
from ssl_jax.errors import UserError, nearest

_ROWS = 256  # read at a time


def corpus(location: str, *, text_key: str = "text", label_key: str | None = None) -> ParquetFiles:
    """The files that match `location`: a path with *, **, ?, {a,b}, {000..010} or {split}.

    Args:
      text_key: the column of the text.
      label_key: the column of the label, integers or classes' names; default none.

    Raises:
      UserError: no file matches, or pyarrow is not installed.
    """
    try:
        import pyarrow.parquet  # noqa: F401
    except ImportError:
        raise UserError(f"parquet:{location} needs pyarrow: pip install pyarrow") from None
    return ParquetFiles("parquet", location, text_key=text_key, label_key=label_key)


class ParquetFiles(corpus_lib.FileCorpus):
    """Parquet files."""

    def file_parts(self, path: str) -> Iterator[corpus_lib.Part]:
        import pyarrow as pa
        import pyarrow.parquet as pq

        options = self.description["options"]
        keys = [options["text_key"]]
        keys += [] if options["label_key"] is None else [options["label_key"]]
        number = 0
        try:
            with pq.ParquetFile(path) as file:
                present = file.schema_arrow.names
                for option, key in zip(("text_key", "label_key"), keys, strict=False):
                    if key not in present:
                        raise UserError(
                            f"{path} has no column {key!r}; columns: {', '.join(present)}."
                            f"{nearest(key, present)} Set data.options.{option}"
                        )
                for batch in file.iter_batches(_ROWS, columns=keys):
                    for row in zip(*(batch.column(key).to_pylist() for key in keys), strict=True):
                        yield from self._document(path, number, *row)
                        number += 1
        except (pa.ArrowException, OSError) as error:
            raise UserError(f"{path} cannot be read: {' '.join(str(error).split())}") from None

    def _document(
        self, path: str, number: int, text: object, label: object = None
    ) -> Iterator[corpus_lib.Part]:
        where = f"{path}, row {number}"
        if not isinstance(text, str):
            key = self.description["options"]["text_key"]
            raise UserError(f"{where}: column {key!r} is {text!r:.40}, not a text")
        corpus_lib.check_label(label, where)
        return corpus_lib.documents(f"{path}:{number}", text, label)
