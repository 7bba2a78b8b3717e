"""I-JEPA: predicts the representations of target blocks from a context (Assran et al. 2023).

    y = LayerNorm(f'(x)) of all patches, no gradient          targets: 4 blocks of patches
    s = f(context patches)                                    a large block without the targets
    p = predictor(s, positions of a block)
    loss = mean of smooth-L1(p - y) over the patches of the blocks

While the loss is above the metric `blind_loss`, the predictor knows no more than the mean target of
each position. `patch_target_variance` falls to 0 if f' forgets the image; the collapse monitor
watches it.

f is a ViT without a class token, f' its moving average, with a decay that rises linearly to 1. The
predictor (`nets.predictor`) is a narrow ViT, applied to each block separately. LayerNorm has no
scale and offset. f' is evaluated (`eval.weights = "ema"`); `h` is the mean of its patch tokens.

Blocks are as in the released code. One random number per batch sets area and aspect ratio of the
targets, another one those of the context. Positions are drawn for each image. A context has more
than `min_context` patches; after 20 attempts a target may overlap it. In the released code no block
reaches the last row or column of the grid: on its grid of 16x16 they are 12% of the patches, on one
of 4x4 44%, which nothing is ever learned of. `whole_grid` includes them.

Deviations:
- The released code shortens all contexts of a GPU to the shortest one. Here a context is padded to
  `max_context` of the grid, and shortened only if it is longer. In both cases the last patches in
  row-major order are dropped.
- The learning rate's warm-up reaches its peak one step later.
"""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any, ClassVar

import jax
import jax.numpy as jnp

from ssl_jax import losses
from ssl_jax.config.fields import fraction, not_negative, positive, positive_fraction
from ssl_jax.core.errors import UserError
from ssl_jax.core.items import Images, Item
from ssl_jax.core.length import Length
from ssl_jax.core.method import (
    Array,
    Aux,
    Batch,
    DataSpec,
    PyTree,
    Schedule,
    Weights,
    hyper_parameters,
)
from ssl_jax.methods.base.encoder_features import EncoderFeatures
from ssl_jax.methods.base.one_view import OneView, OneViewMethod, make_one_view
from ssl_jax.models import Net, make_encoder, make_predictor
from ssl_jax.models.patches import hide_patches, patch_grid
from ssl_jax.models.vit import ViT
from ssl_jax.optim import linear_ema
from ssl_jax.views import blocks, to_show

_TARGETS, _CONTEXT = 1, 2  # folded into the batch's key for sizes, into examples' for positions
_NUM_TARGETS = 4


@dataclasses.dataclass(frozen=True)
class HyperParameters:
    """The keys of `config.method`."""

    momentum: Annotated[
        float, fraction, "Decay of f' at the first step; it rises linearly to 1."
    ] = 0.996
    min_context: Annotated[int, not_negative, "A context has more patches than this number."] = 10
    max_context: Annotated[
        float,
        positive_fraction,
        "Maximum number of patches of a context, as a fraction of the grid.",
    ] = 0.6
    num_targets: Annotated[int, positive, "Number of target blocks."] = _NUM_TARGETS
    whole_grid: Annotated[
        bool, "Blocks may reach the last row and column and span the grid; for small grids."
    ] = False


# Areas and aspects, Sec. 3 and App. A.1.
TARGET = dict(scale=(0.15, 0.2), aspect=(0.75, 1.5))
CONTEXT = dict(scale=(0.85, 1.0), aspect=(1.0, 1.0))


@dataclasses.dataclass(frozen=True)
class IJEPA(OneViewMethod, EncoderFeatures):
    """Joint-embedding prediction.

      Attributes:
        hyper: the config's section.
        total_steps: length of the run.
        encoder: f, a ViT.
    predictor: see `ssl_jax.models.grid_nets.ViTPredictor`.
    view: computes the inputs of the encoder from batches.
    """

    title: ClassVar[str] = "I-JEPA"
    decomposes: ClassVar[bool] = True

    hyper: HyperParameters
    total_steps: int
    encoder: Net
    predictor: Net
    view: OneView

    @property
    def ema_decay(self) -> Schedule:
        return linear_ema(self.hyper.momentum, self.total_steps)

    def ema_filter(self, path: str) -> bool:
        return path.startswith("encoder/")

    @property
    def grid(self) -> tuple[int, int]:
        """(rows, columns) of patches."""
        height, width, _ = self.view.shape
        return height // self._patch_size, width // self._patch_size

    @property
    def _patch_size(self) -> int:
        return self.encoder.module.patch_size

    @property
    def _block_grid(self) -> blocks.Grid:
        return blocks.Grid(*self.grid, whole=self.hyper.whole_grid)

    @property
    def _target(self) -> blocks.BlockSize:
        return blocks.BlockSize(self._block_grid, **TARGET)

    @property
    def _context(self) -> blocks.BlockSize:
        return blocks.BlockSize(self._block_grid, **CONTEXT)

    @property
    def context_length(self) -> int:
        """Length of a context, padding included."""
        rows, columns = self.grid
        return int(rows * columns * self.hyper.max_context)

    def init(self, key: Array, batch: Batch) -> tuple[PyTree, PyTree]:
        encoder_key, predictor_key = jax.random.split(key)
        x = jax.ShapeDtypeStruct((1, *self.view.shape), jnp.float32)
        k, m = self.context_length, self._target.largest
        inputs = (
            jax.ShapeDtypeStruct((1, k, self.encoder.module.dim), jnp.float32),
            jax.ShapeDtypeStruct((1, k), jnp.int32),
            jax.ShapeDtypeStruct((1, k), bool),
            jax.ShapeDtypeStruct((1, self.hyper.num_targets, m), jnp.int32),
            jax.ShapeDtypeStruct((1, self.hyper.num_targets, m), bool),
        )
        params, buffers = {}, {}
        params["encoder"], buffers["encoder"] = self.encoder.init(encoder_key, x)
        params["predictor"], buffers["predictor"] = self.predictor.init(predictor_key, *inputs)
        return params, buffers

    def views(self, keys: Array, batch: Batch, *, key: Array, step: Array) -> dict[str, Array]:
        """`x` [n h w c], and row-major indices of patches.

        `context` int32 [n k] and `targets` int32 [n b m], each with a mask that is False for
        padding, `is_context` and `is_target`.
        """
        del step
        return {"x": self.view.train(keys, batch), **self._masks(keys, key)}

    def _masks(self, keys: Array, key: Array) -> dict[str, Array]:
        target_share, context_share = (
            jax.random.uniform(jax.random.fold_in(key, tag)) for tag in (_TARGETS, _CONTEXT)
        )
        target, context = self._target.draw(target_share), self._context.draw(context_share)
        length, grid = self._target.largest, self._block_grid

        def image_masks(key: Array) -> dict[str, Array]:
            target_key, context_key = (jax.random.fold_in(key, tag) for tag in (_TARGETS, _CONTEXT))
            masks = blocks.block_masks(target_key, target, grid, self.hyper.num_targets)
            targets, is_target = jax.vmap(lambda mask: blocks.padded_places(mask, length))(masks)
            mask = blocks.context_mask(context_key, context, grid, masks, self.hyper.min_context)
            places, is_context = blocks.padded_places(mask, self.context_length)
            return {
                "context": places, "is_context": is_context,
                "targets": targets, "is_target": is_target,
            }  # fmt: skip

        return jax.vmap(image_masks)(keys)

    def encode(
        self, w: Weights, views: dict[str, Array], *, key: Array, step: Array
    ) -> tuple[PyTree, PyTree]:
        """`h` [n d] of the context, `y` [n d] of the whole image, `targets` [n l d], `loss` [n]."""
        del step
        context_key, target_key = jax.random.split(key)
        x, targets = views["x"], views["targets"]
        (h, out), encoder = self.encoder.apply(
            w.params["encoder"], w.buffers["encoder"], x, views["context"], views["is_context"],
            train=True, key=context_key,
        )  # fmt: skip
        predicted, predictor = self.predictor.apply(
            w.params["predictor"], w.buffers["predictor"],
            out["patch_tokens"], views["context"], views["is_context"],
            targets, views["is_target"], train=True,
        )  # fmt: skip
        (y, target_out), _ = self.encoder.apply(
            w.ema["encoder"], w.buffers["encoder"], x, train=False, key=target_key
        )
        tokens = jax.nn.standardize(target_out["patch_tokens"].astype(jnp.float32), epsilon=1e-5)
        n, count, m = targets.shape
        target_tokens = jnp.take_along_axis(tokens, targets.reshape(n, -1, 1), axis=1)
        target_tokens = jax.lax.stop_gradient(target_tokens.reshape(n, count, m, -1))
        loss = losses.smooth_l1_of_blocks(predicted, target_tokens, views["is_target"])
        target = jax.lax.stop_gradient({"y": y, "targets": tokens})
        encoded = {"h": h, "loss": loss, **target}
        return encoded, {"encoder": encoder, "predictor": predictor}

    def objective(
        self, w: Weights, encoded: PyTree, *, key: Array, step: Array
    ) -> tuple[Array, Aux]:
        del key
        image_losses = encoded["loss"]
        outputs = {"h": jax.lax.stop_gradient(encoded["h"]), "z": encoded["y"][:, None]}
        metrics = losses.patch_target_statistics(encoded["targets"])
        metrics["target_momentum"] = jnp.float32(self.ema_decay(step))
        weight = jnp.float32(len(image_losses))
        return jnp.mean(image_losses), Aux(w.buffers, metrics, outputs, weight)

    def show(self, w: Weights, keys: Array, batch: Batch) -> dict[str, Item]:
        """The context and the targets of some images."""
        del w
        x = self.view.evaluate(batch)
        masks = self._masks(keys, keys[0])
        rows, columns = self.grid
        patch_index = jnp.arange(rows * columns)

        def hide_others(places: Array, mask: Array) -> Array:  # [n k] -> [n h w c]
            shown = jnp.any((places[:, :, None] == patch_index) & mask[:, :, None], axis=1)
            return hide_patches(x, ~shown, self._patch_size)

        images = [hide_others(masks["context"], masks["is_context"])] + [
            hide_others(masks["targets"][:, block], masks["is_target"][:, block])
            for block in range(self.hyper.num_targets)
        ]
        columns = ("context", *(f"target {i + 1}" for i in range(self.hyper.num_targets)))
        item = Images(
            jnp.clip(to_show(jnp.stack(images, axis=1), self.view.normalization), 0, 1),
            inputs=jnp.clip(to_show(x[:, None], self.view.normalization)[:, 0], 0, 1),
            columns=columns,
            note="The context of an image, which the encoder gets, and the target blocks.",
        )
        return {"Contexts and targets": item}

    def preflight(self, batch_size: int) -> list[tuple[str, str]]:
        del batch_size
        rows, columns = self.grid
        return [
            (
                "blocks",
                f"{self.hyper.num_targets} of at most {self._target.largest} of "
                f"{rows * columns} patches are predicted from at most {self.context_length}",
            ),
            ("targets", f"moving average of the encoder, decay {self.hyper.momentum:g} to 1"),
        ]


def make(config: Any, spec: DataSpec, length: Length) -> IJEPA:
    """Builds the method from the config's sections method, model, nets and views.

    Raises:
      UserError: a bad value, an encoder that is not a ViT without a class token, patches that do
        not tile the views, or a grid too small for a context.
    """
    hyper = hyper_parameters(HyperParameters, config.method, "method")
    view = make_one_view(config, spec)
    encoder = make_encoder(**config.model, dtype=config.dtype)
    vit = encoder.module
    if not isinstance(vit, ViT) or vit.cls_token:
        raise UserError(
            "I-JEPA needs a ViT without a class token; set model.name to vit_..., "
            "model.cls_token=False and model.pool='mean'"
        )
    grid = patch_grid(view.shape, vit.patch_size)
    method = IJEPA(
        hyper=hyper,
        total_steps=length.total_steps,
        encoder=encoder,
        predictor=make_predictor(
            **config.nets.predictor, grid=grid, values=vit.dim, dtype=config.dtype
        ),
        view=view,
    )
    if min(grid) < 3 or method.context_length <= hyper.min_context:
        raise UserError(
            f"a grid of {grid[0]}x{grid[1]} patches leaves contexts of at most "
            f"{method.context_length} patches, and method.min_context={hyper.min_context}; use "
            "smaller patches, larger views, or a lower min_context"
        )
    return method
