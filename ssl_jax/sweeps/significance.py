"""Permutation tests of two models on the same test examples (SimCLR, Chen et al. 2020, App. B.8).

The null hypothesis is that the models do not differ. Then it makes no difference which model a
prediction is of: each permutation exchanges the predictions of the two models on a random half of
the examples. The p-value is the share of permutations whose difference of scores is at least as
large, in absolute value, as the one that is observed; the observed assignment counts as one, so
that p is at least 1 / (permutations + 1) (Phipson and Smyth 2010).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath

from ssl_jax.core.errors import UserError
from ssl_jax.evals.label_metrics import label_metrics
from ssl_jax.evals.scores import mean_per_class
from ssl_jax.run import outcomes as outcomes_lib
from ssl_jax.sweeps import ablation
from ssl_jax.sweeps.grid import Sweep

Outcomes = Mapping[str, np.ndarray]
PERMUTATIONS = 100_000
RANKED_PERMUTATIONS = 1_000  # of scores that are ranked again in every permutation
_AT_ONCE = 1 << 24  # random bits of a block


def score(outcomes: Outcomes, metric: str) -> float:
    """The metric "top1", "mean_class", "map11", "map" or "auc" of the outcomes of a run."""
    if "scores" in outcomes:
        return label_metrics(outcomes["scores"], outcomes["labels"])[metric]
    hits = outcomes["predicted"] == outcomes["label"]
    return mean_per_class(hits, outcomes["label"]) if metric == "mean_class" else float(hits.mean())


def compare(
    sweep: Sweep, rows: Sequence[ablation.Row], workdir: epath.Path
) -> list[dict[str, Any]]:
    """Tests the values of `sweep.compares` against its first value, in each cell of the tables.

    Args:
      sweep: the sweep, whose curves have `sweep.compares` as series.
      rows: of the finished cells.
      workdir: of the sweep.

    Returns:
      One row per comparison: the labels of the curve's `where` and `x`, `first`, `other`, the
      `difference` of their scores and `p`. Cells without outcomes are left out.
    """
    cell_of = {tuple(cell.labels.items()): cell for cell in sweep.cells}
    tests = []
    for curve in sweep.curves:
        best = ablation.best_rows(rows, sweep.labels, curve)
        values = list(dict.fromkeys(series for _, series in best))
        for x in dict.fromkeys(x for x, _ in best):
            outcomes_of = {}
            for value in values:
                row = best.get((x, value))
                if row is None:
                    continue
                measure = curve.measure.format(**row)
                cell = cell_of[tuple((label, row[label]) for label in sweep.labels)]
                evaluation, _, metric = measure.partition("/")
                own = outcomes_lib.read(workdir / cell.name, evaluation)
                if own is not None:
                    outcomes_of[value] = own, metric
            if values[0] not in outcomes_of:
                continue
            first, metric = outcomes_of.pop(values[0])
            for value, (other, _) in outcomes_of.items():
                difference, p = permutation_test(first, other, metric)
                tests.append({
                    **curve.where, curve.x: x, "first": values[0], "other": value,
                    "difference": difference, "p": p,
                })  # fmt: skip
    return tests


def permutation_test(
    a: Outcomes, b: Outcomes, metric: str, *, permutations: int | None = None, seed: int = 0
) -> tuple[float, float]:
    """The difference of the scores of two models, a - b, and its two-sided p-value.

    Args:
      a, b: outcomes on the same test examples (`ssl_jax.run.outcomes`): `label` and `predicted` int
        [n], or `labels` and `scores` [n k].
      metric: see `score`.
      permutations: number of permutations; None: 100,000 for accuracies, of which only sums change,
        and 1,000 for scores that are ranked.
      seed: of the permutations.

    Raises:
      UserError: the runs have other test examples.
    """
    target = "labels" if "scores" in a else "label"
    if a.keys() != b.keys() or not np.array_equal(a[target], b[target]):
        raise UserError("the two runs are scored on different test examples; compare others")
    rng = np.random.default_rng(seed)
    observed = score(a, metric) - score(b, metric)
    if "scores" in a:
        count = permutations or RANKED_PERMUTATIONS
        differences = np.empty(count)
        for i in range(count):
            swapped = rng.integers(0, 2, (len(a[target]), 1)).astype(bool)
            first = np.where(swapped, b["scores"], a["scores"])
            second = np.where(swapped, a["scores"], b["scores"])
            differences[i] = (
                score({**a, "scores": first}, metric) - score({**b, "scores": second}, metric)
            )  # fmt: skip
    else:
        count = permutations or PERMUTATIONS
        differences = _sums(_shares(a, b, metric), count, rng)
    extreme = np.sum(np.abs(differences) >= abs(observed) - 1e-12)
    return observed, float((1 + extreme) / (1 + count))


def _shares(a: Outcomes, b: Outcomes, metric: str) -> np.ndarray:
    """What each example adds to the difference of the scores, without those that add nothing."""
    label = a["label"]
    hits = (a["predicted"] == label).astype(float) - (b["predicted"] == label)
    weight = np.full(len(label), 1 / len(label))
    if metric == "mean_class":
        count = np.bincount(label)
        weight = 1 / count[label] / np.sum(count > 0)
    return (hits * weight)[hits != 0]


def _sums(shares: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Sums [count] of the shares with random signs."""
    block = max(1, _AT_ONCE // max(1, len(shares)))
    sums = []
    for start in range(0, count, block):
        rows = min(block, count - start)
        signs = 2.0 * rng.integers(0, 2, (rows, len(shares)), dtype=np.int8) - 1
        sums.append(signs @ shares)
    return np.concatenate(sums)
