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
from ssl_jax.method import Array, Aux, Batch, DataSpec, Method, PyTree, hyper_parameters
from ssl_jax.models import Net, make_encoder, projection_head
from ssl_jax.views import eval_view, make_views


@dataclasses.dataclass(frozen=True)
class HyperParameters:
    """The keys of `config.method`.

    temperature: t of NT-Xent.
    l2_normalize: cosine similarities; False for plain dot products (Table 5).
    projector: "nonlinear" (MLP), "linear" or "none" (Fig. 8).
    projector_layers: dense layers of the nonlinear projector.
    hidden_dim: width of its hidden layers.
    output_dim: width of z.
    """

    temperature: float = 0.1
    l2_normalize: bool = True
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
        z = encoded["z"]  # (n, 2, output_dim)
        loss, metrics = losses.nt_xent(
            z[:, 0],
            z[:, 1],
            temperature=self.hyper.temperature,
            l2_normalize=self.hyper.l2_normalize,
        )
        return loss, Aux(buffers, metrics, encoded)

    def features(self, params: PyTree, buffers: PyTree, batch: Batch) -> dict[str, Array]:
        x = self.eval_view(batch["image"])
        (h, _), _ = self.encoder.apply(params["encoder"], buffers["encoder"], x, train=False)
        z, _ = self.projector.apply(params["projector"], buffers["projector"], h, train=False)
        return {"h": h.astype(jnp.float32), "z": z.astype(jnp.float32)}

    def example_views(self, keys: Array, batch: Batch) -> Array:
        return self.recipe(keys, batch["image"])

    def preflight(self, batch_size: int) -> list[tuple[str, str]]:
        return [
            ("negatives", f"{2 * batch_size - 2} views an anchor, {2 * batch_size} anchors a step"),
        ]


def make(config: Any, spec: DataSpec, total_steps: int) -> SimCLR:
    """Builds the method from the config's sections method, model and views."""
    del total_steps
    hyper = hyper_parameters(HyperParameters, config.method, "method")
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
