"""DeepCluster v2: predicts the cluster of an image from its views (Caron et al. 2020, App. B).

    before each epoch    cluster the memory bank into k directions C_h, for h = 1 ... H
    each step            z = g(f(view)) / |.| of a few large and many small views
                         loss = mean over h and views of -log softmax(C_h z / t)[cluster of x in h]
                         bank[x] <- z of the large views

f is the encoder, g an MLP with BatchNorm. The bank stores the embedding of each large view of every
training image from the previous epoch. Clustering h uses the bank of large view h mod 2, and its
own random initialisation. The centroids are the weights of the classifier, and constant between two
clusterings.

As in the released code:
- Spherical k-means with 10 updates, initialised with random rows of the bank. An empty cluster
  keeps its centroid.
- One pass over the training set fills the bank before the first epoch. It is in training mode:
  BatchNorm uses batch statistics, and views are augmented.
- The centroids are never trained (the released configs freeze them for longer than the run), so
  here they are buffers, not parameters.

Deviations:
- All images are clustered, by their latest embeddings. The released code clusters the images of the
  last epoch, without its last incomplete batch.
- The batches of the first pass are those of evaluation (`eval.batch_size`).
- LARS scales by |g + wd w|, the released LARC by |g| + wd |w|; weight decay is 1e-6.
- The learning rate's warm-up reaches its peak one step later.

The bank and the assignments are split over the devices of the batch. They have as many rows as the
training set has images, rounded up to a multiple of 1,024, on any number of devices.
"""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any, ClassVar

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from ssl_jax import clustering, losses
from ssl_jax.config.fields import at_least, positive
from ssl_jax.core.batch_axes import BATCH_AXES
from ssl_jax.core.families import MAIN
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
from ssl_jax.methods.base.multi_crop import MultiCrop, check_prototypes, nets_and_families
from ssl_jax.methods.base.two_views import check_unique_examples
from ssl_jax.models.heads import swav_head

_BUFFERS = 2  # folded into the key of `init`
_ROWS = 1024  # the number of rows of the bank is a multiple of this


@dataclasses.dataclass(frozen=True)
class HyperParameters:
    """The keys of `config.method`."""

    num_prototypes: Annotated[int, at_least(2), "k, clusters of a clustering."] = 3000
    num_clusterings: Annotated[int, positive, "H."] = 3
    kmeans_iterations: Annotated[int, positive, "Updates of the centroids in each clustering."] = 10
    hidden_dim: Annotated[int, positive, "Width of the hidden layer of g."] = 2048
    output_dim: Annotated[int, positive, "Width of z."] = 128
    temperature: Annotated[float, positive, "t, of the softmax."] = 0.1


@dataclasses.dataclass(frozen=True)
class DeepClusterV2(MultiCrop):
    title: ClassVar[str] = "DeepCluster v2"

    hyper: HyperParameters
    num_examples: int

    @property
    def bank_rows(self) -> int:
        """Rows of the bank: one for each image, and unused rows at the end."""
        return -(-self.num_examples // _ROWS) * _ROWS

    def placement(self, path: str) -> PartitionSpec | None:
        is_split = path in ("buffers/bank", "buffers/assignments")
        return PartitionSpec(BATCH_AXES) if is_split else None

    def init(self, key: Array, batch: Batch) -> tuple[PyTree, PyTree]:
        """The buffers are random until the first `refresh`."""
        params, buffers = super().init(key, batch)
        hyper, rows = self.hyper, self.bank_rows
        bank_key, centroid_key, assignment_key = jax.random.split(
            jax.random.fold_in(key, _BUFFERS), 3
        )
        views = self.families.shapes[MAIN][0]
        bank = jax.random.normal(bank_key, (rows, views, hyper.output_dim))
        shape = hyper.num_clusterings, hyper.num_prototypes, hyper.output_dim
        centroids = losses.unit_length(jax.random.normal(centroid_key, shape))
        assignments = jax.random.randint(
            assignment_key, (rows, hyper.num_clusterings), 0, hyper.num_prototypes
        )
        buffers["bank"] = losses.unit_length(bank)
        buffers["centroids"] = centroids.swapaxes(1, 2)
        buffers["assignments"] = assignments.astype(jnp.int32)
        return params, buffers

    def refresh_every(self, length: Length) -> int:
        return length.steps_per_epoch

    def refresh(self, w: Weights, encode_all: EncodeAll, *, key: Array, step: int) -> PyTree:
        """Clusters the bank; at step 0 it fills the bank first."""
        hyper = self.hyper
        bank = w.buffers["bank"]
        if step == 0:
            bank = self._fill(encode_all)
        mask = jnp.arange(self.bank_rows) < self.num_examples
        results = [
            clustering.spherical_kmeans(
                bank[:, h % bank.shape[1]],
                mask,
                key=jax.random.fold_in(key, h),
                num_clusters=hyper.num_prototypes,
                iterations=hyper.kmeans_iterations,
            )
            for h in range(hyper.num_clusterings)
        ]
        # Unused rows get cluster 0, so that every assignment is valid.
        assignments = jnp.stack([jnp.maximum(result.assignments, 0) for result in results], axis=1)
        centroids = jnp.stack([result.centroids.T for result in results])
        return {"bank": bank, "centroids": centroids, "assignments": assignments}

    def _fill(self, encode_all: EncodeAll) -> Array:
        """The bank after one pass over the training set."""

        def embed(w: Weights, keys: Array, batch: Batch) -> dict[str, Array]:
            mask = batch["mask"]
            row = jnp.arange(len(mask))
            # Padding would add blank images to the batch statistics: repeat images instead.
            row = jnp.where(mask, row, row % jnp.maximum(mask.sum(), 1))
            batch = jax.tree.map(lambda x: x[row], dict(batch))
            key = jax.random.key(0)  # of stochastic depth, which these encoders do not have
            views = self.views(keys, batch, key=key, step=jnp.int32(0))
            _, z, _ = self.embed(w.params, w.buffers, {MAIN: views[MAIN]}, key=key)
            return {"z": losses.unit_length(z)}

        rows = encode_all(embed)["z"][: self.num_examples]  # (n, g, d')
        return jnp.pad(rows, ((0, self.bank_rows - self.num_examples), (0, 0), (0, 0)))

    def views(self, keys: Array, batch: Batch, *, key: Array, step: Array) -> dict[str, Array]:
        return {**super().views(keys, batch, key=key, step=step), "index": batch["index"]}

    def encode(
        self, w: Weights, views: dict[str, Array], *, key: Array, step: Array
    ) -> tuple[PyTree, PyTree]:
        """`h` [n d] of the first view, `z` [n V d'] of all (large ones first), `index` [n]."""
        del step
        h, z, updates = self.embed(w.params, w.buffers, views, key=key)
        return {"h": h[:, 0], "z": losses.unit_length(z), "index": views["index"]}, updates

    def objective(
        self, w: Weights, encoded: PyTree, *, key: Array, step: Array
    ) -> tuple[Array, Aux]:
        del key, step
        z, index, buffers = encoded["z"], encoded["index"], w.buffers
        assignments = buffers["assignments"][index]  # (n, H)
        loss, metrics = losses.cluster_cross_entropy(
            z, buffers["centroids"], assignments, temperature=self.hyper.temperature
        )
        large = jax.lax.stop_gradient(z[:, : self.families.shapes[MAIN][0]])
        bank = buffers["bank"].at[index].set(large)
        return loss, Aux({**buffers, "bank": bank}, metrics, {"h": encoded["h"], "z": large})

    def preflight(self, batch_size: int) -> list[tuple[str, str]]:
        del batch_size
        hyper, large = self.hyper, self.families.shapes[MAIN][0]
        size = self.bank_rows * large * hyper.output_dim * 4 / 2**20
        return [
            ("views", self.views_line()),
            (
                "clusters",
                f"{hyper.num_clusterings} clusterings of {hyper.num_prototypes:,}, before each "
                f"epoch, {hyper.kmeans_iterations} iterations",
            ),
            (
                "memory bank",
                f"{self.num_examples:,} x {large} x {hyper.output_dim}, {size:,.1f} MiB over all "
                "devices",
            ),
        ]


def make(config: Any, spec: DataSpec, length: Length) -> DeepClusterV2:
    """Builds the method from the config's sections method, model and views."""
    del length
    hyper = hyper_parameters(HyperParameters, config.method, "method")
    check_prototypes(hyper.num_prototypes, spec)
    check_unique_examples(config, spec)
    return DeepClusterV2(
        hyper=hyper,
        num_examples=spec.num_examples,
        projector=swav_head(hyper.hidden_dim, hyper.output_dim, dtype=config.dtype),
        **nets_and_families(config, spec),
    )
