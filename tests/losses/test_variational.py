"""The terms of the evidence lower bound: float64 oracles, closed forms, eight devices."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from ssl_jax import parallel
from ssl_jax.losses import (
    bernoulli_log_likelihood,
    gaussian_kl,
    gaussian_log_likelihood,
    negative_elbo,
)


def draws(n=6, latents=3, shape=(4, 4, 2), seed=0):
    rng = np.random.default_rng(seed)
    arrays = {
        "mean": rng.normal(size=(n, latents)),
        "log_var": rng.normal(size=(n, latents)),
        "decoded": 2 * rng.normal(size=(n, *shape)),
        "x": rng.uniform(size=(n, *shape)),
    }
    return {name: array.astype(np.float32) for name, array in arrays.items()}


def kl_oracle(mean, log_var):
    """Each latent by itself, in float64, from the variance."""
    mean, log_var = np.asarray(mean, np.float64), np.asarray(log_var, np.float64)
    out = np.zeros(mean.shape)
    for index in np.ndindex(mean.shape):
        variance = math.exp(log_var[index])
        out[index] = 0.5 * (mean[index] ** 2 + variance - math.log(variance) - 1)
    return out


def bernoulli_oracle(logits, x):
    logits, x = np.asarray(logits, np.float64), np.asarray(x, np.float64)
    share = 1 / (1 + np.exp(-logits))
    pixels = x * np.log(share) + (1 - x) * np.log(1 - share)
    return pixels.reshape(len(x), -1).sum(1)


def gaussian_oracle(mean, x, std=1.0):
    """The logarithm of the normal density, pixel by pixel."""
    mean, x = np.asarray(mean, np.float64), np.asarray(x, np.float64)
    log_density = -0.5 * ((x - mean) / std) ** 2 - math.log(std * math.sqrt(2 * math.pi))
    return log_density.reshape(len(x), -1).sum(1)


def elbo_oracle(likelihood, kl, beta=1.0, free_nats=0.0):
    """Example by example."""
    losses = [
        -value + beta * sum(max(free_nats, part) for part in row)
        for value, row in zip(likelihood, kl, strict=True)
    ]
    return sum(losses) / len(losses)


def test_the_kl_matches_the_oracle_and_the_closed_form():
    given = draws()
    kl = gaussian_kl(given["mean"], given["log_var"])
    np.testing.assert_allclose(kl, kl_oracle(given["mean"], given["log_var"]), rtol=5e-6)
    ones = np.ones((2, 6), np.float32)
    np.testing.assert_allclose(gaussian_kl(ones, 0 * ones).sum(1), [3, 3], rtol=1e-7)  # d / 2
    assert (gaussian_kl(0 * ones, 0 * ones) == 0).all()


def test_the_kl_is_exact_near_the_prior():
    """There float32 would lose log_var^2 / 4 in the difference of exp(log_var) and 1."""
    log_var = np.array([[1e-3, -1e-3, 3e-4]], np.float32)
    kl = gaussian_kl(np.zeros_like(log_var), log_var)
    np.testing.assert_allclose(kl, log_var.astype(np.float64) ** 2 / 4, rtol=2e-3)


def test_the_kl_is_the_mean_of_the_log_ratio():
    """By a million draws of z from q."""
    mean, log_var = 0.7, -0.5
    z = mean + math.exp(log_var / 2) * np.random.default_rng(0).normal(size=10**6)
    ratio = -0.5 * ((z - mean) ** 2 * math.exp(-log_var) + log_var) + 0.5 * z**2
    kl = gaussian_kl(np.full((1, 1), mean), np.full((1, 1), log_var))
    np.testing.assert_allclose(kl[0, 0], ratio.mean(), rtol=5e-3)


def test_likelihoods_match_their_oracles():
    given = draws()
    np.testing.assert_allclose(
        bernoulli_log_likelihood(given["decoded"], given["x"]),
        bernoulli_oracle(given["decoded"], given["x"]),
        rtol=1e-6,
    )
    for std in (1.0, 0.1):
        np.testing.assert_allclose(
            gaussian_log_likelihood(given["decoded"], given["x"], 2 * math.log(std)),
            gaussian_oracle(given["decoded"], given["x"], std),
            rtol=2e-6,
        )


def test_a_variance_a_pixel_broadcasts():
    given = draws()
    log_var = np.linspace(-1, 1, 2).astype(np.float32)  # a channel each
    whole = gaussian_log_likelihood(given["decoded"], given["x"], log_var)
    parts = [
        gaussian_log_likelihood(given["decoded"][..., c : c + 1], given["x"][..., c : c + 1], v)
        for c, v in enumerate(log_var.tolist())
    ]
    np.testing.assert_allclose(whole, sum(parts), rtol=1e-6)


def test_bernoulli_logits_may_be_extreme():
    logits = np.array([[-200.0, 200.0, 200.0]], np.float32)
    x = np.array([[0.0, 1.0, 0.0]], np.float32)
    value, grad = jax.value_and_grad(lambda a: bernoulli_log_likelihood(a, x).sum())(logits)
    np.testing.assert_allclose(value, -200)
    np.testing.assert_allclose(grad, [[0, 0, -1]])


def test_the_best_bernoulli_mean_of_a_grey_pixel_is_its_value():
    x = np.linspace(0.1, 0.9, 5, dtype=np.float32)[None]
    grad = jax.grad(lambda a: bernoulli_log_likelihood(a, x).sum())(np.log(x / (1 - x)))
    np.testing.assert_allclose(grad, np.zeros_like(x), atol=1e-6)


@pytest.mark.parametrize("beta, free_nats", [(1.0, 0.0), (4.0, 0.0), (0.5, 0.4)])
def test_the_negative_elbo_matches_the_oracle(beta, free_nats):
    given = draws()
    likelihood = bernoulli_log_likelihood(given["decoded"], given["x"])
    kl = gaussian_kl(given["mean"], given["log_var"])
    if free_nats:
        assert 0.1 < np.mean(kl < free_nats) < 0.9
    loss, metrics = negative_elbo(likelihood, kl, beta=beta, free_nats=free_nats)
    expected = elbo_oracle(
        bernoulli_oracle(given["decoded"], given["x"]),
        kl_oracle(given["mean"], given["log_var"]),
        beta,
        free_nats,
    )
    np.testing.assert_allclose(loss, expected, rtol=1e-6)
    np.testing.assert_allclose(metrics["elbo"], np.mean(likelihood) - kl.sum() / 6, rtol=1e-6)
    np.testing.assert_allclose(metrics["reconstruction"] + metrics["kl"], -metrics["elbo"])


def test_the_derivative_by_beta_is_the_kl():
    given = draws()
    kl = gaussian_kl(given["mean"], given["log_var"])
    zeros = jnp.zeros(6)
    slope = jax.grad(lambda beta: negative_elbo(zeros, kl, beta=beta)[0])(3.0)
    np.testing.assert_allclose(slope, kl_oracle(given["mean"], given["log_var"]).sum() / 6, 1e-6)


def loss_of(arrays, noise, x, likelihood=bernoulli_log_likelihood):
    """A decoder of one matrix, so that the gradient flows through the sample of z."""
    z = arrays["mean"] + jnp.exp(arrays["log_var"] / 2) * noise
    decoded = jnp.einsum("nd,dp->np", z, arrays["weight"])
    kl = gaussian_kl(arrays["mean"], arrays["log_var"])
    return negative_elbo(likelihood(decoded, x), kl, beta=2.0)


def reparametrised(n, seed=0):
    given = draws(n, latents=3, seed=seed)
    rng = np.random.default_rng(seed + 1)
    arrays = {name: given[name] for name in ("mean", "log_var")}
    arrays["weight"] = rng.normal(size=(3, 5)).astype(np.float32)
    noise = rng.normal(size=(n, 3)).astype(np.float32)
    return arrays, noise, rng.uniform(size=(n, 5)).astype(np.float32)


def test_the_reparametrised_gradient_matches_finite_differences_in_float64():
    arrays, noise, x = reparametrised(3)
    grads = jax.grad(lambda arrays: loss_of(arrays, noise, x)[0])(arrays)

    def oracle(arrays):
        z = arrays["mean"] + np.exp(arrays["log_var"] / 2) * noise
        kl = kl_oracle(arrays["mean"], arrays["log_var"])
        return elbo_oracle(bernoulli_oracle(z @ arrays["weight"], x), kl, 2.0)

    for name, array in arrays.items():
        expected = np.zeros(array.shape)
        for index in np.ndindex(array.shape):
            values = []
            for sign in (1, -1):
                moved = {key: value.astype(np.float64) for key, value in arrays.items()}
                moved[name][index] += sign * 1e-5
                values.append(oracle(moved))
            expected[index] = (values[0] - values[1]) / 2e-5
        np.testing.assert_allclose(grads[name], expected, rtol=1e-5, atol=1e-6, err_msg=name)


@pytest.mark.parametrize("likelihood", [bernoulli_log_likelihood, gaussian_log_likelihood])
def test_eight_devices_equal_one_in_value_and_gradient(likelihood):
    arrays, noise, x = reparametrised(32)

    def f(mean, log_var, weight, noise, x):
        arrays = dict(mean=mean, log_var=log_var, weight=weight)
        return loss_of(arrays, noise, x, likelihood)

    f = jax.value_and_grad(f, (0, 1, 2), has_aux=True)
    args = *arrays.values(), noise, x
    (loss, metrics), grads = jax.jit(f)(*args)
    for sizes in ({"data": 8}, {"data": 2, "fsdp": 4}):
        mesh = parallel.make_mesh(**sizes)
        rows, whole = NamedSharding(mesh, P(("data", "fsdp"))), NamedSharding(mesh, P())
        placed = jax.device_put(args, (rows, rows, whole, rows, rows))
        with jax.set_mesh(mesh):
            shardings = (None, (rows, rows, whole))
            (loss8, metrics8), grads8 = jax.jit(f, out_shardings=shardings)(*placed)
        np.testing.assert_allclose(loss8, loss, rtol=1e-6)
        for key, value in metrics.items():
            np.testing.assert_allclose(metrics8[key], value, rtol=1e-6)
        for got, expected in zip(grads8, grads, strict=True):
            np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-7)


def test_bfloat16_inputs_are_summed_in_float32():
    given = draws(shape=(16, 16, 1))
    low = {name: jnp.asarray(array, jnp.bfloat16) for name, array in given.items()}
    exact = {name: np.asarray(array.astype(jnp.float32)) for name, array in low.items()}
    value = bernoulli_log_likelihood(low["decoded"], low["x"])
    assert value.dtype == jnp.float32
    np.testing.assert_allclose(value, bernoulli_oracle(exact["decoded"], exact["x"]), rtol=1e-6)
    kl = gaussian_kl(low["mean"], low["log_var"])
    assert kl.dtype == jnp.float32
    np.testing.assert_allclose(kl, kl_oracle(exact["mean"], exact["log_var"]), rtol=1e-6)


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match=r"gaussian_kl.*\(2, 3\), \(2, 1\)"):
        gaussian_kl(np.zeros((2, 3)), np.zeros((2, 1)))
    for likelihood in (bernoulli_log_likelihood, gaussian_log_likelihood):
        with pytest.raises(ValueError, match=r"\(2, 3\), \(3,\)"):
            likelihood(np.zeros((2, 3)), np.zeros(3))
    with pytest.raises(ValueError, match=r"\[n d\].*\(2,\), \(3, 4\)"):
        negative_elbo(np.zeros(2), np.zeros((3, 4)))
    with pytest.raises(ValueError, match="-1"):
        negative_elbo(np.zeros(3), np.zeros((3, 4)), free_nats=-1)
