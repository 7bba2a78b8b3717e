"""Spherical k-means: clusters of directions (DeepCluster v2, Caron et al. 2020, released code).

    assign    c_i = argmax_k x_i . m_k
    update    m_k = sum of its x_i, scaled to length 1; an empty cluster keeps its m_k

Rows stay on the devices that hold them. Each device goes through its rows in chunks, so that no
matrix of all rows and clusters exists; only the sums of the clusters are exchanged. The sums are
matrix products of float32, so a device adds in the same order every time.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int

from ssl_jax.core.arrays import Array
from ssl_jax.core.batch_axes import ROWS, WHOLE, manual_axes, on_each_device
from ssl_jax.losses.contrastive import unit_length
from ssl_jax.losses.tiles import chunk_size, pad_rows, product


class Clusters(NamedTuple):
    """The result.

    Attributes:
      centroids: float32 [k d], of length 1.
      assignments: int32 [n], the nearest centroid of each row; -1 where the mask is False.
    """

    centroids: Float[Array, "k d"]
    assignments: Int[Array, " n"]


@functools.partial(jax.jit, static_argnames=("num_clusters", "iterations", "chunk"))
def spherical_kmeans(
    rows: Float[Array, "n d"],
    mask: Bool[Array, " n"],
    *,
    key: Array,
    num_clusters: int,
    iterations: int = 10,
    chunk: int = 4096,
) -> Clusters:
    """Clusters rows of unit length, starting from rows drawn at random.

    Call it with the mesh set (`jax.set_mesh`); n divides over the devices that split a batch.

    Args:
      rows: x, float32.
      mask: rows that count; there are at least `num_clusters`.
      key: draws the first centroids, without replacement and whatever the number of devices.
      num_clusters: k.
      iterations: pairs of an assignment and an update. The assignments that are returned come after
        the last update.
      chunk: rows that a device compares with all centroids at a time, about.
    """
    score = jax.random.uniform(key, mask.shape)
    _, drawn = jax.lax.top_k(jnp.where(mask, score, -1.0), num_clusters)
    first = rows[drawn].astype(jnp.float32)
    cluster = functools.partial(_cluster, iterations=iterations, chunk=chunk)
    over_devices = on_each_device(cluster, (ROWS, ROWS, WHOLE), (WHOLE, ROWS))
    return Clusters(*over_devices(rows.astype(jnp.float32), mask, first))


def _cluster(
    rows: Array, mask: Array, centroids: Array, *, iterations: int, chunk: int
) -> tuple[Array, Array]:
    """Centroids and assignments, from the rows of one device."""
    n, k = len(rows), len(centroids)
    size = chunk_size(n, chunk)
    chunks = pad_rows(rows, -n % size).reshape(-1, size, rows.shape[-1])
    counted = pad_rows(mask, -n % size).reshape(-1, size)

    def nearest(part: Array, centroids: Array) -> Array:
        return jnp.argmax(product("nd,kd->nk", part, centroids), axis=1)

    def update(_: Array, centroids: Array) -> Array:
        def add(total: tuple[Array, Array], rows_and_mask: tuple[Array, Array]):
            part, counts = rows_and_mask
            member = nearest(part, centroids)[:, None] == jnp.arange(k)
            member = (member & counts[:, None]).astype(jnp.float32)  # (size, k)
            sums, sizes = total
            return (sums + product("nk,nd->kd", member, part), sizes + member.sum(axis=0)), None

        total = jnp.zeros_like(centroids), jnp.zeros(k, jnp.float32)
        total, _ = jax.lax.scan(add, total, (chunks, counted))
        sums, sizes = jax.lax.psum(total, axes) if (axes := manual_axes()) else total
        return unit_length(jnp.where(sizes[:, None] > 0, sums, centroids))

    centroids = jax.lax.fori_loop(0, iterations, update, centroids)
    assignments = jax.lax.map(lambda part: nearest(part, centroids), chunks).reshape(-1)[:n]
    return centroids, jnp.where(mask, assignments, -1).astype(jnp.int32)
