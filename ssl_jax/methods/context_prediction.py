"""Context prediction: where one patch lies relative to another (Doersch et al. 2015).

    x -> one random view -> nine patches of a 3x3 grid -> f, fc6 -> code of each patch
    (code of a, code of b) -> fc7, fc8, fc9 -> which of eight positions b has relative to a
    loss = mean over the pairs of the cross-entropy of the position

Positions are those of the neighbours of a, row by row:

    0 1 2
    3 a 4
    5 6 7

The pairs of a view are those of the central patch with each of its neighbours, in both orders: 16
pairs from nine patches, each position twice. The position of a relative to b is 7 minus that of b
relative to a.

Defences against solutions that need no objects (section 4.1): a gap between the patches and random
shifts of each (`gap`, `jitter`); `color` removes the traces of chromatic aberration; some patches
have a lower resolution (`downsample`). Then a patch is divided by the root of its mean square, so
that contrast tells nothing, and multiplied with 50, so that inputs are as large as those of
AlexNet.

Evaluation encodes whole images with the same treatment of colours; of `color` "drop" it keeps the
green channel.

Deviations:
- The released code pairs all neighbours in a grid over the whole image, which has more than nine
  patches in most images.
- The rate of the optimizer is for the mean over pairs; the released code sums them.
- Dropped channels get Gaussian noise as in the paper; the released code draws uniform noise.
- Patches are resized bilinearly, with antialiasing.
"""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any, ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np

from ssl_jax.config.fields import fraction, not_negative
from ssl_jax.core.errors import UserError
from ssl_jax.core.items import Images, Item
from ssl_jax.core.length import Length
from ssl_jax.core.method import Array, Batch, DataSpec, Weights, hyper_parameters
from ssl_jax.methods.base.pretext import PretextTask, make_piece_view
from ssl_jax.models import Net, make_encoder
from ssl_jax.models.fully_connected import FullyConnected
from ssl_jax.models.options import Count
from ssl_jax.views import aberration, patches
from ssl_jax.views.ops import fold_in

_CENTRE = patches.COUNT // 2
NEIGHBOURS = tuple(i for i in range(patches.COUNT) if i != _CENTRE)
_INPUT_SCALE = 50.0
_LEAST_POWER = 1e-5  # of pixels in [0, 1]
_CORNERS, _SHIFTS, _SIDES, _COLORS = range(4)  # folded into an example's key


@dataclasses.dataclass(frozen=True)
class HyperParameters:
    """The keys of `config.method`."""

    patch_size: Annotated[Count, "Side of a patch, pixels."] = 96
    gap: Annotated[int, not_negative, "Distance between neighbouring patches, pixels."] = 48
    jitter: Annotated[
        int, not_negative, "Largest random shift of a patch in each direction, pixels."
    ] = 7
    color: Annotated[
        Literal["drop", "project", "keep"],
        "Colours of a patch: one channel and noise (drop), without the axis from green to magenta "
        "(project), or as they are (keep).",
    ] = "drop"
    downsample: Annotated[
        float, fraction, "Probability that a patch is resized to fewer pixels and back."
    ] = 1 / 3
    smallest_side: Annotated[
        Count,
        "Side of the smallest patches that are resized back, pixels; the number of pixels is "
        "uniform between this side squared and the patch's own.",
    ] = 10
    code_dim: Annotated[Count, "Width of fc6, the code of a patch."] = 4096
    hidden_dims: Annotated[
        tuple[Count, ...], "Widths of fc7 and fc8; only the first has BatchNorm."
    ] = (4096, 4096)

    @property
    def grid_side(self) -> int:
        """Side of the grid of patches without shifts, pixels."""
        return patches.SIDE * self.patch_size + (patches.SIDE - 1) * self.gap


@dataclasses.dataclass(frozen=True, kw_only=True)
class ContextPrediction(PretextTask):
    """Classification of the relative position of two patches."""

    title: ClassVar[str] = "Context prediction"

    hyper: HyperParameters

    @property
    def questions(self) -> tuple[tuple[int, ...], ...]:
        """The central patch and a neighbour; then the same pairs in the other order."""
        pairs = tuple((_CENTRE, i) for i in NEIGHBOURS)
        return pairs + tuple((b, a) for a, b in pairs)

    def pieces(self, keys: Array, images: Array) -> dict[str, Array]:
        """Patches [n 9 s s c], `target` int32 [n 16], and `raw`, the patches in their colours."""
        hyper = self.hyper
        raw = patches.cut(images, self._corners(keys, images.shape[1:3]), hyper.patch_size)
        views = raw.reshape(-1, *raw.shape[2:])
        patch_keys = jax.vmap(lambda key: jax.random.split(key, patches.COUNT))(keys).reshape(-1)
        if hyper.downsample:
            views = patches.lower_resolution(views, self._sides(fold_in(patch_keys, _SIDES)))
        if hyper.color == "drop":
            views = aberration.drop_colors(fold_in(patch_keys, _COLORS), views)
        elif hyper.color == "project":
            views = aberration.project_colors(views)
        position = np.arange(len(NEIGHBOURS), dtype=np.int32)
        target = np.concatenate([position, 7 - position])
        return {
            "pieces": _unit_power(views).reshape(raw.shape),
            "target": jnp.broadcast_to(target, (len(images), len(target))),
            "raw": raw,
        }

    def _corners(self, keys: Array, size: tuple[int, int]) -> Array:
        """Corners of the patches, int32 [n 9 2]: a grid at a random place, each patch shifted."""
        hyper = self.hyper
        slack = np.array(size) - hyper.grid_side - 2 * hyper.jitter
        origin = jax.vmap(lambda key: jax.random.randint(key, (2,), 0, slack + 1))(
            fold_in(keys, _CORNERS)
        )
        shifts = patches.integers(fold_in(keys, _SHIFTS), (patches.COUNT, 2), 0, 2 * hyper.jitter)
        return origin[:, None] + patches.grid_corners(hyper.patch_size + hyper.gap) + shifts

    def _sides(self, keys: Array) -> Array:
        """The side in pixels to which each patch is resized, int32 [n]; most keep theirs."""
        size, smallest = self.hyper.patch_size, self.hyper.smallest_side

        def draw(key: Array) -> Array:
            change, pixels = jax.random.uniform(key, (2,))
            side = jnp.sqrt(smallest**2 + pixels * ((size - 1) ** 2 - smallest**2))
            return jnp.where(change < self.hyper.downsample, side, size).astype(jnp.int32)

        return jax.vmap(draw)(keys)

    def prepare(self, images: Array) -> Array:
        images = images.astype(jnp.float32)
        if self.hyper.color == "drop":
            images = aberration.keep_green(images)
        elif self.hyper.color == "project":
            images = aberration.project_colors(images)
        return _unit_power(images)

    def show(self, w: Weights, keys: Array, batch: Batch) -> dict[str, Item]:
        """The patches of evaluation views, and the predicted positions of the neighbours."""
        parts = self.pieces(keys, self.view.evaluate(batch))
        _, logits, _ = self.predict(w, parts["pieces"], train=False)
        positions = jnp.argmax(logits[:, : len(NEIGHBOURS)], axis=2)
        span = jnp.max(jnp.abs(parts["pieces"]), axis=(1, 2, 3, 4), keepdims=True)
        seen = (parts["pieces"] / jnp.maximum(span, 1e-6) + 1) / 2  # (n, 9, s, s, c)
        item = Images(
            jnp.stack([patches.assemble(parts["raw"]), patches.assemble(seen)], axis=1),
            inputs=self.view.evaluate(batch),
            row_values=positions,
            rows=("predicted " + " ".join(["{:.0f}"] * len(NEIGHBOURS)),) * len(positions),
            columns=("patches", "as encoded"),
            note="Nine patches of an image, without the gaps between them, and the predicted "
            "positions of the eight neighbours of the central patch; 0 1 2 3 4 5 6 7 is right.",
        )
        return {"Patches": item}

    def preflight(self, batch_size: int) -> list[tuple[str, str]]:
        hyper = self.hyper
        return [
            (
                "patches",
                f"{batch_size * patches.COUNT} of {hyper.patch_size} pixels a step, gap "
                f"{hyper.gap}, shifts up to {hyper.jitter}, colours {hyper.color}",
            )
        ]


def _unit_power(images: Array) -> Array:
    """Divides each image [n h w c] by the root of its mean square, and multiplies with 50.

    Images of less contrast than one level of 255 stay close to 0.
    """
    power = jnp.mean(jnp.square(images), axis=(1, 2, 3), keepdims=True)
    return images * (_INPUT_SCALE * jax.lax.rsqrt(power + _LEAST_POWER))


def make(config: Any, spec: DataSpec, length: Length) -> ContextPrediction:
    """Builds the method from the config's sections method, model and views.

    Raises:
      UserError: a bad value, views that are smaller than the grid or normalised, or grey images
        whose colours are to be changed.
    """
    del length
    hyper = hyper_parameters(HyperParameters, config.method, "method")
    view = make_piece_view(config, spec)
    height, width, channels = view.shape
    least = hyper.grid_side + 2 * hyper.jitter
    if min(height, width) < least:
        raise UserError(
            f"method.patch_size={hyper.patch_size} with method.gap={hyper.gap} and "
            f"method.jitter={hyper.jitter} needs views of {least} pixels, and they have "
            f"{height}x{width}; use smaller patches or larger views"
        )
    if channels != 3 and hyper.color != "keep":
        raise UserError(
            f"method.color={hyper.color} changes colours, and {config.data.name} is grey; use "
            "method.color=keep"
        )
    if hyper.downsample and hyper.smallest_side >= hyper.patch_size:
        raise UserError(
            f"method.smallest_side={hyper.smallest_side} is not below method.patch_size="
            f"{hyper.patch_size}; use a smaller one, or method.downsample=0"
        )
    dtype = jnp.dtype(config.dtype)
    return ContextPrediction(
        hyper=hyper,
        encoder=make_encoder(**config.model, dtype=config.dtype),
        branch=Net(FullyConnected((hyper.code_dim,), None, 1, affine=False, dtype=dtype)),
        head=Net(FullyConnected(hyper.hidden_dims, len(NEIGHBOURS), 1, affine=False, dtype=dtype)),
        view=view,
    )
