"""Extractive question answering: converts token logits to answers, and scores them (SQuAD).

Decoding is that of BERT's code: of every window the likeliest starts and ends, a pair of which is
an answer if it begins no later than it ends and is not too long; of all windows the best one.
Scores are those of SQuAD's own evaluation (Rajpurkar et al. 2016; 2018 for questions without an
answer).
"""

from __future__ import annotations

import collections
import itertools
import re
import string
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from ssl_jax.tasks.base import check_labelled, prediction

N_BEST = 20  # starts, and ends, of a window that are looked at
MAX_LENGTH = 30  # tokens of an answer
_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


class Answer(NamedTuple):
    """What a model answers to a question.

    Attributes:
      text: the best answer; empty if no pair of start and end is possible.
      score: the sum of its two logits.
      null: the sum of the logits of no answer: of cls, the least of all windows.
    """

    text: str
    score: float
    null: float


def decode(
    source: Any, start: np.ndarray, end: np.ndarray, *, n_best: int = N_BEST,
    max_length: int = MAX_LENGTH,
) -> dict[int, Answer]:  # fmt: skip
    """The best answer to each question of a source.

    A token that is in several windows counts in the one that shows the most around it.

    Args:
      source: a `TaskSource` of span.
      start, end: float [n l], logits of every token of its rows.
      n_best: starts, and ends, of a window that are looked at.
      max_length: tokens of an answer.

    Returns:
      The number of the question in `source.encoded.questions` -> its answer.
    """
    encoded = source.encoded
    order = np.argsort(encoded.item, kind="stable")
    bounds = np.flatnonzero(np.diff(encoded.item[order], prepend=-1, append=-1))
    begins = source.second_begins()
    out = {}
    for first, stop in itertools.pairwise(bounds):
        rows = order[first:stop]
        runs, lengths = encoded.start[rows, 1], encoded.length[rows, 1]
        shows = best_context(runs - runs.min(), lengths)
        best, place = -np.inf, None
        for row, run, length, shown in zip(rows, runs, lengths, shows, strict=True):
            text = slice(begins[row], begins[row] + length)
            starts = np.where(shown, start[row, text], -np.inf)
            score, i, j = best_pair(starts, end[row, text], n_best, max_length)
            if score > best:
                best, place = score, (encoded.offsets[run + i, 0], encoded.offsets[run + j, 1])
        item = int(encoded.item[rows[0]])
        text = "" if place is None else encoded.questions[item].context[slice(*place)]
        null = float((start[rows, 0] + end[rows, 0]).min())
        out[item] = Answer(text, float(best), null)
    return out


def best_context(starts: np.ndarray, lengths: np.ndarray) -> list[np.ndarray]:
    """Of each token of windows of one text, whether this is the window that shows it best.

    BERT, code of SQuAD: a token is scored in the window in which it has the most text on both sides
    (the smaller of the two counts, then a hundredth of the window's length).

    Args:
      starts, lengths: int [w], of the windows.

    Returns:
      For each window bool [its length].
    """
    end = int((starts + lengths).max())
    places = np.arange(end)
    left, right = places - starts[:, None], (starts + lengths)[:, None] - 1 - places  # [w t]
    score = np.minimum(left, right) + 0.01 * lengths[:, None]
    score[(left < 0) | (right < 0)] = -np.inf
    best = np.argmax(score, axis=0)
    return [
        best[start : start + length] == window
        for window, (start, length) in enumerate(zip(starts, lengths, strict=True))
    ]


def best_pair(
    start: np.ndarray, end: np.ndarray, n_best: int, max_length: int
) -> tuple[float, int, int]:
    """The best answer in one window: (score, first token, last token).

    Args:
      start, end: float [t], logits; -inf where an answer cannot begin or end.
      n_best: starts, and ends, that are looked at.
      max_length: tokens of an answer.

    Returns:
      A score of -inf where there is none. Of equal ones that which begins, then ends first.
    """
    if not len(start):
        return -np.inf, 0, 0
    i, j = (np.sort(np.argsort(-x, kind="stable")[:n_best]) for x in (start, end))
    scores = start[i][:, None] + end[j]
    size = j - i[:, None] + 1
    scores = np.where((size >= 1) & (size <= max_length), scores, -np.inf)
    at = np.unravel_index(np.argmax(scores), scores.shape)
    return float(scores[at]), int(i[at[0]]), int(j[at[1]])


def normalised(text: str) -> str:
    """Lower case, without punctuation, articles and superfluous blanks."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def exact_match(answer: str, right: Sequence[str]) -> float:
    """1 if an answer is, normalised, one of the right ones, else 0."""
    return float(normalised(answer) in map(normalised, right))


def f1(answer: str, right: Sequence[str]) -> float:
    """F1 of the words of an answer, the best over the right answers.

    Where either has no words, 1 if both have none, else 0.
    """
    return max(_f1(normalised(answer).split(), normalised(one).split()) for one in right)


def _f1(answer: list[str], right: list[str]) -> float:
    if not answer or not right:
        return float(answer == right)
    same = sum((collections.Counter(answer) & collections.Counter(right)).values())
    return 2 * same / (len(answer) + len(right))


def right_answers(answers: Sequence[tuple[str, int]]) -> list[str]:
    """The right answers to a question; the empty one alone where there is none."""
    return [text for text, _ in answers if normalised(text)] or [""]


def scores(
    source: Any, predictions: Mapping[str, np.ndarray], null_threshold: float | None
) -> dict[str, float]:
    """The scores of predictions; see `Task.score`.

    Returns:
      `exact_match` and `f1`. Where some questions have no answer, also `has_answer_f1`, the F1 of
      those that have, and `no_answer_accuracy`, the share of the others that were told.

    Raises:
      UserError: no right answer is known.
      ValueError: predictions do not fit.
    """
    shape = (len(source), source.options.length)
    logits = {
        name: prediction(predictions, name, shape).astype(np.float64) for name in ("start", "end")
    }
    asked = source.encoded.questions
    found = {
        item: answer
        for item, answer in decode(source, logits["start"], logits["end"]).items()
        if asked[item].answers is not None
    }
    check_labelled(source, bool(found))
    right = [right_answers(asked[item].answers) for item in found]
    margin = np.array([answer.null - answer.score for answer in found.values()])
    none = np.array([one == [""] for one in right])
    measured = np.array([
        (exact_match(answer.text, one), f1(answer.text, one))
        for answer, one in zip(found.values(), right, strict=True)
    ])  # fmt: skip
    if not none.any():
        return dict(zip(("exact_match", "f1"), measured.mean(axis=0).tolist(), strict=True))
    tuned = null_threshold is None
    threshold = tune_threshold(margin, measured[:, 1], none) if tuned else null_threshold
    measured = np.where((margin > threshold)[:, None], none[:, None], measured)
    exact, f1_score = measured.mean(axis=0).tolist()
    out = {"exact_match": exact, "f1": f1_score}
    if not none.all():
        out["has_answer_f1"] = float(measured[~none, 1].mean())
    out["no_answer_accuracy"] = float(measured[none, 1].mean())
    return out | ({"null_threshold": threshold} if tuned else {})


def tune_threshold(margin: np.ndarray, answered: np.ndarray, none: np.ndarray) -> float:
    """The threshold on the margin of no answer that gives the best mean score.

    Args:
      margin: float [n], the score of no answer less that of the best answer.
      answered: float [n], what the best answer would score.
      none: bool [n], whether there is no answer.

    Returns:
      No answer is given where the margin is larger. Of equally good ones the least.
    """
    order = np.argsort(margin, kind="stable")
    gains = (answered - none)[order]  # of answering, question by question
    total = np.concatenate([[0.0], np.cumsum(gains)])
    ordered = margin[order]
    # Questions of one margin are answered all or none.
    possible = np.concatenate([[True], ordered[1:] > ordered[:-1], [True]])
    best = int(np.argmax(np.where(possible, total, -np.inf)))
    if best == 0:
        return float(np.nextafter(ordered[0], -np.inf))
    return float(ordered[best - 1])
