"""MAE's decoder: predicts the pixels of all patches from the tokens of some (He et al. 2022)."""

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


class ViTDecoder(nn.Module):
    """Layers of a ViT over all places of the grid; a learned mask token stands at the hidden ones.

    Attributes:
      grid: (rows, columns) of patches.
      values: numbers that are predicted for a patch.
      dim, depth, num_heads, mlp_ratio, attention, dtype: as of `ViT`.
    """

    grid: tuple[int, int]
    values: int
    dim: int = 512
    depth: int = 8
    num_heads: int = 16
    mlp_ratio: float = 4.0
    attention: str = "auto"
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, tokens: Array, order: Array, *, train: bool) -> Array:
        """Predictions for every patch.

        Args:
          tokens: `[n 1+k d]`, of the class token and of the first k patches of `order`.
          order: int `[n l]`, the numbers of all patches, the visible ones first.
          train: changes nothing: a decoder has no stochastic depth.

        Returns:
          `[n l values]` float32, row by row.
        """
        init = nn.initializers.xavier_uniform()
        x = nn.Dense(self.dim, kernel_init=init, dtype=self.dtype, name="embed")(tokens)
        normal = nn.initializers.normal(_STD)
        hidden = self.param("mask_token", normal, (1, 1, self.dim), jnp.float32)
        n, count = order.shape
        hidden = jnp.broadcast_to(
            hidden.astype(self.dtype), (n, count - (x.shape[1] - 1), self.dim)
        )
        patches = jnp.concatenate([x[:, 1:], hidden], axis=1)
        patches = jnp.take_along_axis(patches, jnp.argsort(order, axis=1)[:, :, None], axis=1)
        positions = sincos_positions(self.grid, self.dim).reshape(1, count, self.dim)
        patches = patches + jnp.asarray(positions, self.dtype)
        x = jnp.concatenate([x[:, :1], patches], axis=1)
        for i in range(self.depth):
            x = Layer(
                num_heads=self.num_heads,
                mlp_ratio=self.mlp_ratio,
                drop_path=0.0,
                layer_scale=None,
                qkv_bias=True,
                kernel_init="xavier",
                attention=self.attention,
                dtype=self.dtype,
                name=f"layer{i + 1}",
            )(x, train=train)
        x = layer_norm(self.dtype, name="norm")(x)
        x = nn.Dense(self.values, kernel_init=init, dtype=self.dtype, name="pred")(x)
        return x[:, 1:].astype(jnp.float32)


def vit_decoder(
    *,
    grid: tuple[int, int],
    values: int,
    dim: Annotated[Count, "Width of the tokens."] = 512,
    depth: Annotated[Count, "Layers."] = 8,
    num_heads: Annotated[Count, "Attention heads."] = 16,
    mlp_ratio: Annotated[float, positive, "Width of the MLP over dim."] = 4.0,
    attention: AttentionOption = "auto",
    dtype: Any = jnp.float32,
) -> ViTDecoder:
    """A decoder whose options have been checked; see `ViTDecoder` for what they mean.

    Raises:
      UserError: options that do not fit together.
    """
    if dim % num_heads:
        raise UserError(f"nets.decoder.dim {dim} does not divide into {num_heads} heads")
    if dim % 4:
        raise UserError(f"sincos positions need a nets.decoder.dim that 4 divides, not {dim}")
    return ViTDecoder(
        grid=grid,
        values=values,
        dim=dim,
        depth=depth,
        num_heads=num_heads,
        mlp_ratio=mlp_ratio,
        attention=attention,
        dtype=dtype,
    )
