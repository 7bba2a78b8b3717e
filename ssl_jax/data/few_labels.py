"""Keeps a fraction of the labels, the same number for every class: 1% or 10% of them.

    data.labelled_fraction = 0.01   share of the split's examples that keep their label
    data.unlabelled = "drop"        drops the other examples; "keep" keeps them with label -1
    data.labels_seed = 0            selects the examples that keep their label

Each class is shuffled. The split is then ordered: the first example of every class, then the second
of every class, and so on. A fraction takes the beginning of that order. So the numbers of examples
of two classes differ by at most one (a class that is too small gives all it has), and the examples
of a smaller fraction are a subset of those of a larger one. The order depends only on the labels
and the seed.

The protocol is that of SimCLR (Chen et al. 2020, App. B.5), whose lists for ImageNet are
`tfds:imagenet2012_subset`.
"""

from __future__ import annotations

import dataclasses
import logging
import math
from typing import Any

import numpy as np

from ssl_jax.core.errors import UserError
from ssl_jax.data import counter
from ssl_jax.data.source import Source


@dataclasses.dataclass(frozen=True)
class FewLabels:
    """The options of a config's data section, which the config has checked.

    Attributes:
      fraction: labelled examples over all examples of the split, in (0, 1].
      unlabelled: what happens to the other examples: "drop" or "keep".
      seed: selects the examples that keep their label.
    """

    fraction: float
    unlabelled: str = "drop"
    seed: int = 0

    @classmethod
    def of(cls, section: Any) -> FewLabels | None:
        """Reads the data section of a resolved config; None if all labels are used."""
        if section.labelled_fraction is None:
            return None
        return cls(section.labelled_fraction, section.unlabelled, section.labels_seed)

    def labelled(self, num_examples: int, num_classes: int | None) -> int:
        """How many of `num_examples` keep their label.

        Raises:
          UserError: fewer than there are classes.
        """
        count = round(self.fraction * num_examples)
        if count < (num_classes or 1):
            least = math.ceil(1e6 * (num_classes or 1) / num_examples) / 1e6
            raise UserError(
                f"data.labelled_fraction {self.fraction:g} of {num_examples:,} examples is {count} "
                f"label{'s' * (count != 1)} for {num_classes or 1} classes; use at least {least:g}"
            )
        return count

    def size(self, num_examples: int, num_classes: int | None) -> int:
        """How many examples are left of `num_examples`."""
        labelled = self.labelled(num_examples, num_classes)
        return labelled if self.unlabelled == "drop" else num_examples

    def select(self, source: Source) -> Source:
        """`source` with a fraction of its labels.

        Raises:
          UserError: it has no classes, or too few labels.
        """
        if not source.examples_are_labelled:
            raise UserError(
                f"data.labelled_fraction is for images and labelled text, and {source.name} is "
                "neither; leave it out"
            )
        labels = source.read_labels()
        if labels is None or not source.num_classes:
            raise UserError(
                f"data.labelled_fraction is {self.fraction:g}, but {source.name} has no labels"
            )
        count = self.labelled(len(source), source.num_classes)
        order = label_order(labels, self.seed)
        if count > len(order):
            raise UserError(
                f"data.labelled_fraction {self.fraction:g} of {len(source):,} examples is "
                f"{count:,} labels, but {source.name} has {len(order):,}; use at most "
                f"{math.floor(1e6 * len(order) / len(source)) / 1e6:g}"
            )
        chosen = np.sort(order[:count])
        _say_if_uneven(labels[chosen], source.num_classes)
        if self.unlabelled == "drop":
            part = source.take(chosen).relabelled(labels[chosen])
            return dataclasses.replace(part, available=len(source))
        kept = np.full(len(source), -1, np.int32)
        kept[chosen] = labels[chosen]
        return source.relabelled(kept)


def label_order(labels: np.ndarray, seed: int) -> np.ndarray:
    """The labelled examples, in the order in which fractions take them.

    Args:
      labels: int [n], -1 where there is none.
      seed: of the order.

    Returns:
      int64 [m] indices of the m labelled examples.
    """
    labelled = np.flatnonzero(labels >= 0)
    # The counters' bits are distinct, so sorting them has no ties to break.
    shuffled = labelled[
        np.argsort(counter.bits(counter.key(seed, counter.Stream.LABELS), labelled))
    ]
    by_class = shuffled[np.argsort(labels[shuffled], kind="stable")]
    classes, first, counts = np.unique(labels[by_class], return_index=True, return_counts=True)
    place = np.arange(len(by_class)) - np.repeat(first, counts)  # within the class
    turn = np.repeat(counter.bits(counter.key(seed, counter.Stream.LABELS, 0), classes), counts)
    return by_class[np.lexsort((turn, place))]


def _say_if_uneven(chosen: np.ndarray, num_classes: int) -> None:
    """Warns where classes have fewer examples than the others give; chosen: their labels [m]."""
    counts = np.bincount(chosen, minlength=num_classes)
    short = counts < counts.max() - 1
    if short.any():
        logging.getLogger(__name__).warning(
            "data.labelled_fraction: %d of %d classes have fewer examples than the %d that others "
            "give, and give all they have",
            short.sum(), num_classes, counts.max(),
        )  # fmt: skip
