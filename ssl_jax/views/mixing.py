"""Mixup (Zhang et al. 2018) and cutmix (Yun et al. 2019): mixed pairs of images and their labels.

    x <- s x + (1 - s) x'                              mixup, s ~ Beta(a, a)
    x <- x' in a box of a share 1 - s of the area      cutmix

x' is the partner of x in the global batch, whose label has the weight 1 - s. Example i of n has the
partner i + n/2 (modulo n), so pairs depend on neither the number of devices nor, as micro-batch i
holds every count-th example, the size of micro-batches, if it is even. timm pairs i and n - 1 - i.
"""

from __future__ import annotations

import dataclasses
import zlib
from typing import Annotated, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from ssl_jax.config.fields import fraction, not_negative
from ssl_jax.core.arrays import Array

_TAG = np.uint32(zlib.crc32(b"mixing"))


@dataclasses.dataclass(frozen=True)
class Mixing:
    """The keys of a config section: how the images of a batch are mixed."""

    mixup: Annotated[
        float, not_negative, "Mixup: both parameters of the share's Beta distribution; 0: off."
    ] = 0.0
    cutmix: Annotated[
        float, not_negative, "Cutmix: both parameters of the share's Beta distribution; 0: off."
    ] = 0.0
    p: Annotated[float, fraction, "Probability that images are mixed."] = 1.0
    cutmix_p: Annotated[float, fraction, "Probability of cutmix if mixup is on too."] = 0.5
    per: Annotated[
        Literal["batch", "pair", "example"],
        "One share and box for the whole batch, or one for each pair or example.",
    ] = "batch"

    @property
    def on(self) -> bool:
        """Whether images are mixed at all."""
        return bool((self.mixup or self.cutmix) and self.p)

    def __str__(self) -> str:
        alphas = {"mixup": self.mixup, "cutmix": self.cutmix}
        text = ", ".join(f"{name} {alpha:g}" for name, alpha in alphas.items() if alpha)
        if self.mixup and self.cutmix:
            text += f" with probability {self.cutmix_p:g}"
        return f"{text}, drawn per {self.per}, of {self.p:.0%} of the {_PLURAL[self.per]}"


_PLURAL = {"batch": "batches", "pair": "pairs", "example": "examples"}


class Mixed(NamedTuple):
    """Mixed images and what they show.

    Attributes:
      images: [n h w c].
      partner: label of the other image, int32 [n].
      share: weight of the example's own label, float32 [n]; that of `partner` is 1 - share.
    """

    images: Array
    partner: Array
    share: Array


class Draw(NamedTuple):
    """The random numbers of a mixture; each array has one entry for an image, or for all.

    Attributes:
      share: of the image itself, if it is a mixup.
      box: bool [h w], where the partner replaces it, if it is a cutmix.
    """

    share: Array
    box: Array


def mix(
    images: Float[Array, "n h w c"],
    labels: Int[Array, " n"],
    mixing: Mixing,
    *,
    key: Array,
    keys: Array,
) -> Mixed:
    """Mixes each image with its partner, unless one of the two has no label.

    Args:
      images: of any floating dtype, normalised or not; n is even.
      labels: -1: no label.
      mixing: the config's section, which is `on`.
      key: of the batch, for a share and box that all examples have.
      keys: [n], one key per example; a pair uses that of its first example.

    Raises:
      ValueError: n is odd.
    """
    n, height, width, _ = images.shape
    if n % 2:
        raise ValueError(f"mix takes an even number of images, got {n}")

    def draw(key: Array) -> Draw:
        return sample(jax.random.fold_in(key, _TAG), mixing, height, width)

    if mixing.per == "batch":
        drawn = jax.tree.map(lambda x: x[None], draw(key))
    elif mixing.per == "pair":
        drawn = jax.tree.map(lambda x: jnp.concatenate([x, x]), jax.vmap(draw)(keys[: n // 2]))
    else:
        drawn = jax.vmap(draw)(keys)
    partner = _partners(labels)
    both = (labels >= 0) & (partner >= 0)
    share = jnp.where(both, drawn.share, 1)
    box = both[:, None, None] & drawn.box
    mixed = combine(images, _partners(images), share, box)
    return Mixed(mixed, partner, share * (1 - box.mean((1, 2), dtype=jnp.float32)))


def _partners(x: Array) -> Array:
    return jnp.roll(x, len(x) // 2, axis=0)


def combine(
    images: Float[Array, "n h w c"],
    partners: Float[Array, "n h w c"],
    share: Float[Array, " n"],
    box: Array,
) -> Float[Array, "n h w c"]:
    """share x images + (1 - share) x partners; inside the boxes `[n h w]` the partners alone."""
    x, other = images.astype(jnp.float32), partners.astype(jnp.float32)
    s = share[:, None, None, None]
    return jnp.where(box[..., None], other, s * x + (1 - s) * other).astype(images.dtype)


def sample(key: Array, mixing: Mixing, height: int, width: int) -> Draw:
    """Draws one mixture: neither (share 1 and no box), a share, or a box (and share 1)."""
    use, switch, y, x = jax.random.uniform(key, (4,))
    use = use < mixing.p
    cut = jnp.array(not mixing.mixup)
    if mixing.mixup and mixing.cutmix:
        cut = switch < mixing.cutmix_p
    alpha = jnp.where(cut, mixing.cutmix, mixing.mixup)
    share = jax.random.beta(jax.random.fold_in(key, 1), alpha, alpha)
    box = cutmix_box(share, y, x, height, width)
    return Draw(jnp.where(use & ~cut, share, 1), box & use & cut)


def cutmix_box(share: Array, y: Array, x: Array, height: int, width: int) -> Array:
    """The box of cutmix: bool [h w].

    Its sides are sqrt(1 - share) of the image's, rounded down; its centre is a uniform pixel, so
    that part of it may be outside (Yun et al. 2019, section 3.1).

    Args:
      share: 0 to 1.
      y, x: uniforms in [0, 1), the centre.
      height, width: of the image.
    """
    ratio = jnp.sqrt(1 - share)

    def interval(size: int, centre: Array) -> Array:
        length, middle = jnp.floor(size * ratio), jnp.floor(size * centre)
        at = jnp.arange(size)
        return (at >= middle - length // 2) & (at < middle + (length + 1) // 2)

    return interval(height, y)[:, None] & interval(width, x)
