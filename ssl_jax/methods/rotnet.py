"""RotNet: predicts by how much an image was rotated (Gidaris et al. 2018).

    x -> one random view -> its rotations by 0, 90, 180 and 270 degrees -> f -> which of the four
    loss = mean over images and rotations of the cross-entropy of the rotation      (Eq. 2 and 3)

All rotations of an image are in the same batch, so a batch of B images is 4B inputs of f; the paper
found that better than one rotation of each image. Rotations are counter-clockwise: a transposition
and a reflection, which move pixels without interpolation. `rotations` sets the angles, as in the
paper's Table 2.

With `hidden_dims` (fc6 and fc7 of AlexNet) the head takes the last feature map, otherwise h.

Deviations:
- Convolutions before BatchNorm have no bias; in the released AlexNet they do, without effect.
- The last layer starts from N(0, 0.01^2), so that an untrained net predicts all angles alike.
"""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any, ClassVar, Literal

import jax.numpy as jnp

from ssl_jax.config.fields import Bound
from ssl_jax.core.errors import UserError
from ssl_jax.core.items import Images, Item
from ssl_jax.core.length import Length
from ssl_jax.core.method import Array, Batch, DataSpec, Weights, hyper_parameters
from ssl_jax.methods.base.one_view import make_one_view
from ssl_jax.methods.base.pretext import PretextTask
from ssl_jax.models import Net, make_encoder
from ssl_jax.models.fully_connected import FullyConnected
from ssl_jax.models.options import Count
from ssl_jax.views import to_show
from ssl_jax.views.image import rotate90

_several = Bound(
    "at least two different ones",
    lambda angles: len(angles) >= 2 and len(set(angles)) == len(angles),
)


@dataclasses.dataclass(frozen=True)
class HyperParameters:
    """The keys of `config.method`."""

    rotations: Annotated[
        tuple[Literal[0, 90, 180, 270], ...], _several, "Angles in degrees, counter-clockwise."
    ] = (0, 90, 180, 270)
    hidden_dims: Annotated[
        tuple[Count, ...],
        "Widths of the fully connected layers on the last feature map, with BatchNorm and ReLU; "
        "(): the head is a linear map of h.",
    ] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class RotNet(PretextTask):
    """Classification of the rotation; the pieces are the rotated images."""

    title: ClassVar[str] = "RotNet"

    hyper: HyperParameters

    @property
    def questions(self) -> tuple[tuple[int, ...], ...]:
        return tuple((i,) for i in range(len(self.hyper.rotations)))

    def pieces(self, keys: Array, images: Array) -> dict[str, Array]:
        """The rotations of each image [n r h w c] and their numbers int32 [n r]."""
        del keys
        rotated = [rotate90(images, angle // 90) for angle in self.hyper.rotations]
        numbers = jnp.arange(len(rotated), dtype=jnp.int32)
        target = jnp.broadcast_to(numbers, (len(images), len(rotated)))
        return {"pieces": jnp.stack(rotated, axis=1), "target": target}

    def show(self, w: Weights, keys: Array, batch: Batch) -> dict[str, Item]:
        """The rotations of evaluation views, and the predicted angles."""
        pieces = self.pieces(keys, self.view.evaluate(batch))["pieces"]
        _, logits, _ = self.predict(w, pieces, train=False)
        angles = jnp.array(self.hyper.rotations)
        item = Images(
            to_show(pieces.astype(jnp.float32), self.view.normalization),
            row_values=angles[jnp.argmax(logits, axis=2)],
            rows=("predicted " + " ".join(["{:.0f}"] * len(angles)),) * len(pieces),
            columns=tuple(f"{angle}°" for angle in self.hyper.rotations),
            note="Rotations of an image, and the predicted angles from left to right.",
        )
        return {"Rotations": item}

    def preflight(self, batch_size: int) -> list[tuple[str, str]]:
        angles = ", ".join(map(str, self.hyper.rotations))
        count = batch_size * len(self.hyper.rotations)
        return [("rotations", f"by {angles} degrees; {count} images a step")]


def make(config: Any, spec: DataSpec, length: Length) -> RotNet:
    """Builds the method from the config's sections method, model and views.

    Raises:
      UserError: a bad value, or views that are not square.
    """
    del length
    hyper = hyper_parameters(HyperParameters, config.method, "method")
    view = make_one_view(config, spec)
    height, width, _ = view.shape
    if height != width:
        raise UserError(
            f"RotNet rotates square images, and the views have {height}x{width} pixels; let a "
            "random_resized_crop or a resize in views.ops make them square"
        )
    dtype = jnp.dtype(config.dtype)
    normalized = len(hyper.hidden_dims)
    branch = None
    if hyper.hidden_dims:
        branch = Net(FullyConnected(hyper.hidden_dims, None, normalized, dtype=dtype))
    return RotNet(
        hyper=hyper,
        encoder=make_encoder(**config.model, dtype=config.dtype),
        branch=branch,
        head=Net(FullyConnected((), len(hyper.rotations), dtype=dtype)),
        view=view,
    )
