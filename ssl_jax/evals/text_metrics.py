"""Scores of what a model predicts of labelled text.

    score = text_metrics.for_source(source)
    score({"logits": logits})     # {"accuracy": 0.91, "f1": 0.93}

Predictions are arrays with a row for each row of the source, in its order:

    classify   `logits` float [n c]
    regress    `prediction` float [n]
    tags       `tags` int [n l], the class at every token
    span       `start` and `end` float [n l], logits of every token

Which scores there are, `source.metrics` names, the first the one that counts most. Shares are in
[0, 1]. A score that is not defined is 0, such as a correlation with a constant.

SciPy and scikit-learn take a second and more to import, and so are where they are needed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from ssl_jax.core.errors import UserError
from ssl_jax.data.labelled.task_source import TaskSource
from ssl_jax.data.labelled.tasks import ENTITY_TAG
from ssl_jax.evals import answers

Predictions = Mapping[str, np.ndarray]

# Task -> the predictions that it is scored by, see above.
PREDICTIONS = {
    "classify": ("logits",),
    "regress": ("prediction",),
    "tags": ("tags",),
    "span": ("start", "end"),
}


def for_source(
    source: TaskSource, *, null_threshold: float | None = 0.0
) -> Callable[[Predictions], dict[str, float]]:
    """The scores that count for a source, as a function of predictions.

    Args:
      source: with the labels.
      null_threshold: of span where some questions have no answer: by how much the score of no
        answer must exceed that of the best one. None tunes it for the best F1 on these very
        predictions and returns it as `null_threshold`: for a development set alone.

    Returns:
      predictions -> scores by name. It raises UserError where the source has no labels, and
      ValueError where predictions do not fit it.
    """
    scores = {"classify": _classes, "regress": _numbers, "tags": _tags}

    def score(predictions: Predictions) -> dict[str, float]:
        if source.task == "span":
            return answers.scores(source, predictions, null_threshold)
        return scores[source.task](source, predictions)

    return score


def accuracy(predicted: np.ndarray, label: np.ndarray) -> float:
    """The share of equal ones; int [n] both."""
    return float((predicted == label).mean())


def matthews(predicted: np.ndarray, label: np.ndarray) -> float:
    """Matthews' correlation of classes, in [-1, 1]; int [n] both. 0 where either is constant."""
    from sklearn.metrics import matthews_corrcoef

    return float(matthews_corrcoef(label, predicted))


def f1(predicted: np.ndarray, label: np.ndarray) -> float:
    """F1 of class 1 of two; int [n] both."""
    from sklearn.metrics import f1_score

    return float(f1_score(label, predicted, pos_label=1, zero_division=0))


def macro_f1(predicted: np.ndarray, label: np.ndarray) -> float:
    """The mean of F1 over the classes that are there or were predicted; int [n] both."""
    from sklearn.metrics import f1_score

    return float(f1_score(label, predicted, average="macro", zero_division=0))


def pearson(predicted: np.ndarray, target: np.ndarray) -> float:
    """Pearson's correlation; float [n] both. 0 where either is constant."""
    return _correlation("pearsonr", predicted, target)


def spearman(predicted: np.ndarray, target: np.ndarray) -> float:
    """Spearman's correlation of ranks; float [n] both. 0 where either is constant."""
    return _correlation("spearmanr", predicted, target)


def rmse(predicted: np.ndarray, target: np.ndarray) -> float:
    """The root of the mean squared error; float [n] both."""
    return float(np.sqrt(np.mean((predicted - target) ** 2)))


def _correlation(name: str, predicted: np.ndarray, target: np.ndarray) -> float:
    from scipy import stats

    predicted, target = (np.asarray(values, np.float64) for values in (predicted, target))
    if len(target) < 2 or np.ptp(predicted) == 0 or np.ptp(target) == 0:
        return 0.0
    return float(getattr(stats, name)(predicted, target).statistic)


_CLASSES = {"accuracy": accuracy, "matthews": matthews, "f1": f1, "macro_f1": macro_f1}
_NUMBERS = {"pearson": pearson, "spearman": spearman, "rmse": rmse}


def _classes(source: TaskSource, predictions: Predictions) -> dict[str, float]:
    logits = taken(predictions, "logits", (len(source), source.num_classes))
    label = source.encoded.label
    known = label >= 0
    check_labelled(source, known.any())
    predicted = np.argmax(logits, axis=1)
    return {name: _CLASSES[name](predicted[known], label[known]) for name in source.metrics}


def _numbers(source: TaskSource, predictions: Predictions) -> dict[str, float]:
    predicted = taken(predictions, "prediction", (len(source),))
    target = source.encoded.target
    known = ~np.isnan(target)
    check_labelled(source, known.any())
    return {name: _NUMBERS[name](predicted[known], target[known]) for name in source.metrics}


def _tags(source: TaskSource, predictions: Predictions) -> dict[str, float]:
    tags = taken(predictions, "tags", (len(source), source.options.length))
    gold = source.batch(np.arange(len(source)))["tags"]
    row, place = np.nonzero(gold >= 0)  # word by word
    check_labelled(source, len(row) > 0)
    predicted, label = tags[row, place], gold[row, place]
    scores = {name: _CLASSES[name](predicted, label) for name in source.metrics if name in _CLASSES}
    if "entity_f1" in source.metrics:
        cuts = np.flatnonzero(np.diff(source.encoded.item[row])) + 1
        names = np.array(source.class_names, object)
        scores = entity_scores(
            *(
                [part.tolist() for part in np.split(names[tags], cuts)]
                for tags in (predicted, label)
            )
        ) | {name: scores[name] for name in source.metrics if name in scores}
    return scores


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


def taken(predictions: Predictions, name: str, shape: tuple[int | None, ...]) -> np.ndarray:
    """The predictions of that name.

    Raises:
      ValueError: there are none, or not of that shape.
    """
    if name not in predictions:
        raise ValueError(f"predictions have no {name!r}; they have {', '.join(predictions)}")
    array = np.asarray(predictions[name])
    if array.shape != shape:
        raise ValueError(f"predictions {name!r} have shape {array.shape}, the source's are {shape}")
    return array


def check_labelled(source: TaskSource, known: bool) -> None:
    """Raises UserError unless there is something to compare predictions with."""
    if not known:
        raise UserError(
            f"{source.name} has no labels to score predictions with; evaluate on another split "
            "(eval.test_split), such as validation"
        )
