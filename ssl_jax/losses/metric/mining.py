"""Mining: which triplets (anchor, positive, negative) of a batch a loss uses.

Every triplet of a kind, by the gap d_an - d_ap and a margin m:

    all        every one ("batch-all", Hermans et al. 2017)
    easy       d_an > d_ap + m
    semi_hard  d_ap < d_an <= d_ap + m
    hard       d_an <= d_ap

or a selection:

    batch_hard             for each anchor the farthest positive and the nearest negative (Hermans
                           et al. 2017, Eq. 5)
    nearest_semi_hard      for each anchor and positive the nearest of the negatives that are
                           farther than the positive; none: no loss (FaceNet, Schroff et al. 2015,
                           Sec. 3.2)
    semi_hard_or_farthest  the same; none: the farthest negative (TensorFlow's
                           triplet_semihard_loss)
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ssl_jax.core import batch_axes
from ssl_jax.core.batch_axes import ROWS
from ssl_jax.losses.gather import gather_rows
from ssl_jax.losses.metric import distances, strips
from ssl_jax.losses.metric.strips import Side

Array = jax.Array

KINDS = ("all", "easy", "semi_hard", "hard")
NEAREST = ("nearest_semi_hard", "semi_hard_or_farthest")
MINING = (*KINDS, "batch_hard", *NEAREST)
_FAR = 1e30


class Sums(NamedTuple):
    """Sums over triplets, float32.

    Attributes:
      loss: of their losses. Differentiable.
      nonzero: how many have a loss.
      valid: how many there are.
    """

    loss: Array
    nonzero: Array
    valid: Array


# (distances [r c], those to the positive [r], which columns are negatives [r c]) -> Sums [r]
Term = Callable[[Array, Array, Array], Sums]


def over_triplets(
    z: Array,
    labels: Array,
    *,
    distance: str,
    mining: str,
    mining_margin: float,
    loss: Callable[[Array], Array],
) -> Sums:
    """Sums the losses of triplets that are mined positive by positive, in memory linear in n.

    Args:
      z: [n d], from `distances.prepare`.
      labels: int32 [n].
      distance: see `distances.DISTANCES`.
      mining: a name in `KINDS` or `NEAREST`.
      mining_margin: m of the kinds.
      loss: the loss of a gap d_ap - d_an, elementwise.
    """
    if mining in KINDS:
        term = functools.partial(_every, kind=mining, margin=mining_margin, loss=loss)
    else:
        term = functools.partial(_nearest, fallback=mining == NEAREST[1], loss=loss)
    classes = strips.members(labels)

    def sums(rows: Side, columns: Side) -> Sums:
        d = distances.matrix(rows.z, columns.z, rows.square, columns.square, distance=distance)
        negative = strips.negatives(rows, columns)
        start, size = rows.extra["start"], rows.extra["size"]
        order = columns.extra["order"]
        return _over_positives(term, d, negative, rows.position, start, size, order)

    extra = dict(order=classes.order, start=classes.start, size=classes.size)
    return jax.tree.map(jnp.sum, strips.per_anchor(sums, z, labels, **extra))


def _every(
    d: Array,
    positive: Array,
    negative: Array,
    *,
    kind: str,
    margin: float,
    loss: Callable[[Array], Array],
) -> Sums:
    gap = d - positive[:, None]
    if kind == "easy":
        negative = negative & (gap > margin)
    elif kind == "semi_hard":
        negative = negative & (gap > 0) & (gap <= margin)
    elif kind == "hard":
        negative = negative & (gap <= 0)
    each = jnp.where(negative, loss(-gap), 0)
    return Sums(each.sum(1), _count(each > 0, d.dtype), _count(negative, d.dtype))


def _nearest(
    d: Array,
    positive: Array,
    negative: Array,
    *,
    fallback: bool,
    loss: Callable[[Array], Array],
) -> Sums:
    farther = negative & (d > positive[:, None])
    chosen = jnp.min(jnp.where(farther, d, _FAR), axis=1)
    exists = farther.any(axis=1)
    if fallback:
        chosen = jnp.where(exists, chosen, jnp.max(jnp.where(negative, d, -_FAR), axis=1))
        exists = negative.any(axis=1)
    each = jnp.where(exists, loss(jnp.where(exists, positive - chosen, 0)), 0)
    return Sums(each, (each > 0).astype(d.dtype), exists.astype(d.dtype))


def _count(chosen: Array, dtype: jnp.dtype) -> Array:
    return jnp.sum(chosen, axis=1, dtype=dtype)


def _over_positives(term: Term, *args: Array) -> Sums:
    """Sums `term` over the positives of each row, of which rows may have different numbers.

    Args:
      term: see `Term`.
      *args: distances [r c], which columns are negatives [r c], and int32 [r] of the rows:
        `position`, and `start` and `size` of their class in the last argument, `order` int32 [c].
    """
    return _loop(term, *args)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _loop(
    term: Term, d: Array, negative: Array, position: Array, start: Array, size: Array, order: Array
) -> Sums:
    def add(q: Array, sums: Sums) -> Sums:
        column, exists = _positive(q, position, start, size, order)
        positive = jnp.take_along_axis(d, column[:, None], axis=1)[:, 0]
        more = term(d, positive, negative & exists[:, None])
        return jax.tree.map(lambda x, y: x + jnp.where(exists, y, 0), sums, more)

    zero = jnp.zeros(len(d), d.dtype)
    return jax.lax.fori_loop(0, jnp.max(size), add, Sums(zero, zero, zero))


def _positive(
    q: Array, position: Array, start: Array, size: Array, order: Array
) -> tuple[Array, Array]:
    """The column of member q of each row's class, and whether it is a positive of the row."""
    column = order[jnp.minimum(start + q, len(order) - 1)]
    return column, (q < size) & (column != position)


def _loop_forward(term: Term, *args: Array) -> tuple[Sums, tuple[Array, ...]]:
    return _loop(term, *args), args


def _loop_backward(
    term: Term, args: tuple[Array, ...], cotangent: Sums
) -> tuple[Array | None, ...]:
    d, negative, position, start, size, order = args
    rows = jnp.arange(len(d))

    def add(q: Array, dd: Array) -> Array:
        column, exists = _positive(q, position, start, size, order)
        positive = d[rows, column]
        among = negative & exists[:, None]
        _, pull = jax.vjp(lambda d, positive: term(d, positive, among).loss, d, positive)
        more, of_positive = pull(jnp.where(exists, cotangent.loss, 0))
        return (dd + more).at[rows, column].add(of_positive)

    dd = jax.lax.fori_loop(0, jnp.max(size), add, jnp.zeros_like(d))
    return dd, None, None, None, None, None


_loop.defvjp(_loop_forward, _loop_backward)


class Hardest(NamedTuple):
    """For each anchor, all [n].

    Attributes:
      positive, negative: int32, the farthest positive and the nearest negative; 0 if there is none.
      has_positive, has_negative: bool.
      gap: float32, distance of the nearest negative; large if there is none.
    """

    positive: Array
    negative: Array
    has_positive: Array
    has_negative: Array
    gap: Array


def hardest(
    z: Array, labels: Array, *, distance: str, without: tuple[Array, ...] = ()
) -> tuple[Hardest, ...]:
    """The farthest positive and the nearest negative of each anchor. No gradient.

    Args:
      z: [n d], from `distances.prepare`.
      labels: int32 [n].
      distance: see `distances.DISTANCES`.
      without: int32 scalars, classes; for each of them a search that leaves this class out.

    Returns:
      One for all classes, or one for each class left out.
    """

    def search(rows: Side, columns: Side) -> tuple[Hardest, ...]:
        d = distances.matrix(rows.z, columns.z, rows.square, columns.square, distance=distance)
        positive, negative = strips.positives(rows, columns), strips.negatives(rows, columns)
        farthest = jnp.argmax(jnp.where(positive, d, -1), axis=1)
        hardest = []
        for i in range(max(1, len(without))):
            allowed = negative
            if without:
                left_out = rows.extra[str(i)]
                allowed &= (rows.label != left_out)[:, None]
                allowed &= columns.label[None, :] != left_out[:1]
            near = jnp.where(allowed, d, _FAR)
            hardest.append(
                Hardest(
                    farthest.astype(jnp.int32),
                    jnp.argmin(near, axis=1).astype(jnp.int32),
                    positive.any(1),
                    allowed.any(1),
                    near.min(axis=1),
                )
            )
        return tuple(hardest)

    extra = {str(i): jnp.full(labels.shape, label) for i, label in enumerate(without)}
    return strips.per_anchor(search, jax.lax.stop_gradient(z), labels, **extra)


def distances_to(z: Array, chosen: tuple[Array, ...], *, distance: str) -> tuple[Array, ...]:
    """Distances of each example to chosen ones, without an array of the chosen embeddings.

    Args:
      z: [n d], from `distances.prepare`; differentiable.
      chosen: int32 [n] each, rows of z.
      distance: see `distances.DISTANCES`.

    Returns:
      [n] each, see `distances.paired`.
    """
    if z.size <= strips.STRIP:
        return tuple(distances.paired(z, z[rows], distance=distance) for rows in chosen)
    axes = batch_axes.batch_axes()
    position = jnp.arange(len(z), dtype=jnp.int32)

    def local(z: Array, position: Array, chosen: tuple[Array, ...]) -> tuple[Array, ...]:
        columns = gather_rows(z, axes) if axes else z
        return _distances_to(distance, columns, (position, *chosen))

    return batch_axes.on_each_device(local, (ROWS, ROWS, ROWS), ROWS)(z, position, chosen)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _distances_to(distance: str, z: Array, rows: tuple[Array, ...]) -> tuple[Array, ...]:
    """Distances of rows[0] of z to its other rows, each int32 [m]."""

    def strip(rows: tuple[Array, ...]) -> tuple[Array, ...]:
        anchor, *others = (z[part] for part in rows)
        return tuple(distances.paired(anchor, other, distance=distance) for other in others)

    strips = jax.lax.map(strip, _split(rows, z))
    return tuple(d.reshape(-1)[: len(rows[0])] for d in strips)


def _split(columns: tuple[Array, ...], z: Array) -> tuple[Array, ...]:
    """[m] arrays as strips [s r], filled up with 0, so that r rows of z have `STRIP` numbers."""
    count = len(columns[0])
    size = min(count, max(strips.MIN_ROWS, strips.STRIP // z.shape[1]))
    return tuple(jnp.pad(x, (0, -count % size)).reshape(-1, size) for x in columns)


def _distances_to_forward(distance: str, z: Array, rows: tuple[Array, ...]) -> tuple[Any, Any]:
    return _distances_to(distance, z, rows), (z, rows)


def _distances_to_backward(distance: str, saved: Any, cotangent: tuple[Array, ...]) -> Any:
    z, rows = saved

    def add(dz: Array, strip: tuple[tuple[Array, ...], tuple[Array, ...]]) -> tuple[Array, None]:
        rows, slopes = strip
        anchor = z[rows[0]]
        of_anchor = jnp.zeros_like(anchor)
        for other, slope in zip(rows[1:], slopes, strict=True):
            measure = functools.partial(distances.paired, distance=distance)
            more, of_other = jax.vjp(measure, anchor, z[other])[1](slope)
            of_anchor += more
            dz = dz.at[other].add(of_other)
        return dz.at[rows[0]].add(of_anchor), None

    dz, _ = jax.lax.scan(add, jnp.zeros_like(z), (_split(rows, z), _split(cotangent, z)))
    return dz, None


_distances_to.defvjp(_distances_to_forward, _distances_to_backward)
