"""SimCLR: a simple framework for contrastive learning (Chen et al. 2020).

    x -> two random views -> h = f(view) -> z = g(h) -> NT-Xent over the 2n views of the batch

f is a convolutional encoder, g a small MLP that is discarded after training: h is the
representation.

Both views have one forward pass together, interleaved (rows 2i and 2i+1 are the views of image i).
So BatchNorm statistics are those of all 2n views over all devices, as in the released code.
Interleaving keeps both views of an image on the device of the image. The loss is the mean over
anchors, as defined in the paper. The released code returns twice this mean, so its gradients are
twice as large; LARS is invariant to this.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Annotated, Any, ClassVar, Literal

import jax.numpy as jnp

from ssl_jax import losses
from ssl_jax.config.fields import not_negative, positive
from ssl_jax.core.errors import UserError
from ssl_jax.core.length import Length
from ssl_jax.core.method import Array, Aux, Batch, DataSpec, PyTree, Weights, hyper_parameters
from ssl_jax.methods.base.two_views import TwoViews, check_batch_has_others, nets_and_views
from ssl_jax.models import projection_head
from ssl_jax.models.options import LayerCount

# Losses whose anchors are the views of both kinds.
_TWO_SIDED = ("nt_xent", "dcl", "dclw")


@dataclasses.dataclass(frozen=True)
class HyperParameters:
    """The keys of `config.method`."""

    loss: Annotated[
        Literal["nt_xent", "info_nce", "nt_logistic", "margin_triplet", "dcl", "dclw"],
        "Tables 2 and 4. dcl and dclw (Yeh et al. 2022) are NT-Xent without the positive in the "
        "denominator, and with larger weights of far positives. info_nce is NT-Xent with anchors "
        "from one view and negatives from the other, as in nt_logistic and margin_triplet.",
    ] = "nt_xent"
    temperature: Annotated[float, positive, "Temperature t; not used by margin_triplet."] = 0.1
    margin: Annotated[float, not_negative, "Margin m of margin_triplet."] = 0.8
    sigma: Annotated[
        float, positive, "Temperature sigma of the weights of dclw; smaller ones differ more."
    ] = 0.5
    semi_hard: Annotated[
        bool,
        "For nt_logistic and margin_triplet: use only the closest of the negatives that are "
        "farther away than the positive.",
    ] = False
    l2_normalize: Annotated[bool, "Cosine similarities; False: plain dot products (Table 5)."] = (
        True
    )
    implementation: Annotated[
        Literal["auto", "dense", "blockwise", "ring"],
        "How the loss is computed; the result is the same. ring is for nt_xent, dcl and dclw.",
    ] = "auto"
    block_size: Annotated[
        int | None, positive,
        "Views on a side of a tile of blockwise and ring; None: chosen by size.",
    ] = None  # fmt: skip
    similarity_dtype: Annotated[
        Literal["float32", "bfloat16"],
        "Dtype of the embeddings in products and in communication between devices.",
    ] = "float32"
    projector: Annotated[
        Literal["nonlinear", "linear", "none"], "g; nonlinear is an MLP (Fig. 8)."
    ] = "nonlinear"
    projector_layers: Annotated[LayerCount, "Dense layers of the nonlinear projector."] = 2
    hidden_dim: Annotated[int, positive, "Width of its hidden layers."] = 2048
    output_dim: Annotated[int, positive, "Width of z."] = 128


@dataclasses.dataclass(frozen=True)
class SimCLR(TwoViews):
    title: ClassVar[str] = "SimCLR"

    hyper: HyperParameters

    def views(self, keys: Array, batch: Batch, *, key: Array, step: Array) -> Array:
        x = super().views(keys, batch, key=key, step=step)  # (n, 2, h, w, c)
        return x.reshape(-1, *x.shape[2:])  # (2n, h, w, c), views of an image side by side

    def encode(self, w: Weights, views: Array, *, key: Array, step: Array) -> tuple[PyTree, PyTree]:
        h, z, updates = self.embed(w.params, w.buffers, views, key=key)  # (2n, d), (2n, output_dim)
        return {"h": h[0::2], "z": z.reshape(-1, 2, z.shape[-1])}, updates

    def objective(
        self, w: Weights, encoded: PyTree, *, key: Array, step: Array
    ) -> tuple[Array, Aux]:
        z = encoded["z"].astype(self.hyper.similarity_dtype)  # (n, 2, output_dim)
        loss, metrics = self._loss()(z[:, 0], z[:, 1])
        return loss, Aux(w.buffers, metrics, encoded)

    def _loss(self) -> Callable[[Array, Array], tuple[Array, dict[str, Array]]]:
        hyper = self.hyper
        options = dict(
            l2_normalize=hyper.l2_normalize,
            implementation=hyper.implementation,
            block_size=hyper.block_size,
        )
        if hyper.loss in _TWO_SIDED:
            if hyper.loss != "nt_xent":
                options["decoupled"] = True
            if hyper.loss == "dclw":
                options["positive_sigma"] = hyper.sigma
            return functools.partial(losses.nt_xent, temperature=hyper.temperature, **options)
        if hyper.loss == "info_nce":
            return functools.partial(losses.info_nce, temperature=hyper.temperature, **options)
        options["semi_hard"] = hyper.semi_hard
        if hyper.loss == "nt_logistic":
            return functools.partial(losses.nt_logistic, temperature=hyper.temperature, **options)
        return functools.partial(losses.margin_triplet, margin=hyper.margin, **options)

    def preflight(self, batch_size: int) -> list[tuple[str, str]]:
        hyper, n = self.hyper, batch_size
        # The other losses compare a first view with the second views of the other images only.
        one_sided = hyper.loss not in _TWO_SIDED
        anchors, negatives = (n, n - 1) if one_sided else (2 * n, 2 * n - 2)
        implementation, reason = hyper.implementation, "as configured"
        if implementation == "auto":
            itemsize = jnp.dtype(hyper.similarity_dtype).itemsize
            implementation, reason = (
                losses.choose_one_sided(n, n)
                if one_sided
                else losses.choose_implementation(n, hyper.output_dim, itemsize=itemsize)
            )
        return [
            ("loss", f"{hyper.loss}, {implementation}: {reason}"),
            ("negatives", f"{negatives:,} views per anchor, {anchors:,} anchors per step"),
        ]


def make(config: Any, spec: DataSpec, length: Length) -> SimCLR:
    """Builds the method from the config's sections method, model and views."""
    hyper = hyper_parameters(HyperParameters, config.method, "method")
    _check(hyper)
    check_batch_has_others(config)
    return SimCLR(
        hyper=hyper,
        projector=projection_head(
            hyper.projector,
            num_layers=hyper.projector_layers,
            hidden_dim=hyper.hidden_dim,
            output_dim=hyper.output_dim,
            dtype=config.dtype,
        ),
        **nets_and_views(config, spec),
    )


def _check(hyper: HyperParameters) -> None:
    if hyper.implementation == "ring" and hyper.loss not in _TWO_SIDED:
        raise UserError(
            f"method.implementation 'ring' is for {', '.join(_TWO_SIDED)}; with {hyper.loss} use "
            "one of auto, dense, blockwise"
        )
    if hyper.semi_hard and hyper.loss in (*_TWO_SIDED, "info_nce"):
        raise UserError(
            f"method.semi_hard=True is for nt_logistic and margin_triplet, not {hyper.loss}"
        )
