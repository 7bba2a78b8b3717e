"""Heads on top of an encoder (projectors, predictors, expanders), all built as one `MLP`.

The shapes of the papers, for an encoder of 2048 features:

    SimCLR        projection_head("nonlinear", output_dim=128)
    BYOL          mlp_head(2, 4096, 256, hidden_bias=True)              projector and predictor
    SimSiam       mlp_head(3, 2048, 2048, output_norm="no_affine")      projector
                  mlp_head(2, 512, 2048, output_bias=True)              predictor
    Barlow Twins  mlp_head(3, 8192, 8192)                               projector
    VICReg        mlp_head(3, 8192, 8192, hidden_bias=True)             expander
    SwAV          swav_head()                                           projector
    DINO          dino_head()                                           projector; see `prototypes`
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from ssl_jax.core.errors import UserError, nearest
from ssl_jax.models.functional import Net
from ssl_jax.models.norm import batch_norm

HEADS = ("none", "linear", "nonlinear")
OUTPUT_NORMS = ("none", "scale", "affine", "no_affine")
ACTIVATIONS = {"relu": nn.relu, "gelu": functools.partial(nn.gelu, approximate=False)}


class MLP(nn.Module):
    """Dense layers with BatchNorm and an activation between them.

    Attributes:
      num_layers: dense layers; 1 is a linear map.
      hidden_dim: width of all but the last layer; None is the width of the input.
      output_dim: width of the last layer.
      hidden_norm: whether BatchNorm (scale and offset) stands before each activation.
      output_norm: what follows the last layer: "none", or BatchNorm with "scale" alone, with scale
        and offset ("affine") or with neither ("no_affine").
      hidden_bias: a bias in the hidden dense layers; None puts one where no BatchNorm follows.
      output_bias: a bias in the last dense layer.
      kernel_std: standard deviation of the kernels' normal initialiser; None is LeCun's (variance
        1/fan_in).
      activation: "relu", or "gelu" (exact).
      dtype: of the arithmetic; the output and BatchNorm's statistics are float32.
    """

    num_layers: int = 2
    hidden_dim: int | None = None
    output_dim: int = 128
    hidden_norm: bool = True
    output_norm: str = "none"
    hidden_bias: bool | None = None
    output_bias: bool = False
    kernel_std: float | None = None
    activation: str = "relu"
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """`[n d]` to `[n output_dim]` float32."""
        if self.output_norm not in OUTPUT_NORMS:
            raise UserError(
                f"unknown output_norm {self.output_norm!r}; known are {OUTPUT_NORMS}."
                f"{nearest(self.output_norm, OUTPUT_NORMS)}"
            )
        kernel_init = (
            nn.initializers.lecun_normal()
            if self.kernel_std is None
            else nn.initializers.normal(self.kernel_std)
        )
        dense = functools.partial(nn.Dense, kernel_init=kernel_init, dtype=self.dtype)
        norm = functools.partial(batch_norm, train=train)
        hidden_dim = self.hidden_dim or x.shape[-1]
        hidden_bias = not self.hidden_norm if self.hidden_bias is None else self.hidden_bias

        for i in range(1, self.num_layers):
            x = dense(hidden_dim, use_bias=hidden_bias, name=f"dense{i}")(x)
            if self.hidden_norm:
                x = norm(dtype=self.dtype, name=f"norm{i}")(x)
            x = ACTIVATIONS[self.activation](x)
        x = dense(self.output_dim, use_bias=self.output_bias, name=f"dense{self.num_layers}")(x)
        x = x.astype(jnp.float32)
        if self.output_norm != "none":
            x = norm(
                use_scale=self.output_norm in ("scale", "affine"),
                use_bias=self.output_norm == "affine",
                name=f"norm{self.num_layers}",
            )(x)
        return x


class Identity(nn.Module):
    """No head: the features themselves, in float32."""

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        del train
        return x.astype(jnp.float32)


def mlp_head(
    num_layers: int,
    hidden_dim: int | None,
    output_dim: int,
    *,
    dtype: Any = jnp.float32,
    **options: Any,
) -> Net:
    """An `MLP` whose sizes have been checked, `[n d]` to `[n output_dim]` float32.

    Args:
      num_layers, hidden_dim, output_dim: as of `MLP`.
      dtype: compute dtype, by name or as a type.
      **options: further attributes of `MLP`.

    Raises:
      UserError: a number of layers or a width below 1.
    """
    if num_layers < 1 or output_dim < 1 or (hidden_dim is not None and hidden_dim < 1):
        raise UserError(
            f"a head of {num_layers} layers, hidden_dim {hidden_dim} and output_dim {output_dim} "
            "cannot be built; all must be at least 1"
        )
    return Net(MLP(num_layers, hidden_dim, output_dim, dtype=jnp.dtype(dtype), **options))


def dino_head(
    num_layers: int = 3,
    hidden_dim: int = 2048,
    bottleneck_dim: int = 256,
    *,
    batch_norm: bool = False,
    dtype: Any = jnp.float32,
) -> Net:
    """DINO's projection head without its last layer, `[n d]` to `[n bottleneck_dim]` float32.

    Dense layers with biases and GELU between them, drawn from N(0, 0.02^2) (Caron et al. 2021,
    App. C; released code). The caller scales the outputs to unit length and multiplies them by
    `ssl_jax.models.prototypes`, the last layer.

    Args:
      num_layers: dense layers.
      hidden_dim: width of all but the last.
      bottleneck_dim: width of the last.
      batch_norm: whether BatchNorm stands before each GELU.
      dtype: compute dtype, by name or as a type.

    Raises:
      UserError: a number of layers or a width below 1.
    """
    return mlp_head(
        num_layers,
        hidden_dim,
        bottleneck_dim,
        hidden_norm=batch_norm,
        hidden_bias=True,
        output_bias=True,
        kernel_std=0.02,
        activation="gelu",
        dtype=dtype,
    )


def swav_head(hidden_dim: int = 2048, output_dim: int = 128, *, dtype: Any = jnp.float32) -> Net:
    """SwAV's and DeepCluster v2's projection head, `[n d]` to `[n output_dim]` float32.

    Two dense layers with biases, BatchNorm and ReLU between them (Caron et al. 2020, released
    code).

    Args:
      hidden_dim, output_dim: widths.
      dtype: compute dtype, by name or as a type.

    Raises:
      UserError: a width below 1.
    """
    return mlp_head(2, hidden_dim, output_dim, hidden_bias=True, output_bias=True, dtype=dtype)


def projection_head(
    kind: str = "nonlinear",
    *,
    num_layers: int = 2,
    hidden_dim: int | None = None,
    output_dim: int = 128,
    batch_norm: bool = True,
    kernel_std: float | None = None,
    dtype: Any = jnp.float32,
) -> Net:
    """SimCLR's projection head g, `[n d]` to z `[n output_dim]` float32 (Chen et al. 2020, 4.2).

    The layers are those of the released code: no dense layer has a bias; BatchNorm follows each,
    the hidden ones with scale and offset and then ReLU, the last with a scale alone.

    Args:
      kind: "none" (z = h), "linear" or "nonlinear".
      num_layers: dense layers of a "nonlinear" head.
      hidden_dim: width of its hidden layers; None is the width of h, as in the paper.
      output_dim: width of z; the paper tries 32 to 2048.
      batch_norm: False leaves BatchNorm out; hidden layers then have a bias.
      kernel_std: None is LeCun's initialiser. The released code draws N(0, 0.01^2): with
        BatchNorm after every layer that only makes the first steps larger relative to the
        weights, and under LARS not even that.
      dtype: compute dtype, by name or as a type.

    Raises:
      UserError: unknown kind, or a number of layers or a width below 1.
    """
    if kind not in HEADS:
        raise UserError(f"unknown head {kind!r}; heads are {HEADS}.{nearest(kind, HEADS)}")
    if kind == "none":
        return Net(Identity())
    return mlp_head(
        1 if kind == "linear" else num_layers,
        hidden_dim,
        output_dim,
        hidden_norm=batch_norm,
        output_norm="scale" if batch_norm else "none",
        kernel_std=kernel_std,
        dtype=dtype,
    )
