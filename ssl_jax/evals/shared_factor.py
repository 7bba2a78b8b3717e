"""Draws examples that share the value of one factor, for the beta-VAE and the FactorVAE metric.

Both metrics were published for data that are generated during the evaluation: a value of one factor
is drawn, all other factors are drawn freely, and the images are rendered. So it is done here if the
data set renders images (`ssl_jax.data.image_source.Renderer`), see `Rendered`. Otherwise the
examples come from a finite split, and are drawn among those that have the value, see `Groups`:

- A continuous factor is shared if it lies in the same interval, see `ssl_jax.evals.factors`.
- The other factors follow the examples that share the value. This is the published distribution
  where factors are independent, as in `shapes`, dSprites and Shapes3D.
- A value occurs as often as in the split. A value with too few examples is never the shared one,
  and a factor without another value is left out.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Annotated, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from ssl_jax.config.fields import between
from ssl_jax.core.errors import UserError
from ssl_jax.evals.factors import as_classes, evenly, varying
from ssl_jax.evals.known import Known

MORE_EXAMPLES = "evaluate on more examples"
_ENCODED_AT_A_TIME = 8192
_DRAWN_TO_COUNT = 1024  # examples from which it is told which factors vary

RenderedImages = Annotated[
    int,
    between(1, 10_000_000),
    "Maximum number of images to render, for data that can: fewer points if they need more.",
]


@dataclasses.dataclass(frozen=True)
class Groups:
    """The examples of a split, grouped by the class of each of k factors.

    Attributes:
      order: int [k n], numbers of the examples in the order of their class of each factor. Examples
        of classes that are too small are left out.
      start, size: int [k n], first position and number of examples of the class at each position of
        `order`.
      count: int [k], used positions of `order`.
    """

    order: Int[np.ndarray, "k n"]
    start: Int[np.ndarray, "k n"]
    size: Int[np.ndarray, "k n"]
    count: Int[np.ndarray, " k"]

    def batches(
        self, factor: Int[np.ndarray, " c"], size: int, rng: np.random.Generator
    ) -> Int[np.ndarray, "c b"]:
        """For each factor in `factor` a batch of examples that share its value.

        The value is that of a random example; the batch is drawn with replacement.

        Args:
          factor: numbers of factors.
          size: examples b of a batch.
          rng: source of random numbers.

        Returns:
          Numbers of examples.
        """
        factor = factor[:, None]
        position = rng.integers(0, self.count[factor])
        offset = rng.integers(
            0, self.size[factor, position], size=(len(factor), size), dtype=np.int64
        )
        return self.order[factor, self.start[factor, position] + offset]

    def pairs(
        self, factor: Int[np.ndarray, " c"], size: int, rng: np.random.Generator
    ) -> tuple[Int[np.ndarray, "c b"], Int[np.ndarray, "c b"]]:
        """For each factor in `factor` pairs of two examples that share its value.

        The first example of a pair is random; the second one is another example with its value.

        Args:
          factor: numbers of factors.
          size: number b of pairs.
          rng: source of random numbers.

        Returns:
          Numbers of the first and of the second examples.
        """
        factor = factor[:, None]
        position = rng.integers(0, self.count[factor], size=(len(factor), size), dtype=np.int64)
        start, count = self.start[factor, position], self.size[factor, position]
        step = rng.integers(1, count)
        other = start + (position - start + step) % count
        return self.order[factor, position], self.order[factor, other]


class Rendered(NamedTuple):
    """New examples of a data set that renders them, as an encoder sees them.

    Attributes:
      draw: (source of random numbers, n) -> the factors of n new examples, float32 [n f].
      encode: factors [n f] -> codes of the images with these factors, float32 [n d].
    """

    draw: Callable[[np.random.Generator, int], np.ndarray]
    encode: Callable[[np.ndarray], np.ndarray]

    def varying(self) -> Int[np.ndarray, " k"]:
        """The numbers of the factors that vary."""
        return varying(self.draw(np.random.default_rng(0), _DRAWN_TO_COUNT))

    def batches(
        self, factor: Int[np.ndarray, " c"], size: int, rng: np.random.Generator
    ) -> Iterator[Float[np.ndarray, "c2 b d"]]:
        """Codes of a batch of new examples for each of `factor`, which share a value of it.

        Args:
          factor: numbers of factors.
          size: examples b of a batch.
          rng: source of random numbers.

        Yields:
          The batches in order, some of them at a time.
        """
        for part in self._parts(factor, size):
            factors = self._drawn(rng, len(part), size)
            rows = np.arange(len(part))
            factors[rows, :, part] = factors[rows, :1, part]
            yield self._encoded(factors)

    def pairs(
        self, factor: Int[np.ndarray, " c"], size: int, rng: np.random.Generator
    ) -> Iterator[tuple[Float[np.ndarray, "c2 b d"], Float[np.ndarray, "c2 b d"]]]:
        """Codes of pairs of new examples for each of `factor`, which share a value of it.

        Args:
          factor: numbers of factors.
          size: number b of pairs.
          rng: source of random numbers.

        Yields:
          Codes of the first and of the second examples, some of the c batches at a time.
        """
        for part in self._parts(factor, 2 * size):
            first, second = (self._drawn(rng, len(part), size) for _ in range(2))
            rows = np.arange(len(part))
            second[rows, :, part] = first[rows, :, part]
            yield self._encoded(first), self._encoded(second)

    @staticmethod
    def _parts(factor: np.ndarray, images: int) -> list[np.ndarray]:
        step = max(1, _ENCODED_AT_A_TIME // images)
        return [factor[start : start + step] for start in range(0, len(factor), step)]

    def _drawn(self, rng: np.random.Generator, count: int, size: int) -> np.ndarray:
        return self.draw(rng, count * size).reshape(count, size, -1)

    def _encoded(self, factors: np.ndarray) -> np.ndarray:
        codes = self.encode(factors.reshape(-1, factors.shape[-1]))
        return codes.reshape(*factors.shape[:2], -1)


def affordable(points: tuple[int, int], images: int, limit: int) -> tuple[int, int]:
    """The numbers of train and test points whose images may be rendered.

    Args:
      points: requested numbers.
      images: images of a point.
      limit: maximum number of images.

    Returns:
      `points`, or both in the same ratio if they need more images than `limit`; at least 2 and 1.
    """
    share = min(1.0, limit / (images * sum(points)))
    return max(2, int(share * points[0])), max(1, int(share * points[1]))


def rendering_note(
    evaluation: str, points: tuple[int, int], images: int, limit: int, unit: str
) -> str:
    """What an evaluation renders, for the user.

    Args:
      evaluation: its name.
      points, images, limit: as of `affordable`.
      unit: what a point is called, in the plural.
    """
    train, test = affordable(points, images, limit)
    text = f"{evaluation}: renders {images * (train + test):,} images, all factors but one drawn"
    if (train, test) == points:
        return text
    return (
        f"{text}, for {train:,} and {test:,} {unit}; for {points[0]:,} and {points[1]:,} set "
        f"eval.{evaluation}.rendered_images={images * sum(points)}"
    )


def grouped(
    evaluation: str,
    splits: Sequence[np.ndarray],
    bins: int,
    smallest: int,
    way_out: str = MORE_EXAMPLES,
) -> tuple[list[Groups], list[int]]:
    """Groups the examples of each split by the factors that can be shared.

    Args:
      evaluation: name of the evaluation, for messages.
      splits: factors, float [n f] each.
      bins: classes of a continuous factor.
      smallest: examples that a class needs to be drawn.
      way_out: end of the message if too few factors can be shared.

    Returns:
      The groups of each split, of the k factors with such a class in all splits; and the columns
      of the factors that vary and have none.

    Raises:
      UserError: fewer than two factors vary, or can be shared.
    """
    columns = varying(np.concatenate(splits))
    if len(columns) < 2:
        raise UserError(f"{evaluation} needs two factors that vary, but there is {len(columns)}")
    classes = as_classes(splits, bins)
    enough = [
        all(np.bincount(split[:, number]).max() >= smallest for split in classes)
        for number in range(len(columns))
    ]
    if sum(enough) < 2:
        sizes = " and ".join(f"{len(split):,}" for split in splits)
        raise UserError(
            f"{evaluation} needs two factors with a value that {smallest} examples of each split "
            f"share, but there is {sum(enough)} ({sizes} examples); {way_out}"
        )
    return [_groups(split[:, enough], smallest) for split in classes], [
        int(column) for column, sufficient in zip(columns, enough, strict=True) if not sufficient
    ]


def check(
    evaluation: str, known: Known, bins: int, smallest: int, way_out: str = MORE_EXAMPLES
) -> str:
    """A note about the split, and about factors that are left out.

    Args:
      evaluation: name of the evaluation.
      known: facts about the data.
      bins: classes of a continuous factor.
      smallest: examples that a class needs to be drawn.
      way_out: end of the message if too few factors can be shared.

    Raises:
      UserError: fewer than two factors vary, or can be shared.
    """
    train = known.train.read_factors()[evenly(len(known.train), known.num_train)]
    _, left_out = grouped(evaluation, (train, known.test.read_factors()), bins, smallest, way_out)
    note = f"{evaluation}: draws from the examples of the splits, since {known.test.name} cannot "
    note += "render others"
    if not left_out:
        return note
    names = known.test.factor_names or [str(number) for number in range(train.shape[1])]
    return (
        f"{note}; factors without a value that {smallest} examples of each split share are "
        f"left out: {', '.join(names[number] for number in left_out)}"
    )


def _groups(classes: Int[np.ndarray, "n k"], smallest: int) -> Groups:
    order, start, size = np.zeros((3, *classes.T.shape), np.int64)
    count = np.zeros(classes.shape[1], np.int64)
    for number, column in enumerate(classes.T):
        sizes = np.bincount(column)
        rows = np.argsort(column, kind="stable")
        rows = rows[sizes[column[rows]] >= smallest]
        in_order = column[rows]
        count[number] = len(rows)
        order[number, : len(rows)] = rows
        start[number, : len(rows)] = np.searchsorted(in_order, in_order)
        size[number, : len(rows)] = sizes[in_order]
    return Groups(order, start, size, count)


def blocks(batches: int, numbers: int) -> list[slice]:
    """Divides batches into blocks of at most 2^17 numbers: 1 MiB in float64, for the cache.

    Args:
      batches: number of batches.
      numbers: numbers in a batch.
    """
    step = max(1, 2**17 // numbers)
    return [slice(first, first + step) for first in range(0, batches, step)]
