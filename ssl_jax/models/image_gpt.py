"""Image GPT (Chen et al. 2020): a transformer on the pixels of an image, one after the other.

    colours of the palette in raster order -> + positions -> N x (attention, MLP) -> norm -> h

- Layers are pre-norm, without biases. The norm is x g / rms(x), the activation x sigmoid(1.702 x).
- The causal model reads a start token and all pixels but the last, so that place i predicts pixel
  i. The bidirectional one reads all pixels; those that are hidden have no embedding, only their
  position.
- The logits have a table of their own, which is 0 at first: every colour has the same probability.
- Initial values are those of the released code: queries, keys and values dim^-1/2, outputs of
  attention (dim depth)^-1/2, MLPs, colours and the start token 0.02, positions 0.01.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from ssl_jax.core.errors import UserError
from ssl_jax.models.layers import run_layers
from ssl_jax.models.options import (
    AttentionOption,
    DepthOption,
    DropoutOption,
    HeadsOption,
    RematOption,
    ScanOption,
    WidthOption,
)
from ssl_jax.models.transformer_layers import STD, Layer, OutputTable, make_norm

Array = jax.Array

_NORM_EPS = 1e-5
_POSITION_STD = 0.01


class ImageGpt(nn.Module):
    """The net, without a loss.

    Attributes:
      num_colors: colours of the palette; the start token is number `num_colors`.
      num_positions: pixels of an image.
      dim: width of the tokens and of h.
      depth: number of layers.
      num_heads: heads of each layer.
      causal: whether a pixel attends only to itself and the pixels before it.
      dropout: dropout rate of the embeddings and of every branch.
      scan_layers, remat: see `ssl_jax.models.layers`.
      attention: implementation, see `ssl_jax.models.attention`.
      cache_length: positions of the cache of keys and values; 0: no cache.
      dtype: dtype of activations and arithmetic.
    """

    num_colors: int
    num_positions: int
    dim: int
    depth: int
    num_heads: int
    causal: bool = True
    dropout: float = 0.0
    scan_layers: bool = False
    remat: str = "none"
    attention: str = "auto"
    cache_length: int = 0
    dtype: Any = jnp.float32

    @property
    def vocab_size(self) -> int:
        """Number of tokens that are predicted."""
        return self.num_colors

    @nn.compact
    def __call__(
        self, pixels: Mapping[str, Array], *, train: bool
    ) -> tuple[Array, dict[str, Array]]:
        """Features and the tokens of each layer.

        Args:
          pixels: `tokens` and `position` int32 [n l], and optionally `hidden` bool [n l].
          train: apply dropout.

        Returns:
          `h` [n d] float32, the mean of the tokens of the middle layer; and `out`, a dict of
          "layer1" to "layerN" and "tokens" (normalised) [n l d] in `dtype`, and "h".
        """
        init = nn.initializers.normal(STD)
        embed = functools.partial(nn.Embed, features=self.dim, dtype=self.dtype)
        x = embed(self.num_colors + 1, embedding_init=init, name="color")(pixels["tokens"])
        if "hidden" in pixels:
            x = jnp.where(pixels["hidden"][..., None], 0, x)
        init = nn.initializers.normal(_POSITION_STD)
        position = pixels["position"]
        x = x + embed(self.num_positions, embedding_init=init, name="position")(position)
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        fields = dict(
            num_heads=self.num_heads,
            mlp_ratio=4.0,
            activation="gelu_sigmoid",
            norm_eps=_NORM_EPS,
            dropout=self.dropout,
            attention_dropout=0.0,
            attention=self.attention,
            train=train,
            dtype=self.dtype,
            pre_norm=True,
            causal=self.causal,
            norm="rms",
            truncated=False,
            output_std=(self.dim * self.depth) ** -0.5,
            cache_length=self.cache_length,
            bias=False,
            qkv_std=self.dim**-0.5,
            mlp_output_std=STD,
        )
        layers = run_layers(
            Layer,
            fields,
            x,
            None,
            position,
            depth=self.depth,
            scan=self.scan_layers,
            remat=self.remat,
        )
        out = {f"layer{i}": x for i, x in enumerate(layers, start=1)}
        out["tokens"] = make_norm("rms", _NORM_EPS, self.dtype, name="norm")(layers[-1])
        OutputTable(self.num_colors, self.dim, truncated=False, std=0.0, name="output")()
        out["h"] = layers[max(self.depth // 2, 1) - 1].astype(jnp.float32).mean(axis=1)
        return out["h"], out


def image_gpt(
    *,
    num_colors: int = 512,
    num_positions: int = 1024,
    causal: bool = True,
    dim: WidthOption = 512,
    depth: DepthOption = 24,
    num_heads: HeadsOption = 8,
    dropout: DropoutOption = 0.0,
    scan_layers: ScanOption = False,
    remat: RematOption = "none",
    attention: AttentionOption = "auto",
    dtype: Any = jnp.float32,
) -> ImageGpt:
    """Makes an Image GPT, whose options `ImageGpt` describes.

    Raises:
      UserError: the width does not divide into heads.
    """
    if dim % num_heads:
        raise UserError(f"dim {dim} does not divide into {num_heads} heads")
    return ImageGpt(
        num_colors=num_colors,
        num_positions=num_positions,
        causal=causal,
        dim=dim,
        depth=depth,
        num_heads=num_heads,
        dropout=dropout,
        scan_layers=scan_layers,
        remat=remat,
        attention=attention,
        dtype=dtype,
    )


# Chen et al. 2020, Sec. 3.3; the heads are those of the released code.
SIZES = {
    "tiny": dict(dim=64, depth=4, num_heads=4),
    "small": dict(dim=512, depth=24, num_heads=8),
    "medium": dict(dim=1024, depth=36, num_heads=8),
    "large": dict(dim=1536, depth=48, num_heads=16),
}
IMAGE_GPTS: dict[str, Callable[..., ImageGpt]] = {
    f"image_gpt_{size}": functools.partial(image_gpt, **options) for size, options in SIZES.items()
}
