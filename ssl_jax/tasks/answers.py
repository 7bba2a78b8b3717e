"""Extractive question answering: converts token logits to answers, and scores them (SQuAD).

Decoding follows BERT's code. In every window, the most likely starts and ends are paired. A pair is
an answer if the start is not after the end and the answer is not too long. The best pair of all
windows is the answer. Scores are those of SQuAD's evaluation (Rajpurkar et al. 2016; 2018 for
questions without an answer).
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

N_BEST = 20  # number of starts, and of ends, to consider in a window
MAX_LENGTH = 30  # maximum number of tokens in an answer
_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


class Answer(NamedTuple):
    """The answer of a model to a question.

    Attributes:
      text: the best answer; empty if no pair of start and end is allowed.
      score: the sum of its start and end logits.
      null: the score of "no answer": the sum of the logits at cls, the minimum over windows.
    """

    text: str
    score: float
    null: float


def decode(
    source: Any, start: np.ndarray, end: np.ndarray, *, n_best: int = N_BEST,
    max_length: int = MAX_LENGTH,
) -> dict[int, Answer]:  # fmt: skip
    """The best answer to each question of a source.

    A token in several windows counts only in the window with the most context around it.

    Args:
      source: a `TaskSource` of span.
      start, end: float [n l], logits of every token in the rows of the source.
      n_best: number of starts, and of ends, to consider in a window.
      max_length: maximum number of tokens in an answer.

    Returns:
      Index of the question in `source.encoded.questions` -> its answer.
    """
    encoded = source.encoded
    order = np.argsort(encoded.item, kind="stable")
    bounds = np.flatnonzero(np.diff(encoded.item[order], prepend=-1, append=-1))
    begins = source.second_begins()
    out = {}
    for first, stop in itertools.pairwise(bounds):
        rows = order[first:stop]
        window_starts, lengths = encoded.start[rows, 1], encoded.length[rows, 1]
        is_best = best_context(window_starts - window_starts.min(), lengths)
        best, span = -np.inf, None
        for row, first_token, length, counts in zip(
            rows, window_starts, lengths, is_best, strict=True
        ):
            text = slice(begins[row], begins[row] + length)
            starts = np.where(counts, start[row, text], -np.inf)
            score, i, j = best_pair(starts, end[row, text], n_best, max_length)
            if score > best:
                best = score
                span = encoded.offsets[first_token + i, 0], encoded.offsets[first_token + j, 1]
        item = int(encoded.item[rows[0]])
        text = "" if span is None else encoded.questions[item].context[slice(*span)]
        null = float((start[rows, 0] + end[rows, 0]).min())
        out[item] = Answer(text, float(best), null)
    return out


def best_context(starts: np.ndarray, lengths: np.ndarray) -> list[np.ndarray]:
    """Whether a window has the best context of each of its tokens, among the windows of one text.

    As in BERT's code for SQuAD: the context of a token is the smaller of the numbers of tokens to
    its left and right, plus a hundredth of the length of the window.

    Args:
      starts, lengths: int [w], first token and length of the windows.

    Returns:
      For each window, bool [its length].
    """
    end = int((starts + lengths).max())
    tokens = np.arange(end)
    left, right = tokens - starts[:, None], (starts + lengths)[:, None] - 1 - tokens  # [w t]
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
      n_best: number of starts, and of ends, to consider.
      max_length: maximum number of tokens in an answer.

    Returns:
      The score is -inf if there is no answer. Of equal scores, the first start, then the first end
      is returned.
    """
    if not len(start):
        return -np.inf, 0, 0
    i, j = (np.sort(np.argsort(-x, kind="stable")[:n_best]) for x in (start, end))
    scores = start[i][:, None] + end[j]
    size = j - i[:, None] + 1
    scores = np.where((size >= 1) & (size <= max_length), scores, -np.inf)
    best = np.unravel_index(np.argmax(scores), scores.shape)
    return float(scores[best]), int(i[best[0]]), int(j[best[1]])


def normalised(text: str) -> str:
    """The text in lower case, without punctuation, articles and repeated blanks."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def exact_match(answer: str, gold: Sequence[str]) -> float:
    """1 if an answer equals a gold answer after normalisation, else 0."""
    return float(normalised(answer) in map(normalised, gold))


def f1(answer: str, gold: Sequence[str]) -> float:
    """F1 of the words of an answer, the maximum over the gold answers.

    If one of the two answers has no words, F1 is 1 if both have none, else 0.
    """
    words = normalised(answer).split()
    return max(_f1(words, normalised(gold_answer).split()) for gold_answer in gold)


def _f1(answer: list[str], gold: list[str]) -> float:
    if not answer or not gold:
        return float(answer == gold)
    common = sum((collections.Counter(answer) & collections.Counter(gold)).values())
    return 2 * common / (len(answer) + len(gold))


def gold_answers(answers: Sequence[tuple[str, int]]) -> list[str]:
    """The gold answers to a question; one empty answer if the question has none."""
    return [text for text, _ in answers if normalised(text)] or [""]


def scores(
    source: Any, predictions: Mapping[str, np.ndarray], null_threshold: float | None
) -> dict[str, float]:
    """The scores of predictions, see `Task.score`.

    Returns:
      `exact_match` and `f1`. If some questions have no answer, also `has_answer_f1`, the F1 of the
      questions with an answer, and `no_answer_accuracy`, the fraction of questions without an
      answer for which none is predicted. With `null_threshold` None, also the tuned threshold.

    Raises:
      UserError: the source has no gold answers.
      ValueError: the predictions do not fit the source.
    """
    shape = (len(source), source.options.length)
    logits = {
        name: prediction(predictions, name, shape).astype(np.float64) for name in ("start", "end")
    }
    questions = source.encoded.questions
    answers = {
        item: answer
        for item, answer in decode(source, logits["start"], logits["end"]).items()
        if questions[item].answers is not None
    }
    check_labelled(source, bool(answers))
    gold = [gold_answers(questions[item].answers) for item in answers]
    margin = np.array([answer.null - answer.score for answer in answers.values()])
    unanswerable = np.array([texts == [""] for texts in gold])
    measured = np.array([
        (exact_match(answer.text, texts), f1(answer.text, texts))
        for answer, texts in zip(answers.values(), gold, strict=True)
    ])  # fmt: skip
    if not unanswerable.any():
        return dict(zip(("exact_match", "f1"), measured.mean(axis=0).tolist(), strict=True))
    is_tuned = null_threshold is None
    threshold = tune_threshold(margin, measured[:, 1], unanswerable) if is_tuned else null_threshold
    measured = np.where((margin > threshold)[:, None], unanswerable[:, None], measured)
    exact, f1_score = measured.mean(axis=0).tolist()
    out = {"exact_match": exact, "f1": f1_score}
    if not unanswerable.all():
        out["has_answer_f1"] = float(measured[~unanswerable, 1].mean())
    out["no_answer_accuracy"] = float(measured[unanswerable, 1].mean())
    return out | ({"null_threshold": threshold} if is_tuned else {})


def tune_threshold(margin: np.ndarray, score: np.ndarray, unanswerable: np.ndarray) -> float:
    """The threshold on the margin that gives the best mean score.

    Args:
      margin: float [n], the score of "no answer" minus the score of the best answer.
      score: float [n], the score of the best answer, e.g. F1.
      unanswerable: bool [n], whether the question has no answer.

    Returns:
      The threshold above which no answer is given; of equally good ones the smallest.
    """
    order = np.argsort(margin, kind="stable")
    gains = (score - unanswerable)[order]  # of giving the best answer to each question
    total = np.concatenate([[0.0], np.cumsum(gains)])
    ordered = margin[order]
    # A threshold cannot separate questions with equal margins.
    possible = np.concatenate([[True], ordered[1:] > ordered[:-1], [True]])
    best = int(np.argmax(np.where(possible, total, -np.inf)))
    if best == 0:
        return float(np.nextafter(ordered[0], -np.inf))
    return float(ordered[best - 1])
