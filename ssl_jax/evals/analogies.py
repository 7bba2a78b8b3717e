"""Analogies of words: a is to b as c is to which word? (Mikolov et al. 2013a, Sec. 4.1)

    3CosAdd   argmax_x cos(x, b - a + c)
    3CosMul   argmax_x cos'(x, b) cos'(x, c) / (cos'(x, a) + 0.001),   cos' = (cos + 1) / 2

over unit vectors; a, b and c are no answers. 3CosMul is of Levy & Goldberg 2014, Sec. 6. As in the
released tool, answers are among the 30,000 most frequent words, and a question with a word outside
of them, its answer included, is left out. Capitals do not count.

A file has four words a line, in sections that begin with a line `: name`. Sections whose names
begin with "gram" are syntactic, the others semantic. Without a file the questions are some
about the grammar of words that occur in Python's documentation.
"""

from __future__ import annotations

import itertools
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np

from ssl_jax.config.fields import positive
from ssl_jax.core.errors import UserError
from ssl_jax.core.method import DataSpec, Method
from ssl_jax.evals.known import Known
from ssl_jax.evals.metric import Metric
from ssl_jax.evals.model import Model
from ssl_jax.evals.word_space import WordSpace, has_word_vectors, read_lines

NEEDS = ()
FITS = False
METRICS = {
    "accuracy": Metric(
        "analogies", "accuracy of analogies", sentence="accuracy of {model} on analogies"
    ),
    "semantic": Metric("semantic", "accuracy of semantic analogies", shown=False),
    "syntactic": Metric("syntactic", "accuracy of syntactic analogies", shown=False),
    "top5": Metric("analogies, top 5", "right answer among the five nearest", shown=False),
    "questions": Metric("questions", unit="", better=None, shown=False),
    "known_share": Metric("known", "share of questions with known words", better=None, shown=False),
}

# Pairs of words that occur in Python's documentation. Questions are all pairs of two of a section.
_PAIRS = {
    "gram1-plural": """file files name names value values argument arguments object objects
        class classes function functions module modules method methods line lines string strings
        item items key keys type types error errors exception exceptions element elements""",
    "gram2-third-person": """return returns raise raises call calls use uses write writes make makes
        take takes contain contains provide provides""",
    "gram3-past-participle": """call called use used raise raised return returned define defined
        create created pass passed open opened close closed""",
    "gram4-present-participle": """use using call calling read reading write writing return
        returning raise raising create creating wait waiting""",
}
_AT_ONCE = 256  # questions


class Question(NamedTuple):
    """Four words and the section they are from."""

    section: str
    words: tuple[str, str, str, str]


def applies(method: Method, spec: DataSpec) -> bool:
    """Whether the method has word vectors."""
    return has_word_vectors(method, spec)


def check(known: Known, *, path: str | None = None, **options: Any) -> str:
    """Reads the file of questions, before anything is computed."""
    del known, options
    questions(path)
    return ""


def questions(path: str | None) -> list[Question]:
    """The questions of a file; None: those about Python's documentation.

    Raises:
      UserError: the file cannot be read, has no questions, or a line without four words.
    """
    if path is None:
        return _embedded()
    section, out = "", []
    for number, line in read_lines(path, "eval.analogies.path"):
        words = line.split()
        if line.startswith(":"):
            section = line[1:].strip()
        elif len(words) != 4:
            raise UserError(
                f"{path}, line {number}: {line[:60]!r} has {len(words)} words; a question has 4, "
                "a section begins with ': name'"
            )
        else:
            out.append(Question(section, tuple(words)))
    if not out:
        raise UserError(f"eval.analogies.path={path} has no questions")
    return out


def _embedded() -> list[Question]:
    out = []
    for section, text in _PAIRS.items():
        words = text.split()
        pairs = list(zip(words[::2], words[1::2], strict=True))
        for (a, b), (c, d) in itertools.permutations(pairs, 2):
            if len({a, b, c, d}) == 4:
                out.append(Question(section, (a, b, c, d)))
    return out


def evaluate_model(
    model: Model,
    prober: Any,
    *,
    path: Annotated[
        str | None, "File of questions; None: questions about Python's documentation."
    ] = None,
    how: Annotated[
        Literal["3CosAdd", "3CosMul"], "How an answer is found from the three words."
    ] = "3CosAdd",
    vocabulary: Annotated[int, positive, "Most frequent words that may be answers."] = 30_000,
) -> dict[str, float]:
    """The share of questions with the right answer.

    Args:
      model: its method has `token_vectors`.
      prober: provides the words and their counts.
      path, how, vocabulary: see above.

    Returns:
      `accuracy` and `top5` of all questions, `semantic` and `syntactic` of those of their kind, the
      number of `questions` whose words are known, and their share, `known_share`.

    Raises:
      UserError: no question has only known words, or as `questions`.
    """
    space = WordSpace.of_model(model, prober, vocabulary)
    return score(space, questions(path), how=how, name=path or "the embedded questions")


def score(
    space: WordSpace, asked: list[Question], *, how: str = "3CosAdd", name: str = "questions"
) -> dict[str, float]:
    """The metrics of `evaluate_model` for words with vectors."""
    known = [(one.section, rows) for one in asked if (rows := space.rows(one.words)) is not None]
    if not known:
        raise UserError(
            f"none of the {len(asked):,} questions of {name} has only words among the "
            f"{len(space.words):,} most frequent ones of the run; use another eval.analogies.path"
        )
    rows = np.array([rows for _, rows in known])
    ranks = np.concatenate([
        _ranks(space.unit, rows[first : first + _AT_ONCE], how)
        for first in range(0, len(rows), _AT_ONCE)
    ])  # fmt: skip
    syntactic = np.array([section.startswith("gram") for section, _ in known])
    scores = {"accuracy": np.mean(ranks == 0), "top5": np.mean(ranks < 5)}
    for kind, chosen in (("semantic", ~syntactic), ("syntactic", syntactic)):
        if chosen.any():
            scores[kind] = np.mean(ranks[chosen] == 0)
    scores |= {"questions": len(known), "known_share": len(known) / len(asked)}
    return {key: float(value) for key, value in scores.items()}


def _ranks(unit: np.ndarray, rows: np.ndarray, how: str) -> np.ndarray:
    """How many words are nearer than the right one, int [q]; rows int [q 4]."""
    a, b, c, d = rows.T
    if how == "3CosAdd":
        scores = (unit[b] - unit[a] + unit[c]) @ unit.T
    else:
        to_a, to_b, to_c = ((unit[x] @ unit.T + 1) / 2 for x in (a, b, c))
        scores = to_b * to_c / (to_a + 0.001)
    questions = np.arange(len(rows))
    right = scores[questions, d]
    for asked in (a, b, c):
        scores[questions, asked] = -np.inf
    # A question whose answer is one of its own words cannot be answered.
    right = np.where((d == a) | (d == b) | (d == c), -np.inf, right)
    return np.sum(scores > right[:, None], axis=1)
