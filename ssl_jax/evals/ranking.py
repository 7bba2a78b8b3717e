"""Ranks a gallery by similarity to queries, exactly, without a matrix of all pairs.

The gallery is split over the devices of all processes (`ssl_jax.evals.nearest`). Queries come in
blocks: each device compares a block with its part of the gallery, counts which of its examples rank
before each reference, and the counts are added over the devices. A block's ranking is reduced to
scores before the next one begins, so memory does not grow with the number of queries, and falls
with the number of devices.

A query's references are the gallery examples of its class. Left out are the query itself, where
it is in the gallery, and examples with its class *and* its group: with cameras as groups, this is
the rule of Market-1501 (Zheng et al. 2015). With R references at ranks r_1 < ... < r_R (1 is
first),

    Recall@K      r_1 <= K; this is also the cumulative match characteristic (CMC) at rank K
    R-precision   share of the r_i that are at most R
    MAP@R         1/R sum over r_i <= R of i / r_i      (Musgrave et al. 2020, Sec. 3.2)
    mAP           1/R sum of i / r_i                    (as in scikit-learn)
    trapezoid     1/R sum of the mean of i / r_i and (i - 1) / (r_i - 1), which is 1 if r_i is 1;
                  the mAP of Market-1501's own code, about a point lower

An example of another class that is exactly as similar as a reference ranks before it. So a
collapsed encoder, for which all examples are equal, retrieves nothing, in whatever order they come.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P
from jaxtyping import Float, Int

from ssl_jax.core.arrays import Array
from ssl_jax.core.errors import UserError
from ssl_jax.evals.nearest import split_rows
from ssl_jax.evals.scores import ROWS, shared_mesh

Similarity = Literal["cosine", "euclidean"]
_SIMILARITIES = 2**25  # in a block on a device: 128 MiB of float32, and a few times that to rank
_PADDING = -1  # label of rows that fill up a device's part of the gallery
_COMPARED = 64  # on CPUs, references of a query up to which each is compared with the gallery


class Scores(NamedTuple):
    """Scores of each query; those without a reference have `references` 0 and no scores.

    Attributes:
      references: int [n], R.
      recall: bool [n k], whether a reference is among the first K, for each K.
      r_precision, map_at_r, average_precision, trapezoid: float64 [n].
    """

    references: np.ndarray
    recall: np.ndarray
    r_precision: np.ndarray
    map_at_r: np.ndarray
    average_precision: np.ndarray
    trapezoid: np.ndarray


class Rows(NamedTuple):
    """Queries or a gallery.

    Attributes:
      h: float [n d], finite.
      label: int [n], not negative.
      group: int [n], e.g. the camera; None: every example is its own.
    """

    h: Float[Array, "n d"]
    label: Int[Array, " n"]
    group: Int[Array, " n"] | None = None


def score(
    queries: Rows,
    gallery: Rows | None = None,
    *,
    ks: Sequence[int] = (1,),
    similarity: Similarity = "cosine",
    devices: Sequence[jax.Device] | None = None,
) -> Scores:
    """Scores the ranking of the gallery for every query.

    Args:
      queries: the queries.
      gallery: what is searched; None: the queries, each without itself.
      ks: the K of `recall`; K beyond the size of the gallery is allowed.
      similarity: "cosine", or "euclidean" for minus the Euclidean distance. Computed in float32 at
        the highest matmul precision.
      devices: devices over which the gallery is split, see `shared_mesh`.

    Raises:
      UserError: queries and gallery have different widths.
    """
    exclude_self = gallery is None
    gallery = queries if gallery is None else gallery
    if queries.h.shape[1] != gallery.h.shape[1]:
        raise UserError(
            f"queries have {queries.h.shape[1]} dimensions and the gallery has "
            f"{gallery.h.shape[1]}; encode both into one space"
        )
    members = _members(gallery, queries.label)
    n, m = len(queries.h), len(gallery.h)
    mesh = shared_mesh(m, devices)
    block = block_size(n, m, members.largest, mesh.size)
    centre, scale = _frame(gallery.h) if similarity == "euclidean" else (0.0, 1.0)
    grouped = queries.group is not None and gallery.group is not None
    # Comparing is what accelerators are good at; CPUs count many references faster.
    compare = mesh.devices.flat[0].platform != "cpu" or members.largest <= _COMPARED
    with jax.set_mesh(mesh):
        prepare = functools.partial(_prepared, centre=centre, scale=scale, similarity=similarity)
        searched = (
            split_rows(gallery.h, mesh, prepare=prepare),
            split_rows(np.asarray(gallery.label, np.int32), mesh, fill=_PADDING),
            members.row,
            members.group if grouped else np.zeros(1, np.int32),
        )
        parts = []
        for first in range(0, n, block):
            # Blocks all have the same size, to compile once; surplus rows are dropped below.
            rows = np.minimum(np.arange(first, first + block), n - 1).astype(np.int32)
            start, count = members.of(queries.label[rows])
            part = _search(
                *(
                    split_rows(column, mesh)
                    for column in (
                        prepare(np.asarray(queries.h[rows])),
                        np.asarray(queries.label[rows], np.int32),
                        start,
                        count,
                        np.asarray(queries.group[rows], np.int32) if grouped else rows,
                        rows,
                    )
                ),
                *searched,
                ks=tuple(ks), largest=members.largest, compare=compare, similarity=similarity,
                grouped=grouped, exclude_self=exclude_self, mesh=mesh,
            )  # fmt: skip
            parts.append(part)
            if len(parts) > 1:  # one block ahead: the host does not queue up all of them
                parts[-2] = jax.device_get(parts[-2])
        parts = jax.device_get(parts)
    columns = [np.concatenate(column)[:n] for column in zip(*parts, strict=True)]
    return Scores(columns[0], columns[1], *(column.astype(np.float64) for column in columns[2:]))


def block_size(queries: int, gallery: int, references: int, devices: int) -> int:
    """Queries of a block: a multiple of the devices, so that a device's arrays have a bounded size.

    Args:
      queries, gallery: how many there are.
      references: the largest number of a query.
      devices: over which the gallery is split.
    """
    columns = max(-(-gallery // devices), references)
    block = int(np.clip(_SIMILARITIES // columns, 1, min(256 * devices, queries)))
    return max(1, block // devices) * devices


class _Members(NamedTuple):
    """The gallery in the order of its classes, of the classes that are searched.

    Attributes:
      row: int32 [m], rows of the gallery, class by class; at least one.
      group: int32 [m], their groups; zeros without groups.
      known: int [c], these classes, ascending; at least one.
      start, count: int32 [c], where a class begins and how many rows it has.
      largest: the largest count, at least 1.
    """

    row: np.ndarray
    group: np.ndarray
    known: np.ndarray
    start: np.ndarray
    count: np.ndarray
    largest: int

    def of(self, label: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Start and count of the classes of queries, int32 [q]; count 0 of unknown ones."""
        at = np.minimum(np.searchsorted(self.known, label), len(self.known) - 1)
        count = np.where(self.known[at] == label, self.count[at], 0)
        return self.start[at], count.astype(np.int32)


def _members(gallery: Rows, searched: np.ndarray) -> _Members:
    rows = np.flatnonzero(np.isin(gallery.label, searched))
    if not len(rows):
        zero = np.zeros(1, np.int32)
        return _Members(zero, zero, np.array([-1]), zero, zero, 1)
    rows = rows[np.argsort(gallery.label[rows], kind="stable")].astype(np.int32)
    known, start, count = np.unique(gallery.label[rows], return_index=True, return_counts=True)
    group = np.zeros(1) if gallery.group is None else gallery.group[rows]
    start, count, group = (np.asarray(column, np.int32) for column in (start, count, group))
    return _Members(rows, group, known, start, count, int(count.max()))


def _frame(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Centre and scale of Euclidean distances, so that their float32 squares are precise."""
    x = np.asarray(x)
    centre = x.mean(axis=0, dtype=np.float64)
    scale = max(float(np.abs(x - centre).max()), float(np.finfo(np.float32).tiny))
    return centre, np.float64(scale)


def _prepared(x: np.ndarray, *, centre: Array, scale: Array, similarity: Similarity) -> np.ndarray:
    """Unit rows, or rows in the frame of `_frame`; float32 [n d]."""
    if similarity == "cosine":
        return unit_rows(x)
    return ((np.asarray(x) - centre) / scale).astype(np.float32)


def unit_rows(x: np.ndarray) -> np.ndarray:
    """Rows divided by their length, float32 [n d]; rows of zeros stay."""
    x = np.asarray(x, np.float32)
    # Scaling by the largest entry first: the squares of large or tiny features stay in range.
    x = x / np.maximum(np.abs(x).max(axis=1, keepdims=True), np.finfo(np.float32).tiny)
    return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), np.float32(0.5))


@functools.partial(
    jax.jit,
    static_argnames=(
        "ks", "largest", "compare", "similarity", "grouped", "exclude_self", "mesh",
    ),
)  # fmt: skip
def _search(
    queries: jax.Array,
    query_label: jax.Array,
    query_start: jax.Array,
    query_count: jax.Array,
    query_group: jax.Array,
    query_row: jax.Array,
    gallery: jax.Array,
    gallery_label: jax.Array,
    member_row: jax.Array,
    member_group: jax.Array,
    *,
    ks: tuple[int, ...],
    largest: int,
    compare: bool,
    similarity: Similarity,
    grouped: bool,
    exclude_self: bool,
    mesh: Mesh,
) -> tuple[jax.Array, ...]:
    """The fields of `Scores` of a block of queries, which are split over the devices.

    The queries and the similarities of their references travel to all devices, what the devices
    count travels back to the queries, and all devices have the scores.
    """
    everywhere = functools.partial(jax.lax.all_gather, axis_name=ROWS, tiled=True)
    to_queries = functools.partial(
        jax.lax.psum_scatter, axis_name=ROWS, scatter_dimension=0, tiled=True
    )

    def local(queries, label, start, count, group, row, gallery, gallery_label, order, groups):
        queries = everywhere(queries)
        product = jnp.einsum("qd,nd->qn", queries, gallery, precision=jax.lax.Precision.HIGHEST)
        if similarity == "euclidean":  # without |q|^2, which is the same for the whole gallery
            product = 2 * product - jnp.sum(gallery**2, axis=1)
        not_other = everywhere(label)[:, None] == gallery_label
        others = jnp.where(not_other | (gallery_label == _PADDING), -jnp.inf, product)  # (q, n)

        place = start[:, None] + jnp.arange(largest)
        place = jnp.minimum(place, len(order) - 1)  # (q / devices, r)
        member = order[place]
        reference = jnp.arange(largest) < count[:, None]
        if exclude_self:
            reference &= member != row[:, None]
        if grouped:
            reference &= groups[place] != group[:, None]
        # Each reference is in the gallery of one device; the others add zero.
        column = everywhere(member) - jax.lax.axis_index(ROWS) * len(gallery)
        inside = (column >= 0) & (column < len(gallery))
        column = jnp.clip(column, 0, len(gallery) - 1)
        of_members = jnp.where(inside, jnp.take_along_axis(product, column, axis=1), 0)
        # Ascending, so that references come first in the reverse order and -inf last.
        of_references = jnp.sort(jnp.where(reference, to_queries(of_members), -jnp.inf), axis=1)
        ahead = (_compared if compare else _counted)(others, everywhere(of_references))
        references = reference.sum(axis=1, dtype=jnp.int32)
        scores = _of_ranks(to_queries(ahead)[:, ::-1], references, ks)
        return tuple(everywhere(score) for score in scores)

    return jax.shard_map(
        local,
        mesh=mesh,
        in_specs=(P(ROWS),) * 8 + (P(),) * 2,
        out_specs=(P(),) * 6,
        check_vma=False,  # what is gathered is equal on all devices
    )(
        queries, query_label, query_start, query_count, query_group, query_row,
        gallery, gallery_label, member_row, member_group,
    )  # fmt: skip


def _compared(others: jax.Array, of_references: jax.Array) -> jax.Array:
    """How many examples of other classes are at least as similar as each reference.

    Args:
      others: float32 [q n], similarities; -inf for what is not of another class.
      of_references: float32 [q r], similarities of the references, ascending.

    Returns:
      int32 [q r]; where a reference is -inf, any number.
    """

    def count(least: jax.Array) -> jax.Array:
        return jnp.sum(others >= least[:, None], axis=1, dtype=jnp.int32)

    return jax.lax.map(count, of_references.T).T


def _counted(others: jax.Array, of_references: jax.Array) -> jax.Array:
    """Like `_compared`, by the place of each other example among the references."""

    def count(others: jax.Array, of_references: jax.Array) -> jax.Array:
        place = jnp.searchsorted(of_references, others, side="right")  # references not above it
        number = jnp.zeros(len(of_references) + 1, jnp.int32).at[place].add(1)
        return len(others) - jnp.cumsum(number)[:-1]

    return jax.vmap(count)(others, of_references)


def _of_ranks(ahead: jax.Array, count: jax.Array, ks: tuple[int, ...]) -> tuple[jax.Array, ...]:
    """The fields of `Scores`.

    Args:
      ahead: int32 [q r], examples of other classes before each reference, nearest first.
      count: int32 [q], references; the entries of `ahead` beyond them mean nothing.
      ks: the K of recall.
    """
    number = jnp.arange(1, ahead.shape[1] + 1)  # i
    valid = number <= count[:, None]
    rank = jnp.where(valid, ahead + number, jnp.iinfo(jnp.int32).max)  # r_i
    total = jnp.maximum(count, 1)

    def mean(values: jax.Array, where: jax.Array) -> jax.Array:
        return jnp.sum(jnp.where(where, values, 0.0), axis=1) / total

    precision = number / rank
    before = jnp.where(rank == 1, 1.0, (number - 1) / jnp.maximum(rank - 1, 1))
    recall = rank[:, :1] <= jnp.asarray(ks)
    in_first = valid & (rank <= count[:, None])
    return (
        count,
        recall,
        mean(jnp.ones_like(precision), in_first),
        mean(precision, in_first),
        mean(precision, valid),
        mean((precision + before) / 2, valid),
    )
