"""What methods share whose loss is the mean cross-entropy of predicted tokens."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

import jax.numpy as jnp

from ssl_jax.config.fields import not_negative
from ssl_jax.core.method import Array, Aux, PyTree

ChunkSize = Annotated[
    int,
    not_negative,
    "Tokens or pixels whose logits a device computes at a time, and again for the gradient; 0: of "
    "all of them at once, stored until then.",
]


def row_sums(weights: Array, losses: Array, hits: Array) -> dict[str, Array]:
    """Sums over each row, float32 [n]: `count` of targets, `loss` and `hits`.

    Args:
      weights: float32 [n l], 1 where there is a target, else 0.
      losses: float32 [n l], nats.
      hits: [n l], whether the target was predicted.
    """
    return {
        "count": weights.sum(axis=1),
        "loss": (weights * losses).sum(axis=1),
        "hits": (weights * hits).sum(axis=1),
    }


def mean_over_targets(sums: Mapping[str, Array], h: Array, buffers: PyTree) -> tuple[Array, Aux]:
    """The loss: the mean over the targets of all rows, with the share of hits as `accuracy`.

    Args:
      sums: of `row_sums`.
      h: float [n d], for the monitors.
      buffers: of the method, which do not change.
    """
    total = {name: sums[name].sum() for name in ("count", "loss", "hits")}
    count = jnp.maximum(total["count"], 1)
    metrics = {"accuracy": total["hits"] / count}
    return total["loss"] / count, Aux(buffers, metrics, {"h": h}, total["count"])
