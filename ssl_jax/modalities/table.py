"""The modality of tables: rows of numbers and categories."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ssl_jax.core.columns import Columns
from ssl_jax.core.method import Array, Batch, DataSpec, Method
from ssl_jax.modalities.base import Modality

DRAWS = 2  # of each column with a row: one for each of two views


@dataclasses.dataclass(frozen=True)
class Table(Modality):
    """Rows of a table. Missing numbers are NaN, missing or unknown categories 0."""

    def spec(self, columns: Columns, num_examples: int, num_classes: int | None) -> DataSpec:
        """The DataSpec of a table.

        Args:
          columns: of the table.
          num_examples, num_classes: of the training set.
        """
        arrays = {
            "table": jax.ShapeDtypeStruct((1 + DRAWS, len(columns)), np.float32),
            "label": jax.ShapeDtypeStruct((), np.int32),
            "index": jax.ShapeDtypeStruct((), np.int32),
        }
        return DataSpec(arrays, num_examples, num_classes, modality=self.name, columns=columns)

    def units(self, spec: DataSpec) -> int:
        del spec
        return 1

    def rows(self, batch: Batch) -> Array:
        """The values of the rows, float32 [n c]."""
        return batch["table"][:, 0]

    def raw_features(self, batch: Batch, columns: Columns) -> dict[str, Array]:
        """Standardised numbers and categories as one-hot vectors, as `h` float32 [n d].

        A missing number is 0, the mean; a column of numbers is followed by 1 where it is missing.
        """
        rows = self.rows(batch)
        parts = []
        for i, values in enumerate(columns.values):
            if values:
                parts.append(jax.nn.one_hot(rows[:, i].astype(jnp.int32), len(values) + 1))
            else:
                number, missing = standardized(rows[:, i], columns.means[i], columns.deviations[i])
                parts.append(jnp.stack([number, missing], axis=1))
        return {"h": jnp.concatenate(parts, axis=1)}

    def facts(self, spec: DataSpec) -> dict[str, Any]:
        return {"options": {"columns": dataclasses.asdict(spec.columns)}}

    def describe_inputs(self, method: Method, spec: DataSpec) -> dict[str, Any]:
        del method
        return {"input": "rows of a table", "columns": dataclasses.asdict(spec.columns)}


def standardized(x: Array, mean: Any, deviation: Any) -> tuple[Array, Array]:
    """Numbers with mean 0 and deviation 1, missing ones 0; and 1 where they are missing."""
    missing = jnp.isnan(x)
    return jnp.where(missing, 0.0, (x - mean) / deviation), missing.astype(x.dtype)


TABLE = Table(
    name="table",
    unit="rows",
    short_unit="rows",
    batch={
        "table": "float32 [n 1+v c], the values of a row, NaN or category 0 where missing; then "
        "independent draws of each column from the rows of the split, one for each view",
    },
    kept=("columns", "label", "ignore", "delimiter"),
)
