"""Terms of the evidence lower bound of a variational autoencoder, in nats.

    log p(x) >= E_q(z|x) log p(x|z) - KL(q(z|x) || p(z)),    p(z) = N(0, I)

Each term is that of one example: it is summed over pixels and latents, not over examples.
`negative_elbo` is the mean over examples, so a batch may be split into parts of any size.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp

Array = jax.Array

# A latent is active if the variance of its posterior mean over images is larger than this.
ACTIVE_VARIANCE = 0.01


def active_latents(mean: Array) -> Array:
    """Which latents are active: Var over images of E_q[z | x] > 0.01 (Burda et al. 2015, Sec. 5.1).

    An inactive latent has collapsed to the prior: the decoder does not use it.

    Args:
      mean: [n d], means of the posteriors of n images.

    Returns:
      bool [d].
    """
    return jnp.var(_wide(mean), axis=0) > ACTIVE_VARIANCE


def gaussian_kl(mean: Array, log_var: Array) -> Array:
    """KL(N(mean, exp(log_var)) || N(0, 1)) for each latent (Kingma & Welling 2014, App. B).

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
    # expm1 avoids cancellation near the prior, where exp(log_var) is close to 1.
    return 0.5 * (jnp.square(mean) + jnp.expm1(log_var) - log_var)


def bernoulli_log_likelihood(logits: Array, x: Array) -> Array:
    """log p(x) of independent Bernoulli pixels (Kingma & Welling 2014, App. C.1).

        sum over pixels of x log s + (1 - x) log(1 - s),    s = sigmoid(logits)

    For grey values between 0 and 1 this is a negative cross-entropy and not a likelihood of the
    image: its maximum is minus the entropy of Bernoulli(x), not 0.

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
    return _sum_over_example(logits * x - jax.nn.softplus(logits))


def gaussian_log_likelihood(mean: Array, x: Array, log_var: Array | float = 0.0) -> Array:
    """log p(x) of independent Gaussian pixels (Kingma & Welling 2014, App. C.2).

        -sum over pixels of [(x - mean)^2 exp(-log_var) + log_var + log 2 pi] / 2

    Args:
      mean: [n ...], any float dtype.
      x: [n ...].
      log_var: log variance of the noise, a scalar or an array that broadcasts to the shape of `x`.

    Returns:
      [n], nats, float32 or wider. It is a log density, so it depends on the units of `x`.

    Raises:
      ValueError: the shapes differ.
    """
    _check_same("gaussian_log_likelihood", mean, x)
    mean, x, log_var = _wide(mean), _wide(x), _wide(log_var)
    squares = jnp.square(x - mean) * jnp.exp(-log_var)
    return _sum_over_example(-0.5 * (squares + log_var + math.log(2 * math.pi)))


def negative_elbo(
    log_likelihood: Array,
    kl: Array,
    *,
    beta: Array | float = 1.0,
    free_nats: float = 0.0,
) -> tuple[Array, dict[str, Array]]:
    """The loss of a beta-VAE, averaged over examples (Higgins et al. 2017, Eq. 4).

        -log p(x|z) + beta sum_j max(free_nats, KL_j)

    With `beta` 1 and `free_nats` 0 it is the negative evidence lower bound. Free nats (Kingma et
    al. 2016, App. C.8) are the information that each latent may have without a penalty. The paper
    compares them with the mean KL over the batch. Here they are compared with the KL of each
    example, so that the loss of an example does not depend on the other examples.

    Args:
      log_likelihood: [n], log p(x|z) for one sample z of each example, nats.
      kl: [n d], KL of each latent, nats.
      beta: weight of the KL.
      free_nats: nats of each latent and example without a penalty.

    Returns:
      (loss, metrics): float32 [], and the means over examples of `elbo` (the bound without `beta`
      and `free_nats`), `reconstruction` (the negative log likelihood) and `kl` (summed over
      latents). All are in nats per image.

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
    total_kl = jnp.mean(jnp.sum(kl, axis=1))
    penalised_kl = jnp.mean(jnp.sum(jnp.maximum(kl, free_nats), axis=1)) if free_nats else total_kl
    metrics = {"elbo": -reconstruction - total_kl, "reconstruction": reconstruction, "kl": total_kl}
    return reconstruction + beta * penalised_kl, metrics


def _sum_over_example(x: Array) -> Array:
    return jnp.sum(x, axis=tuple(range(1, x.ndim)))


def _wide(x: Array | float) -> Array:
    x = jnp.asarray(x)
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def _check_same(name: str, a: Array, b: Array) -> None:
    if a.shape != b.shape:
        raise ValueError(f"{name} takes two arrays of one shape, got {a.shape}, {b.shape}")
