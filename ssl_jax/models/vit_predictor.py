"""I-JEPA's predictor: the tokens of hidden blocks from those of a context (Assran et al. 2023)."""

from __future__ import annotations

from typing import Annotated, Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from ssl_jax.config.fields import positive
from ssl_jax.core.errors import UserError
from ssl_jax.models.options import AttentionOption, Count
from ssl_jax.models.positions import sincos_positions
from ssl_jax.models.vit import Layer, layer_norm

Array = jax.Array
_STD = 0.02


class ViTPredictor(nn.Module):
    """Layers of a narrow ViT over a context and mask tokens at the places of a block.

    Attributes:
      grid: (rows, columns) of patches.
      values: numbers of a predicted token.
      dim, depth, num_heads, mlp_ratio, attention, dtype: as of `ViT`.
    """

    grid: tuple[int, int]
    values: int
    dim: int = 384
    depth: int = 12
    num_heads: int = 12
    mlp_ratio: float = 4.0
    attention: str = "auto"
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self,
        tokens: Array,
        places: Array,
        is_context: Array,
        targets: Array,
        is_target: Array,
        *,
        train: bool,
    ) -> Array:
        """Predictions for the blocks of each image, each block apart from the others.

        Args:
          tokens: `[n k d]` of the context.
          places: int `[n k]`, the patches that they belong to.
          is_context: bool `[n k]`, False for padding.
          targets: int `[n b m]`, the patches of b blocks.
          is_target: bool `[n b m]`, False for padding.
          train: changes nothing: a predictor has no stochastic depth.

        Returns:
          `[n b m values]` float32.
        """
        init = nn.initializers.xavier_uniform()
        n, blocks, m = targets.shape
        positions = sincos_positions(self.grid, self.dim).reshape(-1, self.dim)
        positions = jnp.asarray(positions, self.dtype)
        x = nn.Dense(self.dim, kernel_init=init, dtype=self.dtype, name="embed")(tokens)
        x = x + positions[places]  # (n, k, dim)
        normal = nn.initializers.normal(_STD)
        hidden = self.param("mask_token", normal, (1, 1, 1, self.dim), jnp.float32)
        hidden = hidden.astype(self.dtype) + positions[targets]  # (n, b, m, dim)
        k = x.shape[1]
        x = jnp.broadcast_to(x[:, None], (n, blocks, k, self.dim))
        x = jnp.concatenate([x, hidden], axis=2).reshape(n * blocks, k + m, self.dim)
        is_context = jnp.broadcast_to(is_context[:, None], (n, blocks, k))
        real = jnp.concatenate([is_context, is_target], axis=2).reshape(n * blocks, k + m)
        segment = real.astype(jnp.int32)
        for i in range(self.depth):
            x = Layer(
                num_heads=self.num_heads,
                mlp_ratio=self.mlp_ratio,
                drop_path=0.0,
                layer_scale=None,
                qkv_bias=True,
                kernel_init="normal",
                attention=self.attention,
                dtype=self.dtype,
                name=f"layer{i + 1}",
            )(x, segment, train=train)
        x = layer_norm(self.dtype, name="norm")(x[:, k:])
        x = nn.Dense(self.values, kernel_init=init, dtype=self.dtype, name="pred")(x)
        return x.reshape(n, blocks, m, self.values).astype(jnp.float32)


def vit_predictor(
    *,
    grid: tuple[int, int],
    values: int,
    dim: Annotated[Count, "Width of the tokens."] = 384,
    depth: Annotated[Count, "Layers."] = 12,
    num_heads: Annotated[Count, "Attention heads."] = 12,
    mlp_ratio: Annotated[float, positive, "Width of the MLP over dim."] = 4.0,
    attention: AttentionOption = "auto",
    dtype: Any = jnp.float32,
) -> ViTPredictor:
    """A predictor whose options have been checked; see `ViTPredictor` for what they mean.

    Raises:
      UserError: options that do not fit together.
    """
    if dim % num_heads:
        raise UserError(f"nets.predictor.dim {dim} does not divide into {num_heads} heads")
    if dim % 4:
        raise UserError(f"sincos positions need a nets.predictor.dim that 4 divides, not {dim}")
    return ViTPredictor(
        grid=grid,
        values=values,
        dim=dim,
        depth=depth,
        num_heads=num_heads,
        mlp_ratio=mlp_ratio,
        attention=attention,
        dtype=dtype,
    )
