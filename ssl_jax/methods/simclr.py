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

import jax
import jax.numpy as jnp

from ssl_jax import losses
from ssl_jax.errors import UserError, nearest
from ssl_jax.method import Array, Aux, Batch, DataSpec, Method, PyTree, hyper_parameters
from ssl_jax.models import Net, make_encoder, projection_head
from ssl_jax.views import eval_view, make_views


@dataclasses.dataclass(frozen=True)
class HyperParameters:
    """The keys of `config.method`.

    loss: "nt_xent", "nt_logistic" or "margin_triplet" (Tables 2 and 4).
    temperature: t of NT-Xent and NT-Logistic.
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
class SimCLR(Method):
    title: ClassVar[str] = "SimCLR"

    hyper: HyperParameters
    encoder: Net
    projector: Net
    recipe: Callable[[Array, Array], Array]  # keys, images -> (n, 2, h, w, c)
    eval_view: Callable[[Array], Array]

    def init(self, key: Array, batch: Batch) -> tuple[PyTree, PyTree]:
        encoder_key, projector_key = jax.random.split(key)
        views = jax.eval_shape(self.views, jax.random.split(key, batch["image"].shape[0]), batch)
        x = jnp.zeros((1, *views.shape[1:]), views.dtype)
        encoder, encoder_buffers = self.encoder.init(encoder_key, x)
        (h, _), _ = self.encoder.apply(encoder, encoder_buffers, x, train=False)
        projector, projector_buffers = self.projector.init(projector_key, h)
        return (
            {"encoder": encoder, "projector": projector},
            {"encoder": encoder_buffers, "projector": projector_buffers},
        )

    def views(self, keys: Array, batch: Batch) -> Array:
        x = self.recipe(keys, batch["image"])  # (n, 2, h, w, c)
        return x.reshape(-1, *x.shape[2:])  # (2n, h, w, c), views of an image side by side

    def encode(
        self,
        params: PyTree,
        buffers: PyTree,
        views: Array,
        *,
        ema_params: PyTree | None,
        key: Array,
    ) -> tuple[PyTree, PyTree]:
        del ema_params
        (h, _), encoder_buffers = self.encoder.apply(
            params["encoder"], buffers["encoder"], views, train=True, key=key
        )  # (2n, d)
        z, projector_buffers = self.projector.apply(
            params["projector"], buffers["projector"], h, train=True
        )  # (2n, output_dim)
        encoded = {"h": h[0::2], "z": z.reshape(-1, 2, z.shape[-1])}
        return encoded, {"encoder": encoder_buffers, "projector": projector_buffers}

    def objective(
        self, params: PyTree, buffers: PyTree, encoded: PyTree, *, key: Array, step: Array
    ) -> tuple[Array, Aux]:
        del params, key, step
        z = encoded["z"].astype(self.hyper.similarity_dtype)  # (n, 2, output_dim)
        loss, metrics = self._loss()(z[:, 0], z[:, 1])
        return loss, Aux(buffers, metrics, encoded)

    def _loss(self) -> Callable[[Array, Array], tuple[Array, dict[str, Array]]]:
        hyper = self.hyper
        options = dict(
            l2_normalize=hyper.l2_normalize,
            implementation=hyper.implementation,
            block_size=hyper.block_size,
        )
        if hyper.loss == "nt_xent":
            return functools.partial(losses.nt_xent, temperature=hyper.temperature, **options)
        options["semi_hard"] = hyper.semi_hard
        if hyper.loss == "nt_logistic":
            return functools.partial(losses.nt_logistic, temperature=hyper.temperature, **options)
        return functools.partial(losses.margin_triplet, margin=hyper.margin, **options)

    def features(self, params: PyTree, buffers: PyTree, batch: Batch) -> dict[str, Array]:
        x = self.eval_view(batch["image"])
        (h, _), _ = self.encoder.apply(params["encoder"], buffers["encoder"], x, train=False)
        z, _ = self.projector.apply(params["projector"], buffers["projector"], h, train=False)
        return {"h": h.astype(jnp.float32), "z": z.astype(jnp.float32)}

    def example_views(self, keys: Array, batch: Batch) -> Array:
        return self.recipe(keys, batch["image"])

    def preflight(self, batch_size: int) -> list[tuple[str, str]]:
        hyper, n = self.hyper, batch_size
        # The other two losses compare a first view with the second views of the other images only.
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


def make(config: Any, spec: DataSpec, total_steps: int) -> SimCLR:
    """Builds the method from the config's sections method, model and views."""
    del total_steps
    hyper = hyper_parameters(HyperParameters, config.method, "method")
    _check(hyper)
    recipe = make_views(config.views, num_views=2, dtype=config.dtype)
    image = spec.batch(1)["image"]
    size = jax.eval_shape(recipe, jax.random.split(jax.random.key(0), 1), image).shape[2:4]
    return SimCLR(
        hyper=hyper,
        encoder=make_encoder(**config.model, dtype=config.dtype),
        projector=projection_head(
            hyper.projector,
            num_layers=hyper.projector_layers,
            hidden_dim=hyper.hidden_dim,
            output_dim=hyper.output_dim,
            dtype=config.dtype,
        ),
        recipe=recipe,
        eval_view=functools.partial(eval_view, size=size, crop_fraction=1.0, dtype=config.dtype),
    )


def _check(hyper: HyperParameters) -> None:
    one_sided = ("auto", "dense", "blockwise")
    choices = {
        "loss": ("nt_xent", "nt_logistic", "margin_triplet"),
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
    if hyper.semi_hard and hyper.loss == "nt_xent":
        raise UserError("method.semi_hard=True is for nt_logistic and margin_triplet, not nt_xent")
    if hyper.loss != "margin_triplet" and not hyper.temperature > 0:
        raise UserError(f"method.temperature is {hyper.temperature}; it has to be positive")
    if hyper.block_size is not None and hyper.block_size < 1:
        raise UserError(f"method.block_size is {hyper.block_size}; it has to be positive")
