"""The task `tags`: a class per word of a sentence.

Predicted by `tags` int [n l], a class at every token.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from ssl_jax.core.errors import UserError
from ssl_jax.tasks.base import Arrays, Predictions, Task, check_labelled, prediction
from ssl_jax.tasks.classify import SCORES
from ssl_jax.tasks.labels import class_name

# Where in an entity a word stands, and the entity's type: B-PER, I-PER; also of BIOES and BILOU.
ENTITY_TAG = re.compile(r"O|([BIESLU])-(.+)")


@dataclasses.dataclass(frozen=True)
class Tags(Task):
    """`tags` int32 [n l], the class of a word at its first token and -1 elsewhere."""

    def scores_of(self, class_names: Sequence[str] | None) -> tuple[str, ...]:
        """Classes that mark no entities, such as parts of speech, have no F1 of entities."""
        if all(ENTITY_TAG.fullmatch(name) for name in class_names or ()):
            return self.scores
        return ("accuracy", "macro_f1")

    def parse_label(self, label: Any, where: str) -> list[str | None]:
        if not isinstance(label, Sequence) or isinstance(label, str):
            raise UserError(f"{where} is {label!r:.40}, not a list of tags")
        return [class_name(tag, where) for tag in label]

    def target_shapes(self, length: int) -> dict[str, tuple[tuple[int, ...], Any]]:
        return {"tags": ((length,), np.int32)}

    def targets(self, source: Any, indices: np.ndarray) -> Arrays:
        return {"tags": source.spread(source.encoded.tags, indices)}

    def has_label(self, encoded: Any) -> np.ndarray:
        """One word with a class is enough."""
        first, size = encoded.start[:, 0], encoded.length[:, 0]
        known = np.concatenate([[0], np.cumsum(encoded.tags >= 0)])
        return known[first + size] > known[first]

    def score(
        self, source: Any, predictions: Predictions, *, null_threshold: float | None = 0.0
    ) -> dict[str, float]:
        del null_threshold
        tags = prediction(predictions, "tags", (len(source), source.options.length))
        gold = self.targets(source, np.arange(len(source)))["tags"]
        row, place = np.nonzero(gold >= 0)  # word by word
        check_labelled(source, len(row) > 0)
        predicted, label = tags[row, place], gold[row, place]
        scores = {name: SCORES[name](predicted, label) for name in source.metrics if name in SCORES}
        if "entity_f1" not in source.metrics:
            return scores
        cuts = np.flatnonzero(np.diff(source.encoded.item[row])) + 1
        names = np.array(source.class_names, object)
        sentences = (
            [part.tolist() for part in np.split(names[tags], cuts)] for tags in (predicted, label)
        )
        return entity_scores(*sentences) | scores


def entity_scores(
    predicted: Sequence[Sequence[str]], gold: Sequence[Sequence[str]]
) -> dict[str, float]:
    """Precision, recall and F1 of whole entities, counted over all sentences (CoNLL-2003).

    An entity is right if its type and both its ends are.

    Args:
      predicted, gold: the tags of each sentence, e.g. ["B-PER", "I-PER", "O"].

    Returns:
      `entity_f1`, `entity_precision` and `entity_recall`.
    """
    found, there, right = 0, 0, 0
    for ours, theirs in zip(predicted, gold, strict=True):
        a, b = set(entities(ours)), set(entities(theirs))
        found, there, right = found + len(a), there + len(b), right + len(a & b)
    precision, recall = right / max(found, 1), right / max(there, 1)
    return {
        "entity_f1": 2 * right / max(found + there, 1),
        "entity_precision": precision,
        "entity_recall": recall,
    }


def entities(tags: Sequence[str]) -> list[tuple[str, int, int]]:
    """The entities that the tags of a sentence mark: (type, first word, word behind the last).

    As the scorer of CoNLL-2003 has it: an I without a B before it begins an entity too, and one of
    another type ends the entity before. So BIO, IOB1, BIOES and BILOU are all read.
    """
    out = []
    start, kind, last = 0, None, "O"  # kind: of the entity that is open
    for at, tag in enumerate([*tags, "O"]):
        match = ENTITY_TAG.fullmatch(tag)
        place, of = ("O", None) if match is None or tag == "O" else match.groups()
        begins = place in "BSU" or last in "ESLU" or of != kind
        if kind is not None and (place == "O" or begins):
            out.append((kind, start, at))
            kind = None
        if place != "O" and kind is None:
            start, kind = at, of
        last = place
    return out


TAGS = Tags(
    name="tags",
    about="a class for each word",
    method="token_classification",
    example="words",
    predictions=("tags",),
    scores=("entity_f1", "entity_precision", "entity_recall", "accuracy"),
    has_classes=True,
    padding={"tags": -1},
)
