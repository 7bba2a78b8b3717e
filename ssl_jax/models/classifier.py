"""An encoder with a classification head, trained from scratch or after pretraining.

    x -> h = f(x) -> the first layers of its pretraining's projection head, if any -> logits

SimCLR v2 fine-tunes from the first layer of the projection head (Chen et al. 2020, section 3.2). In
other methods the projection head is discarded and the classifier takes h. A classifier that takes
the tokens of a text classifies each token.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from ssl_jax.core.errors import UserError
from ssl_jax.models.functional import Net
from ssl_jax.models.heads import MLP
from ssl_jax.models.norm import batch_norm

Array = jax.Array
PyTree = Any


@dataclasses.dataclass(frozen=True)
class Classifier:
    """An encoder and a head; params and buffers are dicts with one entry for each net.

    Attributes:
      encoder: f, with output (h, out), h [n d].
      head: maps [n d] to logits [n c], or tokens [n l d] to logits [n l c].
      projector: `first_layers` of a projection head, or None.
      reads: name of the encoder output that the head takes: "h", "tokens" of a text, or "frames"
        of a recording.
      norm: normalisation without parameters of the head's input, such as `InputNorm`, or None.
    """

    encoder: Net
    head: Net
    projector: Net | None = None
    reads: str = "h"
    norm: Net | None = None

    def nets(self) -> dict[str, Net]:
        """The nets by their key in params."""
        nets = {"encoder": self.encoder, "projector": self.projector, "head": self.head}
        return {name: net for name, net in nets.items() if net is not None}

    def init(self, key: Array, x: Any) -> tuple[PyTree, PyTree]:
        """Initial (params, buffers) for inputs with the shapes and dtypes of `x`."""
        encoder_key, projector_key, head_key = jax.random.split(key, 3)
        params, buffers = {}, {}
        params["encoder"], buffers["encoder"] = self.encoder.init(encoder_key, x)
        h = jax.eval_shape(
            lambda *args: self.encoder.apply(*args, train=False)[0][1][self.reads],
            params["encoder"], buffers["encoder"], x,
        )  # fmt: skip
        if self.projector is not None:
            params["projector"], buffers["projector"] = self.projector.init(projector_key, h)
            h = jax.eval_shape(
                lambda *args: self.projector.apply(*args, train=False)[0],
                params["projector"], buffers["projector"], h,
            )  # fmt: skip
        if self.norm is not None:
            _, buffers["norm"] = self.norm.init(head_key, h)
        params["head"], _ = self.head.init(head_key, h)
        return params, buffers

    def apply(
        self,
        params: PyTree,
        buffers: PyTree,
        x: Any,
        *,
        train: bool,
        key: Array | None = None,
        frozen: bool = False,
    ) -> tuple[tuple[Array, Array], PyTree]:
        """Returns ((h [n d], logits [n c]), changed entries of `buffers`); outputs are float32.

        With `frozen` only `norm` is in training mode.
        """
        (h, logits, _), updates = self.apply_with_outputs(
            params, buffers, x, train=train, key=key, frozen=frozen
        )
        return (h, logits), updates

    def apply_with_outputs(
        self,
        params: PyTree,
        buffers: PyTree,
        x: Any,
        *,
        train: bool,
        key: Array | None = None,
        frozen: bool = False,
    ) -> tuple[tuple[Array, Array, dict[str, Array]], PyTree]:
        """As `apply`, with all outputs of the encoder: ((h, logits, outputs), changed entries)."""
        train, train_norm = train and not frozen, train
        (h, out), encoder = self.encoder.apply(
            params["encoder"], buffers["encoder"], x, train=train, key=key
        )
        features, updates = out[self.reads], {"encoder": encoder}
        if self.projector is not None:
            features, updates["projector"] = self.projector.apply(
                params["projector"], buffers["projector"], features, train=train
            )
            features = nn.relu(features)
        updates = updates if train else {}
        if self.norm is not None:
            features, norm = self.norm.apply({}, buffers["norm"], features, train=train_norm)
            updates = {**updates, "norm": norm} if train_norm else updates
        head_key = None if key is None else jax.random.fold_in(key, 1)
        logits, _ = self.head.apply(params["head"], {}, features, train=train, key=head_key)
        return (h.astype(jnp.float32), logits, out), updates


def make_classifier(
    encoder: Net,
    x: jax.ShapeDtypeStruct,
    *,
    num_classes: int,
    projector_layers: int = 0,
    hidden_dim: int | None = None,
    zero_init: bool = False,
    head: Net | None = None,
    normalize: bool = False,
    dtype: Any = jnp.float32,
) -> Classifier:
    """A classifier on an encoder.

    Args:
      encoder: f.
      x: the encoder's inputs, a tree of arrays or of their shapes, for any number of examples.
      num_classes: c.
      projector_layers: number of layers of a projection head between encoder and head.
      hidden_dim: width of these layers; None: the width of h.
      zero_init: see `LinearHead`.
      head: a head, such as a `TextHead`, to use instead of a `LinearHead`.
      normalize: an `InputNorm` before the head.
      dtype: dtype of the arithmetic of the projection layers, by name or as a type.

    Raises:
      UserError: the number of layers is negative, or the width is below 1.
    """
    if projector_layers < 0 or (hidden_dim is not None and hidden_dim < 1):
        raise UserError(
            f"projector_layers {projector_layers} with hidden_dim {hidden_dim} cannot be built; "
            "projector_layers must be at least 0 and hidden_dim at least 1"
        )
    projector = None
    if projector_layers:
        if hidden_dim is None:
            key = jax.random.key(0)
            hidden_dim = jax.eval_shape(
                lambda key, x: encoder.apply(*encoder.init(key, x), x, train=False)[0][0], key, x
            ).shape[1]
        projector = first_layers(projector_layers, hidden_dim, dtype=dtype)
    norm = Net(InputNorm()) if normalize else None
    head = head or Net(LinearHead(num_classes, zero_init))
    return Classifier(encoder, head, projector, norm=norm)


def first_layers(num_layers: int, hidden_dim: int, *, dtype: Any = jnp.float32) -> Net:
    """The first layers of a `projection_head`, with the same parameter names.

    Its parameters may be the head's; those of the last layers are then not used. The output
    `[n hidden_dim]` is that of the last BatchNorm, without the ReLU that follows it in the head.
    """
    mlp = MLP(num_layers, hidden_dim, hidden_dim, output_norm="affine", dtype=jnp.dtype(dtype))
    return Net(mlp)


class InputNorm(nn.Module):
    """BatchNorm without scale and offset, epsilon 1e-6 (MAE, He et al. 2022, App. A.1)."""

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> Array:
        """[n d] to [n d] float32."""
        norm = batch_norm(train=train, epsilon=1e-6, use_scale=False, use_bias=False)
        return norm(x.astype(jnp.float32))


class LinearHead(nn.Module):
    """A linear map with a bias, `[... d]` to `[... num_classes]` float32.

    Attributes:
      num_classes: c.
      zero_init: initialise the kernel with zeros, so that all logits are equal; otherwise with
        N(0, 0.01^2), as in SimCLR's code.
    """

    num_classes: int
    zero_init: bool = False

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> Array:
        del train
        init = nn.initializers.zeros if self.zero_init else nn.initializers.normal(0.01)
        kernel = self.param("kernel", init, (x.shape[-1], self.num_classes), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (self.num_classes,), jnp.float32)
        return jnp.einsum("...d,dc->...c", x.astype(jnp.float32), kernel) + bias


class TextHead(nn.Module):
    """The fine-tuning head of BERT and RoBERTa for a text or its tokens: dropout and a linear map.

    Attributes:
      num_outputs: c.
      dense: add a dense layer with tanh and dropout before the linear map, as in RoBERTa's
        classifier on the first token. In BERT the encoder has this layer, the pooler.
      dropout: dropout rate of the inputs of both layers.
      zero_init: initialise the linear map with zeros; otherwise, like the dense layer, with
        N(0, 0.02^2) truncated at two standard deviations.
      dtype: dtype of the dense layer's arithmetic; the linear map is float32.
    """

    num_outputs: int
    dense: bool = False
    dropout: float = 0.1
    zero_init: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> Array:
        """[... d] to [... num_outputs] float32."""
        drop = nn.Dropout(self.dropout, deterministic=not train)
        init = nn.initializers.truncated_normal(0.02)
        if self.dense:
            layer = nn.Dense(x.shape[-1], kernel_init=init, dtype=self.dtype, name="dense")
            x = jnp.tanh(layer(drop(x)).astype(jnp.float32))
        out_init = nn.initializers.zeros if self.zero_init else init
        out = nn.Dense(self.num_outputs, kernel_init=out_init, dtype=jnp.float32, name="out")
        return out(drop(x.astype(jnp.float32)))
