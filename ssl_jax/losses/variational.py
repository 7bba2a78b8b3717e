"""Terms of the evidence lower bound of a variational autoencoder, in nats.

    log p(x) >= E_q(z|x) log p(x|z) - KL(q(z|x) || p(z)),    p(z) = N(0, I)

Every term is of one example: pixels and latents are summed, examples are not. `negative_elbo` is
the mean over examples, so a batch may be cut into parts of any size.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp

Array = jax.Array

ACTIVE_VARIANCE = 0.01  # of a latent's mean between images, above which it is active


def active_latents(mean: Array) -> Array:
    """Which latents carry anything: Var over images of E_q[z | x] > 0.01 (Burda et al. 2015, 5.1).

    A latent that is not active has collapsed to the prior: the decoder does not use it.

    Args:
      mean: [n d] of the posteriors of n images.

    Returns:
      bool [d].
    """
    return jnp.var(_wide(mean), axis=0) > ACTIVE_VARIANCE


def gaussian_kl(mean: Array, log_var: Array) -> Array:
    """KL(N(mean, exp(log_var)) || N(0, 1)) of each latent (Kingma & Welling 2014, App. B).

        (mean^2 + exp(log_var) - log_var - 1) / 2

    Args:
      mean: [n d], any float dtype.
      log_var: [n d].

    Returns:
      [n d], nats, float32 or wider, not negative.

    Raises:
      ValueError: the shapes differ.
    """
    _check_same("gaussian_kl", mean, log_var)
    mean, log_var = _wide(mean), _wide(log_var)
    # expm1, because near the prior exp(log_var) - 1 - log_var is a difference of small numbers.
    return 0.5 * (jnp.square(mean) + jnp.expm1(log_var) - log_var)


def bernoulli_log_likelihood(logits: Array, x: Array) -> Array:
    """log p(x) of independent Bernoulli pixels (Kingma & Welling 2014, App. C.1).

        sum over pixels of x log s + (1 - x) log(1 - s),    s = sigmoid(logits)

    Of grey values between 0 and 1 this is minus a cross-entropy and no likelihood of the image:
    its largest value is minus the entropy of Bernoulli(x) and not 0.

    Args:
      logits: [n ...], any float dtype.
      x: [n ...], values in [0, 1].

    Returns:
      [n], nats, float32 or wider.

    Raises:
      ValueError: the shapes differ.
    """
    _check_same("bernoulli_log_likelihood", logits, x)
    logits, x = _wide(logits), _wide(x)
    return _sum_of_example(logits * x - jax.nn.softplus(logits))


def gaussian_log_likelihood(mean: Array, x: Array, log_var: Array | float = 0.0) -> Array:
    """log p(x) of independent Gaussian pixels (Kingma & Welling 2014, App. C.2).

        -sum over pixels of [(x - mean)^2 exp(-log_var) + log_var + log 2 pi] / 2

    Args:
      mean: [n ...], any float dtype.
      x: [n ...].
      log_var: the noise's log variance, a scalar or an array that broadcasts to the shape of `x`.

    Returns:
      [n], nats (of the density, for the units of `x`), float32 or wider.

    Raises:
      ValueError: the shapes differ.
    """
    _check_same("gaussian_log_likelihood", mean, x)
    mean, x, log_var = _wide(mean), _wide(x), _wide(log_var)
    squares = jnp.square(x - mean) * jnp.exp(-log_var)
    return _sum_of_example(-0.5 * (squares + log_var + math.log(2 * math.pi)))


def negative_elbo(
    log_likelihood: Array,
    kl: Array,
    *,
    beta: Array | float = 1.0,
    free_nats: float = 0.0,
) -> tuple[Array, dict[str, Array]]:
    """The mean over examples of the loss of a beta-VAE (Higgins et al. 2017, Eq. 4).

        -log p(x|z) + beta sum_j max(free_nats, KL_j)

    With `beta` 1 and `free_nats` 0 it is minus the evidence lower bound. Free nats (Kingma et al.
    2016, App. C.8) let each latent keep so much information without a penalty. The paper compares
    them with the KL's mean over the batch; here each example's own KL is compared, so that the loss
    of an example does not depend on the others.

    Args:
      log_likelihood: [n], log p(x|z) of one sample z an example.
      kl: [n d], of each latent.
      beta: weight of the KL.
      free_nats: of each latent and example.

    Returns:
      (loss, metrics): float32 [], and the means over examples of `elbo` (the true bound, whatever
      `beta` and `free_nats` are), `reconstruction` (minus the log likelihood) and `kl` (summed over
      latents). All are nats of an image.

    Raises:
      ValueError: `log_likelihood` is not [n], `kl` not [n d], or `free_nats` is negative.
    """
    if log_likelihood.ndim != 1 or kl.ndim != 2 or len(kl) != len(log_likelihood):
        raise ValueError(
            f"negative_elbo takes log_likelihood [n] and kl [n d], got {log_likelihood.shape}, "
            f"{kl.shape}"
        )
    if free_nats < 0:
        raise ValueError(f"free_nats must not be negative, got {free_nats}")
    reconstruction, kl = -jnp.mean(_wide(log_likelihood)), _wide(kl)
    total = jnp.mean(jnp.sum(kl, axis=1))
    penalised = jnp.mean(jnp.sum(jnp.maximum(kl, free_nats), axis=1)) if free_nats else total
    metrics = {"elbo": -reconstruction - total, "reconstruction": reconstruction, "kl": total}
    return reconstruction + beta * penalised, metrics


def _sum_of_example(x: Array) -> Array:
    return jnp.sum(x, axis=tuple(range(1, x.ndim)))


def _wide(x: Array | float) -> Array:
    x = jnp.asarray(x)
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def _check_same(name: str, a: Array, b: Array) -> None:
    if a.shape != b.shape:
        raise ValueError(f"{name} takes two arrays of one shape, got {a.shape}, {b.shape}")
