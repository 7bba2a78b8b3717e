"""SimCLR: a simple framework for contrastive learning (Chen et al. 2020).

    x -> two random views -> h = f(view) -> z = g(h) -> NT-Xent over the 2n views of the batch

f is a convolutional encoder, g a small MLP that is thrown away afterwards: h is the representation.

Both views go through the encoder in one pass, interleaved (rows 2i and 2i+1 are the views of image
i), so BatchNorm statistics are those of all 2n views over all devices, as in the released code.
Interleaving keeps both views of an image on the device that holds the image. The released code
returns twice the mean over anchors that the paper defines; this is the paper's mean, so its
gradients are half of the released code's, which LARS does not notice.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, ClassVar

import jax.numpy as jnp

from ssl_jax import losses
from ssl_jax.core.errors import UserError, nearest
from ssl_jax.core.length import Length
from ssl_jax.core.method import Array, Aux, Batch, DataSpec, PyTree, Weights, hyper_parameters
from ssl_jax.methods.base.two_views import TwoViews, nets_and_views
from ssl_jax.models import projection_head


@dataclasses.dataclass(frozen=True)
class HyperParameters:
    """The keys of `config.method`.

    loss: "nt_xent", "nt_logistic" or "margin_triplet" (Tables 2 and 4); or "info_nce", NT-Xent with
      the anchors of one view and the negatives of the other, as the latter two have them.
    temperature: t of all but the margin triplet loss.
    margin: m of the margin triplet loss.
    semi_hard: of NT-Logistic and the margin triplet loss: only the closest of the negatives that
      are farther than the positive.
    l2_normalize: cosine similarities; False for plain dot products (Table 5).
    implementation: of the loss, "auto", "dense", "blockwise" or (NT-Xent) "ring"; the result is the
      same.
    block_size: views on a side of a tile of "blockwise" and "ring"; None for the default.
    similarity_dtype: "float32" or "bfloat16", of the embeddings as the loss multiplies them and as
      they travel between devices.
    projector: "nonlinear" (MLP), "linear" or "none" (Fig. 8).
    projector_layers: dense layers of the nonlinear projector.
    hidden_dim: width of its hidden layers.
    output_dim: width of z.
    """

    loss: str = "nt_xent"
    temperature: float = 0.1
    margin: float = 0.8
    semi_hard: bool = False
    l2_normalize: bool = True
    implementation: str = "auto"
    block_size: int | None = None
    similarity_dtype: str = "float32"
    projector: str = "nonlinear"
    projector_layers: int = 2
    hidden_dim: int = 2048
    output_dim: int = 128


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
        if hyper.loss == "nt_xent":
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
        one_sided = hyper.loss != "nt_xent"
        anchors, negatives = (n, n - 1) if one_sided else (2 * n, 2 * n - 2)
        how, why = hyper.implementation, "as configured"
        if how == "auto":
            itemsize = jnp.dtype(hyper.similarity_dtype).itemsize
            how, why = (
                losses.choose_one_sided(n, n)
                if one_sided
                else losses.choose_implementation(n, hyper.output_dim, itemsize=itemsize)
            )
        return [
            ("loss", f"{hyper.loss}, {how}: {why}"),
            ("negatives", f"{negatives:,} views an anchor, {anchors:,} anchors a step"),
        ]


def make(config: Any, spec: DataSpec, length: Length) -> SimCLR:
    """Builds the method from the config's sections method, model and views."""
    hyper = hyper_parameters(HyperParameters, config.method, "method")
    _check(hyper)
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
    one_sided = ("auto", "dense", "blockwise")
    choices = {
        "loss": ("nt_xent", "info_nce", "nt_logistic", "margin_triplet"),
        "implementation": one_sided if hyper.loss != "nt_xent" else (*one_sided, "ring"),
        "similarity_dtype": ("float32", "bfloat16"),
    }
    for key, known in choices.items():
        value = getattr(hyper, key)
        if value not in known:
            known_to = f" with {hyper.loss}" if key == "implementation" else ""
            raise UserError(
                f"method.{key} is {value!r}; use one of {', '.join(known)}{known_to}."
                f"{nearest(value, known)}"
            )
    if hyper.semi_hard and hyper.loss in ("nt_xent", "info_nce"):
        raise UserError(
            f"method.semi_hard=True is for nt_logistic and margin_triplet, not {hyper.loss}"
        )
    if hyper.loss != "margin_triplet" and not hyper.temperature > 0:
        raise UserError(f"method.temperature is {hyper.temperature}; it has to be positive")
    if hyper.block_size is not None and hyper.block_size < 1:
        raise UserError(f"method.block_size is {hyper.block_size}; it has to be positive")
