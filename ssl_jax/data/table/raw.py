"""Tables as they are in files: names of columns, and texts; "" where a value is missing."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping
from types import MappingProxyType

from ssl_jax.core.errors import UserError
from ssl_jax.data import delimited

MISSING = frozenset({"", "?", "na", "n/a", "nan", "null", "none"})
_PARQUET = (".parquet", ".pq")


@dataclasses.dataclass(frozen=True)
class Raw:
    """A table of texts.

    Attributes:
      where: its file, for messages.
      columns: name -> the values, all of one number; "" where missing.
    """

    where: str
    columns: dict[str, list[str]]

    def __len__(self) -> int:
        return len(next(iter(self.columns.values()), ()))


def read(path: str, delimiter: str | None) -> Raw:
    """Reads a file of comma- or tab-separated values, or a Parquet file.

    Raises:
      UserError: it cannot be read, or has no rows.
    """
    if os.path.splitext(path)[1].lower() in _PARQUET:
        columns = _parquet(path)
    else:
        columns = {}
        for record in delimited.records(path, delimiter=delimiter):
            for name, value in record.fields.items():
                columns.setdefault(name, []).append(_text(value))
    raw = Raw(path, columns)
    if not len(raw):
        raise UserError(f"{path} has no rows")
    return raw


def _parquet(path: str) -> dict[str, list[str]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path)
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{path} cannot be read: {' '.join(str(error).split())}") from None
    for field in table.schema:
        if pa.types.is_nested(field.type):
            raise UserError(
                f"{path}: column {field.name!r} has values of type {field.type}; name it in "
                "data.options.ignore, or split it into columns"
            )
    return {
        name: [_text("" if value is None else str(value)) for value in column.to_pylist()]
        for name, column in zip(table.column_names, table.columns, strict=True)
    }


def _text(value: str) -> str:
    value = value.strip()
    return "" if value.casefold() in MISSING else value


def packaged(name: str) -> Raw:
    """One of the tables that come with scikit-learn; the label is the column "label"."""
    from sklearn import datasets

    bunch = getattr(datasets, f"load_{name}")()
    columns = {
        feature: [repr(float(value)) for value in column]
        for feature, column in zip(bunch.feature_names, bunch.data.T, strict=True)
    }
    columns["label"] = [str(bunch.target_names[target]) for target in bunch.target]
    return Raw(f"table:{name}", columns)


# From the UCI repository: tumours (569 rows, 30 numbers), cultivars (178, 13), flowers (150, 4).
PACKAGED: Mapping[str, Callable[[], Raw]] = MappingProxyType(
    {name: (lambda name=name: packaged(name)) for name in ("breast_cancer", "wine", "iris")}
)
