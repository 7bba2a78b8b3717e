"""Files of comma- or tab-separated values.

They are read by Python's csv module. pyarrow's reader drops characters of malformed quotes without
an error, does not say on which line an error is, and refuses fields of over a megabyte.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator

from ssl_jax.core.errors import UserError
from ssl_jax.data.labelled.tables import Record
from ssl_jax.data.text import corpus as corpus_lib

_LONGEST = 1 << 24  # characters of a field; a quote that is left open would take the whole file
_TABS = (".tsv", ".tab")
_PACKED = (".gz", ".bz2", ".xz")


def records(
    path: str, *, delimiter: str | None = None, quotes: bool | None = None, errors: str = "strict"
) -> Iterator[Record]:
    """The rows of a file, whose first line names the columns.

    Args:
      path: of the file, perhaps packed.
      delimiter: what stands between columns; None: a tab in .tsv files, else a comma.
      quotes: whether "..." may hold delimiters and line ends; None: not in .tsv files.
      errors: of decoding UTF-8.

    Raises:
      UserError: the file cannot be read, is empty, has two columns of a name, or a row has another
        number of columns.
    """
    base, end = os.path.splitext(path)
    end = os.path.splitext(base)[1] if end in _PACKED else end
    tabs = end.lower() in _TABS
    quotes = quotes if quotes is not None else not tabs
    lines = (f"{line}\n" for _, line in corpus_lib.lines(path, errors))
    csv.field_size_limit(max(csv.field_size_limit(), _LONGEST))
    rows = csv.reader(
        lines,
        delimiter=delimiter or ("\t" if tabs else ","),
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
