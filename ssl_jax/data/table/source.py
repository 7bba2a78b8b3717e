"""Rows of a table as a source, with draws from the columns."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from ssl_jax.core.columns import Columns
from ssl_jax.core.method import DataSpec
from ssl_jax.data import counter
from ssl_jax.data.source import Arrays, Problem, Source
from ssl_jax.modalities.table import DRAWS, TABLE


@dataclasses.dataclass
class TableSource(Source):
    """Rows in memory.

    Each row comes with draws from the empirical marginals: for every column the value of a row of
    this source, drawn uniformly, columns independently. They are a function of the batch's seed
    and step, of the position in it and of the column.

    Attributes:
      rows: float32 [n c], see `coding.coded`.
      columns: of the table.
    """

    rows: np.ndarray = dataclasses.field(kw_only=True)
    columns: Columns = dataclasses.field(kw_only=True)

    in_memory: ClassVar[bool] = True
    unit: ClassVar[str] = "row"
    examples_are_labelled: ClassVar[bool] = True

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def spec(self) -> DataSpec:
        return TABLE.spec(self.columns, len(self), self.num_classes)

    def read(
        self, indices: np.ndarray, positions: np.ndarray, seed: int, step: int
    ) -> tuple[Arrays, list[Problem]]:
        count = DRAWS * len(self.columns)
        stream = counter.key(seed, counter.Stream.MARGINALS, step)
        counters = np.asarray(positions)[:, None] * count + np.arange(count)
        drawn = (counter.uniform(stream, counters) * len(self)).astype(int)
        drawn = drawn.reshape(-1, DRAWS, len(self.columns))
        marginals = self.rows[drawn, np.arange(len(self.columns))]
        table = np.concatenate([self.rows[indices][:, None], marginals], axis=1)
        label = np.full(len(indices), -1, np.int32) if self.labels is None else self.labels[indices]
        return {"table": table, "label": label, "index": indices.astype(np.int32)}, []

    def take(self, rows: np.ndarray | slice) -> TableSource:
        """The examples `rows` as a source of their own."""
        labels = None if self.labels is None else self.labels[rows]
        return dataclasses.replace(self, rows=self.rows[rows], labels=labels)

    def select(self, start: int, stop: int) -> TableSource:
        return self.take(slice(start, stop))

    def relabelled(self, labels: np.ndarray) -> TableSource:
        """The same examples with these labels, int32 [n], -1 for none."""
        return dataclasses.replace(self, labels=labels)

    def joined(self, others: Sequence[TableSource]) -> TableSource:
        parts = (self, *others)
        labels = None
        if self.labels is not None:
            labels = np.concatenate([part.labels for part in parts])
        rows = np.concatenate([part.rows for part in parts])
        return dataclasses.replace(self, rows=rows, labels=labels)
