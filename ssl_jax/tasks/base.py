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
    """A task. Sources and their encoded examples are those of `ssl_jax.data.labelled`.

    Attributes:
      name: the value of `data.options.task` and `DataSpec.task`.
      about: the label of an example, in words.
      method: the method that learns the task, a name in `ssl_jax.methods`.
      example: the content of an example: a text or a pair of texts, words with one label each, or a
        question about a text.
      predictions: outputs of `Method.features` that are scored.
      scores: names of the default scores, the most important first.
      has_classes: whether labels are classes.
      labels_examples: whether an example has one class, the array `label` of batches.
      row_length: default number of tokens in a row.
      shortest_row: minimum number of tokens in a row.
      padding: array name -> value in padded rows; 0 for other arrays.
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
        """The default scores of a data set with these classes."""
        del class_names
        return self.scores

    @abc.abstractmethod
    def parse_label(self, label: Any, where: str) -> Any:
        """Converts a label from a file to the form of examples; None for no label.

        Args:
          label: the value in the file.
          where: names the label in messages.

        Raises:
          UserError: it is not a label of this task.
        """

    def target_shapes(self, length: int) -> dict[str, tuple[tuple[int, ...], Any]]:
        """Name -> (shape, dtype) of the arrays that the task adds to an example.

        Args:
          length: number of tokens in a row.
        """
        del length
        return {}

    def targets(self, source: Any, indices: np.ndarray) -> Arrays:
        """The arrays that the task adds to a batch, including `label` for `labels_examples`.

        Args:
          source: a `TaskSource`.
          indices: int [n], the rows of the source.
        """
        del source, indices
        return {}

    @abc.abstractmethod
    def has_label(self, encoded: Any) -> np.ndarray:
        """Whether each row has a label, bool [n]."""

    @abc.abstractmethod
    def score(
        self, source: Any, predictions: Predictions, *, null_threshold: float | None = 0.0
    ) -> dict[str, float]:
        """Scores predictions.

        Args:
          source: a `TaskSource` with labels; its `metrics` names the scores.
          predictions: name -> array with one row per row of the source, in its order.
          null_threshold: the threshold for questions without an answer; see `answers`.

        Returns:
          Name -> score. Fractions are in [0, 1]. An undefined score, such as a correlation with a
          constant, is 0.

        Raises:
          UserError: the source has no labels.
          ValueError: the predictions do not fit the source.
        """

    def baselines(
        self, train: Any, test: Any, names: Sequence[str], *, seed: int = 0
    ) -> dict[str, dict[str, float]]:
        """Title -> scores of baselines without a neural net; empty if there are none.

        Args:
          train, test: a `TaskSource` each.
          names: of baselines, see `eval.baselines`; those of other tasks are left out.
          seed: seed of random choices.
        """
        del train, test, names, seed
        return {}


def prediction(predictions: Predictions, name: str, shape: tuple[int | None, ...]) -> np.ndarray:
    """The array of predictions with a name.

    Raises:
      ValueError: it is missing or has another shape.
    """
    if name not in predictions:
        raise ValueError(f"predictions have no {name!r}; they have {', '.join(predictions)}")
    array = np.asarray(predictions[name])
    if array.shape != shape:
        raise ValueError(f"predictions {name!r} have shape {array.shape}, the source needs {shape}")
    return array


def check_labelled(source: Any, known: bool) -> None:
    """Raises UserError unless labels are known, which predictions are compared with."""
    if not known:
        raise UserError(
            f"{source.name} has no labels to score predictions with; evaluate on another split "
            "(eval.test_split), such as validation"
        )
