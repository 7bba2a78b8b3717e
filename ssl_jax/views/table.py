"""Views of rows of a table: some of the values are replaced."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any

import jax
import jax.numpy as jnp
from jaxtyping import Float

from ssl_jax.config.fields import fraction
from ssl_jax.core.arrays import Array
from ssl_jax.core.errors import UserError


def corrupt_columns(
    keys: Array,
    rows: Float[Array, "n c"],
    draws: Float[Array, "n c"],
    *,
    rate: Annotated[float, fraction, "Share of the columns that are replaced."] = 0.6,
) -> Float[Array, "n c"]:
    """Replaces values by draws from the marginals of their columns (SCARF, Bahri et al. 2022).

    floor(rate * c) columns of each row, drawn anew for each row (Algorithm 1).

    Args:
      keys: [n].
      rows: the values.
      draws: for each value one of the same column, drawn from all rows.
      rate: share of the columns.
    """
    columns = rows.shape[1]
    count = int(rate * columns + 1e-6)

    def chosen(key: Array) -> Array:
        return jax.random.permutation(key, columns) < count

    return jnp.where(jax.vmap(chosen)(keys), draws, rows)


COLUMN_OPS: Mapping[str, Callable[..., Array]] = {"corrupt_columns": corrupt_columns}


def check_ops(names: Any, *, table: bool) -> None:
    """Raises UserError if ops of tables are set for images, or those of images for tables."""
    for name in names:
        if (name in COLUMN_OPS) != table:
            data, others = ("a table", "images") if table else ("images", "tables")
            ops = ", ".join(COLUMN_OPS) if table else "e.g. random_resized_crop"
            raise UserError(
                f"views.ops has {name!r}, which is for {others}, and the data are {data}; use {ops}"
            )
