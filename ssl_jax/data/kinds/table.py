"""`table:FILE`: rows of numbers and categories, as CSV, TSV or Parquet.

    table:/data/adult.csv             a fifth of the rows, drawn once and for all, is `test`
    table:/data/adult-{split}.csv     a file for each split
    table:breast_cancer               comes with scikit-learn; also wine and iris

The first line of a CSV names the columns. A column whose values are all numbers is one of numbers;
others have categories. Blank, ?, NA, NaN, null and None are missing values. The mean and the
deviation of numbers and the known categories are those of the rows of `train`; a run stores them
in its config (`data.options.columns`) and reads other tables by them.
"""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Mapping
from typing import Annotated, Any

import numpy as np

from ssl_jax.config import fields
from ssl_jax.core.columns import Columns
from ssl_jax.core.errors import UserError
from ssl_jax.core.method import DataSpec
from ssl_jax.data import counter, patterns
from ssl_jax.data.kind import WHERE, Facts, Kind
from ssl_jax.data.kinds.csv import one_character
from ssl_jax.data.request import Request
from ssl_jax.data.table import coding, raw
from ssl_jax.data.table.raw import PACKAGED, Raw
from ssl_jax.data.table.source import TableSource
from ssl_jax.modalities.table import TABLE

_TEST_SHARE = 0.2


@dataclasses.dataclass(frozen=True)
class TableOptions:
    """The options of a table."""

    label: Annotated[str | None, "Column of the classes; None: there are none."] = "label"
    categories: Annotated[
        tuple[str, ...], "Columns of categories that look like numbers, such as postal codes."
    ] = ()
    ignore: Annotated[tuple[str, ...], "Columns that are left out."] = ()
    delimiter: Annotated[
        str | None,
        one_character,
        "What stands between columns; None: a tab in .tsv files, else a comma.",
    ] = None
    columns: Annotated[
        Columns | None, "The columns as a run has learned them; it fills them in."
    ] = None


class Tables:
    """The splits of a table, read when the data set is opened."""

    def __init__(self, location: str, options: TableOptions):
        self._location, self._options = location, options
        tables = dict(_read(location, options.delimiter, _stamp(location)))
        label = options.label
        self._classes = None if label is None else coding.classes_of(list(tables.values()), label)
        first = tables.get("train", next(iter(tables.values())))
        self._columns = options.columns or coding.columns_of(
            first, label=label, ignore=options.ignore, categories=options.categories
        )
        self._tables = tables

    @property
    def splits(self) -> tuple[str, ...]:
        return tuple(self._tables)

    def facts(self) -> Facts:
        sizes = {split: len(table) for split, table in self._tables.items()}
        return Facts(sizes, len(self._classes) if self._classes else None)

    @property
    def columns(self) -> Columns:
        return self._columns

    def source(self, split: str) -> TableSource:
        """The rows of a split.

        Raises:
          UserError: a column is missing, or has a text instead of a number.
        """
        table, label = self._tables[split], self._options.label
        labelled = self._classes is not None
        return TableSource(
            name=f"table:{self._location}[{split}]",
            labels=coding.labels_of(table, label, self._classes) if labelled else None,
            num_classes=len(self._classes) if labelled else None,
            class_names=self._classes if labelled else None,
            rows=coding.coded(table, self._columns),
            columns=self._columns,
        )


def _stamp(location: str) -> tuple[tuple[str, int], ...]:
    """The files of a location with the times of their last changes."""
    if location in PACKAGED:
        return ()
    pattern = patterns.local("table", location)
    paths = [
        path
        for split in patterns.splits("table", pattern)
        for path in patterns.files("table", pattern, split)
    ]
    return tuple((path, os.stat(path).st_mtime_ns) for path in paths)


@functools.lru_cache(maxsize=4)
def _read(
    location: str, delimiter: str | None, stamp: tuple[tuple[str, int], ...]
) -> tuple[tuple[str, Raw], ...]:
    """The tables of the splits; `stamp` tells whether they have to be read again."""
    del stamp
    if location in PACKAGED:
        return _halved(PACKAGED[location]())
    pattern = patterns.local("table", location)
    tables = []
    for split in patterns.splits("table", pattern):
        files = patterns.files("table", pattern, split)
        if len(files) > 1:
            raise UserError(
                f"table:{location} matches {len(files)} files for split {split!r}, the first two "
                f"{files[0]} and {files[1]}; name one, with {{split}} for the split"
            )
        tables.append((split, raw.read(files[0], delimiter)))
    return tuple(tables) if patterns.SPLIT in pattern else _halved(tables[0][1])


def _halved(table: Raw) -> tuple[tuple[str, Raw], ...]:
    """`train` and `test` of a table in one file, each in a random order that stays the same."""
    order = np.argsort(counter.bits(counter.key(0), np.arange(len(table))))
    count = round(_TEST_SHARE * len(table))
    rows = {"train": order[count:], "test": order[:count]}
    return tuple(
        (
            split,
            dataclasses.replace(
                table,
                columns={
                    name: [values[i] for i in chosen] for name, values in table.columns.items()
                },
            ),
        )
        for split, chosen in rows.items()
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class TableKind(Kind):
    """The kind of tables."""

    @property
    def modalities(self) -> tuple[str, ...]:
        return (TABLE.name,)

    def options(self, values: Mapping[str, Any]) -> fields.Section:
        del values
        return fields.section(TableOptions)

    def open(self, location: str, request: Request, values: Mapping[str, Any]) -> Tables:
        request.refuse_image_options("table", "a table")
        return Tables(location, fields.read(TableOptions, values, WHERE))

    def facts(self, location: str, values: Mapping[str, Any]) -> Facts | None:
        options = fields.read(TableOptions, values, WHERE)
        try:
            return Tables(location, options).facts()
        except UserError:
            if options.columns is None:
                raise
            return None  # a run has stored all that it needs without the data

    def spec(
        self,
        location: str,
        request: Request,
        values: Mapping[str, Any],
        num_examples: int,
        num_classes: int | None,
    ) -> DataSpec:
        request.refuse_image_options("table", "a table")
        options = fields.read(TableOptions, values, WHERE)
        columns = options.columns or Tables(location, options).columns
        return TABLE.spec(columns, num_examples, num_classes)


KIND = TableKind(name="table", location="FILE")
