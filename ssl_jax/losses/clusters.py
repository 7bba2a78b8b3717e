"""Classification of views by the cluster of their image (DeepCluster v2, Caron et al. 2020).

    l = mean over clusterings h, images i and views v of -log softmax(C_h z_iv / t)[a_ih]

C_h are the centroids of clustering h and a_ih the cluster of image i in it.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Float, Int

from ssl_jax.core.arrays import Array, Scalar
from ssl_jax.core.batch_axes import ROWS, WHOLE, on_each_device
from ssl_jax.losses.self_distillation import prototype_logits
from ssl_jax.losses.tiles import check_temperature


def cluster_cross_entropy(
    embeddings: Float[Array, "n v d"],
    centroids: Float[Array, "h d k"],
    assignments: Int[Array, "n h"],
    *,
    temperature: Scalar = 0.1,
) -> tuple[Float[Array, ""], dict[str, Array]]:
    """Cross-entropy of all views with the clusters of their images.

    Logits are computed one view and clustering at a time, and again in the backward pass.

    Args:
      embeddings: z, [n v d], of norm 1; float32 or bfloat16.
      centroids: C, [h d k]; without gradient.
      assignments: a, int [n h].
      temperature: t > 0, a divisor.

    Returns:
      (loss, metrics): float32 [], and `cluster_accuracy`, the share of views whose nearest centroid
      is the one assigned to their image, 0 to 1.

    Raises:
      ValueError: the temperature is not positive.
    """
    check_temperature(temperature)

    def local(z: Array, centroids: Array, assignments: Array, temperature: Array):
        @jax.checkpoint
        def add(total: tuple[Array, Array], pair: tuple[Array, Array]):
            view, clustering = pair
            logits = prototype_logits(z[:, view], centroids[clustering]) / temperature  # (n, k)
            target = assignments[:, clustering]
            at_target = jnp.take_along_axis(logits, target[:, None], axis=1)[:, 0]
            loss = jax.nn.logsumexp(logits, axis=1) - at_target
            hit = jnp.argmax(logits, axis=1) == target
            return (total[0] + loss, total[1] + hit), None

        n, views = z.shape[:2]
        pairs = jnp.indices((views, len(centroids))).reshape(2, -1)
        total, _ = jax.lax.scan(add, (jnp.zeros(n), jnp.zeros(n)), tuple(pairs))
        return jax.tree.map(lambda x: x / len(pairs[0]), total)

    over_devices = on_each_device(local, (ROWS, WHOLE, ROWS, WHOLE), (ROWS, ROWS))
    centroids = jax.lax.stop_gradient(jnp.asarray(centroids))
    arrays = jnp.asarray(embeddings), centroids, jnp.asarray(assignments)
    losses, hits = over_devices(*arrays, jnp.asarray(temperature, jnp.float32))
    return jnp.mean(losses), {"cluster_accuracy": jnp.mean(hits)}
