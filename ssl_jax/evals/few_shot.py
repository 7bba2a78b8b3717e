"""Few-shot accuracy: logistic regression on k labels per class, over many draws of the labels.

Features of different encoders, or raw pixels, differ in width, scale and offset, so that a fixed
penalty on plain features would favour some of them. Therefore the mean of the (unlabelled) train
features is subtracted, and each example is divided by its norm. This is invariant to rotation,
scale and a common offset, needs no labels and has no parameters. The variances of single features
are not equalised: standardising border pixels, or whitening, amplifies directions that contain only
noise, and costs raw digits 4 to 20 points at one label per class. With this scaling one penalty
suits all features: accuracies change by less than a point between l2 = 0.1 and 0.01, for raw
pixels, principal components and random networks. Nothing is tuned.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np

from ssl_jax.config.fields import each, not_empty, not_negative, positive
from ssl_jax.core.errors import UserError
from ssl_jax.evals.known import Known
from ssl_jax.evals.metric import Metric

Array = jax.Array

NEEDS = ("label",)
METRICS = {
    "{shots:d}": Metric(
        "{shots}-shot",
        "few-shot accuracy",
        series="labels a class",
        sentence="accuracy of {model} with {number}",
    )
}
_FLOATS = 2**26  # float32 numbers of fits that run together, examples and logits: 256 MiB
_HIGHEST = jax.lax.Precision.HIGHEST
_LOG = logging.getLogger(__name__)


def evaluate(
    train: Mapping[str, np.ndarray],
    test: Mapping[str, np.ndarray],
    *,
    num_classes: int,
    seed: int = 0,
    devices: Sequence[jax.Device] | None = None,
    shots: Annotated[tuple[int, ...], each(positive), not_empty, "Numbers of labels per class."] = (
        1,
        2,
        4,
        8,
    ),
    draws: Annotated[int, positive, "Random label sets for each number of labels."] = 20,
    l2: Annotated[float, positive, "Penalty of the classifier, 1/C of scikit-learn."] = 0.1,
    max_iterations: Annotated[int, positive, "Maximum number of iterations of each fit."] = 2000,
    tolerance: Annotated[float, not_negative, "Gradient norm at which a fit stops."] = 1e-5,
) -> dict[str, float]:
    """Accuracy on test after fitting k labels per class of train, for each k in `shots`.

    The label sets depend only on the labels of train, the draw and the seed, so that all features
    are compared on the same label sets.

    Args:
      train, test: `h` float [n d], `label` int [n] in [0, num_classes).
      num_classes: number of classes c.
      seed: seed of the label sets.
      devices: the first device is used.
      shots: numbers k of labels per class. If a class of train has fewer than k labels, this k is
        left out with a warning.
      draws: number of label sets for each k.
      l2: penalty of the logistic regression, 1/C of scikit-learn, see `fit`.
      max_iterations, tolerance: see `fit`.

    Returns:
      "1", "2", ...: mean accuracy over the draws, and "1_std", ...: their standard deviation
      (n - 1 in the denominator; absent for a single draw).

    Raises:
      UserError: every k exceeds the labels of some class.
    """
    label = np.asarray(train["label"])
    classes = np.unique(label[label >= 0])
    possible, message = _possible(np.bincount(label[label >= 0]), shots)
    if message:
        _LOG.warning("%s and left out", message)
    drawn = np.stack([draw_labels(label, possible[-1], draw, seed) for draw in range(draws)])

    index = drawn.reshape(draws, -1)  # [draws classes*most]
    # All k are fitted in one call: smaller k have weight 0 on the examples they do not use.
    used = np.arange(drawn.shape[-1]) < np.asarray(possible)[:, None]  # [shots most]
    weight = np.tile(used, (1, len(classes))).astype(np.float32)  # [shots classes*most]

    # The number of fits that run together is limited by the memory of examples and logits.
    floats = index.shape[1] * (train["h"].shape[1] + num_classes) + len(test["h"]) * num_classes
    fits_at_a_time = int(np.clip(_FLOATS // floats, 1, draws * len(possible)))
    with jax.default_device(devices[0] if devices else None):
        mean = np.mean(train["h"], axis=0, dtype=np.float64).astype(np.float32)
        hits, gradient_norm = jax.device_get(
            _hits(
                _normalize(np.asarray(train["h"])[index], mean), label[index], weight,
                _normalize(test["h"], mean), test["label"], l2, tolerance,
                num_classes=num_classes, max_iterations=max_iterations,
                fits_at_a_time=fits_at_a_time,
            )
        )  # fmt: skip
    if gradient_norm.max() > 100 * tolerance:
        _LOG.warning(
            "few-shot: gradient norm %.1e after %d iterations", gradient_norm.max(), max_iterations
        )
    metrics = {}
    for k, over_draws in zip(possible, hits / len(test["h"]), strict=True):
        metrics[str(k)] = over_draws.mean()
        if draws > 1:
            metrics[f"{k}_std"] = over_draws.std(ddof=1)
    return metrics


def check(known: Known, *, shots: Sequence[int], **options: Any) -> str:
    """A note about numbers of labels that some class does not have.

    Raises:
      UserError: every k exceeds the labels of some class.
    """
    del options
    if known.train_counts is None:
        return ""
    message = _possible(known.train_counts, shots)[1]
    return f"{message} and left out" if message else ""


def measures(known: Known, *, shots: Sequence[int], **options: Any) -> tuple[str, ...]:
    """Names of the metrics: the possible k."""
    del options
    counts = known.train_counts
    return tuple(str(k) for k in (shots if counts is None else _possible(counts, shots)[0]))


def _possible(counts: np.ndarray, shots: Sequence[int]) -> tuple[list[int], str]:
    """Returns the possible k, sorted, and a message about those that are not possible."""
    classes = np.flatnonzero(counts)
    rarest = classes[counts[classes].argmin()]
    possible = sorted({k for k in shots if k <= counts[rarest]})
    if len(possible) == len(set(shots)):
        return possible, ""
    message = (
        f"few-shot: class {rarest} has only {counts[rarest]} labelled train examples; shots "
        f"{sorted(set(shots) - set(possible))} are impossible"
    )
    if not possible:
        raise UserError(message)
    return possible, message


def draw_labels(label: np.ndarray, shots: int, draw: int, seed: int) -> np.ndarray:
    """Indices of `shots` examples of each class that occurs, int64 [classes shots].

    The result depends only on the arguments. It is nested: the examples for k shots are the first k
    examples for a larger number. Examples with label -1 are never drawn.
    """
    order = np.random.default_rng([seed, draw]).permutation(len(label))
    order = order[label[order] >= 0]
    order = order[np.argsort(label[order], kind="stable")]  # by class, shuffled within
    _, first = np.unique(label[order], return_index=True)
    return order[first[:, None] + np.arange(shots)]


def fit(
    x: Array,
    label: Array,
    weight: Array,
    l2: float,
    *,
    num_classes: int,
    max_iterations: int,
    tolerance: float,
) -> tuple[Array, Array, Array]:
    """Multinomial logistic regression: min_W,b sum_i w_i CE(W^T x_i + b, y_i) + (l2 / 2) ||W||^2.

    Nesterov's method with restarts (O'Donoghue & Candes 2015), in the metric of a fixed bound on
    the Hessian: for centred x, with lambda the largest eigenvalue of x^T x, the bound is
    lambda / 2 + l2 for W and n / 2 for b (Boehning 1992). So no line search is needed, and many
    problems can be solved together under vmap.

    Args:
      x: float32 [n d].
      label: int [n].
      weight: float32 [n], 0 or 1.
      l2: penalty, > 0.
      num_classes: number of classes c.
      max_iterations: maximum number of iterations.
      tolerance: stops when the gradient norm of the objective, divided by n, falls below it.

    Returns:
      kernel [d c], bias [c] and the gradient norm divided by n [].
    """
    n = weight.sum()
    mean = jnp.einsum("nd,n->d", x, weight, precision=_HIGHEST) / n
    x = weight[:, None] * (x - mean)
    target = jax.nn.one_hot(label, num_classes)
    step_w = 1.0 / (
        0.5 * 1.05 * _largest_eigenvalue(x) + l2
    )  # 5% for the error of the power method
    step_b = 2.0 / n

    def gradient(kernel: Array, bias: Array) -> tuple[Array, Array]:
        logits = jnp.einsum("nd,dc->nc", x, kernel, precision=_HIGHEST) + bias
        residual = weight[:, None] * (jax.nn.softmax(logits) - target)
        kernel_part = jnp.einsum("nd,nc->dc", x, residual, precision=_HIGHEST)
        return kernel_part + l2 * kernel, residual.sum(axis=0)

    def improve(state):
        (kernel, bias), (lookahead_w, lookahead_b), momentum, _, iteration = state
        grad_w, grad_b = gradient(lookahead_w, lookahead_b)
        new_w, new_b = lookahead_w - step_w * grad_w, lookahead_b - step_b * grad_b
        move_w, move_b = new_w - kernel, new_b - bias
        uphill = jnp.vdot(grad_w, move_w) + jnp.vdot(grad_b, move_b) > 0
        momentum = jnp.where(uphill, 1.0, momentum)
        next_momentum = 0.5 + jnp.sqrt(0.25 + momentum**2)
        beta = (momentum - 1.0) / next_momentum
        lookahead = (new_w + beta * move_w, new_b + beta * move_b)
        norm = jnp.sqrt(jnp.sum(grad_w**2) + jnp.sum(grad_b**2)) / n
        # When done, return the point at which the gradient was computed.
        done = norm < tolerance
        best = (jnp.where(done, lookahead_w, new_w), jnp.where(done, lookahead_b, new_b))
        return best, lookahead, next_momentum, norm, iteration + 1

    def unfinished(state):
        *_, norm, iteration = state
        return (norm >= tolerance) & (iteration < max_iterations)

    start = (jnp.zeros((x.shape[1], num_classes)), jnp.zeros(num_classes))
    state = (start, start, jnp.ones(()), jnp.full((), jnp.inf), jnp.zeros((), jnp.int32))
    (kernel, bias), _, _, norm, _ = jax.lax.while_loop(unfinished, improve, state)
    bias = bias - jnp.einsum("d,dc->c", mean, kernel, precision=_HIGHEST)
    return kernel, bias, norm


@functools.partial(jax.jit, static_argnames=("num_classes", "max_iterations", "fits_at_a_time"))
def _hits(
    x: Array,
    label: Array,
    weight: Array,
    test_x: Array,
    test_label: Array,
    l2: float,
    tolerance: float,
    *,
    num_classes: int,
    max_iterations: int,
    fits_at_a_time: int,
) -> tuple[Array, Array]:
    """Correct test predictions and gradient norm, [shots draws], of a fit for each k and draw.

    Args:
      x: [draws n d].
      label: [draws n].
      weight: [shots n].
      test_x, test_label: [m d] and [m].
      l2, tolerance, num_classes, max_iterations: see `fit`.
      fits_at_a_time: number of fits that run together.
    """

    def fit_problem(problem: tuple[Array, Array]) -> tuple[Array, Array]:
        shot, draw = problem
        kernel, bias, norm = fit(
            x[draw], label[draw], weight[shot], l2,
            num_classes=num_classes, max_iterations=max_iterations, tolerance=tolerance,
        )  # fmt: skip
        logits = jnp.einsum("md,dc->mc", test_x, kernel, precision=_HIGHEST) + bias
        return jnp.sum(jnp.argmax(logits, axis=1) == test_label), norm

    grid = weight.shape[0], x.shape[0]
    shot, draw = (index.ravel() for index in jnp.indices(grid))
    hits, norm = jax.lax.map(fit_problem, (shot, draw), batch_size=fits_at_a_time)
    return hits.reshape(grid), norm.reshape(grid)


@jax.jit
def _normalize(x: Array, mean: Array) -> Array:
    """Subtracts the mean and divides each row of [... d] by its norm, float32."""
    x = x.astype(jnp.float32) - mean
    norm = jnp.linalg.norm(x, axis=-1, keepdims=True)
    return x / jnp.where(norm > 0, norm, 1.0)


def _largest_eigenvalue(x: Array, iterations: int = 30) -> Array:
    """A lower bound of the largest eigenvalue of x^T x within a few percent: power method."""

    def multiply(_, v: Array) -> Array:
        v = jnp.einsum("nd,d->n", x, v, precision=_HIGHEST)
        v = jnp.einsum("nd,n->d", x, v, precision=_HIGHEST)
        return v / jnp.maximum(jnp.linalg.norm(v), jnp.finfo(v.dtype).tiny)

    start = jax.random.normal(jax.random.key(0), x.shape[1:])
    v = jax.lax.fori_loop(0, iterations, multiply, start)
    xv = jnp.einsum("nd,d->n", x, v, precision=_HIGHEST)
    return jnp.sum(xv**2)
