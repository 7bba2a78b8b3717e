"""Self-distillation without labels: the student predicts the teacher's prototypes (DINO).

    q_i = softmax((W' u'_i - c) / t')       for each view i of the teacher, no gradient
    p_j = softmax(W u_j / t)                for each view j of the student
    l   = mean over pairs i != j of -sum_k q_ik log p_jk        Caron et al. 2021, Eq. 3

u are the unit vectors that enter the last layer W, and c is the centre, a moving average of the
teacher's outputs W' u' (Eq. 4).

There are up to 65,536 prototypes k, so outputs are the largest arrays of a step. The teacher's
softmax is computed once for each of its views. The student's outputs are computed one view at a
time, compared with the sum of their targets, and computed again in the backward pass. No array has
a row for each pair, or for each of the student's views.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from ssl_jax.core.batch_axes import ROWS, WHOLE, on_each_device
from ssl_jax.losses.tiles import check_temperature, product

Array = jax.Array


def prototype_logits(embeddings: Array, prototypes: Array) -> Array:
    """Outputs of the last layer, [... d] times [d k]: float32 [... k].

    bfloat16 embeddings are multiplied in bfloat16 and accumulated in float32.
    """
    return product("dk,...d->...k", prototypes, embeddings)


def centred_targets(logits: Array, centre: Array, *, temperature: float | Array) -> Array:
    """The teacher's targets q, centred and sharpened, without gradient (DINO, Sec. 3.1).

    Args:
      logits: the teacher's outputs [n g k], any float dtype.
      centre: c, float32 [k].
      temperature: t' > 0, a divisor.

    Returns:
      float32 [n g k], rows summing to 1.

    Raises:
      ValueError: the shapes do not fit, or the temperature is not positive.
    """
    check_temperature(temperature)
    if logits.ndim != 3 or centre.shape != logits.shape[-1:]:
        raise ValueError(f"got logits {logits.shape} [n g k] and a centre {centre.shape} [k]")
    logits = jax.lax.stop_gradient(logits).astype(jnp.float32)
    return jax.nn.softmax((logits - centre) / temperature, axis=-1)


def update_centre(centre: Array, logits: Array, *, momentum: float) -> Array:
    """c <- m c + (1 - m) mean of the teacher's outputs (DINO, Eq. 4).

    Args:
      centre: c, float32 [k].
      logits: [n g k], of all views and images of the global batch.
      momentum: m, 0 to 1.
    """
    mean = jnp.mean(jax.lax.stop_gradient(logits).astype(jnp.float32), axis=(0, 1))
    return momentum * centre + (1 - momentum) * mean


def self_distillation(
    embeddings: Array, prototypes: Array, targets: Array, *, temperature: float | Array = 0.1
) -> Array:
    """Cross-entropy of the student's views with the targets of other views (DINO, Eq. 3).

    Args:
      embeddings: the student's u [n v d], float32 or bfloat16; the first g views are those of the
        teacher.
      prototypes: W [d k].
      targets: the teacher's q [n g k], for the first g of the v views; without gradient.
      temperature: t > 0, a divisor.

    Returns:
      float32 [], the mean over images and over the g (v - 1) pairs of a target and another view. It
      is at least 0, and log k where the student's outputs are all equal.

    Raises:
      ValueError: the shapes do not fit, there is no pair, or the temperature is not positive.
    """
    check_temperature(temperature)
    fits = embeddings.ndim == targets.ndim == 3 and embeddings.shape[0] == targets.shape[0]
    if not fits or prototypes.shape != (embeddings.shape[-1], targets.shape[-1]):
        raise ValueError(
            f"got embeddings {embeddings.shape} [n v d], prototypes {prototypes.shape} [d k] and "
            f"targets {targets.shape} [n g k]"
        )
    views, teacher_views = embeddings.shape[1], targets.shape[1]
    if not 1 <= teacher_views <= views or views < 2:
        raise ValueError(
            f"got targets of {teacher_views} views and embeddings of {views} views; use at least 1 "
            "view with a target and 2 views, and no more targets than views"
        )
    pairs = teacher_views * (views - 1)

    def local(embeddings: Array, prototypes: Array, targets: Array, temperature: Array) -> Array:
        @jax.checkpoint
        def add_view(total: Array, view: tuple[Array, Array]) -> tuple[Array, None]:
            embedding, index = view
            logits = prototype_logits(embedding, prototypes) / temperature  # (n, k)
            is_other = (jnp.arange(teacher_views) != index).astype(targets.dtype)  # (g,)
            target = jnp.einsum("g,ngk->nk", is_other, targets)
            loss = is_other.sum() * jax.nn.logsumexp(logits, axis=-1) - (target * logits).sum(
                axis=-1
            )
            return total + loss, None

        n = embeddings.shape[0]
        indexed_views = embeddings.swapaxes(0, 1), jnp.arange(views)
        total, _ = jax.lax.scan(add_view, jnp.zeros(n, jnp.float32), indexed_views)
        return total

    # Each device scans its own rows, so the prototypes' gradient is summed over devices once and
    # not in every step of the scan.
    over_devices = on_each_device(local, (ROWS, WHOLE, ROWS, WHOLE), ROWS)
    targets = jax.lax.stop_gradient(targets)
    losses = over_devices(embeddings, prototypes, targets, jnp.asarray(temperature, jnp.float32))
    return jnp.mean(losses) / pairs


def target_statistics(loss: Array, targets: Array) -> dict[str, Array]:
    """Metrics of the two kinds of collapse of a teacher (DINO, Sec. 5.3 and Fig. 7).

    Args:
      loss: `self_distillation` of these targets.
      targets: q, [n g k].

    Returns:
      float32 [] each:
      `target_entropy`: mean over rows of H(q), nats; 0 for one-hot targets, log k for uniform ones.
      `kl`: `loss` minus `target_entropy`, nats; 0 where the student predicts the targets of other
      views exactly, for example when all images have the same target.
      `prototypes_used`: exp H of the mean target, 1 to k.
    """
    entropy = jnp.mean(jnp.sum(jax.scipy.special.entr(targets), axis=-1))
    mean = jnp.mean(targets, axis=(0, 1))
    used = jnp.exp(jnp.sum(jax.scipy.special.entr(mean)))
    return {"target_entropy": entropy, "kl": loss - entropy, "prototypes_used": used}
