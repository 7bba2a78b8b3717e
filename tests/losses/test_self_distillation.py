"""DINO's loss against a float64 oracle: pairs, gradient, centre, devices, memory."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend import core
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from ssl_jax import losses, parallel

STUDENT, TEACHER = 0.1, 0.05


def arrays(n=6, v=4, g=2, d=5, k=7, seed=0):
    """Embeddings of student and teacher on the sphere, two sets of prototypes, a centre."""
    rng = np.random.default_rng(seed)

    def unit(*shape):
        x = rng.normal(size=shape)
        return (x / np.linalg.norm(x, axis=-1, keepdims=True)).astype(np.float32)

    centre = (0.1 * rng.normal(size=k)).astype(np.float32)
    return unit(n, v, d), unit(k, d).T.copy(), unit(n, g, d), unit(k, d).T.copy(), centre


def softmax(x):
    e = np.exp(x - x.max())
    return e / e.sum()


def oracle(u, w, u_t, w_t, c):
    """Pair by pair, image by image, in float64."""
    u, w, u_t, w_t, c = (np.asarray(x, np.float64) for x in (u, w, u_t, w_t, c))
    terms = []
    for student, teacher in zip(u, u_t, strict=True):
        for i, t in enumerate(teacher):
            q = softmax((t @ w_t - c) / TEACHER)
            for j, s in enumerate(student):
                if i != j:
                    terms.append(-np.sum(q * np.log(softmax(s @ w / STUDENT))))
    return np.mean(terms)


def loss(u, w, u_t, w_t, c):
    logits = losses.prototype_logits(u_t, w_t)
    targets = losses.centred_targets(logits, c, temperature=TEACHER)
    return losses.self_distillation(u, w, targets, temperature=STUDENT)


@pytest.mark.parametrize(("v", "g"), [(2, 2), (4, 2), (5, 1), (3, 3)])
def test_value_matches_the_oracle(v, g):
    given = arrays(v=v, g=g)
    np.testing.assert_allclose(loss(*given), oracle(*given), rtol=3e-6)
    low = loss(jnp.asarray(given[0], jnp.bfloat16), given[1], *given[2:])
    assert low.dtype == jnp.float32
    np.testing.assert_allclose(low, oracle(*given), rtol=1e-2)


@pytest.mark.parametrize("argument", [0, 1])
def test_gradient_matches_finite_differences_of_the_oracle(argument):
    given = list(arrays(n=2, v=3, d=3, k=4))
    got = jax.grad(loss, argnums=argument)(*given)
    expected = np.zeros(given[argument].shape)
    for index in np.ndindex(expected.shape):
        values = []
        for sign in (1, -1):
            moved = [np.asarray(x, np.float64) for x in given]
            moved[argument][index] += sign * 1e-5
            values.append(oracle(*moved))
        expected[index] = (values[0] - values[1]) / 2e-5
    np.testing.assert_allclose(got, expected, atol=5e-6)


def test_no_gradient_reaches_the_teacher_or_the_centre():
    given = arrays()
    grads = jax.grad(loss, argnums=(2, 3, 4))(*given)
    assert all(not np.any(grad) for grad in grads)


def test_equal_outputs_cost_the_logarithm_of_their_number():
    """Uniform students, whatever the targets; log 65536 = 11.09035."""
    k = 65536
    u = jnp.ones((1, 3, 2))
    targets = losses.centred_targets(
        jax.random.normal(jax.random.key(0), (1, 2, k)), jnp.zeros(k), temperature=0.04
    )
    value = losses.self_distillation(u, jnp.ones((2, k)), targets)
    np.testing.assert_allclose(value, 11.09035, rtol=1e-6)


def test_a_view_is_not_compared_with_its_own_target():
    """One-hot targets that each student view predicts for itself, and none for the other."""
    w = np.eye(3, dtype=np.float32)
    targets = np.eye(3, dtype=np.float32)[None, :2]  # of view 0: prototype 0; of view 1: 1
    across = w[None, [1, 0]]
    same = w[None, [0, 1]]
    right = losses.self_distillation(across, w, targets, temperature=0.01)
    wrong = losses.self_distillation(same, w, targets, temperature=0.01)
    np.testing.assert_allclose(right, 0, atol=1e-6)
    np.testing.assert_allclose(wrong, 100, rtol=1e-4)
    # A third view is compared with both.
    third = np.concatenate([across, w[None, [2]]], axis=1)
    value = losses.self_distillation(third, w, targets, temperature=0.01)
    np.testing.assert_allclose(value, (0 + 0 + 100 + 100) / 4, rtol=1e-4)


def test_the_centre_after_t_constant_batches():
    """(1 - 0.9^t) times the mean over images and views."""
    logits = jnp.asarray(np.random.default_rng(0).normal(size=(5, 2, 7)), jnp.float32)
    centre = jnp.zeros(7)
    for t in range(1, 6):
        centre = losses.update_centre(centre, logits, momentum=0.9)
        mean = np.asarray(logits, np.float64).mean(axis=(0, 1))
        np.testing.assert_allclose(centre, (1 - 0.9**t) * mean, rtol=2e-6)


def test_the_centre_takes_out_a_common_offset_and_the_temperature_sharpens():
    logits = jnp.asarray(np.random.default_rng(0).normal(size=(5, 2, 7)), jnp.float32)
    offset = jnp.arange(7.0)
    plain = losses.centred_targets(logits, jnp.zeros(7), temperature=1.0)
    moved = losses.centred_targets(logits + offset, offset, temperature=1.0)
    np.testing.assert_allclose(moved, plain, rtol=1e-5)
    np.testing.assert_allclose(plain.sum(-1), 1, rtol=1e-6)
    sharp = losses.centred_targets(logits, jnp.zeros(7), temperature=0.01)
    assert losses.target_statistics(0.0, sharp)["target_entropy"] < 0.3
    assert losses.target_statistics(0.0, plain)["target_entropy"] > 1.0


def test_statistics_tell_the_two_ways_to_collapse_apart():
    k = 8
    one_hot = jnp.broadcast_to(jnp.eye(k)[0], (4, 2, k))
    uniform = jnp.full((4, 2, k), 1 / k)
    spread = jnp.eye(k)[np.arange(8)].reshape(4, 2, k)
    for targets, entropy, used in (
        (one_hot, 0, 1),
        (uniform, np.log(k), k),
        (spread, 0, k),
    ):
        got = losses.target_statistics(jnp.float32(3.0), targets)
        np.testing.assert_allclose(got["target_entropy"], entropy, atol=1e-6)
        np.testing.assert_allclose(got["kl"], 3 - entropy, rtol=3e-6)
        np.testing.assert_allclose(got["prototypes_used"], used, rtol=1e-5)


@pytest.mark.parametrize("sizes", [{"data": 8}, {"data": 2, "fsdp": 4}])
def test_eight_devices_equal_one_in_value_gradient_and_centre(sizes):
    u, w, u_t, w_t, c = arrays(n=16)

    def everything(u, w, u_t):
        value, grads = jax.value_and_grad(loss, argnums=(0, 1))(u, w, u_t, w_t, c)
        centre = losses.update_centre(c, losses.prototype_logits(u_t, w_t), momentum=0.9)
        return value, grads, centre

    expected = jax.jit(everything)(u, w, u_t)
    mesh = parallel.make_mesh(**sizes)
    rows, whole = NamedSharding(mesh, P(("data", "fsdp"))), NamedSharding(mesh, P())
    with jax.set_mesh(mesh):
        given = jax.device_put((u, w, u_t), (rows, whole, rows))
        step = jax.jit(everything, out_shardings=(None, (rows, whole), whole))
        got = step(*given)
    chex.assert_trees_all_close(got, expected, rtol=1e-5, atol=1e-7)


def sizes_of(jaxpr):
    """Sizes of all arrays that a program computes, those in inner programs included."""
    for equation in jaxpr.eqns:
        for variable in equation.outvars:
            yield variable.aval.size
        for value in equation.params.values():
            for inner in value if isinstance(value, (tuple, list)) else (value,):
                inner = inner.jaxpr if isinstance(inner, core.ClosedJaxpr) else inner
                if isinstance(inner, core.Jaxpr):
                    yield from sizes_of(inner)


def test_no_array_has_a_row_for_each_pair_or_for_each_view_of_the_student():
    n, v, g, d, k = 16, 10, 2, 4, 64
    given = arrays(n, v, g, d, k)
    program = jax.make_jaxpr(jax.value_and_grad(loss, argnums=(0, 1)))(*given)
    assert max(sizes_of(program.jaxpr)) == n * g * k


@pytest.mark.parametrize(
    ("u", "w", "q", "message"),
    [
        ((4, 3, 5), (5, 7), (3, 2, 7), r"\(4, 3, 5\) \[n v d\]"),
        ((4, 3, 5), (6, 7), (4, 2, 7), r"prototypes \(6, 7\)"),
        ((4, 3, 5), (5, 7), (4, 2, 8), r"targets \(4, 2, 8\)"),
        ((4, 1, 5), (5, 7), (4, 1, 7), "targets of 1 views and embeddings of 1 views"),
        ((4, 2, 5), (5, 7), (4, 3, 7), "targets of 3 views and embeddings of 2 views"),
    ],
)
def test_bad_shapes_are_named(u, w, q, message):
    with pytest.raises(ValueError, match=message):
        losses.self_distillation(jnp.ones(u), jnp.ones(w), jnp.ones(q))


def test_bad_temperatures_and_centres_are_named():
    u, w, u_t, w_t, c = arrays()
    logits = losses.prototype_logits(u_t, w_t)
    with pytest.raises(ValueError, match=r"\[n g k\] and a centre \(3,\)"):
        losses.centred_targets(logits, c[:3], temperature=0.04)
    with pytest.raises(ValueError, match="temperature must be positive"):
        losses.centred_targets(logits, c, temperature=0.0)
    with pytest.raises(ValueError, match="temperature must be positive"):
        losses.self_distillation(u, w, logits, temperature=-1.0)
