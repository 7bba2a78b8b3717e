"""NT-Xent against a float64 oracle, its closed forms, and eight devices against one."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from ssl_jax import parallel
from ssl_jax.losses.contrastive import nt_xent, unit_length


def oracle(za, zb, temperature, normalize=True):
    """Eq. 1 of the paper, anchor by anchor, in float64."""
    za, zb = np.asarray(za, np.float64), np.asarray(zb, np.float64)
    if normalize:
        za = za / np.linalg.norm(za, axis=1, keepdims=True)
        zb = zb / np.linalg.norm(zb, axis=1, keepdims=True)
    z = np.concatenate([za, zb])
    n = len(za)
    total = 0.0
    for i in range(2 * n):
        s = z @ z[i] / temperature
        others = np.delete(s, i)
        top = others.max()
        total += top + np.log(np.exp(others - top).sum()) - s[(i + n) % (2 * n)]
    s = za @ zb.T / temperature
    p = np.exp(s - s.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    accuracy = (s.argmax(1) == np.arange(n)).mean()
    with np.errstate(divide="ignore", invalid="ignore"):
        entropy = -np.where(p > 0, p * np.log(p), 0).sum(1).mean()
    return total / (2 * n), accuracy, entropy


def embeddings(n=16, d=8, seed=0):
    rng = np.random.default_rng(seed)
    za = rng.normal(size=(n, d)).astype(np.float32)
    return za, (za + 0.7 * rng.normal(size=(n, d))).astype(np.float32)


@pytest.mark.parametrize("temperature", [0.05, 0.1, 0.5, 1.0, 10.0])
@pytest.mark.parametrize("normalize", [True, False])
def test_value_and_metrics_match_the_oracle(temperature, normalize):
    za, zb = embeddings()
    loss, metrics = nt_xent(za, zb, temperature=temperature, l2_normalize=normalize)
    expected, accuracy, entropy = oracle(za, zb, temperature, normalize)
    np.testing.assert_allclose(loss, expected, rtol=2e-6)
    np.testing.assert_allclose(metrics["contrastive_accuracy"], accuracy)
    # Logits of several hundred (unnormalised, low temperature) have float32 steps of 3e-5.
    np.testing.assert_allclose(metrics["entropy"], entropy, rtol=2e-5, atol=5e-5)


def test_gradient_matches_finite_differences_of_the_oracle():
    za, zb = embeddings(n=4, d=3)
    got = jax.grad(lambda a, b: nt_xent(a, b, temperature=0.3)[0], argnums=(0, 1))(za, zb)
    for side in (0, 1):
        expected = np.zeros((4, 3))
        for index in np.ndindex(4, 3):
            values = []
            for sign in (1, -1):
                moved = [za.astype(np.float64), zb.astype(np.float64)]
                moved[side][index] += sign * 1e-5
                values.append(oracle(*moved, 0.3)[0])
            expected[index] = (values[0] - values[1]) / 2e-5
        np.testing.assert_allclose(got[side], expected, atol=2e-6)


def test_closed_forms():
    same = np.ones((8, 16), np.float32)
    loss, metrics = nt_xent(same, same, temperature=0.5)
    np.testing.assert_allclose(loss, np.log(2 * 8 - 1), rtol=1e-6)
    np.testing.assert_allclose(metrics["entropy"], np.log(8), rtol=1e-6)
    orthonormal = np.eye(8, dtype=np.float32)
    loss, metrics = nt_xent(orthonormal, orthonormal, temperature=0.5)
    np.testing.assert_allclose(loss, -2 + np.log(np.exp(2) + 14), rtol=1e-6)
    np.testing.assert_allclose(loss, 1.062879, atol=1e-6)
    assert metrics["contrastive_accuracy"] == 1


def test_invariant_to_scale_and_to_swapping_views():
    za, zb = embeddings()
    loss = nt_xent(za, zb, temperature=0.1)[0]
    np.testing.assert_allclose(nt_xent(7 * za, 0.01 * zb, temperature=0.1)[0], loss, rtol=1e-5)
    np.testing.assert_allclose(nt_xent(zb, za, temperature=0.1)[0], loss, rtol=1e-6)


def test_zero_vectors_have_a_finite_gradient():
    za, zb = embeddings()
    za[3] = 0
    zb[3] = 0
    value, grads = jax.value_and_grad(lambda ab: nt_xent(*ab, temperature=0.1)[0])(
        (jnp.asarray(za), jnp.asarray(zb))
    )
    assert np.isfinite(value)
    assert all(np.isfinite(g).all() for g in grads)
    assert np.array_equal(unit_length(jnp.zeros(4)), np.zeros(4))


def test_one_image_has_no_negatives():
    za, zb = embeddings(n=1)
    value, grad = jax.value_and_grad(lambda a: nt_xent(a, zb, temperature=0.1)[0])(za)
    np.testing.assert_allclose(value, 0, atol=1e-6)
    np.testing.assert_allclose(grad, 0, atol=1e-6)


def test_bfloat16_inputs_give_a_float32_loss():
    za, zb = embeddings(n=64, d=32)
    loss, metrics = nt_xent(za.astype(jnp.bfloat16), zb.astype(jnp.bfloat16), temperature=0.5)
    assert loss.dtype == jnp.float32 and metrics["entropy"].dtype == jnp.float32
    np.testing.assert_allclose(loss, oracle(za, zb, 0.5)[0], rtol=5e-3)


@pytest.mark.parametrize("temperature", [0.01, 100.0])
def test_extreme_temperatures_stay_finite(temperature):
    za, zb = embeddings()
    value, grad = jax.value_and_grad(lambda a: nt_xent(a, zb, temperature=temperature)[0])(za)
    np.testing.assert_allclose(value, oracle(za, zb, temperature)[0], rtol=1e-5)
    assert np.isfinite(grad).all()


def test_eight_devices_equal_one_in_value_and_gradient():
    za, zb = embeddings(n=32)
    f = jax.value_and_grad(lambda a, b: nt_xent(a, b, temperature=0.1), (0, 1), has_aux=True)
    (loss, metrics), grads = jax.jit(f)(za, zb)
    for sizes in ({"data": 8}, {"data": 2, "fsdp": 4}):
        mesh = parallel.make_mesh(**sizes)
        rows = NamedSharding(mesh, P(("data", "fsdp")))
        sharded = jax.device_put((za, zb), rows)
        (loss8, metrics8), grads8 = jax.jit(f, out_shardings=(None, (rows, rows)))(*sharded)
        np.testing.assert_allclose(loss8, loss, rtol=1e-6)
        np.testing.assert_allclose(metrics8["entropy"], metrics["entropy"], rtol=1e-5)
        assert metrics8["contrastive_accuracy"] == metrics["contrastive_accuracy"]
        for got, expected in zip(grads8, grads, strict=True):
            np.testing.assert_allclose(got, expected, atol=1e-6)


@pytest.mark.wrong_shapes
def test_bad_input_is_named():
    za, zb = embeddings()
    with pytest.raises(ValueError, match=r"\(16, 8\).*\(8, 8\)"):
        nt_xent(za, zb[:8], temperature=0.1)
    with pytest.raises(ValueError, match="positive, got 0"):
        nt_xent(za, zb, temperature=0)


def oracle_with_memory(za, zb, memory, temperature, normalize):
    """The loss with more negatives of every view, in float64."""
    za, zb, memory = (np.asarray(x, np.float64) for x in (za, zb, memory))
    if normalize:
        za, zb, memory = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (za, zb, memory))
    z, n = np.concatenate([za, zb]), len(za)
    total = 0.0
    for i in range(2 * n):
        others = np.concatenate([np.delete(z, i, axis=0), memory]) @ z[i] / temperature
        top = others.max()
        total += (
            top + np.log(np.exp(others - top).sum()) - z[(i + n) % (2 * n)] @ z[i] / temperature
        )
    return total / (2 * n)


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("implementation", ["auto", "blockwise"])
@pytest.mark.parametrize("temperature", [0.02, 0.2])
def test_more_negatives_of_a_memory(implementation, temperature, normalize):
    za, zb = embeddings()
    memory = np.random.default_rng(5).normal(size=(24, 8)).astype(np.float32)
    options = dict(temperature=temperature, l2_normalize=normalize)

    def loss(za, zb, memory):
        how = dict(implementation=implementation, block_size=16)
        return nt_xent(za, zb, negatives=memory, **how, **options)[0]

    inputs = (za, zb, memory)
    value, grads = jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2)))(*inputs)
    np.testing.assert_allclose(
        value, oracle_with_memory(*inputs, temperature, normalize), rtol=5e-6
    )
    rng = np.random.default_rng(6)
    for side, got in enumerate(grads):
        direction, step = rng.normal(size=got.shape), 1e-5
        ends = [
            oracle_with_memory(
                *(x + sign * step * direction if i == side else x for i, x in enumerate(inputs)),
                temperature, normalize,
            )
            for sign in (1, -1)
        ]  # fmt: skip
        expected = (ends[0] - ends[1]) / (2 * step)
        np.testing.assert_allclose(np.vdot(got, direction), expected, rtol=1e-3, atol=1e-5)


def test_a_memory_gives_eight_devices_the_gradient_of_one():
    za, zb = embeddings(n=32)
    memory = np.random.default_rng(5).normal(size=(40, 8)).astype(np.float32)
    f = jax.value_and_grad(
        lambda a, b, m: nt_xent(a, b, temperature=0.1, negatives=m)[0], argnums=(0, 1, 2)
    )
    one = jax.jit(f)(za, zb, memory)
    mesh = parallel.make_mesh(data=4, fsdp=2)
    with jax.set_mesh(mesh):
        rows, everywhere = parallel.batch_sharding(mesh), parallel.replicated(mesh)
        eight = jax.jit(f)(*jax.device_put((za, zb), rows), jax.device_put(memory, everywhere))
    chex.assert_trees_all_close(one, eight, rtol=1e-5, atol=1e-7)


@pytest.mark.wrong_shapes
def test_negatives_of_another_width_are_refused():
    za, zb = embeddings()
    with pytest.raises(ValueError, match=r"negatives must be \[k 8\]"):
        nt_xent(za, zb, temperature=0.1, negatives=za[:, :4])


def decoupled_oracle(za, zb, temperature, sigma=None):
    """DCL and, with sigma, DCLW (Yeh et al. 2022, Eqs. 6 and 7), anchor by anchor in float64."""
    za, zb = (z / np.linalg.norm(z, axis=1, keepdims=True) for z in (za, zb))
    z, n = np.concatenate([za, zb]), len(za)
    near = np.sum(za * zb, axis=1)
    weight = np.ones(n)
    if sigma is not None:
        weight = 2 - n * np.exp(near / sigma) / np.exp(near / sigma).sum()
    total = 0.0
    for i in range(2 * n):
        others = np.delete(z @ z[i] / temperature, [i % n, i % n + n])
        total += np.logaddexp.reduce(others) - weight[i % n] * near[i % n] / temperature
    return total / (2 * n)


@pytest.mark.parametrize("sigma", [None, 0.5])
@pytest.mark.parametrize("implementation", ["dense", "blockwise"])
def test_decoupled_losses(sigma, implementation):
    za, zb = (np.asarray(z, np.float64) for z in embeddings())
    how = dict(decoupled=True, positive_sigma=sigma, implementation=implementation, block_size=8)
    value, grads = jax.value_and_grad(lambda ab: nt_xent(*ab, temperature=0.2, **how)[0])(
        (np.float32(za), np.float32(zb))
    )
    np.testing.assert_allclose(value, decoupled_oracle(za, zb, 0.2, sigma), rtol=2e-6)
    direction = np.random.default_rng(0).normal(size=(2, *za.shape))
    up, down = (
        decoupled_oracle(za + step * direction[0], zb + step * direction[1], 0.2, sigma)
        for step in (1e-6, -1e-6)
    )
    got = sum(np.sum(np.asarray(g, np.float64) * v) for g, v in zip(grads, direction, strict=True))
    np.testing.assert_allclose(got, (up - down) / 2e-6, rtol=1e-4)


def test_decoupled_loss_of_equal_embeddings():
    """DCL is log(2n - 2), and so is DCLW, whose weights are 1."""
    same = np.ones((8, 4), np.float32)
    for sigma in (None, 0.5):
        loss, _ = nt_xent(same, same, temperature=0.5, decoupled=True, positive_sigma=sigma)
        np.testing.assert_allclose(loss + 2, np.log(14) + 2, rtol=1e-6)


def test_weights_of_positives_need_the_decoupled_loss():
    za, zb = embeddings()
    with pytest.raises(
        ValueError, match="positive_sigma 0.5 must be positive, and needs decoupled"
    ):
        nt_xent(za, zb, temperature=0.1, positive_sigma=0.5)
