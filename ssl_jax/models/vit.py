"""Vision Transformers: an image as a sequence of patches (Dosovitskiy et al. 2021).

    patches -> linear -> + positions -> [cls; tokens] -> N x (attention, MLP) -> LayerNorm -> h

Layers are pre-norm with an exact GELU, or with a SwiGLU (DINOv2's largest nets). LayerNorm has
epsilon 1e-6 and computes in float32 for every dtype of the activations. The differences between
self-supervised papers are options: fixed sin-cos positions (MoCo v3 and MAE, in different orders)
or learned positions (DINO), LayerScale (DINOv2), stochastic depth, pooling, register tokens (Darcet
et al. 2024), and a mask token that replaces the embeddings of masked patches (iBOT).

- Learned positions have the grid of the images used in `init`. For other image sizes they are
  resized (bicubic), so DINO's small crops and fine-tuning at a higher resolution need no option.
  `position_resize` sets the kernel: antialiased as in timm, or that of DINO's released code.
- `h` is the class token after the final LayerNorm, or the mean of the patch tokens after it.
- Parameter names correspond to timm's: `layer3/attn/qkv/kernel` is `blocks.2.attn.qkv.weight`,
  transposed. Positions are stored as a grid [gh gw d] and a vector [d] for the class token; timm's
  `pos_embed` is the vector followed by the grid.
- Register tokens are between the class token and the patches, without positions. A masked patch
  keeps its position.
- Initialisers of kernels: "xavier" is uniform with variance 2 / (fan_in + fan_out), where query,
  key, value and the patch embedding are separate matrices (MoCo v3 and MAE); "normal" is
  N(0, 0.02^2) (DINO, BERT). Biases are initialised with zero.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
from flax import linen as nn

from ssl_jax.config.fields import below_one, between, not_negative
from ssl_jax.core.errors import UserError
from ssl_jax.models.layers import run_layers
from ssl_jax.models.options import (
    AttentionOption,
    Count,
    DepthOption,
    HeadsOption,
    MlpRatioOption,
    RematOption,
    ScanOption,
    WidthOption,
    not_architecture,
)
from ssl_jax.models.positions import FIXED_POSITIONS, LearnedPositions, sincos_positions
from ssl_jax.models.transformer_layers import FeedForward, SelfAttention

Array = jax.Array
Initializer = Callable[..., Array]


# Width, layers and heads by the letter used in papers.
SIZES = {
    "ti": dict(dim=192, depth=12, num_heads=3),
    "s": dict(dim=384, depth=12, num_heads=6),
    "b": dict(dim=768, depth=12, num_heads=12),
    "l": dict(dim=1024, depth=24, num_heads=16),
    "h": dict(dim=1280, depth=32, num_heads=16),
    "g": dict(dim=1536, depth=40, num_heads=24),  # DINOv2's, not that of Zhai et al. 2022
}
_STD = 0.02  # of the initialiser of the class token and of kernels with kernel_init "normal"
_REGISTER_STD = 1e-6  # of the initialiser of register tokens, as in DINOv2's released code


class SwiGLU(nn.Module):
    """W3 (silu(W1 x) * (W2 x)), the gated feed-forward of Shazeer 2020.

    As in DINOv2's released code W1 and W2 are one matrix, "w12", and the hidden width is 2/3 of
    `hidden_dim`, rounded up to a multiple of 8: about as many parameters as `FeedForward`.
    """

    hidden_dim: int
    kernel_init: str
    dtype: Any

    @nn.compact
    def __call__(self, x: Array) -> Array:
        width = -(-(self.hidden_dim * 2 // 3) // 8) * 8
        init = _kernel_init(self.kernel_init, parts=2)
        gates = nn.Dense(2 * width, kernel_init=init, dtype=self.dtype, name="w12")(x)
        y = nn.silu(gates[..., :width]) * gates[..., width:]
        init = _kernel_init(self.kernel_init)
        return nn.Dense(x.shape[-1], kernel_init=init, dtype=self.dtype, name="w3")(y)


class LayerScale(nn.Module):
    """A learned factor for each channel of a branch (Touvron et al. 2021)."""

    initial_value: float

    @nn.compact
    def __call__(self, x: Array) -> Array:
        # The name "scale" excludes it from weight decay (optim.masks.DEFAULT_EXCLUDE).
        scale = self.param(
            "scale", nn.initializers.constant(self.initial_value), x.shape[-1:], jnp.float32
        )
        return x * scale.astype(x.dtype)


class DropPath(nn.Module):
    """Stochastic depth: drops a branch for some examples (Huang et al. 2016)."""

    @nn.compact
    def __call__(self, x: Array, survival: float | Array) -> Array:
        """x / survival for a share `survival` of the examples, 0 for the others; `[n t d]`."""
        if isinstance(survival, float) and survival == 1:
            return x
        # One random number for each example, broadcast over tokens and channels.
        shape = (x.shape[0], 1, 1)
        is_kept = jax.random.bernoulli(self.make_rng("dropout"), survival, shape)
        return jnp.where(is_kept, x / jnp.asarray(survival, x.dtype), jnp.zeros_like(x))


class Layer(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)).

    Attributes:
      num_heads, mlp_ratio, layer_scale, qkv_bias, kernel_init, attention, dtype, feed_forward: see
        `ViT`.
      drop_path: whether examples skip branches.
    """

    num_heads: int
    mlp_ratio: float
    drop_path: bool
    layer_scale: float | None
    qkv_bias: bool
    kernel_init: str
    attention: str
    dtype: Any
    feed_forward: str = "mlp"

    @nn.compact
    def __call__(
        self, x: Array, segment: Array | None = None, survival: float | Array = 1.0
    ) -> Array:
        """Tokens `[n t d]`; with `drop_path` a branch counts for a share `survival` of the n."""
        init = _kernel_init(self.kernel_init)
        attend = SelfAttention(
            self.num_heads,
            implementation=self.attention,
            dtype=self.dtype,
            qkv_init=_kernel_init(self.kernel_init, parts=3),
            output_init=init,
            qkv_bias=self.qkv_bias,
            name="attn",
        )
        width = round(self.mlp_ratio * x.shape[-1])
        if self.feed_forward == "swiglu":
            mlp = SwiGLU(width, self.kernel_init, self.dtype, name="mlp")
        else:
            mlp = FeedForward(width, "gelu", self.dtype, init, init, name="mlp")
        for i, branch in enumerate((lambda x: attend(x, segment), mlp), start=1):
            y = branch(layer_norm(self.dtype, name=f"norm{i}")(x))
            if self.layer_scale is not None:
                y = LayerScale(self.layer_scale, name=f"ls{i}")(y)
            if self.drop_path:  # the name sets the random stream
                y = DropPath(name=f"Dropout_{i - 1}")(y, survival)
            x = x + y
        return x


class PatchEmbed(nn.Module):
    """Embeds each patch as a vector: `[n h w c]` to `[n h/p w/p dim]`."""

    patch_size: int
    dim: int
    kernel_init: str
    dtype: Any

    @nn.compact
    def __call__(self, x: Array) -> Array:
        p = self.patch_size
        if x.shape[1] % p or x.shape[2] % p:
            height, width = x.shape[1:3]
            below = max(height // p, 1) * p
            raise UserError(
                f"images of {height}x{width} pixels do not divide into patches of {p}; use a side "
                f"such as {below} or {below + p}, or another model.patch_size"
            )
        return nn.Conv(
            self.dim,
            (p, p),
            strides=(p, p),
            padding="VALID",
            kernel_init=_as_matrix(_kernel_init(self.kernel_init)),
            dtype=self.dtype,
            name="proj",
        )(x)


class ViT(nn.Module):
    """The backbone, without a classifier.

    Attributes:
      patch_size: side of a patch, pixels.
      dim: width of the tokens and of h.
      depth: number of layers.
      num_heads: heads of each layer.
      mlp_ratio: hidden width of a layer's MLP divided by `dim`; SwiGLU takes 2/3 of it.
      feed_forward: "mlp" or "swiglu".
      positions: "learned", or fixed: "sincos" (MAE) or "sincos_row_first" (MoCo v3).
      position_resize: how learned positions are resized, "antialiased" or "dino".
      cls_token: add a class token.
      num_registers: number of register tokens.
      mask_token: add a mask token, which `__call__` needs for its argument `mask`.
      pool: h is the class token ("cls") or the mean of the patch tokens ("mean").
      drop_path: probability with which an example skips a branch of the last layer; it increases
        linearly from 0 in the first layer (stochastic depth, Huang et al. 2016).
      uniform_drop_path: the probability is `drop_path` in all layers.
      layer_scale: initial value of LayerScale; None: no LayerScale.
      qkv_bias: biases of query, key and value.
      kernel_init: "xavier" or "normal".
      scan_layers, remat: see `ssl_jax.models.layers`.
      attention: implementation, see `ssl_jax.models.attention`.
      dtype: dtype of activations and arithmetic.
    """

    patch_size: int = 16
    dim: int = 768
    depth: int = 12
    num_heads: int = 12
    mlp_ratio: float = 4.0
    feed_forward: str = "mlp"
    positions: str = "learned"
    position_resize: str = "antialiased"
    cls_token: bool = True
    num_registers: int = 0
    mask_token: bool = False
    pool: str = "cls"
    drop_path: float = 0.0
    uniform_drop_path: bool = False
    layer_scale: float | None = None
    qkv_bias: bool = True
    kernel_init: str = "xavier"
    scan_layers: bool = False
    remat: str = "none"
    attention: str = "auto"
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: Array,
        keep: Array | None = None,
        keep_mask: Array | None = None,
        mask: Array | None = None,
        *,
        train: bool,
    ) -> tuple[Array, dict[str, Array]]:
        """Features and the tokens of each layer.

        Args:
          x: images `[n h w c]`, floating point.
          keep: int `[n k]`, row-major indices of the patches to encode, such as the visible patches
            of a masked autoencoder; default: all, in order.
          keep_mask: bool `[n k]`, False where `keep` is padding; tokens do not attend to padding,
            and `h` excludes it. Default: no padding.
          mask: bool `[n l]`, True for the patches whose embeddings the mask token replaces, of all
            patches in row-major order. Default: none.
          train: apply stochastic depth.

        Returns:
          `h` `[n d]` float32; and `out`, a dict of "layer1" to "layerN" (`[n t d]` in `dtype`:
          class token, registers, patches), "patch_tokens" (`[n k d]` float32, after the last
          LayerNorm) and "h".

        Raises:
          UserError: a side of the image is not a multiple of `patch_size`.
          ValueError: there is a mask, but no mask token.
        """
        x = PatchEmbed(self.patch_size, self.dim, self.kernel_init, self.dtype, name="patch_embed")(
            x.astype(self.dtype)
        )  # (n, gh, gw, d)
        n, grid = x.shape[0], x.shape[1:3]
        if mask is not None and not self.mask_token:
            raise ValueError("a mask needs a net with a mask token")
        if self.mask_token:
            token = self.param("mask_token", nn.initializers.zeros, (1, self.dim), jnp.float32)
            if mask is not None:
                x = jnp.where(mask.reshape(n, *grid, 1), token[0].astype(self.dtype), x)
        if self.positions in FIXED_POSITIONS:
            fixed = sincos_positions(grid, self.dim, self.positions)
            positions, cls_position = jnp.asarray(fixed), None
        else:
            learned = LearnedPositions(
                self.dim, self.cls_token, self.position_resize, name="pos_embed"
            )
            positions, cls_position = learned(grid)
        x = (x + positions.astype(self.dtype)).reshape(n, -1, self.dim)  # (n, gh gw, d)
        if keep is not None:
            x = jnp.take_along_axis(x, keep[:, :, None], axis=1)
        prefix = []  # the class token and the registers, each (1, count, d)
        if self.cls_token:
            shape = (1, 1, self.dim)
            cls = self.param("cls_token", nn.initializers.normal(_STD), shape, jnp.float32)
            prefix.append(cls if cls_position is None else cls + cls_position)
        if self.num_registers:
            init = nn.initializers.normal(_REGISTER_STD)
            shape = (1, self.num_registers, self.dim)
            prefix.append(self.param("register_tokens", init, shape, jnp.float32))
        tokens = [
            jnp.broadcast_to(token.astype(self.dtype), (n, *token.shape[1:])) for token in prefix
        ]
        x = jnp.concatenate([*tokens, x], axis=1)  # (n, first + k, d)
        first = int(self.cls_token) + self.num_registers  # index of the first patch

        segment = None
        if keep_mask is not None:
            real = jnp.pad(keep_mask, ((0, 0), (first, 0)), constant_values=True)
            segment = real.astype(jnp.int32)
        names = ("num_heads", "mlp_ratio", "layer_scale", "qkv_bias", "kernel_init", "attention",
                 "dtype", "feed_forward")  # fmt: skip
        fields = {name: getattr(self, name) for name in names}
        layers = run_layers(
            Layer,
            {**fields, "drop_path": train and self.drop_path > 0},
            x,
            segment,
            depth=self.depth,
            scan=self.scan_layers,
            remat=self.remat,
            each=self._survival(),
        )
        out = {f"layer{i}": x for i, x in enumerate(layers, start=1)}
        x = layers[-1]
        x = layer_norm(jnp.float32, name="norm")(x)
        tokens = out["patch_tokens"] = x[:, first:]
        where = None if keep_mask is None else keep_mask[:, :, None]
        h = out["h"] = x[:, 0] if self.pool == "cls" else jnp.mean(tokens, axis=1, where=where)
        return h, out

    def _survival(self) -> list[float]:
        """The probability with which an example takes a branch, of each layer."""
        if self.uniform_drop_path:
            return [1 - self.drop_path] * self.depth
        return [1 - self.drop_path * i / max(self.depth - 1, 1) for i in range(self.depth)]


def layer_norm(dtype: Any, name: str | None) -> nn.LayerNorm:
    """LayerNorm with epsilon 1e-6, in float32; its output has `dtype`."""
    return nn.LayerNorm(epsilon=1e-6, dtype=dtype, name=name)


def _kernel_init(kind: str, parts: int = 1) -> Initializer:
    """The initialiser `kind` for a kernel that concatenates the columns of `parts` matrices."""
    if kind == "normal":
        return nn.initializers.normal(_STD)

    def xavier(key: Array, shape: tuple[int, int], dtype: Any = jnp.float32) -> Array:
        rows, columns = shape
        bound = math.sqrt(6.0 / (rows + columns / parts))
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return xavier


def _as_matrix(init: Initializer) -> Initializer:
    """Applies `init` to a convolution kernel [p p c d] as a matrix [(p p c) d]."""

    def apply(key: Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> Array:
        return init(key, (math.prod(shape[:-1]), shape[-1]), dtype).reshape(shape)

    return apply


def vit(
    *,
    patch_size: Annotated[Count, "Side of a patch, pixels."] = 16,
    dim: WidthOption = 768,
    depth: DepthOption = 12,
    num_heads: HeadsOption = 12,
    mlp_ratio: MlpRatioOption = 4.0,
    feed_forward: Annotated[
        Literal["mlp", "swiglu"], "Feed-forward of a layer; swiglu takes 2/3 of the hidden width."
    ] = "mlp",
    positions: Annotated[
        Literal["learned", "sincos", "sincos_row_first"],
        "Position embedding; sincos_row_first is MoCo v3's.",
    ] = "learned",
    position_resize: Annotated[
        Literal["antialiased", "dino"],
        "How learned positions are resized to another grid: as timm, or as DINO's released code.",
    ] = "antialiased",
    cls_token: Annotated[bool, "Adds a class token."] = True,
    num_registers: Annotated[int, between(0, 2**10), "Number of register tokens."] = 0,
    mask_token: Annotated[
        bool, "Adds a mask token for masked patches; iBOT and DINOv2 need it."
    ] = False,
    pool: Annotated[
        Literal["cls", "mean"], not_architecture, "h: the class token, or the patches' mean."
    ] = "cls",
    drop_path: Annotated[
        float,
        below_one,
        not_architecture,
        "Stochastic depth: probability in the last layer, rising from 0.",
    ] = 0.0,
    uniform_drop_path: Annotated[
        bool, not_architecture, "Stochastic depth has the same probability in all layers."
    ] = False,
    layer_scale: Annotated[
        float | None, not_negative, "Initial value of LayerScale; None: no LayerScale."
    ] = None,
    qkv_bias: Annotated[bool, "Biases of queries, keys and values."] = True,
    kernel_init: Annotated[
        Literal["xavier", "normal"], not_architecture, "Initialiser of the kernels."
    ] = "xavier",
    scan_layers: ScanOption = False,
    remat: RematOption = "none",
    attention: AttentionOption = "auto",
    dtype: Any = jnp.float32,
) -> ViT:
    """Makes a ViT and checks its options, which `ViT` describes.

    Raises:
      UserError: the options contradict each other.
    """
    if dim % num_heads:
        raise UserError(f"dim {dim} does not divide into {num_heads} heads")
    if positions in FIXED_POSITIONS and dim % 4:
        raise UserError(f"{positions} positions need a dim that 4 divides, not {dim}")
    if pool == "cls" and not cls_token:
        raise UserError("pool 'cls' needs a class token; set cls_token=True or pool='mean'")
    return ViT(
        patch_size=patch_size,
        dim=dim,
        depth=depth,
        num_heads=num_heads,
        mlp_ratio=mlp_ratio,
        feed_forward=feed_forward,
        positions=positions,
        position_resize=position_resize,
        cls_token=cls_token,
        num_registers=num_registers,
        mask_token=mask_token,
        pool=pool,
        drop_path=drop_path,
        uniform_drop_path=uniform_drop_path,
        layer_scale=layer_scale,
        qkv_bias=qkv_bias,
        kernel_init=kernel_init,
        scan_layers=scan_layers,
        remat=remat,
        attention=attention,
        dtype=dtype,
    )
