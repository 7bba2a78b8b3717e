"""An encoder of rows of a table: embedded categories, standardised numbers, then dense layers."""

from __future__ import annotations

from typing import Annotated, Any

import jax.numpy as jnp
from flax import linen as nn

from ssl_jax.config.fields import between, positive
from ssl_jax.core.arrays import Array
from ssl_jax.core.columns import Columns
from ssl_jax.models.options import LayerCount


class TableEncoder(nn.Module):
    """A multilayer perceptron of the columns.

    Attributes:
      columns: of the table; its means and deviations standardise numbers.
      width: of the layers and of h.
      depth: dense layers, each with ReLU.
      embedding_dim: width of the vector of a category.
      dtype: dtype of activations.
    """

    columns: Columns
    width: int
    depth: int
    embedding_dim: int
    dtype: Any

    @nn.compact
    def __call__(self, rows: Array, *, train: bool) -> tuple[Array, dict[str, Array]]:
        """The representation of each row.

        A missing number counts as the mean of its column; a second input of the column is 1 where
        it is missing. A missing or unknown category has a vector of its own.

        Args:
          rows: float32 [n c], NaN and category 0 where values are missing.
          train: has no effect.

        Returns:
          (h, out): h float32 [n width]; out has it too, and the layers "dense1", ...
        """
        del train
        columns, parts = self.columns, []
        if numbers := columns.numbers:
            x = rows[:, numbers]
            mean = jnp.array([columns.means[i] for i in numbers], jnp.float32)
            deviation = jnp.array([columns.deviations[i] for i in numbers], jnp.float32)
            missing = jnp.isnan(x)
            x = jnp.where(missing, 0.0, (x - mean) / deviation)
            parts += [x, missing.astype(x.dtype)]
        for i in columns.categories:
            table = nn.Embed(
                len(columns.values[i]) + 1, self.embedding_dim, dtype=self.dtype, name=f"embed{i}",
                embedding_init=nn.initializers.normal(1.0),
            )  # fmt: skip
            parts.append(table(rows[:, i].astype(jnp.int32)))
        x = jnp.concatenate([part.astype(self.dtype) for part in parts], axis=1)
        out = {}
        for i in range(1, self.depth + 1):
            x = nn.Dense(
                self.width, dtype=self.dtype, name=f"dense{i}",
                kernel_init=nn.initializers.variance_scaling(2.0, "fan_in", "truncated_normal"),
            )(x)  # fmt: skip
            x = out[f"dense{i}"] = nn.relu(x)
        out["h"] = x.astype(jnp.float32)
        return out["h"], out


def table_encoder(
    *,
    columns: Columns,
    width: Annotated[int, positive, "Width of the layers and of h."] = 256,
    depth: Annotated[LayerCount, "Dense layers with ReLU."] = 4,
    embedding_dim: Annotated[int, between(1, 4096), "Width of the vector of a category."] = 16,
    dtype: Any = jnp.float32,
) -> TableEncoder:
    """SCARF's encoder has four layers of 256 units (Bahri et al. 2022), on one-hot categories."""
    return TableEncoder(columns, width, depth, embedding_dim, dtype)
