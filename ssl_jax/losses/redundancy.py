"""Losses that decorrelate the dimensions of an embedding.

Barlow Twins uses the correlations between the dimensions of two views, VICReg the variances and
covariances within each view. All statistics are those of the global batch: under `jit` XLA sums the
[d d] matrices over the devices. Value and gradient do not depend on the number of devices.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Float

from ssl_jax.core.arrays import Array
from ssl_jax.losses.tiles import product


def barlow_twins(
    za: Float[Array, "n d"],
    zb: Float[Array, "n d"],
    *,
    off_diagonal_weight: float = 0.0051,
    eps: float = 1e-5,
) -> tuple[Float[Array, ""], dict[str, Array]]:
    """Barlow Twins: drives the cross-correlation of two views to the identity matrix.

    Zbontar et al. 2021, Eq. 1 and 2:

        L = sum_i (1 - C_ii)^2 + w sum_{i != j} C_ij^2
        C_ij = mean over images of a_i b_j, a and b the standardised dimensions of the two views

    Args:
      za: [n d] embeddings of the first views, any float dtype; n >= 2.
      zb: [n d] embeddings of the second views; row i belongs to row i of `za`.
      off_diagonal_weight: w, the paper's lambda.
      eps: added to the (biased) variances, as in the released code's BatchNorm without scale and
        offset. A constant dimension is then all zero, with a finite gradient.

    Returns:
      (loss, metrics): float32 [], and `on_diagonal` and `off_diagonal`, the two sums before
      weighting.

    Raises:
      ValueError: shapes differ, are not [n d], or n < 2.
    """
    _check_two("barlow_twins", za, zb)
    a, b = _standardized(za, eps), _standardized(zb, eps)
    c = product("ni,nj->ij", a, b) / len(a)  # (d, d)
    diagonal = jnp.eye(len(c), dtype=bool)
    on = jnp.sum(jnp.where(diagonal, jnp.square(1 - c), 0))
    off = jnp.sum(jnp.where(diagonal, 0, jnp.square(c)))
    return on + off_diagonal_weight * off, {"on_diagonal": on, "off_diagonal": off}


def vicreg(
    za: Float[Array, "n d"],
    zb: Float[Array, "n d"],
    *,
    invariance: float = 25.0,
    variance: float = 25.0,
    covariance: float = 1.0,
    eps: float = 1e-4,
) -> tuple[Float[Array, ""], dict[str, Array]]:
    """Variance, invariance and covariance (VICReg, Bardes et al. 2022, Sec. 4.1).

        L = l mean (a - b)^2 + m [v(a) + v(b)] / 2 + k [c(a) + c(b)]
        v(z) = mean over i of max(0, 1 - sqrt(Var z_i + eps))
        c(z) = sum_{i != j} Cov(z)_ij^2 / d

    This is the loss of the released code, and the default weights are those for it: the mean square
    is over images *and* dimensions, the variance terms of the two views are averaged, and their
    covariance terms are summed. The paper instead sums over dimensions in the first term, and sums
    both the variance and the covariance terms.

    Args:
      za: [n d] embeddings of the first views, any float dtype; n >= 2. They are not normalised.
      zb: [n d] embeddings of the second views; row i belongs to row i of `za`.
      invariance, variance, covariance: the weights l, m and k.
      eps: added to the (unbiased) variances.

    Returns:
      (loss, metrics): float32 [], and the three terms before weighting, by the weights' names.

    Raises:
      ValueError: shapes differ, are not [n d], or n < 2.
    """
    _check_two("vicreg", za, zb)
    a, b = _wide(za), _wide(zb)
    terms = {"invariance": jnp.mean(jnp.square(a - b))}
    a, b = a - jnp.mean(a, axis=0), b - jnp.mean(b, axis=0)
    terms["variance"] = (_variance_term(a, eps) + _variance_term(b, eps)) / 2
    terms["covariance"] = _covariance_term(a) + _covariance_term(b)
    loss = (
        invariance * terms["invariance"]
        + variance * terms["variance"]
        + covariance * terms["covariance"]
    )
    return loss, terms


def _variance_term(z: Array, eps: float) -> Array:
    """The variance term v of centred embeddings."""
    variances = jnp.sum(jnp.square(z), axis=0) / (len(z) - 1)
    return jnp.mean(jax.nn.relu(1 - jnp.sqrt(variances + eps)))


def _covariance_term(z: Array) -> Array:
    """The covariance term c of centred embeddings."""
    covariances = product("ni,nj->ij", z, z) / (len(z) - 1)  # (d, d)
    diagonal = jnp.eye(len(covariances), dtype=bool)
    return jnp.sum(jnp.where(diagonal, 0, jnp.square(covariances))) / len(covariances)


def _standardized(z: Array, eps: float) -> Array:
    """Scales each dimension to mean 0 and variance 1 over the batch; float32."""
    z = _wide(z)
    z = z - jnp.mean(z, axis=0)
    return z * jax.lax.rsqrt(jnp.mean(jnp.square(z), axis=0) + eps)


def _wide(z: Array) -> Array:
    return z.astype(jnp.promote_types(z.dtype, jnp.float32))


def _check_two(name: str, za: Array, zb: Array) -> None:
    if za.ndim != 2 or za.shape != zb.shape or len(za) < 2:
        raise ValueError(
            f"{name} takes two [n d] arrays of one shape with n of at least 2, got {za.shape}, "
            f"{zb.shape}"
        )
