"""The interface of a task: its labels, its predictions, and its scores."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

from ssl_jax.core.errors import UserError

Predictions = Mapping[str, np.ndarray]
Arrays = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Task(abc.ABC):
    """A task.

    Sources and their encoded examples are those of `ssl_jax.data.labelled`.

    Attributes:
      name: as `data.options.task` and `DataSpec.task` have it.
      about: what is learned of an example.
      method: the method that learns it, a name in `ssl_jax.methods`.
      example: what an example consists of: a text or a pair of texts, words with a label each, or a
        question to a text.
      predictions: outputs of `Method.features` that are scored.
      scores: names of the scores where a data set names none, the first the one that counts most.
      has_classes: whether labels are classes.
      labels_examples: whether an example has one class, which batches have as `label`.
      row_length: tokens of a row by default.
      shortest_row: tokens of a row at least.
      padding: value of its arrays in rows that are no examples; 0 for arrays not named.
    """

    name: str
    about: str
    method: str
    example: Literal["text", "words", "question"]
    predictions: tuple[str, ...]
    scores: tuple[str, ...]
    has_classes: bool = False
    labels_examples: bool = False
    row_length: int = 128
    shortest_row: int = 8
    padding: Mapping[str, float] = dataclasses.field(default_factory=dict)

    def scores_of(self, class_names: Sequence[str] | None) -> tuple[str, ...]:
        """The scores where a data set with these classes names none."""
        del class_names
        return self.scores

    @abc.abstractmethod
    def parse_label(self, label: Any, where: str) -> Any:
        """A label as a file has it, in the form in which examples keep it; None for no label.

        Args:
          label: what was read.
          where: names it in messages.

        Raises:
          UserError: it is no label of this task.
        """

    def target_shapes(self, length: int) -> dict[str, tuple[tuple[int, ...], Any]]:
        """The arrays of an example that the task adds: name -> (shape, dtype).

        Args:
          length: tokens of a row.
        """
        del length
        return {}

    def targets(self, source: Any, indices: np.ndarray) -> Arrays:
        """The arrays of rows of a source that the task adds, and `label` if it has that.

        Args:
          source: a `TaskSource`.
          indices: int [n], the rows.
        """
        del source, indices
        return {}

    @abc.abstractmethod
    def has_label(self, encoded: Any) -> np.ndarray:
        """Which rows have something to learn from, bool [n]."""

    @abc.abstractmethod
    def score(
        self, source: Any, predictions: Predictions, *, null_threshold: float | None = 0.0
    ) -> dict[str, float]:
        """How good predictions are.

        Args:
          source: a `TaskSource` with the labels; its `metrics` names the scores.
          predictions: arrays with a row for each row of the source, in its order.
          null_threshold: of questions that may have no answer; see `answers`.

        Returns:
          Scores by name. Shares are in [0, 1]. A score that is not defined is 0, such as a
          correlation with a constant.

        Raises:
          UserError: the source has no labels.
          ValueError: predictions do not fit the source.
        """

    def baselines(self, train: Any, test: Any, *, seed: int = 0) -> dict[str, dict[str, float]]:
        """Scores of predictors that need no neural net: title -> scores; empty: there are none.

        Args:
          train, test: a `TaskSource` each.
          seed: of random choices.
        """
        del train, test, seed
        return {}


def prediction(predictions: Predictions, name: str, shape: tuple[int | None, ...]) -> np.ndarray:
    """The predictions of a name.

    Raises:
      ValueError: there are none, or not of that shape.
    """
    if name not in predictions:
        raise ValueError(f"predictions have no {name!r}; they have {', '.join(predictions)}")
    array = np.asarray(predictions[name])
    if array.shape != shape:
        raise ValueError(f"predictions {name!r} have shape {array.shape}, the source's are {shape}")
    return array


def check_labelled(source: Any, known: bool) -> None:
    """Raises UserError unless there is something to compare predictions with."""
    if not known:
        raise UserError(
            f"{source.name} has no labels to score predictions with; evaluate on another split "
            "(eval.test_split), such as validation"
        )
