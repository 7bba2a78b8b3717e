"""The encoder of audio in CPC (van den Oord et al. 2018, Sec. 3.1): strided convolutions and a GRU.

    waveform x -> z_t = conv(x), a latent every 160 samples -> c_t = GRU(z_1 ... z_t), the context

By default a latent sees 465 samples. With padding, frame t is centred on samples 160 t to
160 t + 159, and no frame sees a sample beyond 160 t + 311.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
from flax import linen as nn

from ssl_jax.config.fields import Bound, each, not_empty, positive
from ssl_jax.core.errors import UserError
from ssl_jax.models.options import Count

Array = jax.Array

KERNELS, STRIDES = (10, 8, 4, 4, 4), (5, 4, 2, 2, 2)
_few = Bound("at most 20 of them", lambda items: len(items) <= 20)


def num_frames(samples: int, kernels: Sequence[int], strides: Sequence[int], padded: bool) -> int:
    """Frames of a window of `samples` samples; 0 or less if it is too short."""
    for kernel, stride in zip(kernels, strides, strict=True):
        samples = (samples + 2 * padding(kernel, stride) * padded - kernel) // stride + 1
    return samples


def padding(kernel: int, stride: int) -> int:
    """Zeros on each side of a padded layer, so that n samples give n / stride frames."""
    return max(0, math.ceil((kernel - stride) / 2))


def receptive_field(kernels: Sequence[int], strides: Sequence[int]) -> int:
    """Samples that a latent depends on."""
    field, stride = 1, 1
    for kernel, step in zip(kernels, strides, strict=True):
        field += (kernel - 1) * stride
        stride *= step
    return field


class ConvGru(nn.Module):
    """Strided convolutions with ReLU, and a GRU over their outputs.

    Attributes:
      channels: width of the latents z.
      context_dim: width of the contexts c.
      kernels, strides: of the layers, samples.
      padded: whether the layers pad with zeros: 128 frames of 20,480 samples instead of 126.
      norm: "channel" normalises each frame over its channels before ReLU (LayerNorm with scale and
        offset), as in the reimplementation of Riviere et al. (2020); it does not mix frames.
      dtype: dtype of the arithmetic; the state of the GRU is float32.
    """

    channels: int = 512
    context_dim: int = 256
    kernels: tuple[int, ...] = KERNELS
    strides: tuple[int, ...] = STRIDES
    padded: bool = True
    norm: str = "none"
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> tuple[Array, dict[str, Array]]:
        """Encodes waveforms.

        Args:
          x: [n s], samples in [-1, 1].
          train: has no effect.

        Returns:
          (h, out): h is the mean context, float32 [n c]. `out` has it too, `latents` [n t z] and
          `frames` float32 [n t c], the contexts.
        """
        del train
        z = x[:, :, None].astype(self.dtype)
        for i, (kernel, stride) in enumerate(zip(self.kernels, self.strides, strict=True), start=1):
            pad = padding(kernel, stride) if self.padded else 0
            z = nn.Conv(
                self.channels,
                (kernel,),
                (stride,),
                padding=((pad, pad),),
                kernel_init=nn.initializers.he_normal(),
                dtype=self.dtype,
                name=f"conv{i}",
            )(z)
            if self.norm == "channel":
                z = nn.LayerNorm(epsilon=1e-5, dtype=self.dtype, name=f"norm{i}")(z)
            z = nn.relu(z)
        c = Gru(self.context_dim, self.dtype, name="gru")(z)
        h = c.mean(axis=1)
        return h, {"h": h, "latents": z, "frames": c}


class Gru(nn.Module):
    """A gated recurrent unit over a sequence, with two biases a gate (as in cuDNN and PyTorch).

        r, u = sigmoid(x W_r + a_r + c U_r + b_r), sigmoid(x W_u + a_u + c U_u + b_u)
        m = tanh(x W_m + a_m + r (c U_m + b_m))
        c' = (1 - u) m + u c,    c_0 = 0

    The products with x are one matrix product before the scan.

    Attributes:
      dim: width of the state c.
      dtype: dtype of the matrix products; the state is float32.
    """

    dim: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """[n t d] to the states after each input, float32 [n t dim]."""
        shape = (x.shape[-1], 3 * self.dim)
        kernel = self.param("input_kernel", nn.initializers.lecun_normal(), shape)
        input_bias = self.param("input_bias", nn.initializers.zeros, (3 * self.dim,))
        recurrent = self.param("recurrent_kernel", _orthogonal_gates, (self.dim, 3 * self.dim))
        bias = self.param("recurrent_bias", nn.initializers.zeros, (3 * self.dim,))
        inputs = jnp.einsum("ntd,dg->tng", x.astype(self.dtype), kernel.astype(self.dtype))
        inputs = inputs.astype(jnp.float32) + input_bias
        recurrent = recurrent.astype(self.dtype)

        def step(c: Array, x: Array) -> tuple[Array, Array]:
            products = jnp.matmul(c.astype(self.dtype), recurrent).astype(jnp.float32) + bias
            x_r, x_u, x_m = jnp.split(x, 3, axis=-1)
            c_r, c_u, c_m = jnp.split(products, 3, axis=-1)
            u = nn.sigmoid(x_u + c_u)
            c = (1 - u) * jnp.tanh(x_m + nn.sigmoid(x_r + c_r) * c_m) + u * c
            return c, c

        start = jnp.zeros((x.shape[0], self.dim), jnp.float32)
        _, states = jax.lax.scan(step, start, inputs)
        return jnp.swapaxes(states, 0, 1)


def _orthogonal_gates(key: Array, shape: tuple[int, int]) -> Array:
    """An orthogonal matrix for each of the three gates."""
    dim = shape[0]
    keys = jax.random.split(key, 3)
    return jnp.concatenate([nn.initializers.orthogonal()(k, (dim, dim)) for k in keys], axis=1)


def conv_gru(
    *,
    channels: Annotated[Count, "Width of the latents z."] = 512,
    context_dim: Annotated[Count, "Width of the contexts c, the state of the GRU."] = 256,
    kernels: Annotated[
        tuple[int, ...], not_empty, _few, each(positive), "Kernels of the convolutions, samples."
    ] = KERNELS,
    strides: Annotated[
        tuple[int, ...], not_empty, _few, each(positive), "Strides of the convolutions."
    ] = STRIDES,
    padded: Annotated[
        bool, "Pad the layers with zeros: 128 frames of 20,480 samples instead of 126."
    ] = True,
    norm: Annotated[
        Literal["none", "channel"], "Normalise each frame over its channels before ReLU."
    ] = "none",
    dtype: Any = jnp.float32,
) -> ConvGru:
    """See `ConvGru`.

    Raises:
      UserError: there are not as many strides as kernels.
    """
    if len(kernels) != len(strides):
        raise UserError(
            f"model.kernels has {len(kernels)} layers and model.strides {len(strides)}; give one "
            "stride a kernel"
        )
    return ConvGru(channels, context_dim, tuple(kernels), tuple(strides), padded, norm, dtype)


class StepPredictors(nn.Module):
    """A linear map W_k, without bias, from contexts to latents for each step of prediction k.

    Attributes:
      steps: number K of steps.
      dim: width of the latents.
      dtype: dtype of the matrix products and of the predictions.
    """

    steps: int
    dim: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, c: Array, *, train: bool) -> dict[int, Array]:
        """Contexts [n t c] to predictions {k: [n t-k dim]}; the last k contexts predict nothing."""
        del train
        # Small scores: a new net's loss is close to that of constant scores, log N.
        init = nn.initializers.variance_scaling(0.01, "fan_in", "normal", batch_axis=0)
        kernel = self.param("kernel", init, (self.steps, c.shape[-1], self.dim))
        kernel, c = kernel.astype(self.dtype), c.astype(self.dtype)
        return {
            k: jnp.einsum("ntc,cz->ntz", c[:, : c.shape[1] - k], kernel[k - 1])
            for k in range(1, self.steps + 1)
        }
