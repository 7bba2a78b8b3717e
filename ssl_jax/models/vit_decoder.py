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
    """ViT layers over all patches of the grid, with a learned mask token for masked patches.

    Attributes:
      grid: (rows, columns) of patches.
      values: number of predicted values of a patch.
      dim, depth, num_heads, mlp_ratio, attention, dtype: see `ViT`.
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
          tokens: `[n 1+k d]`, the class token and the first k patches of `order`.
          order: int `[n l]`, the indices of all patches, visible patches first.
          train: not used: the decoder has no stochastic depth.

        Returns:
          `[n l values]` float32, patches in row-major order.
        """
        init = nn.initializers.xavier_uniform()
        x = nn.Dense(self.dim, kernel_init=init, dtype=self.dtype, name="embed")(tokens)
        normal = nn.initializers.normal(_STD)
        mask_tokens = self.param("mask_token", normal, (1, 1, self.dim), jnp.float32)
        n, count = order.shape
        mask_tokens = jnp.broadcast_to(
            mask_tokens.astype(self.dtype), (n, count - (x.shape[1] - 1), self.dim)
        )
        patches = jnp.concatenate([x[:, 1:], mask_tokens], axis=1)
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
    depth: Annotated[Count, "Number of layers."] = 8,
    num_heads: Annotated[Count, "Attention heads."] = 16,
    mlp_ratio: Annotated[float, positive, "Hidden width of the MLP divided by dim."] = 4.0,
    attention: AttentionOption = "auto",
    dtype: Any = jnp.float32,
) -> ViTDecoder:
    """Makes a decoder and checks its options, which `ViTDecoder` describes.

    Raises:
      UserError: the options contradict each other.
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
