"""Heads of encoders (projectors, predictors, expanders). All are instances of `MLP`.

The heads of the papers, for an encoder of 2048 features:

    SimCLR        projection_head("nonlinear", output_dim=128)
    BYOL          mlp_head(2, 4096, 256, hidden_bias=True)              projector and predictor
    SimSiam       mlp_head(3, 2048, 2048, output_norm="no_affine")      projector
                  mlp_head(2, 512, 2048, output_bias=True)              predictor
    Barlow Twins  mlp_head(3, 8192, 8192)                               projector
    VICReg        mlp_head(3, 8192, 8192, hidden_bias=True, kernel_init="pytorch")  expander
    SwAV          swav_head()                                           projector
    metric        embedding_head("prelu", 128)                          embedding
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
KERNEL_INITS = {
    "lecun": nn.initializers.lecun_normal(),
    "pytorch": nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform"),
    "dino": nn.initializers.normal(0.02),
}


class MLP(nn.Module):
    """Dense layers with BatchNorm and an activation between them.

    Attributes:
      num_layers: number of dense layers; 1 is a linear map.
      hidden_dim: width of all layers but the last; None: the width of the input.
      output_dim: width of the last layer.
      hidden_norm: BatchNorm, with scale and offset, before each activation.
      output_norm: normalisation after the last layer: "none", or BatchNorm with a scale only
        ("scale"), with scale and offset ("affine") or with neither ("no_affine").
      hidden_bias: biases in the hidden dense layers; None: only without `hidden_norm`.
      output_bias: a bias in the last dense layer.
      kernel_init: of the dense layers: "lecun" (normal, variance 1/fan_in), "pytorch" (PyTorch's
        default: uniform, variance 1/(3 fan_in)) or "dino" (N(0, 0.02^2)).
      activation: "relu", or "gelu" (exact).
      dtype: dtype of the arithmetic; the output and BatchNorm's statistics are float32.
    """

    num_layers: int = 2
    hidden_dim: int | None = None
    output_dim: int = 128
    hidden_norm: bool = True
    output_norm: str = "none"
    hidden_bias: bool | None = None
    output_bias: bool = False
    kernel_init: str = "lecun"
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
        if self.kernel_init not in KERNEL_INITS:
            raise UserError(
                f"unknown kernel_init {self.kernel_init!r}; known are {tuple(KERNEL_INITS)}."
                f"{nearest(self.kernel_init, KERNEL_INITS)}"
            )
        kernel_init = KERNEL_INITS[self.kernel_init]
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


class EmbeddingHead(nn.Module):
    """Head of metric learning: a dense layer, BatchNorm, PReLU.

    Attributes:
      kind: "prelu"; "norm" without PReLU; "linear" also without BatchNorm, but with a bias.
      output_dim: width.
      dtype: dtype of the arithmetic; the output and BatchNorm's statistics are float32.
    """

    kind: str = "prelu"
    output_dim: int = 128
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """`[n d]` to `[n output_dim]` float32."""
        linear = self.kind == "linear"
        x = nn.Dense(self.output_dim, use_bias=linear, dtype=self.dtype, name="dense")(x)
        x = x.astype(jnp.float32)
        if not linear:
            x = batch_norm(train=train, name="norm")(x)
        # The slope of He et al. 2015 (Delving Deep into Rectifiers), one for all units.
        return nn.PReLU(negative_slope_init=0.25, name="prelu")(x) if self.kind == "prelu" else x


def embedding_head(kind: str, output_dim: int, *, dtype: Any = jnp.float32) -> Net:
    """Makes an `EmbeddingHead`, `[n d]` to `[n output_dim]` float32.

    Args:
      kind: "prelu", "norm" or "linear".
      output_dim: width, at least 1.
      dtype: compute dtype, by name or as a type.
    """
    return Net(EmbeddingHead(kind, output_dim, jnp.dtype(dtype)))


class Identity(nn.Module):
    """Returns the features in float32, for methods without a head."""

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
    """Makes an `MLP`, `[n d]` to `[n output_dim]` float32, and checks its sizes.

    Args:
      num_layers, hidden_dim, output_dim: see `MLP`.
      dtype: compute dtype, by name or as a type.
      **options: further attributes of `MLP`.

    Raises:
      UserError: the number of layers or a width is below 1.
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

    Dense layers with biases, and GELU between them; kernels are initialised with N(0, 0.02^2)
    (Caron et al. 2021, App. C; released code). The caller scales the outputs to norm 1 and applies
    the last layer, `ssl_jax.models.prototypes`.

    Args:
      num_layers: number of dense layers.
      hidden_dim: width of all layers but the last.
      bottleneck_dim: width of the last layer.
      batch_norm: BatchNorm before each GELU.
      dtype: compute dtype, by name or as a type.

    Raises:
      UserError: the number of layers or a width is below 1.
    """
    return mlp_head(
        num_layers,
        hidden_dim,
        bottleneck_dim,
        hidden_norm=batch_norm,
        hidden_bias=True,
        output_bias=True,
        kernel_init="dino",
        activation="gelu",
        dtype=dtype,
    )


def swav_head(hidden_dim: int = 2048, output_dim: int = 128, *, dtype: Any = jnp.float32) -> Net:
    """SwAV's and DeepCluster v2's projection head, `[n d]` to `[n output_dim]` float32.

    Two dense layers with biases, and BatchNorm and ReLU between them (Caron et al. 2020, released
    code).

    Args:
      hidden_dim, output_dim: widths.
      dtype: compute dtype, by name or as a type.

    Raises:
      UserError: a width is below 1.
    """
    return mlp_head(2, hidden_dim, output_dim, hidden_bias=True, output_bias=True, dtype=dtype)


def projection_head(
    kind: str = "nonlinear",
    *,
    num_layers: int = 2,
    hidden_dim: int | None = None,
    output_dim: int = 128,
    batch_norm: bool = True,
    dtype: Any = jnp.float32,
) -> Net:
    """SimCLR's projection head g, `[n d]` to z `[n output_dim]` float32 (Chen et al. 2020, 4.2).

    The layers are those of the released code. Dense layers have no bias, and BatchNorm follows each
    of them: with scale and offset, and then ReLU, in hidden layers, and with a scale only after the
    last layer. Kernels are LeCun's; the released code draws them from N(0, 0.01^2), which with
    BatchNorm after every layer only makes the first steps larger relative to the weights, and with
    LARS changes nothing.

    Args:
      kind: "none" (z = h), "linear" or "nonlinear".
      num_layers: number of dense layers of a "nonlinear" head.
      hidden_dim: width of its hidden layers; None: the width of h, as in the paper.
      output_dim: width of z; the paper tries 32 to 2048.
      batch_norm: False: no BatchNorm; hidden layers then have biases.
      dtype: compute dtype, by name or as a type.

    Raises:
      UserError: the kind is unknown, or the number of layers or a width is below 1.
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
        dtype=dtype,
    )
