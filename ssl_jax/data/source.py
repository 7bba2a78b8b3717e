"""Sources: the numbered examples of a split, read a batch at a time.

`Source` is the interface. Sources of images are in `ssl_jax.data.image_source`, of text in
`ssl_jax.data.text.text_source` and `ssl_jax.data.labelled.task_source`, of recordings in
`ssl_jax.data.audio.audio_source`, of tables in `ssl_jax.data.table.source`.
"""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Sequence
from typing import ClassVar, NamedTuple

import numpy as np

from ssl_jax.core.errors import UserError
from ssl_jax.core.method import DataSpec

# More unreadable images in a row than this mean that the whole data set is broken.
MAX_REPLACEMENTS = 100

Arrays = dict[str, np.ndarray]


class Problem(NamedTuple):
    """An example that could not be read while filling row `row` of a batch."""

    row: int
    name: str
    error: str


def unreadable(noun: str, row: int, name: str, error: Exception, *, strict: bool) -> Problem:
    """The problem of an example whose reader raised `error`.

    Args:
      noun: what examples are, singular, for messages: "image".
      row: of the batch.
      name: of the example.
      error: what its reader raised.
      strict: whether an example that cannot be read stops the run.

    Raises:
      UserError: `strict` is set.
    """
    reason = f"{type(error).__name__}: {error}"
    if strict:
        raise UserError(
            f"unreadable {noun} {name} ({reason}); remove it, or set data.strict=False to replace "
            "it by the next readable one"
        ) from error
    return Problem(row, name, reason)


def none_readable(noun: str, source: str, problems: Sequence[Problem]) -> UserError:
    """The error where `problems` are all examples that could take the place of one.

    Args:
      noun: what examples are, singular.
      source: its name.
      problems: in the order of the attempts.
    """
    return UserError(
        f"no readable {noun} among {len(problems)} of {source} in a row; first: "
        f"{problems[0].name} ({problems[0].error})"
    )


@dataclasses.dataclass
class Source(abc.ABC):
    """A split of a data set, numbered 0 to len - 1.

    Attributes:
      name: what it is called in messages, e.g. "folder:/data/birds[train]".
      labels: int32 [len], -1 where there is none, or None where they are unknown without reading
        the data or do not exist.
      num_classes: number of label classes of the whole data set, None where no example of this
        split has a label.
      class_names: their names by label, where known.
      names: a name per example (a path), where there is one.
      problems: unreadable examples so far, which were replaced: name -> error, in reading order.
      available: number of examples before those without a label were left out (`few_labels`);
        None where none were.
    """

    name: str
    labels: np.ndarray | None = None
    num_classes: int | None = None
    class_names: tuple[str, ...] | None = None
    names: Sequence[str] | None = None
    problems: dict[str, str] = dataclasses.field(default_factory=dict)
    available: int | None = None

    in_memory: ClassVar[bool] = False  # whether a batch costs no more than a copy
    unit: ClassVar[str] = "example"  # what to call one in messages
    # Whether examples can have labels of their own, and `take` and `relabelled` are there.
    examples_are_labelled: ClassVar[bool] = False

    @abc.abstractmethod
    def __len__(self) -> int: ...

    @abc.abstractmethod
    def read(
        self, indices: np.ndarray, positions: np.ndarray, seed: int, step: int
    ) -> tuple[Arrays, list[Problem]]:
        """Reads examples and says which could not be read; see `batch`.

        Args:
          indices: int [n].
          positions: int [n], rows of the global batch; with `seed` and `step` they name the random
            crops.
        """

    @property
    @abc.abstractmethod
    def spec(self) -> DataSpec:
        """Shapes, number of examples and of classes."""

    @property
    def extent(self) -> int:
        """Number of pieces that sub-splits are cut from: examples, or the documents of texts."""
        return len(self)

    def tokenizer_json(self) -> str | None:
        """The tokenizer of a text, in the format of the `tokenizers` library; None of images."""
        return None

    def token_sizes(self) -> np.ndarray | None:
        """The bytes of text of each token, int32 [v]; None if tokens do not determine the text."""
        return None

    @property
    def units_per_example(self) -> float:
        """Units of an example on average, padding left out: 1 of images, else tokens."""
        return 1.0

    def read_labels(self) -> np.ndarray | None:
        """`labels`, read from the data where they are not known yet; None where there are none.

        Raises:
          UserError: the data cannot be read.
        """
        return self.labels

    @abc.abstractmethod
    def select(self, start: int, stop: int) -> Source:
        """`start` up to `stop` of `extent` as a source of its own."""

    @abc.abstractmethod
    def joined(self, others: Sequence[Source]) -> Source:
        """This and others of the same data set, one after the other."""

    def padding(self, key: str) -> int:
        """The value of array `key` in rows of a batch that are padding."""
        return -1 if key in ("index", "label", "labels") else 0

    def batch(
        self,
        indices: np.ndarray,
        *,
        seed: int = 0,
        step: int = 0,
        positions: np.ndarray | None = None,
    ) -> dict[str, np.ndarray]:
        """Reads examples.

        An image that cannot be read is replaced by the next readable one and noted in `problems`;
        its row keeps its `index`, and has the label of the image it got.

        Args:
          indices: int [n].
          seed, step, positions: name the random crops, where the canvas has any: row i gets those
            of position positions[i] of the global batch of (seed, step). Default 0, 0, 0..n-1.

        Returns:
          label int32 [n] (-1 = none), index int32 [n], and of images: image uint8 [n h w c], or
          with host crops image/FAMILY uint8 [n v h w c] each, and labels int8 [n k] of data sets
          with several labels an image; of text see `text_source`.

        Raises:
          UserError: an image is unreadable and the source is strict, or too many are.
        """
        positions = np.arange(len(indices)) if positions is None else positions
        arrays, problems = self.read(np.asarray(indices), positions, seed, step)
        self.note(problems)
        return arrays

    def example_name(self, index: int) -> str:
        """What to call an example in a message."""
        return f"{self.name} example {index}" if self.names is None else self.names[index]

    def note(self, problems: Sequence[Problem]) -> None:
        """Adds to `problems`; an example is noted once."""
        for problem in problems:
            self.problems.setdefault(problem.name, problem.error)

    def problem_summary(self, done: str = "replaced by the next readable one") -> str | None:
        """One line on `problems`, None if there are none.

        Args:
          done: what happened to them, for the message.
        """
        if not self.problems:
            return None
        name, error = next(iter(self.problems.items()))
        plural = "s" if len(self.problems) > 1 else ""
        return (
            f"{len(self.problems)} unreadable {self.unit}{plural} {done}; first: {name} ({error})"
        )

    def notes(self) -> list[str]:
        """What the user should know before training, one line each."""
        return []
