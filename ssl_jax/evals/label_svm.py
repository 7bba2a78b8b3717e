"""Linear SVMs, one for each label, on few positive examples: the protocol of Goyal et al. 2019.

"Scaling and Benchmarking Self-Supervised Visual Representation Learning", section 6.1 and App. B,
for VOC07; with scikit-learn's LinearSVC: squared hinge loss, positives weighted twice, features of
unit length. The dual problem is solved, or the primal one where examples outnumber features, which
has the same solution. For k positives, a label gets k examples that have it and (labels - 1) k that
do not: 19 k on VOC07.

It differs in the choice of the cost C. There it is the best on the test split. Here it is the best
on the train examples that were not drawn, unless `choose_by` is "test", for numbers to compare.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Annotated, Literal, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from ssl_jax.config.fields import each, not_empty, positive
from ssl_jax.core.errors import UserError
from ssl_jax.evals.average_precision import average_precision, eleven_point, interpolated

if TYPE_CHECKING:
    from sklearn.svm import LinearSVC

Rule = Literal["interpolated", "eleven_point", "step"]
RULES: dict[str, Callable[..., float]] = {
    "interpolated": interpolated,
    "eleven_point": eleven_point,
    "step": average_precision,
}
Full = Annotated[bool, "Also on all labels, with C by 3-fold cross-validation."]
_CHOICE = 5000  # train examples, at most, that a cost is chosen by


@dataclasses.dataclass(frozen=True)
class Options:
    """The options of `svm` and `svm_labels`."""

    shots: Annotated[tuple[int, ...], each(positive), not_empty, "Numbers k of positives."] = (
        1, 2, 4, 8, 16, 32, 64, 96,
    )  # fmt: skip
    draws: Annotated[int, positive, "Random sets of examples for each k."] = 5
    costs: Annotated[tuple[float, ...], each(positive), not_empty, "Costs C of the grid."] = (
        0.01, 0.1, 1.0, 10.0,
    )  # fmt: skip
    rule: Annotated[
        Rule,
        "Average precision: area under the interpolated curve, VOC07's 11 points, scikit-learn's.",
    ] = "interpolated"
    choose_by: Annotated[
        Literal["train", "test"],
        "What chooses C: train examples that were not drawn, or the test split, as in the paper.",
    ] = "train"
    full: Full = False
    max_iterations: Annotated[int, positive, "Maximum number of iterations of each fit."] = 2000


class LowShot(NamedTuple):
    """Mean average precisions over labels, one a draw, and the costs that were chosen."""

    mean_ap: np.ndarray  # float64 [draws]
    cost: np.ndarray  # float64 [draws]


def normalized(h: Float[np.ndarray, "n d"]) -> np.ndarray:
    """h / (|h| + 1e-5), as in the paper's code."""
    h = np.asarray(h, np.float64)
    return h / (np.linalg.norm(h, axis=1, keepdims=True) + 1e-5)


def low_shot(
    x: Float[np.ndarray, "n d"],
    labels: Int[np.ndarray, "n c"],
    test_x: Float[np.ndarray, "m d"],
    test_labels: Int[np.ndarray, "m c"],
    *,
    shots: int,
    draws: int,
    costs: Sequence[float],
    seed: int = 0,
    rule: Rule = "interpolated",
    choose_by: Literal["train", "test"] = "train",
    max_iterations: int = 2000,
) -> LowShot:
    """Fits SVMs on k positives of each label.

    Args:
      x, test_x: `normalized` features.
      labels, test_labels: 1 has the label, 0 has not, -1 is unknown and left out.
      shots: k, at most the examples that have the rarest label.
      draws: random sets of examples.
      costs: C of the grid.
      seed: of the sets; they depend on the labels, the draw and k only.
      rule: of average precision.
      choose_by: what chooses among the costs, one for all labels of a draw.
      max_iterations: of each fit.
    """
    mean_ap, chosen = np.zeros(draws), np.zeros(draws)
    score = RULES[rule]
    scored = scored_labels(test_labels)
    for draw in range(draws):
        on_choice = np.zeros((len(costs), len(scored)))
        on_test = np.zeros((len(costs), len(scored)))
        for column, label in enumerate(scored):
            rows = draw_examples(labels, label, shots, draw, seed)
            left = _left(labels[:, label], rows, draw, seed)
            known = test_labels[:, label] >= 0
            for i, cost in enumerate(costs):
                svm = fit(x[rows], labels[rows, label], cost, max_iterations)
                scores = svm.decision_function(test_x[known])
                on_test[i, column] = score(scores, test_labels[known, label] > 0)
                if choose_by == "train" and len(left):
                    on_choice[i, column] = score(
                        svm.decision_function(x[left]), labels[left, label] > 0
                    )
        by = on_test if choose_by == "test" else on_choice
        best = int(by.mean(axis=1).argmax())
        mean_ap[draw], chosen[draw] = on_test[best].mean(), costs[best]
    return LowShot(mean_ap, chosen)


def all_examples(
    x: Float[np.ndarray, "n d"],
    labels: Int[np.ndarray, "n c"],
    test_x: Float[np.ndarray, "m d"],
    test_labels: Int[np.ndarray, "m c"],
    *,
    costs: Sequence[float],
    seed: int = 0,
    rule: Rule = "interpolated",
    max_iterations: int = 2000,
) -> tuple[float, np.ndarray]:
    """Fits an SVM of each label on all examples; its cost is chosen by 3-fold cross-validation.

    Returns:
      The mean average precision on test, and the cost of each label.
    """
    from sklearn.model_selection import StratifiedKFold

    score, precisions, chosen = RULES[rule], [], []
    for label in scored_labels(test_labels):
        known = labels[:, label] >= 0
        own_x, own = x[known], labels[known, label]
        folds = min(3, int(own.sum()), int((own == 0).sum()))
        by_cost = np.zeros(len(costs))
        if folds > 1 and len(costs) > 1:
            split = StratifiedKFold(folds, shuffle=True, random_state=seed)
            for train, held_out in split.split(own_x, own):
                for i, cost in enumerate(costs):
                    svm = fit(own_x[train], own[train], cost, max_iterations)
                    by_cost[i] += score(svm.decision_function(own_x[held_out]), own[held_out] > 0)
        chosen.append(costs[int(by_cost.argmax())])
        svm = fit(own_x, own, chosen[-1], max_iterations)
        known = test_labels[:, label] >= 0
        scores = svm.decision_function(test_x[known])
        precisions.append(score(scores, test_labels[known, label] > 0))
    return float(np.mean(precisions)), np.asarray(chosen)


def fit(
    x: Float[np.ndarray, "n d"], label: Int[np.ndarray, " n"], cost: float, max_iterations: int
) -> LinearSVC:
    """The SVM of one label, 1 or 0."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.svm import LinearSVC

    svm = LinearSVC(
        C=cost, loss="squared_hinge", dual="auto", class_weight={1: 2.0, 0: 1.0},
        max_iter=max_iterations, random_state=0,
    )  # fmt: skip
    with warnings.catch_warnings():  # the paper's large costs do not converge either
        warnings.simplefilter("ignore", ConvergenceWarning)
        return svm.fit(x, label)


def draw_examples(
    labels: Int[np.ndarray, "n c"], label: int, shots: int, draw: int, seed: int
) -> np.ndarray:
    """Indices of k examples that have a label and of (labels - 1) k that have not, or all of these.

    Those for k are the first ones for a larger k.
    """
    order = np.random.default_rng([seed, draw, label]).permutation(len(labels))
    own = labels[order, label]
    negatives = order[own == 0][: shots * max(1, labels.shape[1] - 1)]
    return np.concatenate([order[own == 1][:shots], negatives])


def _left(own: np.ndarray, rows: np.ndarray, draw: int, seed: int) -> np.ndarray:
    """Train examples with a known label that were not drawn; none if no positive is left."""
    left = np.setdiff1d(np.flatnonzero(own >= 0), rows)
    if len(left) > _CHOICE:
        left = np.random.default_rng([seed, draw]).choice(left, _CHOICE, replace=False)
    return left if own[left].any() else left[:0]


def scored_labels(labels: Int[np.ndarray, "n c"]) -> np.ndarray:
    """The labels that some examples have and some have not.

    Raises:
      UserError: there is none.
    """
    scored = np.flatnonzero((labels == 1).any(axis=0) & (labels == 0).any(axis=0))
    if not len(scored):
        raise UserError("no label has both test examples that have it and that do not")
    return scored


def possible_shots(counts: Int[np.ndarray, " c"], shots: Sequence[int]) -> tuple[list[int], str]:
    """The k that every label has positives for, sorted, and a message about the others.

    Args:
      counts: train examples that have each label.
      shots: the requested k.

    Raises:
      UserError: there is none.
    """
    rarest = int(np.argmin(counts))
    possible = sorted({k for k in shots if k <= counts[rarest]})
    if len(possible) == len(set(shots)):
        return possible, ""
    message = (
        f"label {rarest} has only {counts[rarest]} train examples; "
        f"{sorted(set(shots) - set(possible))} positives are impossible"
    )
    if not possible:
        raise UserError(message)
    return possible, message
