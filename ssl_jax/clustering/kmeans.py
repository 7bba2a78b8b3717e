"""k-means, of directions and of points.

    spherical (DeepCluster v2, Caron et al. 2020, released code), of rows of length 1
    assign    c_i = argmax_k x_i . m_k
    update    m_k = sum of its x_i, scaled to length 1; an empty cluster keeps its m_k

    Euclidean
    assign    c_i = argmin_k |x_i - m_k|^2
    update    m_k = mean of its x_i; an empty cluster keeps its m_k

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
      centroids: float32 [k d], of length 1 if spherical.
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
    cluster = functools.partial(_cluster, iterations=iterations, chunk=chunk, spherical=True)
    over_devices = on_each_device(cluster, (ROWS, ROWS, WHOLE), (WHOLE, ROWS))
    return Clusters(*over_devices(rows.astype(jnp.float32), mask, first))


@functools.partial(jax.jit, static_argnames=("num_clusters", "iterations", "chunk"))
def kmeans(
    rows: Float[Array, "n d"],
    mask: Bool[Array, " n"],
    *,
    key: Array,
    num_clusters: int,
    iterations: int = 10,
    chunk: int = 4096,
) -> Clusters:
    """Clusters points, starting from those that k-means++ draws (Arthur & Vassilvitskii 2007).

    The first centroid is a random row. Each further one is a row drawn with a probability
    proportional to its squared distance to the nearest centroid so far, so that none is drawn twice
    while another is left.

    Args:
      rows, mask, key, num_clusters, iterations, chunk: as for `spherical_kmeans`; rows have any
        length.
    """
    rows = rows.astype(jnp.float32)

    def draw(i: Array, state: tuple[Array, Array]) -> tuple[Array, Array]:
        centroids, distance = state
        noise = jax.random.gumbel(jax.random.fold_in(key, i), mask.shape)
        score = jnp.where(mask, jnp.log(distance) + noise, -jnp.inf)
        # Where no row is left, the first one that counts.
        score = jnp.maximum(score, jnp.where(mask, jnp.finfo(jnp.float32).min, -jnp.inf))
        new = rows[jnp.argmax(score)]
        distance = jnp.minimum(distance, jnp.square(rows - new).sum(axis=1))
        return centroids.at[i].set(new), distance

    # At first all rows are equally far.
    start = jnp.zeros((num_clusters, rows.shape[1]), jnp.float32), jnp.full(len(rows), 1e30)
    first, _ = jax.lax.fori_loop(0, num_clusters, draw, start)
    cluster = functools.partial(_cluster, iterations=iterations, chunk=chunk, spherical=False)
    over_devices = on_each_device(cluster, (ROWS, ROWS, WHOLE), (WHOLE, ROWS))
    return Clusters(*over_devices(rows, mask, first))


def nearest(points: Float[Array, "n d"], centroids: Float[Array, "k d"]) -> Int[Array, " n"]:
    """The number of the nearest centroid of each point; of equally near ones, the first."""
    half_squares = jnp.square(centroids).sum(axis=1) / 2
    score = product("nd,kd->nk", points, centroids) - half_squares
    return jnp.argmax(score, axis=1).astype(jnp.int32)


def _cluster(
    rows: Array, mask: Array, centroids: Array, *, iterations: int, chunk: int, spherical: bool
) -> tuple[Array, Array]:
    """Centroids and assignments, from the rows of one device."""
    n, k = len(rows), len(centroids)
    size = chunk_size(n, chunk)
    chunks = pad_rows(rows, -n % size).reshape(-1, size, rows.shape[-1])
    counted = pad_rows(mask, -n % size).reshape(-1, size)

    def assign(part: Array, centroids: Array) -> Array:
        if not spherical:
            return nearest(part, centroids)
        return jnp.argmax(product("nd,kd->nk", part, centroids), axis=1)

    def update(_: Array, centroids: Array) -> Array:
        def add(total: tuple[Array, Array], rows_and_mask: tuple[Array, Array]):
            part, counts = rows_and_mask
            member = assign(part, centroids)[:, None] == jnp.arange(k)
            member = (member & counts[:, None]).astype(jnp.float32)  # (size, k)
            sums, sizes = total
            return (sums + product("nk,nd->kd", member, part), sizes + member.sum(axis=0)), None

        total = jnp.zeros_like(centroids), jnp.zeros(k, jnp.float32)
        total, _ = jax.lax.scan(add, total, (chunks, counted))
        sums, sizes = jax.lax.psum(total, axes) if (axes := manual_axes()) else total
        if not spherical:
            sums = sums / jnp.maximum(sizes, 1)[:, None]
        updated = jnp.where(sizes[:, None] > 0, sums, centroids)
        return unit_length(updated) if spherical else updated

    centroids = jax.lax.fori_loop(0, iterations, update, centroids)
    assignments = jax.lax.map(lambda part: assign(part, centroids), chunks).reshape(-1)[:n]
    return centroids, jnp.where(mask, assignments, -1).astype(jnp.int32)
