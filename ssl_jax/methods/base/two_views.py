"""Base of methods with two views: the nets and the forward pass.

    x -> two random views -> h = f(view) -> z = g(h) -> p = q(z)

f is the encoder, g the projector and q the optional predictor. `TwoViews` implements everything
except `objective`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from ssl_jax.core.errors import UserError
from ssl_jax.core.items import Item
from ssl_jax.core.method import Array, Batch, DataSpec, PyTree, Weights
from ssl_jax.methods.base.encoder_features import EncoderFeatures
from ssl_jax.methods.base.inputs import encoder_and_views, examples, shown_views, whole_examples
from ssl_jax.models import Net


@dataclasses.dataclass(frozen=True, kw_only=True)
class TwoViews(EncoderFeatures):
    """Two views of each example, an image or a row of a table, with one forward pass for each view.

    Batch statistics are those of the n images of one view over all devices, and running statistics
    are updated twice a step. The released codes of BYOL, SimSiam, Barlow Twins and VICReg do the
    same. Methods with statistics over both views override `encode`.

    Attributes:
      encoder: f.
      projector: g.
      predictor: q, or None.
      recipe: (keys [n], images) -> views [n 2 h w c].
      eval_view: images -> evaluation views, from which features are computed.
      normalization: (mean, std) of the views by channel; None: views are in [0, 1].
    """

    encoder: Net
    projector: Net
    predictor: Net | None = None
    recipe: Callable[[Array, Array], Array]
    eval_view: Callable[[Array], Array]
    normalization: tuple[tuple[float, ...], tuple[float, ...]] | None = None

    def init(self, key: Array, batch: Batch) -> tuple[PyTree, PyTree]:
        encoder_key, projector_key, predictor_key = jax.random.split(key, 3)
        keys = jax.random.split(key, batch["index"].shape[0])
        views = jax.eval_shape(self.recipe, keys, examples(batch))  # (n, 2, h, w, c)
        x = jnp.zeros((1, *views.shape[2:]), views.dtype)
        params, buffers = {}, {}
        params["encoder"], buffers["encoder"] = self.encoder.init(encoder_key, x)
        (h, _), _ = self.encoder.apply(params["encoder"], buffers["encoder"], x, train=False)
        params["projector"], buffers["projector"] = self.projector.init(projector_key, h)
        if self.predictor is not None:
            z, _ = self.projector.apply(params["projector"], buffers["projector"], h, train=False)
            params["predictor"], buffers["predictor"] = self.predictor.init(predictor_key, z)
        return params, buffers

    def views(self, keys: Array, batch: Batch, *, key: Array, step: Array) -> Array:
        return self.recipe(keys, examples(batch))  # (n, 2, h, w, c)

    def encode(self, w: Weights, views: Array, *, key: Array, step: Array) -> tuple[PyTree, PyTree]:
        """`h` [n d] of the first views, `z` [n 2 d'] and, with a predictor, `p` [n 2 d']."""
        buffers = w.buffers
        h, z, p = [], [], []
        for view, view_key in enumerate(jax.random.split(key, 2)):
            h_view, z_view, buffers = self.embed(w.params, buffers, views[:, view], key=view_key)
            h.append(h_view)
            z.append(z_view)
            if self.predictor is not None:
                p_view, updated = self.predictor.apply(
                    w.params["predictor"], buffers["predictor"], z_view, train=True
                )
                p.append(p_view)
                buffers = {**buffers, "predictor": updated}
        encoded = {"h": h[0], "z": jnp.stack(z, axis=1)}
        if self.predictor is not None:
            encoded["p"] = jnp.stack(p, axis=1)
        return encoded, {name: buffers[name] for name in w.params}  # one entry for each net

    def embed(
        self, params: PyTree, buffers: PyTree, x: Array, *, key: Array
    ) -> tuple[Array, Array, PyTree]:
        """A forward pass in training mode: views [m h w c] to h [m d], z [m d'] and buffers."""
        (h, _), encoder = self.encoder.apply(
            params["encoder"], buffers["encoder"], x, train=True, key=key
        )
        z, projector = self.projector.apply(
            params["projector"], buffers["projector"], h, train=True
        )
        return h, z, {**buffers, "encoder": encoder, "projector": projector}

    def features(self, w: Weights, batch: Batch) -> dict[str, Array]:
        x = self.eval_view(whole_examples(batch))
        (h, _), _ = self.encoder.apply(w.params["encoder"], w.buffers["encoder"], x, train=False)
        z, _ = self.projector.apply(w.params["projector"], w.buffers["projector"], h, train=False)
        return {"h": h.astype(jnp.float32), "z": z.astype(jnp.float32)}

    def show(self, w: Weights, keys: Array, batch: Batch) -> dict[str, Item]:
        del w
        views = self.recipe(keys, examples(batch))
        return shown_views(views, self.normalization, batch)


def nets_and_views(config: Any, spec: DataSpec, *, num_views: int = 2) -> dict[str, Any]:
    """The arguments of `TwoViews` that follow from the config sections model and views."""
    return encoder_and_views(config, spec, num_views=num_views)


def check_unique_examples(config: Any, spec: DataSpec) -> None:
    """Checks that a batch contains each row of a memory bank at most once.

    Raises:
      UserError: the sampler may draw an example twice for a batch.
    """
    if not spec.unique_examples:
        raise UserError(
            f"data.sampler.name is {config.data.sampler.name!r}, which may draw an example twice "
            f"for a batch, but {config.method.name} has a memory bank with one row per example; "
            "use data.sampler.name='shuffle'"
        )


def check_batch_has_others(config: Any) -> None:
    """Checks that a batch has at least two images, for losses that compare the images of a batch.

    Raises:
      UserError: batch_size is 1.
    """
    if config.batch_size < 2:
        raise UserError(
            f"batch_size is {config.batch_size}, but {config.method.name} compares each image with "
            "the other images of its batch; use 2 or more"
        )


def check_queue(length: int, batch_size: int, where: str) -> None:
    """Checks that the length of a queue is a multiple of the batch size.

    Args:
      length: rows of the queue.
      batch_size: rows that a step replaces.
      where: config key of the length.

    Raises:
      UserError: it is not a multiple.
    """
    if length % batch_size:
        nearest_lengths = {
            max(length // batch_size, 1) * batch_size,
            (length // batch_size + 1) * batch_size,
        }
        raise UserError(
            f"{where} {length} must be a multiple of batch_size {batch_size}, because each batch "
            "replaces the oldest keys of the queue; "
            f"use {' or '.join(map(str, sorted(nearest_lengths)))}"
        )
