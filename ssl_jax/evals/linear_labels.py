"""Linear probe of several labels an image: a logistic regression for each, by L-BFGS.

The objective, over weights W [d k] and unpenalised biases b [k], is

    sum_i sum_k [y_ik known] CE(sigmoid(w_k^T x_i + b_k), y_ik) + (l2 / 2) ||W||^2

The labels are independent problems that share l2, which is chosen on held-out examples of *train*
as in `linear` (Kornblith et al. 2019, App. A.3, and SimCLR, Chen et al. 2020, App. B.8, for VOC
2007). The test split is scored once.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from ssl_jax.config.fields import not_negative, open_fraction, positive
from ssl_jax.core.errors import UserError
from ssl_jax.evals import linear
from ssl_jax.evals.known import Known
from ssl_jax.evals.label_metrics import METRICS_OF_LABELS, label_metrics, names_of_metrics
from ssl_jax.evals.metric import Metric
from ssl_jax.evals.scores import row_mesh

NEEDS = ("labels",)
METRICS = {
    **{
        name: dataclasses.replace(
            metric,
            heading=f"linear {metric.heading}",
            title=f"linear classifier, {metric.title}",
            sentence=metric.sentence and f"{metric.sentence}, with a linear classifier",
        )
        for name, metric in METRICS_OF_LABELS.items()
    },
    "best_l2": Metric("penalty", unit="", better=None, shown=False),
    "l2_at_edge": Metric("penalty at the end of its grid", unit="", better=None, shown=False),
    "gradient_norm": Metric("gradient norm", unit="", better="lower", shown=False),
}


def evaluate(
    train: Mapping[str, np.ndarray],
    test: Mapping[str, np.ndarray],
    *,
    label_names: Sequence[str] = (),
    outcomes: dict[str, np.ndarray] | None = None,
    seed: int = 0,
    devices: Sequence[jax.Device] | None = None,
    choose_by: Annotated[
        Literal["map11", "map", "auc"], "Metric on held-out examples that chooses the penalty."
    ] = "map11",
    l2_min: Annotated[float, positive, "Weakest penalty of the grid."] = 1e-6,
    l2_max: Annotated[float, positive, "Strongest penalty of the grid."] = 1e5,
    num_l2: Annotated[int, positive, "Penalties of the grid, log-spaced."] = 12,
    val_fraction: Annotated[
        float, open_fraction, "Share of train that is held out to choose the penalty."
    ] = 0.2,
    max_iterations: Annotated[
        int, positive, "Maximum number of L-BFGS iterations of each fit."
    ] = 200,
    tolerance: Annotated[float, not_negative, "Gradient norm at which the last fit stops."] = 1e-5,
) -> dict[str, float]:
    """Fits the probe on train and scores it on test.

    Args:
      train, test: `h` float [n d], `labels` int [n k]: 1 has label k, 0 has not, -1 unknown.
      label_names: names of the labels.
      outcomes: gets the entries `labels` int [n k] and `scores` float [n k] of test.
      seed: seed of the held-out part of train.
      devices: devices over which the features are split.
      choose_by, l2_min, l2_max, num_l2, val_fraction, max_iterations, tolerance: see `linear`.

    Returns:
      The metrics of `label_metrics` on test, `best_l2`, `l2_at_edge` and `gradient_norm`.

    Raises:
      UserError: an option is out of range, or no label can be scored on the held-out examples.
    """
    check_grid(l2_min, l2_max)
    labels = np.asarray(train["labels"])
    held_out = hold_out(len(labels), val_fraction, seed)
    grid = np.geomspace(l2_max, l2_min, num_l2)
    mesh = row_mesh(len(labels), devices)
    fit_on_mesh = functools.partial(
        linear.fit, mesh=mesh, max_iterations=max_iterations, residual=sigmoid_residual
    )
    num_labels = labels.shape[1]
    with jax.set_mesh(mesh):
        mean, std = standard(train["h"][~held_out])
        x = (train["h"] - mean) / std
        layout = linear.layout_of(x, num_labels, mesh)
        rows = linear.place(x, labels, ~held_out, layout)
        x_held_out = (train["h"][held_out] - mean) / std
        best, probe = None, None
        for l2 in grid:
            probe = fit_on_mesh(rows, num_labels, l2, start=probe, tolerance=10 * tolerance)
            value = label_metrics(logits(probe, x_held_out), labels[held_out])[choose_by]
            if best is None or value > best[0]:
                best = value, l2, probe
        _, best_l2, probe = best
        rows = rows._replace(weight=layout.put(np.ones(len(labels)), np.float32))
        probe = fit_on_mesh(rows, num_labels, best_l2, start=probe, tolerance=tolerance)
    scores = logits(probe, (test["h"] - mean) / std)
    if outcomes is not None:
        outcomes |= {"labels": np.asarray(test["labels"]), "scores": scores}
    return label_metrics(scores, test["labels"], label_names) | {
        "best_l2": float(best_l2),
        "l2_at_edge": float(num_l2 > 1 and best_l2 in (grid[0], grid[-1])),
        "gradient_norm": probe.gradient_norm,
    }


def check(known: Known, *, l2_min: float, l2_max: float, **options: Any) -> None:
    """Raises UserError if l2_min is above l2_max."""
    del known, options
    check_grid(l2_min, l2_max)


def measures(known: Known, **options: Any) -> tuple[str, ...]:
    """Names of the metrics."""
    del options
    return (*names_of_metrics(known.test), "best_l2", "l2_at_edge", "gradient_norm")


def check_grid(l2_min: float, l2_max: float) -> None:
    """Raises UserError if l2_min is above l2_max."""
    if l2_min > l2_max:
        raise UserError(f"eval.linear_labels.l2_min {l2_min} is above l2_max {l2_max}")


def hold_out(count: int, fraction: float, seed: int) -> np.ndarray:
    """Marks a random `fraction` of `count` examples, at least one and not all; bool [count].

    Raises:
      UserError: there are fewer than two examples.
    """
    if count < 2:
        raise UserError("the probe of labels needs at least two train examples")
    number = int(np.clip(round(fraction * count), 1, count - 1))
    held_out = np.zeros(count, bool)
    held_out[np.random.default_rng(seed).permutation(count)[:number]] = True
    return held_out


def standard(h: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of each feature, float32 [d]; infinite for constant ones."""
    mean, std = h.mean(axis=0, dtype=np.float64), h.std(axis=0, dtype=np.float64)
    std = np.where(std > 1e-6 * np.abs(mean), std, np.inf)
    return mean.astype(np.float32), std.astype(np.float32)


def sigmoid_residual(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """The gradient of sigmoid cross-entropies by their logits, [r k]; 0 for unknown labels."""
    return jnp.where(labels >= 0, jax.nn.sigmoid(logits) - labels, 0.0)


def logits(probe: linear.Probe, x: np.ndarray) -> np.ndarray:
    """Logits float64 [n k] of rescaled features [n d]."""
    return x.astype(np.float64) @ probe.kernel + probe.bias
