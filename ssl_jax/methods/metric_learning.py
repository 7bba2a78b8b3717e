"""Metric learning: embeddings in which examples of one class are near each other.

    x_i -> one random view -> h = f(view) -> z = g(h) -> loss of z and the class labels

f is an encoder that all images share (a Siamese net: Chopra et al. 2005), g a dense layer with
BatchNorm and PReLU. `method.loss` chooses the loss:

    pair, triplet, quadruplet, n_pair,     compare the examples of the batch, of all devices
    lifted_structured, supcon
    center, sphereface, cosface, arcface,  compare each example with all classes
    subcenter_arcface, adacos,
    adaptive_margin

The first six need batches with several examples of each class: `data.sampler.name="pk"`. `pair` and
`triplet` also learn from pairs and triplets without class labels (`data.name="pairs:FILE"`). The
equations, and the papers, are in `ssl_jax.losses.metric`; no loss stores batch x batch or batch x
classes numbers. The classes of the second kind are split over the devices.

Deviations. The embeddings of `center` are those of the head, as in the released net; its centres
follow the paper's rule with rate `center_rate`. With `clean_every_epochs`, `subcenter_arcface`
leaves out examples that are far from their class's dominant sub-centre, and uses only that one,
while it goes on training; the paper trains anew with one centre a class.
"""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any, ClassVar, Literal

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from ssl_jax.config.fields import at_least, between, fraction, not_negative, positive
from ssl_jax.core.batch_axes import BATCH_AXES
from ssl_jax.core.length import Length
from ssl_jax.core.method import (
    Array,
    Aux,
    Batch,
    DataSpec,
    EncodeAll,
    PyTree,
    Weights,
    hyper_parameters,
)
from ssl_jax.losses.contrastive import unit_length
from ssl_jax.losses.metric import class_losses
from ssl_jax.losses.metric.classes import rows_for
from ssl_jax.losses.metric.distances import DISTANCES
from ssl_jax.losses.metric.mining import MINING
from ssl_jax.losses.metric.reductions import REDUCTIONS
from ssl_jax.losses.metric.strips import UNLABELLED
from ssl_jax.methods.base.encoder_features import EncoderFeatures
from ssl_jax.methods.base.metric_losses import (
    CLASS_LOSSES,
    ClassState,
    loss_of_batch,
    loss_of_classes,
    loss_of_groups,
)
from ssl_jax.methods.base.metric_options import check_options
from ssl_jax.methods.base.one_view import OneView, OneViewMethod, make_one_view
from ssl_jax.models import Net, make_encoder
from ssl_jax.models.heads import embedding_head

_CLASSES, _CENTERS = 2, 3  # folded into the key of `init`


@dataclasses.dataclass(frozen=True)
class HyperParameters:
    """The keys of `config.method`."""

    loss: Annotated[
        Literal[
            "pair", "triplet", "quadruplet", "n_pair", "lifted_structured", "supcon", "center",
            "sphereface", "cosface", "arcface", "subcenter_arcface", "adacos", "adaptive_margin",
        ],
        "The loss.",
    ] = "triplet"  # fmt: skip
    distance: Annotated[
        Literal[DISTANCES] | None,
        "Of pair, triplet, quadruplet, lifted_structured; None: euclidean, squared of quadruplet.",
    ] = None
    l2_normalize: Annotated[
        bool | None,
        "Scale embeddings to unit length for euclidean and squared distances, and n_pair; None: "
        "yes, but not for n_pair.",
    ] = None
    mining: Annotated[Literal[MINING], "Of triplet and quadruplet: which triplets count."] = (
        "batch_hard"
    )
    mining_margin: Annotated[
        float | None, not_negative, "Margin of mining easy and semi_hard; None: margin."
    ] = None
    soft_margin: Annotated[bool, "Of triplet: softplus instead of the hinge."] = False
    reduction: Annotated[
        Literal[REDUCTIONS] | None,
        "Divide by the pairs or triplets with a loss (mean_nonzero), by all (mean), or by 1 (sum); "
        "None: mean_nonzero, but mean of lifted_structured and supcon.",
    ] = None
    margin: Annotated[
        float | None, not_negative,
        "m; None: 1 of pair, quadruplet, lifted_structured, 0.2 of triplet, 0.35 of cosface, 0.5 "
        "radians of arcface and subcenter_arcface, 4 of sphereface.",
    ] = None  # fmt: skip
    second_margin: Annotated[float, "m2 of quadruplet, which pairs of negatives keep."] = 0.5
    power: Annotated[int, between(1, 2), "Power of the terms of pair."] = 2
    l2_weight: Annotated[float, not_negative, "Of n_pair: weight of the squared norms."] = 0.02
    temperature: Annotated[float, positive, "Of supcon."] = 0.1
    scale: Annotated[
        float | None, positive,
        "s of cosface, arcface, subcenter_arcface, adaptive_margin; None: 64.",
    ] = None  # fmt: skip
    subcenters: Annotated[
        int, between(1, 64), "Sub-centres of a class of subcenter_arcface and adaptive_margin."
    ] = 3
    straight_through: Annotated[
        bool, "Of arcface: the gradient of insightface's layer, which skips the margin."
    ] = False
    annealing: Annotated[
        bool, "Of sphereface: start with little margin (max(5, 1000 / (1 + 0.12 step)))."
    ] = True
    dynamic_scale: Annotated[
        bool, "Of adacos: adapt the scale to every batch; False: sqrt(2) log(classes - 1)."
    ] = True
    smallest_margin: Annotated[
        float, between(0, 1.57), "Of adaptive_margin: radians of the largest class."
    ] = 0.05
    largest_margin: Annotated[
        float, between(0, 1.57), "Of adaptive_margin: radians of the smallest class."
    ] = 0.5
    margin_power: Annotated[
        float, positive, "Of adaptive_margin: lambda; margins follow the class sizes^-lambda."
    ] = 0.25
    center_weight: Annotated[float, not_negative, "Of center: weight beside the softmax."] = 0.003
    center_rate: Annotated[float, fraction, "Of center: rate alpha of the centres."] = 0.5
    clean_every_epochs: Annotated[
        float, not_negative,
        "Of subcenter_arcface: leave out examples far from the dominant sub-centre of their class, "
        "found anew every so many epochs; 0: never.",
    ] = 0.0  # fmt: skip
    clean_angle: Annotated[float, between(0, 180), "Degrees that are too far."] = 75.0
    head: Annotated[
        Literal["prelu", "norm", "linear"],
        "g: a dense layer with BatchNorm and PReLU, with BatchNorm only, or alone.",
    ] = "prelu"
    output_dim: Annotated[int, at_least(1), "Width of z."] = 128


@dataclasses.dataclass(frozen=True)
class MetricLearning(OneViewMethod, EncoderFeatures):
    """One view of each image, and a loss of its embedding and its label.

    Attributes:
      hyper: the config's section.
      encoder, head: f and g.
      view: computes the encoder's inputs from batches.
      num_classes: of the training data; 0 without classes.
      num_examples: of the training data.
      group_size: 2 or 3 where the rows of a batch are pairs or triplets, else 1.
    """

    title: ClassVar[str] = "metric learning"
    learns_from_labels: ClassVar[bool] = True

    hyper: HyperParameters
    encoder: Net
    head: Net
    view: OneView
    num_classes: int
    num_examples: int
    group_size: int = 1

    @property
    def has_classes(self) -> bool:
        """Whether the loss compares examples with classes."""
        return self.hyper.loss in CLASS_LOSSES

    @property
    def cleans(self) -> bool:
        return self.hyper.loss == "subcenter_arcface" and self.hyper.clean_every_epochs > 0

    def init(self, key: Array, batch: Batch) -> tuple[PyTree, PyTree]:
        encoder_key, head_key = jax.random.split(key)
        keys = jax.random.split(key, batch["index"].shape[0])
        views = jax.eval_shape(self.view.train, keys, batch)
        x = jnp.zeros((1, *views.shape[1:]), views.dtype)
        params, buffers = {}, {}
        params["encoder"], buffers["encoder"] = self.encoder.init(encoder_key, x)
        (h, _), _ = self.encoder.apply(params["encoder"], buffers["encoder"], x, train=False)
        params["head"], buffers["head"] = self.head.init(head_key, h)
        if self.has_classes:
            params["classes"] = self._init_classes(jax.random.fold_in(key, _CLASSES))
            buffers |= self._init_class_buffers(jax.random.fold_in(key, _CENTERS))
        return params, buffers

    def _init_classes(self, key: Array) -> PyTree:
        hyper, rows = self.hyper, rows_for(self.num_classes)
        count = hyper.subcenters if hyper.loss in ("subcenter_arcface", "adaptive_margin") else 1
        shape = rows, count, hyper.output_dim
        classes = {"kernel": jax.random.normal(key, shape) * hyper.output_dim**-0.5}
        if hyper.loss == "center":
            classes["bias"] = jnp.zeros(rows)
        return classes

    def _init_class_buffers(self, key: Array) -> PyTree:
        hyper = self.hyper
        if hyper.loss == "center":
            shape = self.num_classes, hyper.output_dim
            return {"centers": jax.random.normal(key, shape) * hyper.output_dim**-0.5}
        if hyper.loss == "adacos":
            return {"scale": jnp.float32(class_losses.adacos_scale(self.num_classes))}
        if hyper.loss == "adaptive_margin":
            return {"class_counts": jnp.ones(self.num_classes)}  # until `refresh`
        if self.cleans:
            rows = jnp.arange(hyper.subcenters, dtype=jnp.int32)
            rows = jnp.broadcast_to(rows, (rows_for(self.num_classes), hyper.subcenters))
            return {"subcenters": rows, "keep": jnp.ones(self.num_examples, bool)}
        return {}

    def placement(self, path: str) -> PartitionSpec | None:
        """The rows of a large class matrix are split over all devices of the batch."""
        is_split = path.startswith("params/classes/") and rows_for(self.num_classes) % 256 == 0
        return PartitionSpec(BATCH_AXES) if is_split else None

    def views(self, keys: Array, batch: Batch, *, key: Array, step: Array) -> PyTree:
        views = {"image": self.view.train(keys, batch), "label": batch["label"]}
        if self.cleans:
            views["index"] = batch["index"]
        return views

    def encode(
        self, w: Weights, views: PyTree, *, key: Array, step: Array
    ) -> tuple[PyTree, PyTree]:
        (h, _), encoder = self.encoder.apply(
            w.params["encoder"], w.buffers["encoder"], views["image"], train=True, key=key
        )
        z, head = self.head.apply(w.params["head"], w.buffers["head"], h, train=True)
        labels = {name: value for name, value in views.items() if name != "image"}
        return {"h": h, "z": z, **labels}, {"encoder": encoder, "head": head}

    def objective(
        self, w: Weights, encoded: PyTree, *, key: Array, step: Array
    ) -> tuple[Array, Aux]:
        z, label = encoded["z"], encoded["label"]
        buffers = w.buffers
        if self.group_size > 1:
            loss, metrics = loss_of_groups(self.hyper, z, label, self.group_size)
        elif not self.has_classes:
            loss, metrics = loss_of_batch(self.hyper, z, label)
        else:
            kernel = w.params["classes"]["kernel"]
            if self.cleans:
                kernel = jnp.take_along_axis(kernel, buffers["subcenters"][..., None], axis=1)
                label = jnp.where(buffers["keep"][encoded["index"]], label, UNLABELLED)
            state = ClassState(kernel, w.params["classes"].get("bias"), buffers, self.num_classes)
            loss, metrics, updates = loss_of_classes(self.hyper, z, label, state, step)
            buffers = {**buffers, **updates}
        return loss, Aux(buffers, metrics, {"h": encoded["h"], "z": z[:, None]})

    def features(self, w: Weights, batch: Batch) -> dict[str, Array]:
        """`h` [n d] and the embedding `z` [n output_dim]."""
        h, z = self._embed(w, self.view.evaluate(batch))
        return {"h": h.astype(jnp.float32), "z": z}

    def _embed(self, w: Weights, x: Array) -> tuple[Array, Array]:
        (h, _), _ = self.encoder.apply(w.params["encoder"], w.buffers["encoder"], x, train=False)
        z, _ = self.head.apply(w.params["head"], w.buffers["head"], h, train=False)
        return h, z

    def refresh_every(self, length: Length) -> int:
        if self.hyper.loss == "adaptive_margin":
            return length.total_steps  # once, before the first step
        if self.cleans:
            return max(1, round(self.hyper.clean_every_epochs * length.steps_per_epoch))
        return 0

    def refresh(self, w: Weights, encode_all: EncodeAll, *, key: Array, step: int) -> PyTree:
        """Counts the classes, or finds the dominant sub-centres and the examples near them."""
        del key
        if self.hyper.loss == "adaptive_margin":

            def count(w: Weights, keys: Array, batch: Batch) -> dict[str, Array]:
                del w, keys
                return {"counts": jax.nn.one_hot(batch["label"], self.num_classes)}

            return {"class_counts": encode_all(count, total=True)["counts"]}
        if step == 0:
            return {}

        def cosines(w: Weights, keys: Array, batch: Batch) -> dict[str, Array]:
            _, z = self._embed(w, self.view.train(keys, batch))
            own = unit_length(w.params["classes"]["kernel"])[jnp.maximum(batch["label"], 0)]
            return {
                "cosine": jnp.einsum("nd,nkd->nk", unit_length(z), own),
                "label": batch["label"],
            }

        examples = encode_all(cosines)
        keep, dominant = jax.jit(class_losses.clean_cosines, static_argnums=2)(
            examples["cosine"],
            jnp.where(examples["mask"], examples["label"], UNLABELLED),
            rows_for(self.num_classes),
            max_angle=self.hyper.clean_angle,
        )
        subcenters = jnp.broadcast_to(dominant[:, None], w.buffers["subcenters"].shape)
        return {"keep": keep[: self.num_examples], "subcenters": subcenters}

    def param_group(self, path: str) -> str:
        return path.partition("/")[0]

    def preflight(self, batch_size: int) -> list[tuple[str, str]]:
        del batch_size
        hyper = self.hyper
        what = hyper.loss
        if self.group_size > 1:
            what += f" of given {'pairs' if self.group_size == 2 else 'triplets'}"
        elif hyper.loss in ("triplet", "quadruplet"):
            what += f", mining {hyper.mining}"
        lines = [("loss", what)]
        if self.has_classes:
            rows = rows_for(self.num_classes)
            size = rows * hyper.output_dim * 4 / 2**20
            split = ", split over the devices" if rows % 256 == 0 else ""
            lines.append(("classes", f"{self.num_classes:,}; a matrix of {size:,.1f} MiB{split}"))
        return lines


def make(config: Any, spec: DataSpec, length: Length) -> MetricLearning:
    """Builds the method from the config's sections method, model and views."""
    del length
    hyper = hyper_parameters(HyperParameters, config.method, "method")
    group_size = spec.group_size
    check_options(hyper, config, spec, group_size)
    return MetricLearning(
        hyper=hyper,
        encoder=make_encoder(**config.model, dtype=config.dtype),
        head=embedding_head(hyper.head, hyper.output_dim, dtype=config.dtype),
        view=make_one_view(config, spec),
        num_classes=spec.num_classes or 0,
        num_examples=spec.num_examples,
        group_size=group_size,
    )
