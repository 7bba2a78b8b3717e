"""Barlow Twins and VICReg: float64 oracles, closed forms, eight devices against one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from ssl_jax import parallel
from ssl_jax.losses import barlow_twins, vicreg

LOSSES = {"barlow_twins": barlow_twins, "vicreg": vicreg}


def embeddings(n=16, d=6, seed=0):
    """Correlated views with correlated dimensions of different scales."""
    rng = np.random.default_rng(seed)
    mixing = rng.normal(size=(d, d)) * np.linspace(0.3, 2, d)
    za = rng.normal(size=(n, d)) @ mixing + rng.normal(size=d)
    return za.astype(np.float32), (za + 0.5 * rng.normal(size=(n, d))).astype(np.float32)


def barlow_oracle(za, zb, weight=0.0051, eps=1e-5):
    """Entry by entry, in float64."""
    za, zb = np.asarray(za, np.float64), np.asarray(zb, np.float64)
    a, b = ((z - z.mean(0)) / np.sqrt(z.var(0) + eps) for z in (za, zb))
    on = off = 0.0
    for i in range(za.shape[1]):
        for j in range(za.shape[1]):
            c = np.mean(a[:, i] * b[:, j])
            if i == j:
                on += (1 - c) ** 2
            else:
                off += c**2
    return on + weight * off, {"on_diagonal": on, "off_diagonal": off}


def vicreg_oracle(za, zb, weights=(25, 25, 1), eps=1e-4):
    """With numpy's own variance and covariance, in float64."""
    za, zb = np.asarray(za, np.float64), np.asarray(zb, np.float64)
    terms = {"invariance": np.mean((za - zb) ** 2), "variance": 0.0, "covariance": 0.0}
    for z in (za, zb):
        spread = np.sqrt(z.var(0, ddof=1) + eps)
        terms["variance"] += 0.5 * np.mean(np.maximum(0, 1 - spread))
        covariances = np.cov(z, rowvar=False, ddof=1)
        np.fill_diagonal(covariances, 0)
        terms["covariance"] += (covariances**2).sum() / z.shape[1]
    return sum(w * term for w, term in zip(weights, terms.values(), strict=True)), terms


ORACLES = {"barlow_twins": barlow_oracle, "vicreg": vicreg_oracle}


@pytest.mark.parametrize("name", LOSSES)
def test_value_and_metrics_match_the_oracle(name):
    za, zb = embeddings()
    za[:, 0] *= 0.1  # some of VICReg's hinges open, some closed
    zb[:, 0] *= 0.1
    loss, metrics = LOSSES[name](za, zb)
    expected, terms = ORACLES[name](za, zb)
    np.testing.assert_allclose(loss, expected, rtol=5e-6)
    assert metrics.keys() == terms.keys()
    for key, term in terms.items():
        assert term > 0
        np.testing.assert_allclose(metrics[key], term, rtol=2e-5, err_msg=key)


def test_weights():
    za, zb = embeddings()
    np.testing.assert_allclose(
        barlow_twins(za, zb, off_diagonal_weight=0.3)[0],
        barlow_oracle(za, zb, weight=0.3)[0],
        rtol=5e-6,
    )
    weights = (3.0, 5.0, 0.7)
    np.testing.assert_allclose(
        vicreg(za, zb, invariance=3.0, variance=5.0, covariance=0.7)[0],
        vicreg_oracle(za, zb, weights)[0],
        rtol=5e-6,
    )


@pytest.mark.parametrize("name", LOSSES)
def test_gradient_matches_finite_differences_of_the_oracle(name):
    za, zb = embeddings(n=5, d=3)
    za[:, 0] *= 0.1
    got = jax.grad(lambda a, b: LOSSES[name](a, b)[0], argnums=(0, 1))(za, zb)
    for side in (0, 1):
        expected = np.zeros(za.shape)
        for index in np.ndindex(za.shape):
            values = []
            for sign in (1, -1):
                moved = [za.astype(np.float64), zb.astype(np.float64)]
                moved[side][index] += sign * 1e-6
                values.append(ORACLES[name](*moved)[0])
            expected[index] = (values[0] - values[1]) / 2e-6
        np.testing.assert_allclose(got[side], expected, rtol=2e-5, atol=2e-5)


def whitened(n, d, *, unbiased):
    """[n d] of mean 0 whose covariance is the identity."""
    z = np.random.default_rng(0).normal(size=(n, d))
    z -= z.mean(0)
    q, _ = np.linalg.qr(z)
    return (q * np.sqrt(n - 1 if unbiased else n)).astype(np.float32)


def test_barlow_twins_is_zero_for_equal_whitened_views():
    z = whitened(64, 8, unbiased=False)
    np.testing.assert_allclose(barlow_twins(z, z)[0], 0, atol=1e-5)


def test_barlow_twins_of_independent_views():
    """C_ij has mean 0 and variance 1/n then: d (1 + 1/n) + w d (d-1) / n."""
    rng = np.random.default_rng(0)
    n, d, w = 2048, 128, 0.5
    za, zb = rng.normal(size=(2, n, d)).astype(np.float32)
    loss, metrics = barlow_twins(za, zb, off_diagonal_weight=w)
    np.testing.assert_allclose(metrics["on_diagonal"], d, rtol=0.02)
    np.testing.assert_allclose(metrics["off_diagonal"], d * (d - 1) / n, rtol=0.05)
    np.testing.assert_allclose(loss, d + w * d * (d - 1) / n, rtol=0.02)


def test_barlow_twins_ignores_affine_maps_of_single_dimensions():
    za, zb = embeddings()
    loss = barlow_twins(za, zb)[0]
    scale = np.linspace(0.5, 20, za.shape[1], dtype=np.float32)
    np.testing.assert_allclose(barlow_twins(za * scale + 3, zb)[0], loss, rtol=1e-4)
    np.testing.assert_allclose(barlow_twins(za, zb * scale - 2)[0], loss, rtol=1e-4)
    # And not of mixtures of dimensions.
    mixed = za + za[:, ::-1] * scale
    assert abs(float(barlow_twins(mixed, zb)[0]) - float(loss)) > 0.1


def test_vicreg_of_constant_outputs():
    """Only the variance term is left: 25 (1 - sqrt(1e-4))."""
    z = np.full((16, 8), 3.0, np.float32)
    loss, metrics = vicreg(z, z)
    np.testing.assert_allclose(loss, 24.75, rtol=1e-6)
    assert metrics["invariance"] == 0 and metrics["covariance"] == 0


def test_vicreg_is_zero_for_equal_views_of_identity_covariance():
    z = whitened(64, 8, unbiased=True)
    np.testing.assert_allclose(vicreg(z, z)[0], 0, atol=1e-5)


def test_vicreg_adds_both_views_covariances_and_averages_their_variances():
    """One view constant, the other whitened and then with two equal dimensions."""
    flat, z = np.zeros((64, 8), np.float32), whitened(64, 8, unbiased=True)
    metrics = vicreg(flat, z)[1]
    np.testing.assert_allclose(metrics["variance"], 0.99 / 2, rtol=1e-4)
    np.testing.assert_allclose(metrics["covariance"], 0, atol=1e-6)
    z[:, 1] = z[:, 0]
    np.testing.assert_allclose(vicreg(flat, z)[1]["covariance"], 2 / 8, rtol=1e-5)
    np.testing.assert_allclose(vicreg(z, z)[1]["covariance"], 2 * 2 / 8, rtol=1e-5)


@pytest.mark.parametrize("name", LOSSES)
def test_symmetric_in_the_views(name):
    za, zb = embeddings()
    np.testing.assert_allclose(LOSSES[name](za, zb)[0], LOSSES[name](zb, za)[0], rtol=1e-6)


@pytest.mark.parametrize("name", LOSSES)
def test_constant_dimensions_have_a_finite_gradient(name):
    za, zb = embeddings()
    za[:, 2] = zb[:, 2] = 1.5
    value, grads = jax.value_and_grad(lambda ab: LOSSES[name](*ab)[0])((za, zb))
    assert np.isfinite(value) and all(np.isfinite(g).all() for g in grads)


@pytest.mark.parametrize("name", LOSSES)
def test_a_large_mean_does_not_drown_the_variance(name):
    za, zb = embeddings(n=64)
    expected = ORACLES[name](za + 100, zb + 100)[0]  # of the float32 sums
    np.testing.assert_allclose(LOSSES[name](za + 100, zb + 100)[0], expected, rtol=1e-4)


@pytest.mark.parametrize("name", LOSSES)
def test_bfloat16_inputs_give_a_float32_loss(name):
    za, zb = (jnp.asarray(z, jnp.bfloat16) for z in embeddings(n=64))
    loss, metrics = LOSSES[name](za, zb)
    assert loss.dtype == jnp.float32
    assert all(value.dtype == jnp.float32 for value in metrics.values())
    expected = ORACLES[name](*(z.astype(jnp.float32) for z in (za, zb)))[0]
    np.testing.assert_allclose(loss, expected, rtol=1e-5)


@pytest.mark.parametrize("name", LOSSES)
def test_eight_devices_equal_one_in_value_and_gradient(name):
    za, zb = embeddings(n=32)
    f = jax.value_and_grad(lambda a, b: LOSSES[name](a, b), (0, 1), has_aux=True)
    (loss, metrics), grads = jax.jit(f)(za, zb)
    # Were the statistics a device's own, this would be another number.
    assert abs(np.mean([LOSSES[name](za[i::8], zb[i::8])[0] for i in range(8)]) - loss) > 0.1
    for sizes in ({"data": 8}, {"data": 2, "fsdp": 4}):
        mesh = parallel.make_mesh(**sizes)
        rows = NamedSharding(mesh, P(("data", "fsdp")))
        sharded = jax.device_put((za, zb), rows)
        with jax.set_mesh(mesh):
            (loss8, metrics8), grads8 = jax.jit(f, out_shardings=(None, (rows, rows)))(*sharded)
        np.testing.assert_allclose(loss8, loss, rtol=2e-6)
        for key, value in metrics.items():
            np.testing.assert_allclose(metrics8[key], value, rtol=1e-5)
        for got, expected in zip(grads8, grads, strict=True):
            np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.wrong_shapes
@pytest.mark.parametrize("name", LOSSES)
def test_bad_shapes_are_named(name):
    za, zb = embeddings()
    with pytest.raises(ValueError, match=r"\(16, 6\).*\(8, 6\)"):
        LOSSES[name](za, zb[:8])
    with pytest.raises(ValueError, match="n of at least 2"):
        LOSSES[name](za[:1], zb[:1])
