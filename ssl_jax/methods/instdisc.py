"""InstDisc: non-parametric instance discrimination with a memory bank (Wu et al. 2018).

    x_i -> one random view -> h = f(view) -> v = g(h) / |g(h)| -> classify v as row i of the bank

f is a convolutional encoder, g one linear layer. The bank stores an embedding f_j of every training
image. Each image is a class whose weight vector is f_i: the loss makes v_i closer to f_i than to
the other rows. After the comparison f_i moves half way to v_i.

The loss is noise-contrastive estimation with random images as noise and a constant Z, which is
estimated from the first batch; or a softmax, over random images or over the whole bank.

BatchNorm statistics are those of the batch over all devices; the released code computes them on
each GPU. A pass has one view of each image, so views share no statistics.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Annotated, Any, ClassVar, Literal

import jax
import jax.numpy as jnp

from ssl_jax import losses
from ssl_jax.config.fields import below_one, not_negative, positive
from ssl_jax.core.errors import UserError
from ssl_jax.core.items import Item
from ssl_jax.core.length import Length
from ssl_jax.core.method import (
    Array,
    Aux,
    Batch,
    DataSpec,
    PyTree,
    Weights,
    hyper_parameters,
)
from ssl_jax.methods.base.encoder_features import EncoderFeatures
from ssl_jax.methods.base.inputs import examples, shown_views, whole_examples
from ssl_jax.methods.base.two_views import check_unique_examples, nets_and_views
from ssl_jax.models import Net
from ssl_jax.models.heads import mlp_head

LOSSES = ("nce", "softmax")
_NEGATIVES = 1  # folded into an example's key to draw negatives; the view folds in 0


@dataclasses.dataclass(frozen=True)
class HyperParameters:
    """The keys of `config.method`."""

    loss: Annotated[
        Literal["nce", "softmax"], "Noise-contrastive estimation (the paper) or softmax."
    ] = "nce"
    num_negatives: Annotated[
        int, not_negative,
        "Images drawn for each example, with replacement; 0: the whole bank, in a softmax.",
    ] = 4096  # fmt: skip
    temperature: Annotated[float, positive, "Temperature t."] = 0.07
    bank_momentum: Annotated[
        float, below_one, "Weight of the old row in an update of the bank."
    ] = 0.5
    proximal: Annotated[
        float, not_negative,
        "Weight of |v_i - f_i|^2, the distance to the stored embedding (Eq. 8); 0: off.",
    ] = 0.0  # fmt: skip
    output_dim: Annotated[int, positive, "Width of v."] = 128


@dataclasses.dataclass(frozen=True)
class InstDisc(EncoderFeatures):
    title: ClassVar[str] = "InstDisc"

    hyper: HyperParameters
    num_examples: int
    encoder: Net
    projector: Net
    recipe: Callable[[Array, Array], Array]  # keys, images -> (n, 1, h, w, c)
    eval_view: Callable[[Array], Array]
    normalization: tuple[tuple[float, ...], tuple[float, ...]] | None

    def init(self, key: Array, batch: Batch) -> tuple[PyTree, PyTree]:
        encoder_key, projector_key, bank_key = jax.random.split(key, 3)
        keys = jax.random.split(key, batch["index"].shape[0])
        views = jax.eval_shape(self.recipe, keys, examples(batch))  # (n, 1, h, w, c)
        x = jnp.zeros((1, *views.shape[2:]), views.dtype)
        encoder, encoder_buffers = self.encoder.init(encoder_key, x)
        (h, _), _ = self.encoder.apply(encoder, encoder_buffers, x, train=False)
        projector, projector_buffers = self.projector.init(projector_key, h)
        bank = losses.init_bank(bank_key, self.num_examples, self.hyper.output_dim)
        buffers = {"encoder": encoder_buffers, "projector": projector_buffers, "bank": bank}
        if self.hyper.loss == "nce":
            buffers["log_z"] = jnp.zeros(())  # until the first step estimates it
        return {"encoder": encoder, "projector": projector}, buffers

    def views(self, keys: Array, batch: Batch, *, key: Array, step: Array) -> dict[str, Array]:
        views = {"image": self.recipe(keys, examples(batch))[:, 0], "index": batch["index"]}
        if self.hyper.num_negatives:
            views["negatives"] = jax.vmap(self._draw_negatives)(keys)  # (n, num_negatives)
        return views

    def _draw_negatives(self, key: Array) -> Array:
        key = jax.random.fold_in(key, _NEGATIVES)
        return jax.random.randint(key, (self.hyper.num_negatives,), 0, self.num_examples)

    def encode(
        self, w: Weights, views: dict[str, Array], *, key: Array, step: Array
    ) -> tuple[PyTree, PyTree]:
        (h, _), encoder_buffers = self.encoder.apply(
            w.params["encoder"], w.buffers["encoder"], views["image"], train=True, key=key
        )
        z, projector_buffers = self.projector.apply(
            w.params["projector"], w.buffers["projector"], h, train=True
        )
        bank_rows = {name: rows for name, rows in views.items() if name != "image"}
        encoded = {"h": h, "v": losses.unit_length(z), **bank_rows}
        return encoded, {"encoder": encoder_buffers, "projector": projector_buffers}

    def objective(
        self, w: Weights, encoded: PyTree, *, key: Array, step: Array
    ) -> tuple[Array, Aux]:
        buffers = w.buffers
        hyper, bank = self.hyper, buffers["bank"]
        v, index = encoded["v"], encoded["index"]  # (n, output_dim), (n,)
        if hyper.num_negatives:
            candidates = jnp.concatenate([index[:, None], encoded["negatives"]], axis=1)
            logits = losses.bank_logits(v, bank, candidates, temperature=hyper.temperature)
        if hyper.loss == "nce":
            log_z = losses.log_normalizer(logits, self.num_examples)
            log_z = jnp.where(step == 0, log_z, buffers["log_z"])
            loss, metrics = losses.nce(logits, log_z=log_z, num_examples=self.num_examples)
            metrics["log_z"] = log_z
            buffers = {**buffers, "log_z": log_z}
        elif hyper.num_negatives:
            loss, metrics = losses.softmax_over_candidates(logits)
        else:
            loss, metrics = losses.softmax_over_bank(v, bank, index, temperature=hyper.temperature)
        if hyper.proximal:
            distance = jnp.mean(jnp.sum(jnp.square(v - bank[index]), axis=1))
            loss = loss + hyper.proximal * distance
            metrics["distance_to_bank"] = distance
        bank = losses.update_bank(bank, index, v, momentum=hyper.bank_momentum)
        outputs = {"h": encoded["h"], "z": v[:, None]}
        return loss, Aux({**buffers, "bank": bank}, metrics, outputs)

    def features(self, w: Weights, batch: Batch) -> dict[str, Array]:
        x = self.eval_view(whole_examples(batch))
        (h, _), _ = self.encoder.apply(w.params["encoder"], w.buffers["encoder"], x, train=False)
        z, _ = self.projector.apply(w.params["projector"], w.buffers["projector"], h, train=False)
        return {"h": h.astype(jnp.float32), "z": losses.unit_length(z)}

    def show(self, w: Weights, keys: Array, batch: Batch) -> dict[str, Item]:
        del w
        views = self.recipe(keys, examples(batch))
        return shown_views(views, self.normalization, batch)

    def preflight(self, batch_size: int) -> list[tuple[str, str]]:
        hyper, images = self.hyper, self.num_examples
        drawn = f"{hyper.num_negatives:,} drawn for each example" if hyper.num_negatives else "all"
        size = images * hyper.output_dim * 4 / 2**20
        return [
            ("loss", f"{hyper.loss}; negatives: {drawn} of {images:,} images"),
            ("memory bank", f"{images:,} x {hyper.output_dim}, {size:,.1f} MiB"),
        ]


def make(config: Any, spec: DataSpec, length: Length) -> InstDisc:
    """Builds the method from the config's sections method, model and views."""
    hyper = hyper_parameters(HyperParameters, config.method, "method")
    _check(hyper)
    check_unique_examples(config, spec)
    return InstDisc(
        hyper=hyper,
        num_examples=spec.num_examples,
        projector=mlp_head(1, None, hyper.output_dim, output_bias=True, dtype=config.dtype),
        **nets_and_views(config, spec, num_views=1),
    )


def _check(hyper: HyperParameters) -> None:
    if hyper.loss == "nce" and hyper.num_negatives == 0:
        raise UserError(
            "method.num_negatives=0 compares with the whole bank: set method.loss=softmax, or draw "
            "negatives, e.g. 4096"
        )
