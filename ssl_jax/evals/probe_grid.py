"""Chooses among the probes of a run of `probe_grid`, and scores the chosen ones.

All probes are scored on the examples that the run held out of its training split, none of which
they have learned from. The best of each output of the encoder, and the best of all, are then scored
on the test split, in one pass; no other probe ever sees it. Both passes stream the images: sums
over batches are all that reaches the host.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ssl_jax import data, parallel
from ssl_jax.core.errors import UserError
from ssl_jax.core.method import Batch, DataSpec, Method, Weights
from ssl_jax.evals import tokens
from ssl_jax.evals.known import Known
from ssl_jax.evals.metric import Metric
from ssl_jax.evals.model import Model
from ssl_jax.evals.scores import measured_ranks, of_logits
from ssl_jax.methods.probe_grid import ProbeGrid, is_held_out

NEEDS = ("label",)
FITS = False  # the run has fitted the probes; what is held out is a part of data.split
OF_RUN_CLASSES = True
METRICS = {
    "top1": Metric(
        "best probe",
        "accuracy of the best probe of the grid",
        sentence="accuracy of {model} with the best probe of the grid",
    ),
    "top5": Metric("best probe top-5", "top-5 accuracy of the best probe", shown=False),
    "val_top1": Metric("best probe, held out of train", shown=False),
    "best_learning_rate": Metric("learning rate", unit="", better=None, shown=False),
    "best_weight_decay": Metric("weight decay", unit="", better=None, shown=False),
    "rate_at_edge": Metric("rate at the end of its grid", unit="", better=None, shown=False),
    "diverged": Metric("diverged probes", unit="", better=None, shown=False),
    "test_{feature:w}": Metric("{feature}", "accuracy of the best probe of {feature}"),
    "val_{feature:w}": Metric("{feature}, held out of train", shown=False),
    "head_{head:d}": Metric("probe {head}, held out of train", shown=False),
}
_Sums = dict[str, tuple[jax.Array, ...]]


def applies(method: Method, spec: DataSpec) -> bool:
    """Whether the method trains such probes."""
    del spec
    return isinstance(method, ProbeGrid)


def evaluate_model(model: Model, prober: Any) -> dict[str, float]:
    """Chooses the probes and scores them.

    Args:
      model: of a run of `probe_grid`.
      prober: provides the splits.

    Returns:
      Of the best probe: `top1` and `top5` (with more than five classes) on test, `val_top1` on the
      held-out examples, rate and decay, and `rate_at_edge` (1 if its rate is an end of the grid:
      widen it). `test_last1_cls`, ...: accuracy on test of the best probe of each output, and
      `val_last1_cls`, ... on the held-out examples. `head_0`, ...: accuracy of every probe on them,
      in the order of the outputs, then of rates, then of decays; absent for the `diverged` ones.
      Among probes with equal accuracy the one with the lowest cross-entropy is chosen.

    Raises:
      UserError: no held-out example has a label, or all probes have diverged.
    """
    method: ProbeGrid = model.method
    source = training_source(prober)
    held_out = np.flatnonzero(is_held_out(np.arange(len(source)), method.hyper.val_fraction))
    no_label = "no example that probe_grid holds out of the training split has a label"
    val = _scores(method, model.weights, prober.batches(source, held_out), no_label)
    chosen = {}
    for feature, (top1, _, loss) in val.items():
        finite = np.flatnonzero(np.isfinite(loss))
        if len(finite):
            chosen[feature] = int(max(finite, key=lambda i: (top1[i], -loss[i])))
    if not chosen:
        raise UserError("all probes have diverged; lower method.learning_rates")
    best = max(chosen, key=lambda name: (val[name][0][chosen[name]], -val[name][2][chosen[name]]))

    no_label = "no example of the test split has a label"
    # Of an output whose probes have all diverged any one; it is not reported.
    weights = method.only(model.weights, dict.fromkeys(val, 0) | chosen)
    test = _scores(method, weights, prober.batches(prober.test), no_label)
    head = method.heads(best)[chosen[best]]
    rates = [other.learning_rate for other in method.heads(best)]
    finite = {f: np.isfinite(loss) for f, (_, _, loss) in val.items()}
    measured = {
        "top1": test[best][0][0],
        "top5": test[best][1][0],
        "val_top1": val[best][0][chosen[best]],
        "best_learning_rate": head.learning_rate,
        "best_weight_decay": head.weight_decay,
        "rate_at_edge": min(rates) < max(rates) and head.learning_rate in (min(rates), max(rates)),
        "diverged": sum(int((~ok).sum()) for ok in finite.values()),
    }
    measured = {name: measured[name] for name in measured_ranks(measured, prober.num_classes)}
    for feature, i in chosen.items():
        name = feature.replace("/", "_")
        measured |= {f"test_{name}": test[feature][0][0], f"val_{name}": val[feature][0][i]}
    of_heads = np.concatenate([top1 for top1, _, _ in val.values()])
    usable = np.concatenate(list(finite.values()))
    measured |= {f"head_{i}": of_heads[i] for i in np.flatnonzero(usable)}
    return {name: float(value) for name, value in measured.items()}


def measures(known: Known) -> tuple[str, ...]:
    """Names of the metrics that `evaluate_model` returns, without those of single outputs."""
    return measured_ranks([name for name in METRICS if "{" not in name], known.num_classes)


def training_source(prober: Any) -> data.Source:
    """The training split of the run as evaluation reads it, with the numbers of its examples."""
    section = prober.config.data
    source = prober.source(section.split)
    few = data.FewLabels.of(section)
    return source if few is None else few.select(source)


def _scores(
    method: ProbeGrid, w: Weights, batches: Iterable[Any], no_label: str
) -> dict[str, list[np.ndarray]]:
    """Means of top1, top5 and cross-entropy by output, float64 [g] each, of its g probes.

    The cross-entropy of a probe with a logit that is not finite is infinite.
    """
    score = jax.jit(functools.partial(_sums, method))
    parts: list[_Sums] = []
    for batch in batches:
        parts.append(parallel.gather(score(w, batch)))
    return {  # a jitted function returns them in the order of the alphabet
        feature: tokens.means([part[feature] for part in parts], no_label)
        for feature in method.hyper.features
    }


def _sums(method: ProbeGrid, w: Weights, batch: Batch) -> _Sums:
    """Sums over a batch by output: top-1 hits, top-5 hits and cross-entropy [g]; weight []."""
    inputs = {name: array for name, array in batch.items() if name != "mask"}
    label = batch["label"]
    weight = (batch["mask"] & (label >= 0)).astype(jnp.float32)
    sums = {}
    for feature, logits in method.head_logits(w, inputs).items():
        is_finite = jnp.isfinite(logits).all(axis=(0, 2))  # (g,)
        logits = jnp.where(is_finite[:, None], logits, 0.0)
        top1, top5, loss = jax.vmap(of_logits, in_axes=(1, None, None))(logits, label, weight)
        sums[feature] = (top1, top5, jnp.where(is_finite, loss, jnp.inf), jnp.sum(weight))
    return sums
