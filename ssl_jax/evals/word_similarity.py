"""Similarity of words: Spearman's correlation of cosines with the judgement of people.

A file has two words and a number a line, separated by tabs, such as WordSim-353 (Finkelstein et al.
2002); lines that begin with # are comments, and the first line may be a heading. Pairs with a word
that the run does not know are left out.
"""

from __future__ import annotations

from typing import Annotated, Any, NamedTuple

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
    "spearman": Metric(
        "similarity",
        "rank correlation of word similarities",
        unit="",
        sentence="rank correlation of the word similarities of {model}",
    ),
    "pairs": Metric("pairs", unit="", better=None, shown=False),
    "known_share": Metric("known", "share of pairs with known words", better=None, shown=False),
}
_KEY = "eval.word_similarity.path"


class Pair(NamedTuple):
    """Two words and how similar people find them."""

    first: str
    second: str
    similarity: float


def applies(method: Method, spec: DataSpec) -> bool:
    """Whether the method has word vectors."""
    return has_word_vectors(method, spec)


def check(known: Known, *, path: str | None = None, **options: Any) -> str:
    """Reads the file of pairs, before anything is computed."""
    del known, options
    pairs(path)
    return ""


def pairs(path: str | None) -> list[Pair]:
    """The pairs of a file.

    Raises:
      UserError: no file, it cannot be read, or a line is not two words and a number.
    """
    if path is None:
        raise UserError(f"{_KEY} is not set; name a file with two words and a number a line")
    out = []
    for position, (number, line) in enumerate(read_lines(path, _KEY)):
        cells = line.split("\t")
        try:
            first, second, similarity = cells
            out.append(Pair(first.strip(), second.strip(), float(similarity)))
        except ValueError:
            if position == 0 and len(cells) == 3:  # a heading
                continue
            raise UserError(
                f"{path}, line {number}: {line[:60]!r} is not two words and a number, separated by "
                "tabs"
            ) from None
    return out


def evaluate_model(
    model: Model,
    prober: Any,
    *,
    path: Annotated[str | None, "File of pairs of words with their similarity."] = None,
    vocabulary: Annotated[int, positive, "Most frequent words that are known."] = 1_000_000,
) -> dict[str, float]:
    """Spearman's rank correlation.

    Args:
      model: its method has `token_vectors`.
      prober: provides the words and their counts.
      path, vocabulary: see above.

    Returns:
      `spearman` in [-1, 1], the number of known `pairs` and their share, `known_share`.

    Raises:
      UserError: fewer than two pairs are known, or as `pairs`.
    """
    return score(WordSpace.of_model(model, prober, vocabulary), pairs(path), name=path or "")


def score(space: WordSpace, judged: list[Pair], *, name: str = "pairs") -> dict[str, float]:
    """The metrics of `evaluate_model` for words with vectors."""
    known = [(rows, one.similarity) for one in judged if (rows := space.rows(one[:2])) is not None]
    if len(known) < 2:
        raise UserError(
            f"{len(known)} of the {len(judged):,} pairs of {name} have only words of the run; "
            f"2 at least are needed: use another {_KEY}"
        )
    rows = np.array([rows for rows, _ in known])
    cosine = np.sum(space.unit[rows[:, 0]] * space.unit[rows[:, 1]], axis=1)
    from scipy.stats import rankdata  # takes a second to import

    ranks = np.stack([rankdata(cosine), rankdata([similarity for _, similarity in known])])
    ranks -= ranks.mean(axis=1, keepdims=True)
    norm = np.sqrt(np.prod(np.sum(ranks**2, axis=1)))
    return {
        "spearman": float(np.sum(ranks[0] * ranks[1]) / norm) if norm else 0.0,
        "pairs": float(len(known)),
        "known_share": len(known) / len(judged),
    }
