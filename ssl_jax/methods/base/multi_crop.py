"""Base of multi-crop methods: views of several sizes through one encoder and projector.

    x -> {"global": [n 2 h w c], "local": [n 8 h' w' c]} -> h = f(view) -> z = g(h)

f is the encoder and g the projector. `MultiCrop` implements `init`, `views`, `features` and the
forward pass of all views (`embed`); methods implement `encode` and `objective`.
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
from ssl_jax.core.method import Array, Batch, DataSpec, PyTree, Weights
from ssl_jax.methods.base.encoder_features import EncoderFeatures
from ssl_jax.models import Net, make_encoder
from ssl_jax.models.attention_maps import attention_maps, has_attention_maps
from ssl_jax.views import FamiliesAndEval, families_and_eval, family_images, to_show


@dataclasses.dataclass(frozen=True, kw_only=True)
class MultiCrop(EncoderFeatures):
    """Families of views, with one forward pass of the encoder for each family.

    The encoder gets all views of a family together: [n v h w c] as n v images. Batch statistics are
    those of these n v images over all devices. Running statistics are updated once for each family,
    the main family first. The projector gets the views of all families together, and its statistics
    are those of all of them. The released codes of SwAV and DINO do the same.

    Attributes:
      encoder: f.
      projector: g.
      families: recipe and shapes of the views; the main family is `MAIN`.
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
        """A forward pass in training mode.

        Args:
          params, buffers: dicts with the entries "encoder" and "projector".
          views: {family: [n v h w c]} of some or all families.
          key: PRNG key of the encoder's stochastic depth; the name of each family is folded in.
          encoder: another net with the encoder's parameters, to use instead of it.

        Returns:
          (h, z, updates): h [n V d] and z [n V d'], float32, of the V views of all families in the
          order of `families.shapes`, and the changed entries of `buffers`.
        """
        h, _, statistics = self.encode_families(params, buffers, views, key=key, encoder=encoder)
        z, projector = self.projector.apply(
            params["projector"], buffers["projector"], h.reshape(-1, h.shape[-1]), train=True
        )
        z = z.reshape(*h.shape[:2], -1)  # (n, V, d')
        return h, z, {"encoder": statistics, "projector": projector}

    def encode_families(
        self,
        params: PyTree,
        buffers: PyTree,
        views: Mapping[str, Array],
        *,
        key: Array,
        encoder: Net | None = None,
        masks: Mapping[str, Array] | None = None,
    ) -> tuple[Array, dict[str, Array], PyTree]:
        """The encoder's part of `embed`.

        Args:
          params, buffers, views, key, encoder: as for `embed`.
          masks: {family: bool [n v l]}, the masked patches of the views of a family; see `ViT`.

        Returns:
          (h, outputs, statistics): h [n V d]; the encoder's outputs [n v ...] of the main family by
          name; and the encoder's buffers.
        """
        encoder = encoder or self.encoder
        masks = masks or {}
        statistics, features, main_outputs = buffers["encoder"], [], {}
        for name in self.families.shapes:
            if name not in views:
                continue
            x = views[name]
            n, v = x.shape[:2]
            tag = np.uint32(zlib.crc32(name.encode()))
            # The encoder's inputs after the images are `keep`, `keep_mask` and `mask`.
            mask = (None, None, masks[name].reshape(n * v, -1)) if name in masks else ()
            (h, outputs), statistics = encoder.apply(
                params["encoder"],
                statistics,
                x.reshape(n * v, *x.shape[2:]),
                *mask,
                train=True,
                key=jax.random.fold_in(key, tag),
            )
            features.append(h.reshape(n, v, -1))
            if name == MAIN:
                main_outputs = {k: x.reshape(n, v, *x.shape[1:]) for k, x in outputs.items()}
        return jnp.concatenate(features, axis=1), main_outputs, statistics

    def eval_view(self, images: Array) -> Array:
        """The evaluation view of each image, [n h w c]."""
        return self.families.eval_view(images)

    def features(self, w: Weights, batch: Batch) -> dict[str, Array]:
        x = self.eval_view(batch["image"])
        (h, _), _ = self.encoder.apply(w.params["encoder"], w.buffers["encoder"], x, train=False)
        z, _ = self.projector.apply(w.params["projector"], w.buffers["projector"], h, train=False)
        return {"h": h.astype(jnp.float32), "z": z.astype(jnp.float32)}

    def views_line(self) -> str:
        """Describes, for `preflight`, the views of each family and the number of pairs."""
        shapes = self.families.shapes
        views = sum(v for v, *_ in shapes.values())
        families = " and ".join(f"{v} {name} of {h}x{w}" for name, (v, h, w, _) in shapes.items())
        pairs = shapes[MAIN][0] * (views - 1)
        return f"{families} per image; {pairs} pairs of a target and another view"

    def show(self, w: Weights, keys: Array, batch: Batch) -> dict[str, Item]:
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
        return {"Augmented views": item, **self._attention(w, batch)}

    def _attention(self, w: Weights, batch: Batch) -> dict[str, Item]:
        """Attention maps of the class token; nothing for other encoders and for host crops."""
        if "image" not in batch or not has_attention_maps(self.encoder):
            return {}
        x = self.families.eval_view(batch["image"])
        maps = attention_maps(self.encoder, w.params["encoder"], w.buffers["encoder"], x)
        heads = maps.shape[1]
        item = Images(
            maps[..., None],
            inputs=to_show(x[:, None], self.families.normalization)[:, 0],
            columns=tuple(f"head {head + 1}" for head in range(heads)),
            note="Attention of the class token over the patches, in each head of the last layer; "
            "white: the maximum of the map.",
        )
        return {"Attention maps": item}


def nets_and_families(config: Any, spec: DataSpec, *, num_views: int = 2) -> dict[str, Any]:
    """The arguments of `MultiCrop` that follow from the config sections model and views.

    Args:
      config: the whole config.
      spec: the data.
      num_views: number of views of the main family.

    Raises:
      UserError: the data are not images, or a section has a bad value.
    """
    modalities.require(config, spec, "image")
    families = families_and_eval(
        config.views, spec.batch(1), num_views=num_views, dtype=config.dtype
    )
    return dict(encoder=make_encoder(**config.model, dtype=config.dtype), families=families)


def check_prototypes(count: int, spec: DataSpec, where: str = "method.num_prototypes") -> None:
    """Checks that there are not more prototypes than training examples.

    Args:
      count: number of prototypes.
      spec: the data.
      where: the key of `count`, for the message.

    Raises:
      UserError: there are more, so that some prototypes would have no examples.
    """
    if count > spec.num_examples:
        raise UserError(
            f"{where} {count:,} is more than the {spec.num_examples:,} training "
            f"examples, which cannot use them all; use {spec.num_examples // 2:,} or fewer"
        )
