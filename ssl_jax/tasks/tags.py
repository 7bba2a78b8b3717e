"""The task `tags`: a class per word of a sentence.

The prediction is `tags`, int [n l], a class at every token.
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

# Position of a word in an entity and type of the entity: B-PER, I-PER; also BIOES and BILOU.
ENTITY_TAG = re.compile(r"O|([BIESLU])-(.+)")


@dataclasses.dataclass(frozen=True)
class Tags(Task):
    """A class per word: `tags` int32 [n l], at the first token of the word and -1 elsewhere."""

    def scores_of(self, class_names: Sequence[str] | None) -> tuple[str, ...]:
        """Entity scores, if all classes are entity tags; parts of speech, for example, are not."""
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
        """Whether at least one word of each row has a class."""
        first, size = encoded.start[:, 0], encoded.length[:, 0]
        known = np.concatenate([[0], np.cumsum(encoded.tags >= 0)])
        return known[first + size] > known[first]

    def score(
        self, source: Any, predictions: Predictions, *, null_threshold: float | None = 0.0
    ) -> dict[str, float]:
        del null_threshold
        tags = prediction(predictions, "tags", (len(source), source.options.length))
        gold = self.targets(source, np.arange(len(source)))["tags"]
        row, token = np.nonzero(gold >= 0)  # the first tokens of words
        check_labelled(source, len(row) > 0)
        predicted, label = tags[row, token], gold[row, token]
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
    """Precision, recall and F1 of entities, counted over all sentences (CoNLL-2003).

    An entity is correct if its type and both its ends are correct.

    Args:
      predicted, gold: the tags of each sentence, e.g. ["B-PER", "I-PER", "O"].

    Returns:
      `entity_f1`, `entity_precision` and `entity_recall`.
    """
    num_predicted, num_gold, num_correct = 0, 0, 0
    for predicted_tags, gold_tags in zip(predicted, gold, strict=True):
        predicted_entities, gold_entities = set(entities(predicted_tags)), set(entities(gold_tags))
        num_predicted += len(predicted_entities)
        num_gold += len(gold_entities)
        num_correct += len(predicted_entities & gold_entities)
    precision, recall = num_correct / max(num_predicted, 1), num_correct / max(num_gold, 1)
    return {
        "entity_f1": 2 * num_correct / max(num_predicted + num_gold, 1),
        "entity_precision": precision,
        "entity_recall": recall,
    }


def entities(tags: Sequence[str]) -> list[tuple[str, int, int]]:
    """The entities in the tags of a sentence: (type, first word, word after the last).

    As in the scorer of CoNLL-2003, an I without a B before it begins an entity too, and an I of
    another type ends the previous entity. So it reads BIO, IOB1, BIOES and BILOU tags.
    """
    out = []
    start, open_kind, last_position = 0, None, "O"  # open_kind: the type of the current entity
    for word, tag in enumerate([*tags, "O"]):
        match = ENTITY_TAG.fullmatch(tag)
        position, kind = ("O", None) if match is None or tag == "O" else match.groups()
        begins = position in "BSU" or last_position in "ESLU" or kind != open_kind
        if open_kind is not None and (position == "O" or begins):
            out.append((open_kind, start, word))
            open_kind = None
        if position != "O" and open_kind is None:
            start, open_kind = word, kind
        last_position = position
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
