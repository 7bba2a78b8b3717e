"""Weighted nearest neighbours with a bank that never leaves the devices.

It has the value of `knn`, for training splits whose features do not fit on one host. Each device
encodes its part of every batch and keeps the features, normalised, in its own part of the bank. A
batch of queries is then sent to all devices. Each finds the k best rows of its part, and these are
merged. The host gets k similarities and labels for each query, and no features.

A device has n / devices rows of d + 2 numbers of 4 bytes, and the similarities of one block of
queries.
"""

from __future__ import annotations

import functools
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from ssl_jax import parallel
from ssl_jax.config.fields import positive
from ssl_jax.core.batch_axes import BATCH_AXES
from ssl_jax.core.errors import UserError
from ssl_jax.evals import knn, tokens
from ssl_jax.evals.known import Known
from ssl_jax.evals.metric import Metric
from ssl_jax.evals.model import Model
from ssl_jax.evals.nearest import SIMILARITIES, normalize
from ssl_jax.evals.scores import measured_ranks

NEEDS = ("label",)
METRICS = {
    "top1": Metric(
        "kNN, streamed",
        "accuracy of a kNN classifier with a bank on the devices",
        sentence="accuracy of {model} with a kNN classifier, its bank on the devices",
    ),
    "top5": Metric("kNN top-5, streamed", shown=False),
    "k": Metric("neighbours", unit="", better=None, shown=False),
}
_NONE = np.iinfo(np.int32).max  # number of a row without an example


class Bank(NamedTuple):
    """Features of the training split; the rows are split over the batch axes of the mesh.

    On each device, rows are in the order of their examples.
    """

    h: jax.Array  # [m d] float32, unit rows
    label: jax.Array  # [m] int32
    example: jax.Array  # [m] int32, number of the example; `_NONE`: an empty row


def evaluate_model(
    model: Model,
    prober: Any,
    *,
    feature: str = "h",
    k: Annotated[int, positive, "Number of neighbours that vote."] = 200,
    temperature: Annotated[float, positive, "tau, in units of cosine similarity."] = 0.07,
) -> dict[str, float]:
    """Accuracy of the weighted vote, see `ssl_jax.evals.knn`.

    Args:
      model: its output `feature` is [n d].
      prober: provides the splits.
      feature: the output to evaluate.
      k: number of neighbours that vote; limited to the labelled train examples.
      temperature: tau.

    Returns:
      `top1`, `top5` (with more than five classes) in [0, 1], and the `k` used.

    Raises:
      UserError: no example has a label, or features are not finite.
    """
    bank, count = fill(model, prober, feature)
    k = min(k, count)
    hits, total = np.zeros(2, np.int64), 0
    for batch in prober.batches(prober.test):
        h = model.outputs(_inputs(batch), (feature,))[feature]
        nearest = search(h, bank, k=k, mesh=prober.mesh)
        similarity, voters, label, mask = parallel.gather((*nearest, batch["label"], batch["mask"]))
        _check_finite(np.isfinite(similarity[mask]).all(), "test")
        used = mask & (label >= 0)
        votes = knn.vote(similarity[used], voters[used], prober.num_classes, temperature)
        hits += knn.top_hits(votes, label[used])
        total += int(used.sum())
    if not total:
        raise UserError("streamed_knn needs labelled test examples")
    return knn.metrics(hits, total, k, prober.num_classes)


def check(known: Known, *, k: int, **options: Any) -> str:
    """A note if fewer than k neighbours can vote."""
    del options
    if known.train_counts is None or known.train_counts.sum() >= k:
        return ""
    return f"streamed_knn: k={k} is more than the {known.train_counts.sum()} train examples"


def measures(known: Known, **options: Any) -> tuple[str, ...]:
    """Names of the metrics that `evaluate_model` returns."""
    del options
    return measured_ranks(METRICS, known.num_classes)


def fill(model: Model, prober: Any, feature: str) -> tuple[Bank, int]:
    """Encodes the training split into a bank; returns it and the number of labelled examples.

    Raises:
      UserError: no example has a label, the output is not one vector an example, or a feature is
        not finite.
    """
    mesh, bank = prober.mesh, None
    examples = tokens.train_examples(prober)
    counts, finite = [], []
    for step, batch in enumerate(prober.batches(prober.train, examples)):
        h = model.outputs(_inputs(batch), (feature,))[feature]
        if h.ndim != 2:
            raise UserError(f"streamed_knn takes one vector an example, and {feature!r} has more")
        rows = len(h) // parallel.batch_shards(mesh)
        if bank is None:
            steps = -(-len(examples) // len(h))
            bank = _empty(steps * len(h), h.shape[1], mesh)
        used = batch["mask"] & (batch["label"] >= 0)
        number = np.int32(step * rows)
        bank, count, ok = _append(bank, h, batch["label"], batch["index"], used, number, mesh=mesh)
        counts.append(count)
        finite.append(ok)
    count = int(np.sum(parallel.gather(counts)))
    if not count:
        raise UserError("streamed_knn needs labelled train examples")
    _check_finite(np.all(parallel.gather(finite)), "train")
    return bank, count


def _inputs(batch: Any) -> dict[str, jax.Array]:
    return {name: array for name, array in batch.items() if name != "mask"}


def _check_finite(is_finite: bool, split: str) -> None:
    if not is_finite:
        raise UserError(
            f"features of the {split} split are not finite; evaluate an earlier checkpoint"
        )


def _empty(rows: int, dim: int, mesh: Mesh) -> Bank:
    """A bank without examples, made on the devices that keep it."""

    def make() -> Bank:
        label = jnp.zeros(rows, jnp.int32)
        return Bank(jnp.zeros((rows, dim)), label, jnp.full(rows, _NONE, jnp.int32))

    return jax.jit(make, out_shardings=parallel.batch_sharding(mesh))()


@functools.partial(jax.jit, static_argnames="mesh", donate_argnums=0)
def _append(
    bank: Bank,
    h: jax.Array,
    label: jax.Array,
    example: jax.Array,
    used: jax.Array,
    first: jax.Array,
    *,
    mesh: Mesh,
) -> tuple[Bank, jax.Array, jax.Array]:
    """Writes a batch, each device its own rows from row `first` of its part of the bank on.

    Returns:
      The bank, the number of examples with a label, and whether the features of those are finite.
    """

    def local(bank: Bank, h, label, example, used) -> Bank:
        example = jnp.where(used, example, _NONE)
        return Bank(
            *(
                jax.lax.dynamic_update_slice_in_dim(kept, new.astype(kept.dtype), first, axis=0)
                for kept, new in zip(bank, (normalize(h), label, example), strict=True)
            )
        )

    rows = P(BATCH_AXES)
    bank = jax.shard_map(local, mesh=mesh, in_specs=rows, out_specs=rows)(
        bank, h, label, example, used
    )
    finite = jnp.all(jnp.isfinite(h).all(axis=1) | ~used)
    return bank, jnp.sum(used), finite


@functools.partial(jax.jit, static_argnames=("k", "mesh"))
def search(h: jax.Array, bank: Bank, *, k: int, mesh: Mesh) -> tuple[jax.Array, jax.Array]:
    """The k rows of the bank of highest cosine similarity to each query, best first.

    Equal similarities are in the order of the examples, however many devices there are.

    Args:
      h: queries [q d], split over the batch axes.
      bank: of `fill`.
      k: at most the number of examples in the bank.
      mesh: of both.

    Returns:
      similarity float32 [q k] and label int32 [q k], the same on every device.
    """

    def local(h: jax.Array, bank: Bank) -> tuple[jax.Array, jax.Array]:
        queries = jax.lax.all_gather(normalize(h), BATCH_AXES, axis=0, tiled=True)
        rows = len(bank.example)

        def best(query: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
            similarity = jnp.einsum("d,rd->r", query, bank.h, precision=jax.lax.Precision.HIGHEST)
            similarity = jnp.where(bank.example < _NONE, similarity, -jnp.inf)
            # top_k is stable, and the rows of a device are in the order of their examples.
            similarity, row = jax.lax.top_k(similarity, min(k, rows))
            return similarity, bank.example[row], bank.label[row]

        block = int(np.clip(SIMILARITIES // rows, 1, len(queries)))
        candidates = jax.lax.map(best, queries, batch_size=block)  # [q k] each
        similarity, example, label = (
            jax.lax.all_gather(part, BATCH_AXES, axis=1, tiled=True) for part in candidates
        )
        # Unlike in `nearest`, device order is not the order of examples, so ties need a sort.
        similarity, _, label = jax.lax.sort((-similarity, example, label), num_keys=2)
        return -similarity[:, :k], label[:, :k]

    rows = P(BATCH_AXES)
    return jax.shard_map(
        local,
        mesh=mesh,
        in_specs=(rows, rows),
        out_specs=(P(), P()),
        check_vma=False,  # the gathered candidates are equal on all devices
    )(h, bank)
