"""The importance-weighted bound of the log likelihood (Burda et al. 2015, Eq. 8).

    log p(x) >= E log 1/k sum_i p(x, z_i) / q(z_i|x),    z_1 ... z_k ~ q(z|x)

With k = 1 it is the evidence lower bound; it rises with k and converges to log p(x). Papers report
it with 5000 samples as the log likelihood. It is computed for methods with a posterior
(`log_weights`, see `ssl_jax.methods.vae`).
"""

from __future__ import annotations

import functools
import math
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np

from ssl_jax.config.fields import between, positive
from ssl_jax.core.method import DataSpec, Method
from ssl_jax.evals.metric import Metric
from ssl_jax.evals.model import Model

NEEDS = ()
FITS = False
METRICS = {
    "bound": Metric("IWAE", "importance-weighted bound of the log likelihood", "nats"),
    "samples": Metric("samples", unit="", better=None, shown=False),
}


def applies(method: Method, spec: DataSpec) -> bool:
    """Whether the method has a posterior of latents."""
    del spec
    return hasattr(method, "log_weights")


def evaluate_model(
    model: Model,
    prober: Any,
    *,
    seed: int = 0,
    num_samples: Annotated[
        int, between(1, 10_000_000), "Samples of the posterior of each image."
    ] = 100,
    at_a_time: Annotated[int, positive, "Samples that are decoded at a time."] = 10,
    max_examples: Annotated[
        int, positive, "Maximum number of test examples, evenly spaced."
    ] = 10_000,
) -> dict[str, float]:
    """The bound on the test split.

    Args:
      model: its method has `log_weights`.
      prober: provides the split.
      seed: seed of the samples. They do not depend on `at_a_time` being larger than the rest.
      num_samples: k.
      at_a_time: limits the memory: so many images are decoded for each example of a batch.
      max_examples: of the test split.

    Returns:
      `bound`, the mean over images, nats, and `samples`, k.
    """
    log_weights = jax.jit(model.method.log_weights, static_argnames="count")
    keys_of = jax.jit(jax.vmap(functools.partial(jax.random.fold_in, jax.random.key(seed))))

    def encode(batch: Any) -> dict[str, jax.Array]:
        keys, total = keys_of(batch["index"]), -math.inf
        for first in range(0, num_samples, at_a_time):
            count = min(at_a_time, num_samples - first)
            weights = log_weights(model.weights, keys, batch, first, count=count)
            total = jnp.logaddexp(total, jax.nn.logsumexp(weights, axis=0))
        return {"bound": total - math.log(num_samples)}

    rows = prober.features(encode, prober.test, prober.evenly(prober.test, max_examples))
    return {
        "bound": float(np.mean(rows["bound"], dtype=np.float64)),
        "samples": float(num_samples),
    }
