"""Linear probe: multinomial logistic regression on frozen features, by L-BFGS.

The objective, over weights W [d c] and an unpenalised bias b [c], is

    sum_i cross_entropy(W^T x_i + b, y_i) + (l2 / 2) ||W||^2

(l2 = 1/C of scikit-learn). As in SimCLR (Chen et al. 2020, App. B.8) l2 is chosen among log-spaced
values in [1e-6, 1e5] (45 values there), and the probe is then fitted again on the whole train
split. The value is chosen by accuracy on held-out examples of *train*; the test split is scored
once, at the end.

The rows of the features are split over the devices: those of all processes if there are enough
rows. Each process then needs only the features that it computed itself (SPLIT). Each step sends W
to the devices and the gradient, summed over all of them, back to the host, where L-BFGS runs in
float64. With several processes all do the same steps, from equal gradients; their hosts have to be
of one kind, so that their float64 arithmetic is equal too. Matmuls are float32 at the highest
precision.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from ssl_jax import parallel
from ssl_jax.config.fields import not_negative, open_fraction, positive
from ssl_jax.core.errors import UserError
from ssl_jax.evals.known import Known
from ssl_jax.evals.lbfgs import minimise
from ssl_jax.evals.metric import Metric
from ssl_jax.evals.scores import mean_per_class, measured_ranks, of_logits, shared_mesh
from ssl_jax.evals.split_rows import Layout, SplitRows

Array = jax.Array

NEEDS = ("label",)
SPLIT = True
METRICS = {
    "top1": Metric(
        "linear",
        "accuracy of a linear classifier",
        sentence="accuracy of {model} with a linear classifier",
    ),
    "top5": Metric("linear top-5", "top-5 accuracy of a linear classifier", shown=False),
    "mean_class": Metric(
        "linear, mean of classes", "accuracy of a linear classifier, mean of classes", shown=False
    ),
    "val_top1": Metric("linear, held out of train", shown=False),
    "best_l2": Metric("penalty", unit="", better=None, shown=False),
    "l2_at_edge": Metric("penalty at the end of its grid", unit="", better=None, shown=False),
    "gradient_norm": Metric("gradient norm", unit="", better="lower", shown=False),
}
_LOGITS = 2**23  # logits in a block on a device: 32 MiB of float32
_HIGHEST = jax.lax.Precision.HIGHEST


class Rows(NamedTuple):
    """Examples on the devices, in blocks of r rows; the blocks are split over the mesh."""

    x: Array  # [blocks r d] float32
    label: Array  # [blocks r] int32, or [blocks r k] of several labels an example
    weight: Array  # [blocks r] float32; 0 for padding and excluded rows


class Probe(NamedTuple):
    """A fitted probe, for features rescaled like those it was fitted on."""

    kernel: np.ndarray  # [d c] float64
    bias: np.ndarray  # [c] float64
    gradient_norm: float  # of the objective divided by the number of rows
    evaluations: int  # of the gradient: passes over the data


def evaluate(
    train: Mapping[str, Any],
    test: Mapping[str, Any],
    *,
    num_classes: int,
    seed: int = 0,
    devices: Sequence[jax.Device] | None = None,
    outcomes: dict[str, np.ndarray] | None = None,
    l2_min: Annotated[float, positive, "Weakest penalty of the grid."] = 1e-6,
    l2_max: Annotated[float, positive, "Strongest penalty of the grid."] = 1e5,
    num_l2: Annotated[int, positive, "Penalties of the grid, log-spaced."] = 12,
    val_fraction: Annotated[
        float, open_fraction, "Share of train that is held out to choose the penalty."
    ] = 0.2,
    standardize: Annotated[bool, "Divide features by their standard deviations."] = True,
    max_iterations: Annotated[
        int, positive, "Maximum number of L-BFGS iterations of each fit."
    ] = 200,
    tolerance: Annotated[float, not_negative, "Gradient norm at which the last fit stops."] = 1e-5,
) -> dict[str, float]:
    """Fits the probe on train and scores it on test.

    Args:
      train, test: `h` float [n d], whole or `SplitRows`, and `label` int [n] in [0, num_classes),
        whole on every process.
      num_classes: number of classes.
      seed: seed of the held-out part of train.
      devices: devices over which the features are split, see `shared_mesh`.
      outcomes: gets the entries `label` and `predicted`, int [n], of test.
      l2_min, l2_max, num_l2: the log-spaced grid. Fits go from strong to weak regularisation, and
        each fit starts from the previous one.
      val_fraction: share of train that is held out to choose l2, the same in each class.
      standardize: divide each feature by its standard deviation over the examples of the fit.
        Features are always centred; the bias compensates for this.
      max_iterations: maximum number of L-BFGS iterations of each fit.
      tolerance: the last fit stops when `Probe.gradient_norm` falls below it, the other fits at ten
        times this value.

    Returns:
      `top1`, `top5` (with more than five classes) and `mean_class`, the mean of the classes'
      accuracies, on test; `best_l2`, `val_top1` and
      `l2_at_edge` (1 if the best value is an end of the grid: widen it); `gradient_norm` of the
      last fit. Among values of l2 with equal `val_top1` the one with the lowest cross-entropy on
      the held-out examples is chosen.

    Raises:
      UserError: an option is out of range, or nothing can be held out.
    """
    _check_grid(l2_min, l2_max)
    grid = np.geomspace(l2_max, l2_min, num_l2)
    held_out = hold_out(train["label"], val_fraction, seed)
    is_split = isinstance(train["h"], SplitRows)
    mesh = shared_mesh(None if is_split else len(train["h"]), devices)
    fit_on_mesh = functools.partial(fit, mesh=mesh, max_iterations=max_iterations)

    with jax.set_mesh(mesh):
        layout = layout_of(train["h"], num_classes, mesh)
        rows = place(train["h"], train["label"], ~held_out, layout)
        selection_moments = moments(rows, standardize=standardize)
        rows = rows._replace(x=rescale(rows.x, *selection_moments))
        held_out_rows = rows._replace(weight=layout.put(held_out, np.float32))
        best, probe = None, None
        for l2 in grid:
            probe = fit_on_mesh(rows, num_classes, l2, start=probe, tolerance=10 * tolerance)
            val = score(probe, held_out_rows, mesh=mesh)
            value = (val["top1"], -val["cross_entropy"])
            if best is None or value > best[0]:
                best = (value, l2, probe)
        (val_top1, _), best_l2, probe = best

        # Fit again on all of train, starting from the best probe. Rescale the rescaled features, so
        # that the devices hold only one copy of them.
        rows = rows._replace(weight=layout.put(np.ones(len(held_out)), np.float32))
        refit_moments = moments(rows, standardize=standardize)
        rows = rows._replace(x=rescale(rows.x, *refit_moments))
        probe = fit_on_mesh(rows, num_classes, best_l2, start=probe, tolerance=tolerance)
        del rows, held_out_rows

        layout = layout_of(test["h"], num_classes, mesh)
        test_rows = place(test["h"], test["label"], np.ones(len(test["h"])), layout)
        x = rescale(rescale(test_rows.x, *selection_moments), *refit_moments)
        measured = score(probe, test_rows._replace(x=x), mesh=mesh)
        predicted = predictions(probe, test_rows._replace(x=x), layout)
    if probe.gradient_norm > 1e-3:
        logging.getLogger(__name__).warning(
            "linear probe: gradient norm %.1e after %d iterations; raise max_iterations",
            probe.gradient_norm,
            max_iterations,
        )
    del measured["cross_entropy"]
    label = np.asarray(test["label"])
    measured["mean_class"] = mean_per_class(predicted == label, label)
    if outcomes is not None:
        outcomes |= {"label": label, "predicted": predicted}
    return measured | {
        "best_l2": float(best_l2),
        "val_top1": val_top1,
        "l2_at_edge": float(num_l2 > 1 and best_l2 in (grid[0], grid[-1])),
        "gradient_norm": probe.gradient_norm,
    }


def check(known: Known, *, l2_min: float, l2_max: float, **options: Any) -> None:
    """Raises UserError if l2_min is above l2_max, or nothing can be held out of train."""
    del options
    _check_grid(l2_min, l2_max)
    if known.train_counts is not None:
        _check_counts(known.train_counts)


def measures(known: Known, **options: Any) -> tuple[str, ...]:
    """Names of the metrics that `evaluate` returns."""
    del options
    return measured_ranks(METRICS, known.num_classes)


def _check_grid(l2_min: float, l2_max: float) -> None:
    if l2_min > l2_max:
        raise UserError(f"eval.linear.l2_min {l2_min} is above l2_max {l2_max}")


def _check_counts(counts: np.ndarray) -> None:
    if counts.max(initial=0) < 2:
        raise UserError("the linear probe needs a class with at least two train examples")


def hold_out(label: np.ndarray, fraction: float, seed: int) -> np.ndarray:
    """Marks about `fraction` of each class at random; bool [n].

    The result depends only on the arguments. A class of one example is not held out.

    Raises:
      UserError: the fraction is outside (0, 1), or no class has two examples.
    """
    if not 0 < fraction < 1:
        raise UserError(f"eval.linear.val_fraction is {fraction}; it must be between 0 and 1")
    label = np.asarray(label)
    order = np.random.default_rng(seed).permutation(len(label))
    order = order[np.argsort(label[order], kind="stable")]  # by class, shuffled within
    _, first, count = np.unique(label[order], return_index=True, return_counts=True)
    index_in_class = np.arange(len(label)) - np.repeat(first, count)
    num_held_out = np.where(count > 1, np.clip(np.round(fraction * count), 1, count - 1), 0)
    held_out = np.zeros(len(label), bool)
    held_out[order[index_in_class < np.repeat(num_held_out, count)]] = True
    _check_counts(np.bincount(label))
    return held_out


def fit(
    rows: Rows,
    num_classes: int,
    l2: float,
    *,
    mesh: Mesh,
    start: Probe | None = None,
    max_iterations: int = 200,
    tolerance: float = 1e-5,
    residual: Callable[[Array, Array], Array] | None = None,
) -> Probe:
    """Minimises the objective of the module's docstring, divided by the sum of the weights.

    Args:
      rows: centred features, for which bias and weights are nearly independent problems.
      num_classes: number of classes c.
      l2: penalty, 1/C of scikit-learn.
      mesh: the mesh of the rows.
      start: initial probe; default: zeros.
      max_iterations, tolerance: see `minimise`.
      residual: (logits [r c], labels) -> the gradient [r c] of the loss of each row by its logits;
        None: `softmax_residual`, that of cross-entropy.
    """
    residual = residual or softmax_residual
    d = rows.x.shape[-1]
    n = float(parallel.gather(jnp.sum(rows.weight)))

    def gradient(parameters: np.ndarray) -> np.ndarray:
        kernel, bias = np.split(parameters, [d * num_classes])
        kernel = kernel.reshape(d, num_classes)
        kernel_part, bias_part = jax.device_get(
            _gradient(
                kernel.astype(np.float32),
                bias.astype(np.float32),
                rows,
                mesh=mesh,
                residual=residual,
            )
        )
        return np.concatenate([(kernel_part + l2 * kernel).ravel(), bias_part]) / n

    if start is None:
        start = Probe(np.zeros((d, num_classes)), np.zeros(num_classes), np.inf, 0)
    minimum = minimise(
        gradient,
        np.concatenate([start.kernel.ravel(), start.bias]),
        tolerance=tolerance,
        max_iterations=max_iterations,
    )
    kernel, bias = np.split(minimum.x, [d * num_classes])
    return Probe(kernel.reshape(d, num_classes), bias, minimum.gradient_norm, minimum.evaluations)


def score(probe: Probe, rows: Rows, *, mesh: Mesh) -> dict[str, float]:
    """Weighted mean of `top1`, `top5` (with more than five classes) and `cross_entropy`.

    If logits are equal, the lower class ranks first.
    """
    kernel, bias = probe.kernel.astype(np.float32), probe.bias.astype(np.float32)
    top1, top5, loss, count = (
        part.sum(dtype=np.float64)
        for part in parallel.gather(_hits(kernel, bias, rows, mesh=mesh))
    )  # fmt: skip
    measured = {"top1": top1, "top5": top5, "cross_entropy": loss}
    if len(bias) <= 5:
        del measured["top5"]
    return {name: float(total / count) for name, total in measured.items()}


def predictions(probe: Probe, rows: Rows, layout: Layout) -> np.ndarray:
    """The classes with the largest logits, int32 [n]; the lowest of equal ones."""
    kernel, bias = probe.kernel.astype(np.float32), probe.bias.astype(np.float32)
    return layout.restored(_predicted(kernel, bias, rows, mesh=layout.mesh))


def layout_of(h: np.ndarray | SplitRows, num_classes: int, mesh: Mesh) -> Layout:
    """The places of features [n d] on the devices, in blocks whose logits fit."""
    return Layout.of(h, mesh, int(np.clip(_LOGITS // num_classes, 128, 8192)))


def place(h: np.ndarray | SplitRows, label: np.ndarray, weight: np.ndarray, layout: Layout) -> Rows:
    """Puts examples on the devices; padding has weight 0.

    Args:
      h: features [n d].
      label: [n], or [n k] of several labels an example.
      weight: [n].
      layout: of `h`, see `layout_of`.
    """
    return Rows(
        layout.put(h, np.float32), layout.put(label, np.int32), layout.put(weight, np.float32)
    )


@functools.partial(jax.jit, static_argnames="standardize")
def moments(rows: Rows, *, standardize: bool) -> tuple[Array, Array]:
    """Weighted mean [d] and standard deviation [d] of the features.

    Without `standardize` the deviation is 1. For constant features, whose deviation is only
    rounding error, it is infinite, so that `rescale` sets them to 0 instead of amplifying noise.
    """
    n = jnp.sum(rows.weight)
    weight = rows.weight[..., None]  # [blocks r 1]
    mean = jnp.sum(weight * rows.x, axis=(0, 1)) / n
    if not standardize:
        return mean, jnp.ones_like(mean)
    variance = jnp.sum(weight * jnp.square(rows.x - mean), axis=(0, 1)) / n
    std = jnp.sqrt(variance)
    return mean, jnp.where(std > 1e-6 * jnp.abs(mean), std, jnp.inf)


@functools.partial(jax.jit, donate_argnums=0)
def rescale(x: Array, mean: Array, std: Array) -> Array:
    """(x - mean) / std, in the buffer of x."""
    return (x - mean) / std


def softmax_residual(logits: Array, label: Array) -> Array:
    """The gradient of cross-entropies by their logits, [r c]."""
    return jax.nn.softmax(logits) - jax.nn.one_hot(label, logits.shape[-1])


@functools.partial(jax.jit, static_argnames=("mesh", "residual"))
def _gradient(
    kernel: Array,
    bias: Array,
    rows: Rows,
    *,
    mesh: Mesh,
    residual: Callable[[Array, Array], Array],
) -> tuple[Array, Array]:
    """Gradient of the weighted sum of losses, [d c] and [c].

    The gradient is written out instead of using automatic differentiation, so that only the logits
    of one block are stored at a time and gradients are summed over devices once.
    """

    def local(kernel: Array, bias: Array, rows: Rows) -> tuple[Array, Array]:
        def block(total: tuple[Array, Array], rows: Rows):
            logits = jnp.einsum("rd,dc->rc", rows.x, kernel, precision=_HIGHEST) + bias
            slope = rows.weight[:, None] * residual(logits, rows.label)  # [r c]
            kernel_part = jnp.einsum("rd,rc->dc", rows.x, slope, precision=_HIGHEST)
            return (total[0] + kernel_part, total[1] + slope.sum(axis=0)), None

        zero = (jnp.zeros_like(kernel), jnp.zeros_like(bias))
        total, _ = jax.lax.scan(block, zero, rows)
        return jax.lax.psum(total, "rows")

    return jax.shard_map(
        local,
        mesh=mesh,
        in_specs=(P(), P(), P("rows")),
        out_specs=(P(), P()),
        check_vma=False,  # the scan starts from zeros that are equal on all devices
    )(kernel, bias, rows)


@functools.partial(jax.jit, static_argnames="mesh")
def _hits(kernel: Array, bias: Array, rows: Rows, *, mesh: Mesh) -> tuple[Array, ...]:
    """Weighted sums by block: top-1 hits, top-5 hits, cross-entropy, weight."""

    def block(rows: Rows):
        logits = jnp.einsum("rd,dc->rc", rows.x, kernel, precision=_HIGHEST) + bias
        sums = of_logits(logits, rows.label, rows.weight)
        return (*sums, jnp.sum(rows.weight))

    return jax.shard_map(
        lambda rows: jax.lax.map(block, rows), mesh=mesh, in_specs=P("rows"), out_specs=P("rows")
    )(rows)


@functools.partial(jax.jit, static_argnames="mesh")
def _predicted(kernel: Array, bias: Array, rows: Rows, *, mesh: Mesh) -> Array:
    """The class with the largest logit, int32 [blocks r]."""

    def block(rows: Rows) -> Array:
        logits = jnp.einsum("rd,dc->rc", rows.x, kernel, precision=_HIGHEST) + bias
        return jnp.argmax(logits, axis=1).astype(jnp.int32)

    return jax.shard_map(
        lambda rows: jax.lax.map(block, rows), mesh=mesh, in_specs=P("rows"), out_specs=P("rows")
    )(rows)
