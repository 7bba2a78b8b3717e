"""`pk`: batches of P classes with K examples each, for metric learning.

    config.data.sampler = dict(name="pk", examples_per_class=4)      P = batch_size / 4

Rows iK to iK + K - 1 of a batch are of one class, and the P classes of a batch are different. Over
an epoch the numbers of times that two classes are drawn differ by at most one, however many
examples they have. The K examples are drawn without replacement: a class shows all its examples,
up to a rest of fewer than K, before it repeats one. Examples without a label are never drawn.

A class with fewer than K examples repeats them within a batch (`short_classes="repeat"`), or is
left out (`short_classes="leave_out"`). An epoch has floor(N / batch_size) steps, N being the number
of examples of the data set.

Hermans et al. 2017 (In Defense of the Triplet Loss), section 3.
"""

from __future__ import annotations

import dataclasses
import functools
import threading
from typing import Annotated, ClassVar, Literal

import numpy as np

from ssl_jax.config.fields import positive
from ssl_jax.core.errors import UserError
from ssl_jax.data import counter
from ssl_jax.data.ragged import ragged_arange
from ssl_jax.data.samplers.base import Order, Sampler

_CLASS_ROUNDS, _DECKS = 0, 1  # the two kinds of draws


@dataclasses.dataclass(frozen=True)
class PK(Sampler):
    """P classes and K examples of each."""

    needs_labels: ClassVar[bool] = True

    examples_per_class: Annotated[int, positive, "K, examples of each class in a batch."] = 4
    short_classes: Annotated[
        Literal["repeat", "leave_out"],
        "Classes of fewer than K examples: repeat their examples in a batch, or leave them out.",
    ] = "repeat"

    @property
    def unique(self) -> bool:
        return self.short_classes == "leave_out"

    def steps_per_epoch(self, num_examples: int, batch_size: int) -> int:
        if batch_size % self.examples_per_class:
            down = batch_size - batch_size % self.examples_per_class
            sizes = [size for size in (down, down + self.examples_per_class) if size]
            raise UserError(
                f"batch_size {batch_size} is not a multiple of data.sampler.examples_per_class "
                f"{self.examples_per_class}; use {' or '.join(map(str, sizes))}"
            )
        return super().steps_per_epoch(num_examples, batch_size)

    def check(self, num_classes: int | None, batch_size: int) -> None:
        if not num_classes:
            raise UserError(
                "data.sampler.name is 'pk', and the data have no class labels; use 'shuffle'"
            )
        per_batch = batch_size // self.examples_per_class
        if per_batch > num_classes:
            raise UserError(
                f"batch_size {batch_size} needs {per_batch} classes of {self.examples_per_class} "
                f"examples (data.sampler.examples_per_class), and there are {num_classes}; use "
                f"batch_size {num_classes * self.examples_per_class} or less, or more examples per "
                "class"
            )

    def order(
        self, num_examples: int, batch_size: int, seed: int, labels: np.ndarray | None = None
    ) -> PKOrder:
        steps = self.steps_per_epoch(num_examples, batch_size)
        labels = np.zeros(0, np.int32) if labels is None else labels
        classes, counts = np.unique(labels[labels >= 0], return_counts=True)
        if self.short_classes == "leave_out":
            classes, counts = (
                array[counts >= self.examples_per_class] for array in (classes, counts)
            )
        self.check(len(classes), batch_size)
        chosen = np.flatnonzero(np.isin(labels, classes))
        return PKOrder(
            seed=seed,
            steps_per_epoch=steps,
            classes_per_batch=batch_size // self.examples_per_class,
            examples_per_class=self.examples_per_class,
            classes=classes,
            counts=counts,
            members=chosen[np.argsort(labels[chosen], kind="stable")],
        )

    def notes(self, num_examples: int, batch_size: int) -> list[str]:
        per_batch = batch_size // self.examples_per_class
        return [f"{per_batch} classes x {self.examples_per_class} examples in each batch"]


@dataclasses.dataclass(frozen=True, eq=False)
class PKOrder(Order):
    """The batches of P classes and K examples.

    Attributes:
      seed, steps_per_epoch, classes_per_batch, examples_per_class: see `PK`.
      classes: int32 [c], the labels that are drawn, ascending.
      counts: int64 [c], examples of each.
      members: int64 [sum of counts], their examples, one class after the other.
    """

    seed: int
    steps_per_epoch: int
    classes_per_batch: int
    examples_per_class: int
    classes: np.ndarray
    counts: np.ndarray
    members: np.ndarray

    def indices(self, step: int) -> np.ndarray:
        epoch, batch = divmod(step, self.steps_per_epoch)
        with _lock:  # or every reading thread would compute a new epoch
            return _epoch_batches(self, epoch)[batch]

    def class_slots(self, epoch: int) -> np.ndarray:
        """Which classes the batches of an epoch have, int64 [steps P], positions in `classes`.

        Random orders of all classes follow each other. Where a batch lies across the end of one,
        the next order is changed so that no class comes twice in that batch.
        """
        per_batch, count = self.classes_per_batch, len(self.classes)
        total = self.steps_per_epoch * per_batch
        rounds: list[np.ndarray] = []
        for number in range(-(-total // count)):
            stream = counter.key(self.seed, counter.Stream.CLASSES, epoch, _CLASS_ROUNDS, number)
            order = np.argsort(counter.bits(stream, np.arange(count)))
            begun = number * count % per_batch  # slots that the last order gives to the next batch
            if begun:
                free = np.flatnonzero(~np.isin(order, rounds[-1][-begun:]))[: per_batch - begun]
                order = np.concatenate([order[free], np.delete(order, free)])
            rounds.append(order)
        return np.concatenate(rounds)[:total].reshape(-1, per_batch)

    def examples(self, slots: np.ndarray, epoch: int) -> np.ndarray:
        """K examples for each slot.

        The examples of a class are shuffled to a deck, which is dealt K at a time; what does not
        make K examples is left out, and a new deck follows.

        Args:
          slots: int64 [s], positions in `classes`, in the order of the epoch.
          epoch: the epoch.

        Returns:
          int64 [s K].
        """
        each = self.examples_per_class
        by_class = np.argsort(slots, kind="stable")
        turn = np.empty_like(slots)  # how often the class was drawn before in this epoch
        turn[by_class] = ragged_arange(np.bincount(slots, minlength=len(self.classes)))
        deals = np.maximum(self.counts // each, 1)  # of a deck
        deck, deal = np.divmod(turn, deals[slots])
        decks = np.zeros(len(self.classes), np.int64)  # of each class
        np.maximum.at(decks, slots, deck + 1)
        class_of_deck = np.repeat(np.arange(len(self.classes)), decks)
        streams = counter.keys(
            self.seed, counter.Stream.CLASSES, epoch, _DECKS,
            self.classes[class_of_deck], ragged_arange(decks),
        )  # fmt: skip
        sizes = self.counts[class_of_deck]
        inside = ragged_arange(sizes)
        number = np.repeat(np.arange(len(sizes)), sizes)
        shuffled = inside[np.lexsort((counter.bits(np.repeat(streams, sizes), inside), number))]
        begins = np.cumsum(sizes) - sizes  # of decks, in `shuffled`
        first_deck, first_member = (np.cumsum(n) - n for n in (decks, self.counts))
        rank = deal[:, None] * each + np.arange(each)
        rank %= self.counts[slots][:, None]  # classes of fewer than K examples repeat them
        at = begins[first_deck[slots] + deck][:, None] + rank
        return self.members[first_member[slots][:, None] + shuffled[at]].reshape(-1)


_lock = threading.Lock()


@functools.lru_cache(maxsize=2)
def _epoch_batches(order: PKOrder, epoch: int) -> np.ndarray:
    """All batches of an epoch, int64 [steps batch_size]."""
    slots = order.class_slots(epoch)
    return order.examples(slots.reshape(-1), epoch).reshape(len(slots), -1)
