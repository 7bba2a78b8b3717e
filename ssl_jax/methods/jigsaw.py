"""Jigsaw puzzles: in which order are the tiles of an image (Noroozi & Favaro 2016).

    x -> one random view -> tiles of a 3x3 grid in one of P orders -> f, fc6 -> code of each tile
    nine codes, one after the other -> fc7, fc8 -> which of the P orders
    loss = mean over images of the cross-entropy of the order

f and fc6 are shared by the tiles: the context-free network. The P permutations are chosen once and
are as different as possible (`ssl_jax.views.permutations`).

Defences against solutions that need no objects (section 4.2, Table 5): a tile lies at a random
place in its cell, so that there are gaps between tiles (`tile_size`); each tile is normalised to
mean 0 and variance 1 by channel (`normalize`); against chromatic aberration, channels are shifted
(`channel_jitter`), half of the images are grey (`grayscale`), and half of the others lose the axis
from green to magenta (`projection`).

Evaluation encodes whole images, normalised as a tile is.

Deviations:
- Normalisation of each tile is in the paper; the released code subtracts the mean colour of the
  data set.
- Shifted channels stay inside the image; there are no pixels beyond its edge.
- The last layer starts from N(0, 0.01^2), so that an untrained net predicts all orders alike.
"""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from ssl_jax.config.fields import Bound, below_one, between, fraction
from ssl_jax.core.errors import UserError
from ssl_jax.core.items import Images, Item
from ssl_jax.core.length import Length
from ssl_jax.core.method import Array, Batch, DataSpec, Weights, hyper_parameters
from ssl_jax.methods.base.pretext import PretextTask, make_piece_view
from ssl_jax.models import Net, make_encoder
from ssl_jax.models.fully_connected import FullyConnected
from ssl_jax.models.options import Count
from ssl_jax.views import aberration, patches
from ssl_jax.views.color import grey
from ssl_jax.views.ops import fold_in, per_image, uniforms
from ssl_jax.views.permutations import TOTAL, distant_permutations, hamming_distances

_ORDER, _PLACES, _CHANNELS, _COLORS = range(4)  # folded into an example's key
_LEAST_VARIANCE = 1e-5  # of pixels in [0, 1]: a level of 255 is 0.004
_MOST = 10_000  # choosing them takes half a minute
_permutations = Bound(
    f"2 to {_MOST} (nine tiles have {TOTAL} orders)", lambda count: 2 <= count <= _MOST
)


@dataclasses.dataclass(frozen=True)
class HyperParameters:
    """The keys of `config.method`."""

    num_permutations: Annotated[int, _permutations, "Number of orders, the classes."] = 1000
    permutations_seed: Annotated[
        int, between(0, 2**32 - 1), "Seed of the first of the permutations."
    ] = 0
    tile_size: Annotated[
        Count, "Side of a tile, pixels; a cell of the grid is a third of the view."
    ] = 64
    channel_jitter: Annotated[
        int, between(0, 100), "Largest shift of a channel to the right and down, pixels."
    ] = 2
    grayscale: Annotated[float, fraction, "Probability that an image becomes grey."] = 0.5
    projection: Annotated[
        float, fraction,
        "Probability that an image that stays in colour loses the axis from green to magenta.",
    ] = 0.5  # fmt: skip
    normalize: Annotated[bool, "Normalise each channel of each tile."] = True
    code_dim: Annotated[Count, "Width of fc6, the code of a tile."] = 1024
    hidden_dims: Annotated[tuple[Count, ...], "Width of fc7, and of further layers."] = (4096,)
    dropout: Annotated[float, below_one, "Dropout rate of the outputs of these layers."] = 0.5


@dataclasses.dataclass(frozen=True, kw_only=True)
class Jigsaw(PretextTask):
    """Classification of the order of nine tiles."""

    title: ClassVar[str] = "Jigsaw"

    hyper: HyperParameters

    @property
    def questions(self) -> tuple[tuple[int, ...], ...]:
        return (tuple(range(patches.COUNT)),)

    @property
    def permutations(self) -> np.ndarray:
        """The orders, uint8 [P 9]: piece j of a puzzle is the tile in cell `permutations[c, j]`."""
        return distant_permutations(self.hyper.num_permutations, self.hyper.permutations_seed)

    def pieces(self, keys: Array, images: Array) -> dict[str, Array]:
        """Tiles [n 9 s s c], `target` int32 [n 1], and `raw`, the tiles before normalisation."""
        images = self._change_colors(fold_in(keys, _COLORS), images)
        tiles = self._cut(keys, images)
        target = patches.integers(fold_in(keys, _ORDER), (), 0, len(self.permutations) - 1)
        order = jnp.array(self.permutations, jnp.int32)[target]  # (n, 9)
        raw = jnp.take_along_axis(tiles, order[:, :, None, None, None], axis=1)
        tiles = normalize_each(raw) if self.hyper.normalize else raw
        return {"pieces": tiles, "target": target[:, None], "raw": raw}

    def _change_colors(self, keys: Array, images: Array) -> Array:
        hyper = self.hyper
        if images.shape[-1] != 3:
            return images
        is_grey, is_projected = (
            per_image(u < p)
            for u, p in zip(uniforms(keys, 2), (hyper.grayscale, hyper.projection), strict=True)
        )
        projected = jnp.where(is_projected, aberration.project_colors(images), images)
        return jnp.where(is_grey, grey(images.swapaxes(2, 3)).swapaxes(2, 3), projected)

    def _cut(self, keys: Array, images: Array) -> Array:
        """The tiles of each image in the order of the cells, [n 9 s s c]."""
        hyper, channels = self.hyper, images.shape[-1]
        cell = min(images.shape[1:3]) // patches.SIDE
        places = patches.integers(
            fold_in(keys, _PLACES), (patches.COUNT, 2), 0, cell - hyper.tile_size
        )
        corners = patches.grid_corners(cell) + places
        if not hyper.channel_jitter:
            return patches.cut(images, corners, hyper.tile_size)
        shifts = patches.integers(
            fold_in(keys, _CHANNELS), (patches.COUNT, channels, 2), 0, hyper.channel_jitter
        )
        return patches.cut(images, corners, hyper.tile_size, shifts)

    def prepare(self, images: Array) -> Array:
        images = images.astype(jnp.float32)
        return normalize_each(images) if self.hyper.normalize else images

    def show(self, w: Weights, keys: Array, batch: Batch) -> dict[str, Item]:
        """Puzzles of evaluation views, and the tiles at the predicted places."""
        images = self.view.evaluate(batch)
        parts = self.pieces(keys, images)
        _, logits, _ = self.predict(w, parts["pieces"], train=False)
        predicted = jnp.argmax(logits[:, 0], axis=1)
        # Cell k gets the piece j with order[j] = k.
        places = jnp.argsort(jnp.array(self.permutations, jnp.int32)[predicted], axis=1)
        solved = jnp.take_along_axis(parts["raw"], places[:, :, None, None, None], axis=1)
        pictures = [patches.assemble(tiles) for tiles in (parts["raw"], solved)]
        item = Images(
            jnp.clip(jnp.stack(pictures, axis=1), 0, 1),
            inputs=images,
            columns=("puzzle", "as solved"),
            note="The nine tiles in a random order, and in the order that the net predicts.",
        )
        return {"Puzzles": item}

    def preflight(self, batch_size: int) -> list[tuple[str, str]]:
        hyper = self.hyper
        distances = _distances(self.permutations)
        return [
            (
                "puzzles",
                f"{hyper.num_permutations} orders, Hamming distances {distances}; "
                f"{batch_size * patches.COUNT} tiles of {hyper.tile_size} pixels a step",
            )
        ]


def normalize_each(images: Array) -> Array:
    """Normalises each channel of each image or tile [... h w c] to mean 0 and variance 1.

    Channels of less contrast than one level of 255 stay close to 0.
    """
    mean = jnp.mean(images, axis=(-3, -2), keepdims=True)
    variance = jnp.var(images, axis=(-3, -2), keepdims=True)
    return (images - mean) * jax.lax.rsqrt(variance + _LEAST_VARIANCE)


def _distances(permutations: np.ndarray) -> str:
    """Mean and minimum of the distances between permutations, as text."""
    distances = hamming_distances(permutations)
    return f"{distances.mean():.2f} on average and {distances.min()} at least"


def make(config: Any, spec: DataSpec, length: Length) -> Jigsaw:
    """Builds the method from the config's sections method, model and views.

    Raises:
      UserError: a bad value, views that are too small for the tiles or normalised, or grey images
        that are to be projected.
    """
    del length
    hyper = hyper_parameters(HyperParameters, config.method, "method")
    view = make_piece_view(config, spec)
    height, width, channels = view.shape
    cell = min(height, width) // patches.SIDE
    if hyper.tile_size > cell:
        raise UserError(
            f"method.tile_size={hyper.tile_size} does not fit in the cells of a 3x3 grid over "
            f"views of {height}x{width} pixels; use at most {cell}, or larger views"
        )
    if channels != 3 and (hyper.projection or hyper.grayscale):
        raise UserError(
            f"method.grayscale and method.projection change colours, and {config.data.name} is "
            "grey; set both to 0"
        )
    dtype = jnp.dtype(config.dtype)
    return Jigsaw(
        hyper=hyper,
        encoder=make_encoder(**config.model, dtype=config.dtype),
        branch=Net(FullyConnected((hyper.code_dim,), dtype=dtype)),
        head=Net(
            FullyConnected(
                hyper.hidden_dims, hyper.num_permutations, dropout=hyper.dropout, dtype=dtype
            )
        ),
        view=view,
    )
