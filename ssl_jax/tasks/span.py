"""The task `span`: the position of the answer to a question in a text.

The predictions are `start` and `end`, float [n l], logits of every token.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from ssl_jax.tasks import answers
from ssl_jax.tasks.base import Arrays, Predictions, Task


@dataclasses.dataclass(frozen=True)
class Span(Task):
    """The first and last token of the answer: `span` int32 [n 2], 0 and 0 if it is not in the row.

    `context` bool [n l] marks the tokens of the text that contains the answer.
    """

    def parse_label(self, label: Any, where: str) -> Any:
        del where  # answers are parsed with their question, see `squad`
        return label

    def target_shapes(self, length: int) -> dict[str, tuple[tuple[int, ...], Any]]:
        return {"span": ((2,), np.int32), "context": ((length,), np.bool_)}

    def targets(self, source: Any, indices: np.ndarray) -> Arrays:
        return {"span": source.encoded.span[indices], "context": source.second(indices)}

    def has_label(self, encoded: Any) -> np.ndarray:
        has_answers = [question.answers is not None for question in encoded.questions]
        return np.array(has_answers, bool)[encoded.item]

    def score(
        self, source: Any, predictions: Predictions, *, null_threshold: float | None = 0.0
    ) -> dict[str, float]:
        return answers.scores(source, predictions, null_threshold)


SPAN = Span(
    name="span",
    about="the position of the answer to a question in a text",
    method="question_answering",
    example="question",
    predictions=("start", "end"),
    scores=("exact_match", "f1"),
    row_length=384,  # as in BERT's code
    shortest_row=16,
)
