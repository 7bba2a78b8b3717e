"""Base of multi-crop methods: views of several sizes through one encoder and projector.

    x -> {"global": [n 2 h w c], "local": [n 8 h' w' c]} -> h = f(view) -> z = g(h)

f is the encoder and g the projector. `MultiCrop` implements `init`, `views`, `features` and one
forward pass of all views; encode and objective are the method's.
"""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ssl_jax import modalities
from ssl_jax.core.errors import UserError
from ssl_jax.core.families import MAIN
from ssl_jax.core.items import Images, Item
from ssl_jax.core.method import Array, Batch, DataSpec, Method, PyTree, Weights
from ssl_jax.models import Net, make_encoder
from ssl_jax.views import FamiliesAndEval, families_and_eval, family_images, to_show


@dataclasses.dataclass(frozen=True, kw_only=True)
class MultiCrop(Method):
    """Families of views, each family in a forward pass of its own.

    The encoder sees all views of a family together: [n v h w c] as n v images. BatchNorm's
    statistics in training are those of these n v images over all devices, and the running ones move
    once a family, the main family first. The projector sees the views of all families together, and
    its statistics are of all of them. The released codes of SwAV and DINO do so.

    Attributes:
      encoder: f.
      projector: g.
      families: the views; the main family is `MAIN`.
    """

    encoder: Net
    projector: Net
    families: FamiliesAndEval

    def init(self, key: Array, batch: Batch) -> tuple[PyTree, PyTree]:
        encoder_key, projector_key = jax.random.split(key)
        del batch
        x = jnp.zeros((1, *self.families.shapes[MAIN][1:]), jnp.float32)
        params, buffers = {}, {}
        params["encoder"], buffers["encoder"] = self.encoder.init(encoder_key, x)
        (h, _), _ = self.encoder.apply(params["encoder"], buffers["encoder"], x, train=False)
        params["projector"], buffers["projector"] = self.projector.init(projector_key, h)
        return params, buffers

    def views(self, keys: Array, batch: Batch, *, key: Array, step: Array) -> dict[str, Array]:
        del key, step
        return self.families.recipe(keys, family_images(batch, tuple(self.families.shapes)))

    def embed(
        self,
        params: PyTree,
        buffers: PyTree,
        views: Mapping[str, Array],
        *,
        key: Array,
        encoder: Net | None = None,
    ) -> tuple[Array, Array, PyTree]:
        """One forward pass in training.

        Args:
          params, buffers: with the entries "encoder" and "projector".
          views: {family: [n v h w c]} of some families.
          key: for the encoder's stochastic depth; each family folds in its name.
          encoder: another f of the same parameters.

        Returns:
          (h, z, updates): h [n V d] and z [n V d'], float32, of the V views of all families in the
          order of `families.shapes`, and the entries of `buffers` that changed.
        """
        encoder = encoder or self.encoder
        statistics, features = buffers["encoder"], []
        for name in self.families.shapes:
            if name not in views:
                continue
            x = views[name]
            n, v = x.shape[:2]
            tag = np.uint32(zlib.crc32(name.encode()))
            (h, _), statistics = encoder.apply(
                params["encoder"],
                statistics,
                x.reshape(n * v, *x.shape[2:]),
                train=True,
                key=jax.random.fold_in(key, tag),
            )
            features.append(h.reshape(n, v, -1))
        h = jnp.concatenate(features, axis=1)  # (n, V, d)
        z, projector = self.projector.apply(
            params["projector"], buffers["projector"], h.reshape(-1, h.shape[-1]), train=True
        )
        z = z.reshape(*h.shape[:2], -1)  # (n, V, d')
        return h, z, {"encoder": statistics, "projector": projector}

    def features(self, w: Weights, batch: Batch) -> dict[str, Array]:
        x = self.families.eval_view(batch["image"])
        (h, _), _ = self.encoder.apply(w.params["encoder"], w.buffers["encoder"], x, train=False)
        z, _ = self.projector.apply(w.params["projector"], w.buffers["projector"], h, train=False)
        return {"h": h.astype(jnp.float32), "z": z.astype(jnp.float32)}

    def views_line(self) -> str:
        """What is seen of an image, for `preflight`: the views of each size, and their pairs."""
        shapes = self.families.shapes
        views = sum(v for v, *_ in shapes.values())
        of_sizes = " and ".join(f"{v} {name} of {h}x{w}" for name, (v, h, w, _) in shapes.items())
        pairs = shapes[MAIN][0] * (views - 1)
        return f"{of_sizes} an image; {pairs} pairs of a target and another view"

    def show(self, w: Weights, keys: Array, batch: Batch) -> dict[str, Item]:
        del w
        views = self.families.recipe(keys, family_images(batch, tuple(self.families.shapes)))
        pixels = tuple(
            to_show(views[name], self.families.normalization) for name in self.families.shapes
        )
        columns = tuple(
            f"{name} {view + 1}"
            for name, (v, *_) in self.families.shapes.items()
            for view in range(v)
        )
        note = "Training views, as the encoder sees them."
        item = Images(pixels, inputs=batch.get("image"), columns=columns, note=note)
        return {"Augmented views": item}


def nets_and_families(config: Any, spec: DataSpec, *, num_views: int = 2) -> dict[str, Any]:
    """The arguments of `MultiCrop` that the config's sections model and views decide.

    Args:
      config: the whole config.
      spec: of the data.
      num_views: views of the main family.

    Raises:
      UserError: the data are not images, or an option of a section is wrong.
    """
    modalities.require(config, spec, "image")
    families = families_and_eval(
        config.views, spec.batch(1), num_views=num_views, dtype=config.dtype
    )
    return dict(encoder=make_encoder(**config.model, dtype=config.dtype), families=families)


def check_prototypes(count: int, spec: DataSpec) -> None:
    """Checks that there are no more prototypes than examples, of which each would stand for none.

    Raises:
      UserError: there are.
    """
    if count > spec.num_examples:
        raise UserError(
            f"method.num_prototypes {count:,} are more than the {spec.num_examples:,} training "
            f"examples, which cannot use them all; use {spec.num_examples // 2:,} or fewer"
        )
