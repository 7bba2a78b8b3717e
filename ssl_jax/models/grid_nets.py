"""Narrow ViTs on a grid of patches: MAE's decoder and I-JEPA's predictor.

Both take the tokens of visible patches, add a learned mask token for each masked patch, and predict
the values of these patches. Positions are fixed ("sincos").
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
from flax import linen as nn

from ssl_jax.config.fields import positive
from ssl_jax.core.errors import UserError
from ssl_jax.models.options import AttentionOption, Count
from ssl_jax.models.positions import sincos_positions
from ssl_jax.models.vit import Layer, layer_norm

Array = jax.Array
_STD = 0.02  # of the initialiser of the mask token


class GridNet(nn.Module):
    """The parts that both nets share.

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

    def embed(self, tokens: Array) -> Array:
        """Maps tokens to width `dim`."""
        return self._dense(self.dim, "embed")(tokens)

    def mask_token(self) -> Array:
        """The token of masked patches, `[dim]`."""
        token = self.param("mask_token", nn.initializers.normal(_STD), (self.dim,), jnp.float32)
        return token.astype(self.dtype)

    def positions(self) -> Array:
        """Position embeddings of all patches in row-major order, `[l dim]`."""
        return jnp.asarray(sincos_positions(self.grid, self.dim), self.dtype).reshape(-1, self.dim)

    def layers(self, x: Array, segment: Array | None, *, kernel_init: str) -> Array:
        """Applies all layers to `x`."""
        for i in range(self.depth):
            x = Layer(
                num_heads=self.num_heads,
                mlp_ratio=self.mlp_ratio,
                drop_path=False,
                layer_scale=None,
                qkv_bias=True,
                kernel_init=kernel_init,
                attention=self.attention,
                dtype=self.dtype,
                name=f"layer{i + 1}",
            )(x, segment)
        return x

    def predict(self, x: Array) -> Array:
        """Predicted values of tokens, float32 `[... values]`."""
        x = layer_norm(self.dtype, name="norm")(x)
        return self._dense(self.values, "pred")(x).astype(jnp.float32)

    def _dense(self, width: int, name: str) -> nn.Dense:
        init = nn.initializers.xavier_uniform()
        return nn.Dense(width, kernel_init=init, dtype=self.dtype, name=name)


class ViTDecoder(GridNet):
    """MAE's decoder: predicts the pixels of all patches from the visible ones (He et al. 2022)."""

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
        n, count = order.shape
        x = self.embed(tokens)  # (n, 1 + k, dim)
        num_masked = count - (x.shape[1] - 1)
        mask_tokens = jnp.broadcast_to(self.mask_token(), (n, num_masked, self.dim))
        patches = jnp.concatenate([x[:, 1:], mask_tokens], axis=1)
        patches = jnp.take_along_axis(patches, jnp.argsort(order, axis=1)[:, :, None], axis=1)
        x = jnp.concatenate([x[:, :1], patches + self.positions()], axis=1)
        x = self.layers(x, None, kernel_init="xavier")
        return self.predict(x[:, 1:])


class ViTPredictor(GridNet):
    """I-JEPA's predictor: predicts target blocks from a context (Assran et al. 2023).

    Attributes:
      kernel_init: of the layers, see `ViT`; the released code has N(0, 0.02^2), "normal".
    """

    kernel_init: str = "normal"

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
          train: not used: the predictor has no stochastic depth.

        Returns:
          `[n b m values]` float32.
        """
        n, blocks, m = targets.shape
        k, positions = tokens.shape[1], self.positions()
        x = self.embed(tokens) + positions[places]  # (n, k, dim)
        mask_tokens = self.mask_token() + positions[targets]  # (n, b, m, dim)
        x = jnp.broadcast_to(x[:, None], (n, blocks, k, self.dim))
        x = jnp.concatenate([x, mask_tokens], axis=2).reshape(n * blocks, k + m, self.dim)
        is_context = jnp.broadcast_to(is_context[:, None], (n, blocks, k))
        is_real = jnp.concatenate([is_context, is_target], axis=2).reshape(n * blocks, k + m)
        x = self.layers(x, is_real.astype(jnp.int32), kernel_init=self.kernel_init)
        return self.predict(x[:, k:].reshape(n, blocks, m, self.dim))


Width = Annotated[Count, "Width of the tokens."]
Depth = Annotated[Count, "Number of layers."]
Heads = Annotated[Count, "Attention heads."]
Ratio = Annotated[float, positive, "Hidden width of the MLP divided by dim."]


def vit_decoder(
    *,
    grid: tuple[int, int],
    values: int,
    dim: Width = 512,
    depth: Depth = 8,
    num_heads: Heads = 16,
    mlp_ratio: Ratio = 4.0,
    attention: AttentionOption = "auto",
    dtype: Any = jnp.float32,
) -> ViTDecoder:
    """A `ViTDecoder` whose options have been checked.

    Raises:
      UserError: the options contradict each other.
    """
    return _checked(
        ViTDecoder, "decoder", grid, values, dim, depth, num_heads, mlp_ratio, attention, dtype
    )


def vit_predictor(
    *,
    grid: tuple[int, int],
    values: int,
    dim: Width = 384,
    depth: Depth = 12,
    num_heads: Heads = 12,
    mlp_ratio: Ratio = 4.0,
    kernel_init: Annotated[
        Literal["xavier", "normal"],
        "Initialiser of the layers; normal is narrow for few units.",
    ] = "normal",
    attention: AttentionOption = "auto",
    dtype: Any = jnp.float32,
) -> ViTPredictor:
    """A `ViTPredictor` whose options have been checked.

    Raises:
      UserError: the options contradict each other.
    """
    net = functools.partial(ViTPredictor, kernel_init=kernel_init)
    return _checked(
        net, "predictor", grid, values, dim, depth, num_heads, mlp_ratio, attention, dtype
    )


def _checked(
    net: Callable[..., Any],
    role: str,
    grid: tuple[int, int],
    values: int,
    dim: int,
    depth: int,
    num_heads: int,
    mlp_ratio: float,
    attention: str,
    dtype: Any,
) -> Any:
    """`net` of these options, those of the config section `nets.ROLE`."""
    if dim % num_heads:
        raise UserError(f"nets.{role}.dim {dim} does not divide into {num_heads} heads")
    if dim % 4:
        raise UserError(f"sincos positions need a nets.{role}.dim that 4 divides, not {dim}")
    return net(grid, values, dim, depth, num_heads, mlp_ratio, attention, dtype)
