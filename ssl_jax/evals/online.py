"""Online linear probe: a classifier trained during pretraining, without gradient to the encoder.

Its inputs are the features of the batch after a stop-gradient (as in SimCLR, Chen et al. 2020,
App. B.6). Features change in scale and direction while the encoder learns. They are standardised by
batch statistics (batch norm without scale and offset), so that one learning rate suits all
encoders: 0.1 / sqrt(d) with Adam. A step then changes a logit, a sum over d features of unit
variance, by about the same amount for every d.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax

Array = jax.Array
State = dict[str, Any]

_EPSILON = 1e-5  # of the variance, as in batch norm
_MOMENTUM = 0.99  # of the running statistics, which `predict` uses


def init(key: Array, dim: int, num_classes: int) -> State:
    """The initial state of the probe, a dict of arrays and the optimizer's state.

    Args:
      key: not used: initial weights are zero, so that all classes have equal probability.
      dim: width d of the features.
      num_classes: number of classes c.
    """
    del key
    params = {"kernel": jnp.zeros((dim, num_classes)), "bias": jnp.zeros(num_classes)}
    return {
        "params": params,
        "opt_state": _optimizer(dim).init(params),
        "mean": jnp.zeros(dim),
        "var": jnp.ones(dim),
        "seen": jnp.zeros((), jnp.int32),  # updates with a label in them
        "metrics": {"accuracy": jnp.zeros(()), "loss": jnp.log(jnp.float32(num_classes))},
    }


def update(state: State, h: Array, labels: Array) -> tuple[State, dict[str, Array]]:
    """One training step on a batch; a pure, jittable function for use in the train step.

    Args:
      state: from `init` or the previous update.
      h: features [n d], any float dtype; without gradient.
      labels: int [n]; examples with -1 (no label) are ignored.

    Returns:
      The next state and the metrics `accuracy` in [0, 1] and `loss` (mean cross-entropy, nats),
      float32 [], over the labelled examples, *before* the update. If no example has a label, the
      state does not change and the metrics are those of the previous batch.
    """
    h = jax.lax.stop_gradient(h).astype(jnp.float32)
    mean = h.mean(axis=0)
    var = jnp.square(h - mean).mean(axis=0)
    x = (h - mean) * jax.lax.rsqrt(var + _EPSILON)
    labelled = labels >= 0
    count = jnp.maximum(labelled.sum(), 1)

    def loss_fn(params: dict[str, Array]) -> tuple[Array, Array]:
        logits = _logits(params, x)
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, jnp.maximum(labels, 0))
        hits = jnp.argmax(logits, axis=1) == labels
        return jnp.where(labelled, losses, 0.0).sum() / count, (hits & labelled).sum() / count

    (loss, accuracy), grads = jax.value_and_grad(loss_fn, has_aux=True)(state["params"])
    updates, opt_state = _optimizer(h.shape[1]).update(grads, state["opt_state"], state["params"])
    # The statistics are plain averages over the first batches: no bias correction is needed.
    rate = jnp.maximum(1.0 / (state["seen"] + 1.0), 1.0 - _MOMENTUM)
    new_state = {
        "params": optax.apply_updates(state["params"], updates),
        "opt_state": opt_state,
        "mean": state["mean"] + rate * (mean - state["mean"]),
        "var": state["var"] + rate * (var - state["var"]),
        "seen": state["seen"] + 1,
        "metrics": {"accuracy": accuracy.astype(jnp.float32), "loss": loss},
    }
    any_labelled = labelled.any()
    state = jax.tree.map(lambda new, old: jnp.where(any_labelled, new, old), new_state, state)
    return state, state["metrics"]


def predict(state: State, h: Array) -> Array:
    """Logits [n c] of features [n d], standardised by the running statistics."""
    x = (h.astype(jnp.float32) - state["mean"]) * jax.lax.rsqrt(state["var"] + _EPSILON)
    return _logits(state["params"], x)


def _logits(params: dict[str, Array], x: Array) -> Array:
    return jnp.einsum("nd,dc->nc", x, params["kernel"]) + params["bias"]


def _optimizer(dim: int) -> optax.GradientTransformation:
    return optax.adam(0.1 / dim**0.5)
