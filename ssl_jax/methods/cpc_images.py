"""CPC on images: rows of patches predict the rows below them (van den Oord et al. 2018).

    x -> one random view -> grid of patches that overlap -> z_ij = f(patch)      latents
    c = context(z)                    masked convolutions: c_ij sees the rows up to i only
    p_k = W_k c,    k rows ahead      predictions of z_{i+k,j}
    loss = mean over k of InfoNCE; negatives are the other patches of all images (`losses.cpc`)

The features of an image are the mean of the latents of its patches. A run that starts from the
encoder (`init_from`), such as fine-tuning with few labels, gives it whole images.

CPC v2 (Henaff et al. 2020) predicts in four directions, each with a context net of its own: the
grid is turned until the direction points down (`directions`). Each patch is augmented on its own
(`views.families.patch`, with `drop_channels`), and the encoder has LayerNorm, because BatchNorm
tells a net which patches belong together. Features are those of the average of the weights
(`optimizer.polyak`).

Deviations:
- The losses of steps and directions are averaged; the pseudo-code of CPC v2 sums those of steps.
- The pseudo-code of CPC v2 predicts `range(steps_to_ignore, steps_to_predict)`, i.e. 3 rows ahead
  only; so do the configs.
- Patches are scaled to [-1, 1].
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Annotated, Any, ClassVar, Literal

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from ssl_jax import losses
from ssl_jax.config.fields import Bound, not_empty
from ssl_jax.core.errors import UserError
from ssl_jax.core.items import Images, Item
from ssl_jax.core.layer_outputs import LayerOutput
from ssl_jax.core.length import Length
from ssl_jax.core.method import Array, Aux, Batch, DataSpec, PyTree, Weights, hyper_parameters
from ssl_jax.methods.base.encoder_features import EncoderFeatures
from ssl_jax.methods.base.one_view import OneView, OneViewMethod, make_pixel_view
from ssl_jax.methods.base.two_views import check_batch_has_others
from ssl_jax.models import Net, make_context, make_encoder
from ssl_jax.models.options import Count
from ssl_jax.views import image as views_of_images
from ssl_jax.views import patches
from ssl_jax.views.color import grey
from ssl_jax.views.recipe import read_families

# Quarter turns, against the clock, after which a direction points down.
_TURNS = {"down": 0, "left": 1, "up": 2, "right": 3}
_PATCH = "patch"  # the family of views
_PATCHES = 1  # folded into an example's key
_GAP = 1  # pixels between the patches of a picture
_different = Bound("different names", lambda names: len(set(names)) == len(names))


@dataclasses.dataclass(frozen=True)
class HyperParameters:
    """The keys of `config.method`."""

    patch_size: Annotated[Count, "Side of a patch, pixels."] = 64
    stride: Annotated[Count, "Distance between neighbouring patches, pixels."] = 32
    grey: Annotated[bool, "Make all images grey, also in evaluation (CPC)."] = False
    directions: Annotated[
        tuple[Literal[tuple(_TURNS)], ...],  # type: ignore[valid-type]  # a tuple of names
        not_empty, _different,
        "Directions of prediction, each with its own context net; CPC: down; CPC v2: all four.",
    ] = ("down",)  # fmt: skip
    first_step: Annotated[Count, "Fewest rows ahead that are predicted."] = 1
    last_step: Annotated[Count, "Most rows ahead that are predicted."] = 5


@dataclasses.dataclass(frozen=True)
class CPCImages(OneViewMethod, EncoderFeatures):
    """Contrastive prediction of patches.

    Attributes:
      hyper: the config's section.
      encoder: f.
      context: context, predictions and targets of a grid; see `ssl_jax.models.pixel_context`.
      view: computes the images from which patches are cut, in [0, 1].
      patch_recipe: (keys [m], patches [m s s c]) -> [m 1 s s c]; None: patches stay as they are.
    """

    title: ClassVar[str] = "CPC"

    hyper: HyperParameters
    encoder: Net
    context: Net
    view: OneView
    patch_recipe: Callable[[Array, Array], Array] | None = None

    @property
    def grid(self) -> tuple[int, int]:
        """(rows, columns) of patches."""
        return _grid(self.hyper, self.view.shape)

    @property
    def steps(self) -> tuple[int, ...]:
        return tuple(range(self.hyper.first_step, self.hyper.last_step + 1))

    def init(self, key: Array, batch: Batch) -> tuple[PyTree, PyTree]:
        del batch
        encoder_key, *keys = jax.random.split(key, 1 + len(self.hyper.directions))
        side = self.hyper.patch_size
        x = jax.ShapeDtypeStruct((1, side, side, self.view.shape[2]), jnp.float32)
        params, buffers = {}, {}
        params["encoder"], buffers["encoder"] = self.encoder.init(encoder_key, x)
        (h, _), _ = jax.eval_shape(
            lambda p, b, x: self.encoder.apply(p, b, x, train=False),
            params["encoder"], buffers["encoder"], x,
        )  # fmt: skip
        params["context"] = {}
        for direction, direction_key in zip(self.hyper.directions, keys, strict=True):
            grid = self.grid if _TURNS[direction] % 2 == 0 else self.grid[::-1]
            z = jax.ShapeDtypeStruct((1, *grid, h.shape[1]), jnp.float32)
            params["context"][direction], _ = self.context.init(direction_key, z)
        buffers["context"] = {}
        return params, buffers

    def cut(self, images: Array) -> Array:
        """Images [n h w c] in [0, 1] to patches [n rows columns s s c]."""
        if self.hyper.grey:
            images = grey(images.swapaxes(2, 3)).swapaxes(2, 3) + jnp.zeros_like(images)
        return patches.cut_grid(images, size=self.hyper.patch_size, stride=self.hyper.stride)

    def views(self, keys: Array, batch: Batch, *, key: Array, step: Array) -> Array:
        """Patches of the training view of each image, [n rows columns s s c] in [0, 1]."""
        del key, step
        return self._augmented(keys, self.cut(self.view.train(keys, batch)))

    def _augmented(self, keys: Array, cut: Array) -> Array:
        """Augments each patch on its own."""
        if self.patch_recipe is None:
            return cut
        n, rows, columns, *patch = cut.shape
        count = rows * columns

        def of_image(key: Array) -> Array:
            key = jax.random.fold_in(key, _PATCHES)
            return jax.vmap(lambda place: jax.random.fold_in(key, place))(jnp.arange(count))

        patch_keys = jax.vmap(of_image)(keys).reshape(n * count)
        flat = self.patch_recipe(patch_keys, cut.reshape(n * count, *patch))
        return flat.reshape(cut.shape)

    def latents(
        self, w: Weights, cut: Array, *, train: bool, key: Array | None = None
    ) -> tuple[Array, PyTree]:
        """Latents [n rows columns d] of patches [n rows columns s s c], and the buffers."""
        n, rows, columns, *patch = cut.shape
        flat = 2 * cut.reshape(n * rows * columns, *patch) - 1
        (h, _), buffers = self.encoder.apply(
            w.params["encoder"], w.buffers["encoder"], flat, train=train, key=key
        )
        return h.reshape(n, rows, columns, -1), buffers

    def predict(self, w: Weights, latents: Array, direction: str) -> tuple[dict[int, Array], Array]:
        """Predictions and targets of one direction, from latents [n rows columns d].

        Returns:
          (step -> [n p e], targets [n q e]): positions are those of the turned grid, row by row.
        """
        n = len(latents)
        turned = jnp.rot90(latents, _TURNS[direction], axes=(1, 2))
        (_, predictions, targets), _ = self.context.apply(
            w.params["context"][direction], {}, turned, train=False
        )
        flat = {k: p.reshape(n, -1, p.shape[-1]) for k, p in predictions.items()}
        return flat, targets.reshape(n, -1, targets.shape[-1])

    def encode(self, w: Weights, views: Array, *, key: Array, step: Array) -> tuple[PyTree, PyTree]:
        """`h` [n d], and `predictions` and `targets` by direction, see `predict`."""
        del step
        latents, encoder = self.latents(w, views, train=True, key=key)
        predictions, targets = {}, {}
        for direction in self.hyper.directions:
            predictions[direction], targets[direction] = self.predict(w, latents, direction)
        h = jnp.mean(latents, axis=(1, 2))
        return {"h": h, "predictions": predictions, "targets": targets}, {"encoder": encoder}

    def objective(
        self, w: Weights, encoded: PyTree, *, key: Array, step: Array
    ) -> tuple[Array, Aux]:
        """The mean over directions.

        Metrics are those of `losses.cpc`, averaged over directions, and `accuracy_DIRECTION` if
        there are several.
        """
        del key, step
        by_direction, metrics = {}, {}
        for direction in self.hyper.directions:
            by_direction[direction] = losses.cpc(
                encoded["predictions"][direction], encoded["targets"][direction]
            )
        if len(by_direction) > 1:
            for direction, (_, parts) in by_direction.items():
                metrics[f"accuracy_{direction}"] = parts["contrastive_accuracy"]
        parts = [parts for _, parts in by_direction.values()]
        metrics |= jax.tree.map(lambda *values: jnp.mean(jnp.stack(values)), *parts)
        loss = jnp.mean(jnp.stack([loss for loss, _ in by_direction.values()]))
        h = jax.lax.stop_gradient(encoded["h"])
        return loss, Aux(w.buffers, metrics, {"h": h, "z": h[:, None]})

    def features(self, w: Weights, batch: Batch) -> dict[str, Array]:
        """`h` [n d], the mean of the latents of the evaluation view."""
        latents, _ = self.latents(w, self.cut(self.eval_view(batch["image"])), train=False)
        return {"h": jnp.mean(latents.astype(jnp.float32), axis=(1, 2))}

    def layers(self, w: Weights, batch: Batch) -> dict[str, LayerOutput]:
        """The latents of the patches as "stage1", for probes of the grid."""
        latents, _ = self.latents(w, self.cut(self.eval_view(batch["image"])), train=False)
        n, rows, columns, d = latents.shape
        return {"stage1": LayerOutput(latents.astype(jnp.float32).reshape(n, rows * columns, d))}

    def show(self, w: Weights, keys: Array, batch: Batch) -> dict[str, Item]:
        """Augmented patches, and for each prediction the patch with the highest score."""
        images = self.eval_view(batch["image"])
        plain = self.cut(images)
        direction, k = self.hyper.directions[0], self.hyper.first_step
        latents, _ = self.latents(w, plain, train=False)
        predictions, targets = self.predict(w, latents, direction)
        scores = jnp.einsum("npd,mqd->npmq", predictions[k], targets)
        n, p, _, q = scores.shape
        best = jnp.argmax(scores.reshape(n, p, -1), axis=2)  # (n, p), among all patches
        turned = jnp.rot90(plain, _TURNS[direction], axes=(1, 2))
        candidates = turned.reshape(n * q, *turned.shape[3:])
        known = turned.reshape(n, q, *turned.shape[3:])[:, : q - p]
        shown = jnp.concatenate([known, candidates[best]], axis=1).reshape(turned.shape)
        shown = jnp.rot90(shown, -_TURNS[direction], axes=(1, 2))
        columns = {"patches": plain, f"predicted {direction}, {k} ahead": shown}
        if self.patch_recipe is not None:
            columns = {"augmented patches": self._augmented(keys, plain), **columns}
        pictures = [_mosaic(cut) for cut in columns.values()]
        item = Images(
            jnp.clip(jnp.stack(pictures, axis=1), 0, 1),
            inputs=images,
            columns=tuple(columns),
            note="A predicted patch is the one with the highest score among all of these images.",
        )
        return {"Patches and predictions": item}

    def preflight(self, batch_size: int) -> list[tuple[str, str]]:
        hyper, (rows, columns) = self.hyper, self.grid
        candidates = batch_size * rows * columns
        return [
            (
                "patches",
                f"{rows}x{columns} of {hyper.patch_size} pixels with stride {hyper.stride}; "
                f"{candidates:,} patches a step",
            ),
            (
                "predictions",
                f"{', '.join(hyper.directions)}, {_range(self.steps)} ahead, each among "
                f"{candidates:,} patches: chance {math.log(candidates):.2f} nats",
            ),
        ]


def _range(steps: tuple[int, ...]) -> str:
    """Steps in words: "1 to 5 rows"."""
    first, last = steps[0], steps[-1]
    return f"{first} row{'s' if first > 1 else ''}" if first == last else f"{first} to {last} rows"


def _grid(hyper: HyperParameters, shape: tuple[int, int, int]) -> tuple[int, int]:
    rows, columns = (patches.grid_side(side, hyper.patch_size, hyper.stride) for side in shape[:2])
    return rows, columns


def _mosaic(cut: Array) -> Array:
    """Patches [n rows columns s s c] side by side with gaps: [n h w c]."""
    gap = ((0, 0),) * 3 + ((0, _GAP), (0, _GAP), (0, 0))
    framed = jnp.pad(cut, gap, constant_values=1.0)
    n, rows, columns, height, width, channels = framed.shape
    return framed.swapaxes(2, 3).reshape(n, rows * height, columns * width, channels)


def _patch_recipe(
    config: Any, hyper: HyperParameters, channels: int
) -> Callable[[Array, Array], Array] | None:
    """The views of a patch, `views.families.patch`; None without.

    Raises:
      UserError: another family, several views, or views of another size than the patches.
    """
    families = read_families(config.views)
    for name, count in families.items():
        if name != _PATCH or count != 1:
            raise UserError(
                f"views.families.{name} with count {count}: cpc_images has one family, "
                f"{_PATCH!r}, with count 1, the changes of each patch"
            )
    if not families:
        return None
    recipe = views_of_images.make_views(config.views, num_views=1, dtype="float32", family=_PATCH)
    side = hyper.patch_size
    x = jax.ShapeDtypeStruct((1, side, side, channels), jnp.float32)
    shape = jax.eval_shape(recipe, jax.random.split(jax.random.key(0), 1), x).shape[2:]
    if shape != x.shape[1:]:
        raise UserError(
            f"views.families.{_PATCH} makes views of {shape[0]}x{shape[1]} of patches of "
            f"{side}x{side} pixels; it must not change their size"
        )
    return recipe


def make(config: Any, spec: DataSpec, length: Length) -> CPCImages:
    """Builds the method from the config's sections method, model, nets and views.

    Raises:
      UserError: a bad value, views that are normalised, or a grid too small for the steps.
    """
    del length
    check_batch_has_others(config)
    hyper = hyper_parameters(HyperParameters, config.method, "method")
    whole = ConfigDict(dict(config))
    whole.views = ConfigDict({k: v for k, v in config.views.items() if k != "families"})
    view = make_pixel_view(whole, spec, "method cpc_images scales patches itself")
    grid = _grid(hyper, view.shape)
    needed = hyper.last_step + 1
    if min(grid) < needed:
        raise UserError(
            f"views of {view.shape[0]}x{view.shape[1]} pixels have {grid[0]}x{grid[1]} patches of "
            f"{hyper.patch_size} pixels with stride {hyper.stride}; method.last_step="
            f"{hyper.last_step} needs {needed} rows: use larger views, smaller patches, a smaller "
            "stride, or a smaller last_step"
        )
    if hyper.first_step > hyper.last_step:
        raise UserError(
            f"method.first_step={hyper.first_step} is above method.last_step={hyper.last_step}"
        )
    steps = tuple(range(hyper.first_step, hyper.last_step + 1))
    return CPCImages(
        hyper=hyper,
        encoder=make_encoder(**config.model, dtype=config.dtype),
        context=make_context(**config.nets.context, steps=steps, dtype=config.dtype),
        view=view,
        patch_recipe=_patch_recipe(config, hyper, view.shape[2]),
    )
