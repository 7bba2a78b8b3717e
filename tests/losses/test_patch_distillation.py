"""The loss of masked patches against a float64 oracle: weights, offsets, chunks, devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from ssl_jax import losses, parallel

STUDENT, TEACHER = 0.1, 0.05
N, M, K = 8, 5, 6


def arrays(seed=0):
    """(u, W, t, W', is_masked) of 8 images with 0 to 5 masked patches."""
    rng = np.random.default_rng(seed)

    def unit(*shape):
        x = rng.normal(size=shape)
        return (x / np.linalg.norm(x, axis=-1, keepdims=True)).astype(np.float32)

    counts = np.array([5, 0, 1, 3, 2, 5, 4, 1])
    return (
        unit(N, M, 4), unit(K, 4).T.copy(), unit(N, M, 3), unit(K, 3).T.copy(),
        np.arange(M) < counts[:, None],
    )  # fmt: skip


def weights_of(is_masked):
    return (is_masked / np.maximum(is_masked.sum(1, keepdims=True), 1)).astype(np.float32)


def softmax(x):
    e = np.exp(x - x.max())
    return e / e.sum()


def oracle(u, w, t, w_t, is_masked, offset):
    """Image by image and patch by patch, in float64: (loss, entropy of the targets)."""
    u, w, t, w_t, offset = (np.asarray(x, np.float64) for x in (u, w, t, w_t, offset))
    loss, entropies = 0.0, []
    for i in range(len(u)):
        terms, entropy = [], []
        for j in np.flatnonzero(is_masked[i]):
            q = softmax(t[i, j] @ w_t / TEACHER + offset)
            terms.append(-np.sum(q * np.log(softmax(u[i, j] @ w / STUDENT))))
            entropy.append(-np.sum(q * np.log(q)))
        if terms:
            loss += np.mean(terms) / len(u)
            entropies.append(np.mean(entropy))
    return loss, np.mean(entropies)


def loss(u, w, t, w_t, is_masked, offset, **options):
    return losses.masked_distillation(
        u, w, t, w_t, weights_of(is_masked), offset,
        temperature=STUDENT, teacher_temperature=TEACHER, **options,
    )  # fmt: skip


OFFSET = np.linspace(-1, 1, K).astype(np.float32)


def test_value_matches_the_oracle_for_any_chunk():
    expected = oracle(*arrays(), OFFSET)
    for max_outputs in (2**25, 8 * K):  # all 40 patches together, and 8 at a time
        got = loss(*arrays(), OFFSET, max_outputs=max_outputs)
        np.testing.assert_allclose(got, expected, rtol=3e-6)
    u, *others = arrays()
    low, _ = loss(jnp.asarray(u, jnp.bfloat16), *others, OFFSET)
    assert low.dtype == jnp.float32
    np.testing.assert_allclose(low, expected[0], rtol=1e-2)


def test_gradient_matches_finite_differences_of_the_oracle():
    given = arrays()
    got = jax.jit(
        jax.grad(lambda u, w: loss(u, w, *given[2:], OFFSET, max_outputs=8 * K)[0], argnums=(0, 1))
    )(*given[:2])
    rng = np.random.default_rng(1)
    for argument in (0, 1):
        direction = rng.normal(size=given[argument].shape)
        values = []
        for sign in (1, -1):
            moved = [np.asarray(x, np.float64) for x in given]
            moved[4] = given[4]
            moved[argument] += sign * 1e-5 * direction
            values.append(oracle(*moved, OFFSET)[0])
        slope = (values[0] - values[1]) / 2e-5
        np.testing.assert_allclose(np.sum(got[argument] * direction), slope, rtol=1e-4)


def test_no_gradient_reaches_the_teacher_and_no_value_the_unmasked_places():
    u, w, t, w_t, is_masked = arrays()
    grads = jax.grad(
        lambda t, w_t, b: loss(u, w, t, w_t, is_masked, b)[0] + loss(u, w, t, w_t, is_masked, b)[1],
        argnums=(0, 1, 2),
    )(t, w_t, OFFSET)
    assert all(not np.any(grad) for grad in grads)
    other = np.where(is_masked[:, :, None], u, 7.0).astype(np.float32)
    np.testing.assert_array_equal(
        loss(u, w, t, w_t, is_masked, OFFSET)[0], loss(other, w, t, w_t, is_masked, OFFSET)[0]
    )
    nothing = np.zeros_like(is_masked)
    assert loss(u, w, t, w_t, nothing, OFFSET)[0] == 0


@pytest.mark.parametrize("iterations", [0, 1, 3])
def test_the_offset_gives_the_codes_of_sinkhorn(iterations):
    """Of the masked patches alone, in one chunk or in chunks of 8."""
    _, _, t, w_t, is_masked = arrays()
    scores = (t.astype(np.float64) @ w_t).reshape(-1, K)
    codes = losses.sinkhorn(
        scores.astype(np.float32), epsilon=TEACHER, iterations=iterations, mask=is_masked.ravel()
    )
    for max_outputs in (2**25, 8 * K):
        offset = losses.sinkhorn_offset(
            t, w_t, is_masked, epsilon=TEACHER, iterations=iterations, max_outputs=max_outputs
        )
        got = jax.nn.softmax(scores / TEACHER + offset)
        np.testing.assert_allclose(got, codes, atol=1e-5)


def test_converged_offsets_use_all_prototypes_equally():
    _, _, t, w_t, is_masked = arrays()
    offset = losses.sinkhorn_offset(t, w_t, is_masked, epsilon=1.0, iterations=8)
    codes = jax.nn.softmax((t @ w_t + offset)[is_masked], axis=-1)
    np.testing.assert_allclose(codes.sum(axis=0), is_masked.sum() / K, rtol=1e-3)


def test_eight_devices_give_the_value_and_gradient_of_one():
    u, w, t, w_t, is_masked = arrays()
    mesh = parallel.make_mesh(devices=jax.devices()[:8])
    rows = NamedSharding(mesh, P("data"))

    def total(u, w, t, w_t, is_masked):
        offset = losses.sinkhorn_offset(t, w_t, is_masked, epsilon=TEACHER)
        weights = is_masked / jnp.maximum(is_masked.sum(1, keepdims=True), 1)
        return losses.masked_distillation(u, w, t, w_t, weights, offset)[0]

    step = jax.value_and_grad(total, argnums=(0, 1))
    one = jax.jit(step)(u, w, t, w_t, is_masked)
    with jax.set_mesh(mesh):
        sharded = [jax.device_put(x, rows) for x in (u, t, is_masked)]
        eight = jax.jit(lambda *x: step(*x))(sharded[0], w, sharded[1], w_t, sharded[2])
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(eight), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_a_temperature_of_0_is_refused():
    given = arrays()
    with pytest.raises(ValueError, match="temperature must be positive"):
        losses.masked_distillation(
            *given[:4], weights_of(given[4]), OFFSET, teacher_temperature=0.0
        )
