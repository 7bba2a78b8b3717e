"""Few-shot accuracy: logistic regression on k labels per class, over many draws of the labels.

Features of different encoders, or raw pixels, differ in width, scale and offset; a fixed penalty
on plain features would favour some of them for that alone. So features are centred by the mean of
the (unlabelled) train features and each example is divided by its norm. This is invariant to
rotation, to scale and to a common offset, needs no label and has no parameter. It does not
equalise the variances of single features: standardising border pixels, or whitening, blows up
directions that carry nothing but noise, and costs raw digits 4 to 20 points at one label a class.
On this scale one penalty serves all: accuracies change by less than a point between l2 = 0.1 and
0.01, for raw pixels, principal components and random networks alike. Nothing is tuned.
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
METRICS = {"{shots:d}": Metric("{shots}-shot", "few-shot accuracy", series="labels a class")}
_FLOATS = 2**26  # of one batch of draws' examples and logits: 256 MiB
_HIGHEST = jax.lax.Precision.HIGHEST
_LOG = logging.getLogger(__name__)


def evaluate(
    train: Mapping[str, np.ndarray],
    test: Mapping[str, np.ndarray],
    *,
    num_classes: int,
    seed: int = 0,
    devices: Sequence[jax.Device] | None = None,
    shots: Annotated[
        tuple[int, ...], each(positive), not_empty, "Labels a class; a curve over several."
    ] = (1, 2, 4, 8),
    draws: Annotated[int, positive, "Label sets for each number of labels."] = 20,
    l2: Annotated[float, positive, "Penalty of the classifier, 1/C of scikit-learn."] = 0.1,
    max_iterations: Annotated[int, positive, "Of each fit."] = 2000,
    tolerance: Annotated[float, not_negative, "Gradient norm at which a fit ends."] = 1e-5,
) -> dict[str, float]:
    """Accuracy on test after fitting k labels a class of train, for each k in shots.

    The labels drawn depend on (labels of train, draw, seed) alone, so that all features are
    compared on the same draws.

    Args:
      train, test: `h` float [n d], `label` int [n] in [0, num_classes).
      num_classes: number of classes c.
      seed: of the label draws.
      devices: the first one computes.
      shots: labels a class. A k that some class of train cannot supply is left out, with a warning.
      draws: label sets for each k.
      l2: penalty of the logistic regression, 1/C of scikit-learn, see `fit`.
      max_iterations, tolerance: see `fit`.

    Returns:
      "1", "2", ...: mean accuracy over the draws, and "1_std", ...: their standard deviation
      (n - 1 in the denominator; absent for a single draw).

    Raises:
      UserError: no k is possible.
    """
    label = np.asarray(train["label"])
    classes = np.unique(label[label >= 0])
    possible, message = _possible(np.bincount(label[label >= 0]), shots)
    if message:
        _LOG.warning("%s and left out", message)
    drawn = np.stack([draw_labels(label, possible[-1], draw, seed) for draw in range(draws)])

    index = drawn.reshape(draws, -1)  # [draws classes*most]
    # All k are fitted in one call, those below the largest with weight 0 on what they leave out.
    taken = np.arange(drawn.shape[-1]) < np.asarray(possible)[:, None]  # [shots most]
    weight = np.tile(taken, (1, len(classes))).astype(np.float32)  # [shots classes*most]

    # As many fits side by side as their examples and logits leave room for.
    floats = index.shape[1] * (train["h"].shape[1] + num_classes) + len(test["h"]) * num_classes
    side_by_side = int(np.clip(_FLOATS // floats, 1, draws * len(possible)))
    with jax.default_device(devices[0] if devices else None):
        mean = np.mean(train["h"], axis=0, dtype=np.float64).astype(np.float32)
        hits, gradient_norm = jax.device_get(
            _hits(
                _normalize(np.asarray(train["h"])[index], mean), label[index], weight,
                _normalize(test["h"], mean), test["label"], l2, tolerance,
                num_classes=num_classes, max_iterations=max_iterations,
                side_by_side=side_by_side,
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
    """A note on those k of shots that some class cannot supply.

    Raises:
      UserError: no k is possible.
    """
    del options
    if known.train_counts is None:
        return ""
    message = _possible(known.train_counts, shots)[1]
    return f"{message} and left out" if message else ""


def measures(known: Known, *, shots: Sequence[int], **options: Any) -> tuple[str, ...]:
    """Names of its metrics: the possible k."""
    del options
    counts = known.train_counts
    return tuple(str(k) for k in (shots if counts is None else _possible(counts, shots)[0]))


def _possible(counts: np.ndarray, shots: Sequence[int]) -> tuple[list[int], str]:
    """Those k that every class with examples can supply, and which are left out, in words."""
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

    A function of its arguments alone, and nested: the examples for k shots are the first k
    of those for more. Examples with label -1 are never drawn.
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
    the Hessian: on centred x, with lambda the largest eigenvalue of x^T x, it is at most
    lambda / 2 + l2 for W and n / 2 for b (Boehning 1992). Steps then need no line search and many
    problems run side by side under vmap.

    Args:
      x: float32 [n d].
      label: int [n].
      weight: float32 [n], 0 or 1.
      l2: penalty, > 0.
      num_classes: number of classes c.
      max_iterations: at most.
      tolerance: ends when the norm of the objective's gradient over n falls below it.

    Returns:
      kernel [d c], bias [c] and that norm [].
    """
    n = weight.sum()
    mean = jnp.einsum("nd,n->d", x, weight, precision=_HIGHEST) / n
    x = weight[:, None] * (x - mean)
    target = jax.nn.one_hot(label, num_classes)
    step_w = 1.0 / (0.5 * 1.05 * _largest_eigenvalue(x) + l2)  # 5% for what the power method lacks
    step_b = 2.0 / n

    def gradient(kernel: Array, bias: Array) -> tuple[Array, Array]:
        logits = jnp.einsum("nd,dc->nc", x, kernel, precision=_HIGHEST) + bias
        residual = weight[:, None] * (jax.nn.softmax(logits) - target)
        kernel_part = jnp.einsum("nd,nc->dc", x, residual, precision=_HIGHEST)
        return kernel_part + l2 * kernel, residual.sum(axis=0)

    def improve(state):
        (kernel, bias), (ahead_w, ahead_b), momentum, _, iteration = state
        grad_w, grad_b = gradient(ahead_w, ahead_b)
        new_w, new_b = ahead_w - step_w * grad_w, ahead_b - step_b * grad_b
        move_w, move_b = new_w - kernel, new_b - bias
        uphill = jnp.vdot(grad_w, move_w) + jnp.vdot(grad_b, move_b) > 0
        momentum = jnp.where(uphill, 1.0, momentum)
        following = 0.5 + jnp.sqrt(0.25 + momentum**2)
        beta = (momentum - 1.0) / following
        ahead = (new_w + beta * move_w, new_b + beta * move_b)
        norm = jnp.sqrt(jnp.sum(grad_w**2) + jnp.sum(grad_b**2)) / n
        # At the tolerance the point whose gradient is known is the one to return.
        done = norm < tolerance
        kept = (jnp.where(done, ahead_w, new_w), jnp.where(done, ahead_b, new_b))
        return kept, ahead, following, norm, iteration + 1

    def unfinished(state):
        *_, norm, iteration = state
        return (norm >= tolerance) & (iteration < max_iterations)

    start = (jnp.zeros((x.shape[1], num_classes)), jnp.zeros(num_classes))
    state = (start, start, jnp.ones(()), jnp.full((), jnp.inf), jnp.zeros((), jnp.int32))
    (kernel, bias), _, _, norm, _ = jax.lax.while_loop(unfinished, improve, state)
    bias = bias - jnp.einsum("d,dc->c", mean, kernel, precision=_HIGHEST)
    return kernel, bias, norm


@functools.partial(jax.jit, static_argnames=("num_classes", "max_iterations", "side_by_side"))
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
    side_by_side: int,
) -> tuple[Array, Array]:
    """Test examples got right and gradient norm, [shots draws], of a fit for each weight and draw.

    Takes x [draws n d], label [draws n] and weight [shots n].
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
    hits, norm = jax.lax.map(fit_problem, (shot, draw), batch_size=side_by_side)
    return hits.reshape(grid), norm.reshape(grid)


@jax.jit
def _normalize(x: Array, mean: Array) -> Array:
    """Subtracts the mean and divides each row of [... d] by its norm, float32."""
    x = x.astype(jnp.float32) - mean
    norm = jnp.linalg.norm(x, axis=-1, keepdims=True)
    return x / jnp.where(norm > 0, norm, 1.0)


def _largest_eigenvalue(x: Array, iterations: int = 30) -> Array:
    """Of x^T x, by the power method; from below, within a few percent."""

    def multiply(_, v: Array) -> Array:
        v = jnp.einsum("nd,d->n", x, v, precision=_HIGHEST)
        v = jnp.einsum("nd,n->d", x, v, precision=_HIGHEST)
        return v / jnp.maximum(jnp.linalg.norm(v), jnp.finfo(v.dtype).tiny)

    start = jax.random.normal(jax.random.key(0), x.shape[1:])
    v = jax.lax.fori_loop(0, iterations, multiply, start)
    xv = jnp.einsum("nd,d->n", x, v, precision=_HIGHEST)
    return jnp.sum(xv**2)
