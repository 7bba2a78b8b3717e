"""Losses of pairs, triplets and quadruplets against float64 loops, on one device and on eight."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssl_jax import parallel
from ssl_jax.losses.metric import strips
from ssl_jax.losses.metric.lifted_structured import lifted_structured
from ssl_jax.losses.metric.mining import MINING
from ssl_jax.losses.metric.n_pair import n_pair
from ssl_jax.losses.metric.pair import pair, pair_of
from ssl_jax.losses.metric.quadruplet import quadruplet
from ssl_jax.losses.metric.sigmoid import sigmoid
from ssl_jax.losses.metric.supcon import supcon
from ssl_jax.losses.metric.triplet import triplet, triplet_of
from tests.losses.metric import oracles

LOSSES = {
    "pair": (pair, {}),
    "pair, unsquared": (pair, dict(power=1, margin=1.3, positive_margin=0.2, reduction="mean")),
    "pair, cosine": (pair, dict(distance="cosine", margin=0.9, reduction="sum")),
    "quadruplet": (quadruplet, {}),
    "quadruplet, semi-hard": (
        quadruplet,
        {"mining": "semi_hard", "mining_margin": 0.3, "reduction": "mean"},
    ),
    "quadruplet, all": (quadruplet, {"mining": "all", "distance": "euclidean"}),
    "n-pair": (n_pair, dict(l2_weight=0.02)),
    "lifted": (lifted_structured, {}),
    "lifted, angular": (lifted_structured, dict(distance="angular", reduction="mean_nonzero")),
    "supcon": (supcon, dict(temperature=0.1, base_temperature=0.07)),
    "triplet, soft": (triplet, dict(soft_margin=True, margin=0.0, l2_normalize=False)),
    "triplet, soft, all": (triplet, dict(soft_margin=True, mining="all", distance="angular")),
    "triplet, FaceNet": (triplet, dict(mining="nearest_semi_hard", distance="squared")),
}
LOSSES |= {
    f"triplet, {mining}": (triplet, dict(mining=mining, margin=0.3, mining_margin=0.5))
    for mining in MINING
}
FEW = ("pair", "quadruplet", "n-pair", "lifted", "supcon", "triplet, all", "triplet, batch_hard",
       "triplet, nearest_semi_hard")  # fmt: skip
QUICK = ("pair", "supcon", "quadruplet", "triplet, all", "triplet, nearest_semi_hard")


def batch(n=24, d=5, seed=0):
    """Classes of one to six examples in random order, and two examples without label."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(7), [1, 2, 3, 4, 5, 6, n - 23])
    labels = np.concatenate([labels, [-1, -1]])
    labels = rng.permutation(labels).astype(np.int32)
    centres = rng.normal(size=(8, d))
    return (centres[labels] + 0.8 * rng.normal(size=(n, d))).astype(np.float32), labels


def measure(names, z, labels, mesh=None):
    """{name: ((loss, metrics), gradient)}, in one program."""

    def f(z, labels):
        return {
            name: jax.value_and_grad(
                functools.partial(LOSSES[name][0], labels=labels, **LOSSES[name][1]), has_aux=True
            )(z)
            for name in names
        }

    if mesh is None:
        return jax.jit(f)(z, labels)
    mesh = parallel.make_mesh(**mesh)
    with jax.set_mesh(mesh):
        return jax.jit(f)(*jax.device_put((z, labels), parallel.batch_sharding(mesh)))


def check(name, z, labels, result):
    (value, metrics), gradient = result
    loss, options = LOSSES[name]
    oracle = functools.partial(getattr(oracles, loss.__name__), labels=labels, **options)
    np.testing.assert_allclose(value, oracle(z), rtol=2e-6, atol=1e-7, err_msg=name)
    rng = np.random.default_rng(1)
    for _ in range(3):
        direction = rng.normal(size=z.shape)
        expected = oracles.slope(oracle, z, direction)
        got = np.sum(np.asarray(gradient, np.float64) * direction)
        np.testing.assert_allclose(got, expected, rtol=2e-4, atol=2e-6, err_msg=name)
    assert all(np.isfinite(metric) for metric in metrics.values())


@pytest.mark.parametrize(
    "strip, names",
    [
        (29 * 8, QUICK),
        pytest.param(strips.STRIP, QUICK, marks=pytest.mark.slow),
        pytest.param(29 * 8, LOSSES, marks=pytest.mark.slow),
    ],
    ids=["strips", "one strip", "strips, all"],
)
def test_value_and_gradient_are_the_oracles(strip, names, monkeypatch):
    monkeypatch.setattr(strips, "STRIP", strip)
    monkeypatch.setattr(strips, "MIN_ROWS", 8)
    z, labels = batch(29)
    results = measure(names, z, labels)
    for name in names:
        check(name, z, labels, results[name])


@pytest.mark.parametrize(
    "mesh, names",
    [
        ({"data": 8}, ("supcon", "triplet, all")),
        pytest.param({"data": 2, "fsdp": 2, "tensor": 2}, FEW, marks=pytest.mark.slow),
        pytest.param({"data": 8}, LOSSES, marks=pytest.mark.slow),
    ],
    ids=["data 8", "data 2, fsdp 2, tensor 2", "data 8, all"],
)
def test_any_number_of_devices(mesh, names, monkeypatch):
    monkeypatch.setattr(strips, "STRIP", 32 * 2)  # the smallest strips there are
    monkeypatch.setattr(strips, "MIN_ROWS", 3)
    z, labels = batch(32)
    results = measure(names, z, labels, mesh)
    for name in names:
        check(name, z, labels, results[name])


def test_batches_without_pairs_and_duplicates_are_finite():
    """Classes of one example, one class, no labels, equal embeddings, zeros, and huge ones."""
    z, _ = batch(24)
    one, own = np.zeros(24, np.int32), np.arange(24, dtype=np.int32)
    four = np.repeat(np.arange(6, dtype=np.int32), 4)
    equal, huge = np.ones_like(z), 1e15 * z
    f = jax.jit(functools.partial(measure, QUICK))
    cases = {
        "own": (z, own), "one": (z, one), "none": (z, own * 0 - 1), "equal": (equal, four),
        "zero": (0 * z, four), "huge": (huge, four), "twice": (np.repeat(z[:12], 2, 0), four),
    }  # fmt: skip
    results = {case: f(*arrays) for case, arrays in cases.items()}
    for case, result in results.items():
        for name, ((value, metrics), gradient) in result.items():
            assert np.isfinite(value) and np.isfinite(gradient).all(), (case, name)
            assert all(np.isfinite(metric) for metric in metrics.values()), (case, name)
    for case in ("own", "none"):
        for name in ("triplet, all", "quadruplet", "supcon"):
            assert results[case][name][0][0] == 0, (case, name)
    # All distances are 0: the hinge is the margin.
    np.testing.assert_allclose(results["equal"]["triplet, all"][0][0], 0.3, rtol=1e-5)
    np.testing.assert_allclose(results["equal"]["quadruplet"][0][0], 1.5, rtol=1e-5)
    np.testing.assert_allclose(results["equal"]["supcon"][0][0], np.log(23) / 0.7, rtol=1e-5)


def test_closed_forms():
    """The number of triplets, log 2, a pair's gradient, and N-pair's values."""
    z, labels = batch(24)[0], np.repeat(np.arange(6, dtype=np.int32), 4)
    sums = jax.jit(lambda z: triplet(z, labels, mining="all", margin=1e3, reduction="sum"))(0 * z)
    assert sums[0] == 1e3 * 24 * 3 * (24 - 4)  # P K (K - 1) (P K - K)
    soft = functools.partial(triplet, soft_margin=True, margin=0.0, labels=labels)
    np.testing.assert_allclose(jax.jit(soft)(0 * z)[0], np.log(2), rtol=1e-6)
    x, y = (jnp.array([[0.3, 0.4]]), jnp.array([[0.0, -0.1]]))
    how = dict(l2_normalize=False, reduction="sum")
    grad = jax.grad(lambda x, same: pair_of(x, y, same, **how)[0])
    np.testing.assert_allclose(grad(x, jnp.array([True])), 2 * (x - y), rtol=1e-6)
    assert not np.any(jax.grad(lambda x: pair_of(9 * x, y, jnp.array([False]), **how)[0])(x))
    two = jnp.array([[1.0, 0], [0.5, 0], [0, 1.0], [0, 2.0]])
    value = n_pair(two, jnp.array([0, 0, 1, 1]))[0]
    s = np.array([[0.5, 0], [0, 2.0]])  # softplus(s- - s+)
    np.testing.assert_allclose(value, np.mean(oracles.softplus(-np.diag(s))), rtol=1e-6)
    same = n_pair(jnp.ones((8, 3)), jnp.repeat(jnp.arange(4), 2))[0]
    np.testing.assert_allclose(same, np.log(4), rtol=1e-6)


def test_given_triplets_and_quadruplets_without_second_term_are_the_batch_losses():
    z, labels = batch(24)
    d = oracles.all_distances(oracles.unit(z), "squared")
    index = np.array(oracles.triplets(d, labels, "batch_hard", 0))
    a, p, n = (z[index[:, i]] for i in range(3))
    how = dict(distance="squared", margin=0.4)
    explicit, metrics = jax.jit(functools.partial(triplet_of, **how))(a, p, n)
    mined, mined_metrics = jax.jit(functools.partial(triplet, **how))(z, labels)
    np.testing.assert_allclose(explicit, mined, rtol=1e-5)
    for name, value in metrics.items():
        np.testing.assert_allclose(value, mined_metrics[name], rtol=1e-5)
    third = jax.jit(functools.partial(quadruplet, **how, second_margin=-1e9))(z, labels)[0]
    np.testing.assert_allclose(third, mined, rtol=1e-5)


def test_supcon_of_labels_of_their_own_is_nt_xent():
    from ssl_jax.losses.contrastive import nt_xent

    rng = np.random.default_rng(0)
    za, zb = rng.normal(size=(2, 12, 6)).astype(np.float32)
    labels = np.tile(np.arange(12, dtype=np.int32), 2)
    f = jax.value_and_grad(lambda z: supcon(z, labels, temperature=0.2)[0])
    g = jax.value_and_grad(lambda z: nt_xent(z[:12], z[12:], temperature=0.2)[0])
    z = np.concatenate([za, zb])
    for got, want in zip(jax.jit(f)(z), jax.jit(g)(z), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("mesh, block", [(None, None), (None, 8), ({"data": 8}, 2)], ids=str)
def test_sigmoid(mesh, block):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2, 24, 6)).astype(np.float32)
    numbers = (np.float32(1.3), np.float32(-2.0))

    def f(x, y, t, b):
        return jax.value_and_grad(
            lambda *a: sigmoid(a[0], a[1], log_scale=a[2], bias=a[3], block_size=block)[0],
            (0, 1, 2, 3),
        )(x, y, t, b)

    if mesh is None:
        value, gradients = jax.jit(f)(x, y, *numbers)
    else:
        mesh = parallel.make_mesh(**mesh)
        with jax.set_mesh(mesh):
            x, y = jax.device_put((x, y), parallel.batch_sharding(mesh))
            value, gradients = jax.jit(f)(x, y, *numbers)
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    np.testing.assert_allclose(value, oracles.sigmoid(x, y, *numbers), rtol=2e-6)
    at = [x, y, *map(np.float64, numbers)]
    for i, gradient in enumerate(gradients):
        direction = rng.normal(size=np.shape(at[i]))
        f = lambda v: oracles.sigmoid(*at[:i], v, *at[i + 1 :])  # noqa: B023, E731
        expected = oracles.slope(f, at[i], direction)
        got = np.sum(np.asarray(gradient, np.float64) * direction)
        np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-6)


def test_sigmoid_of_orthonormal_pairs():
    x = np.eye(8, dtype=np.float32)
    value = jax.jit(lambda x: sigmoid(x, x, log_scale=np.log(10.0), bias=-10.0)[0])(x)
    np.testing.assert_allclose(value, np.log(2) + 7 * np.log1p(np.exp(-10)), rtol=1e-6)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda z, y: pair(z, y, distance="manhattan"), "unknown distance 'manhattan'"),
        (lambda z, y: pair(z, y, reduction="max"), "unknown reduction 'max'"),
        (lambda z, y: pair(z, y, power=3), "power must be 1 or 2"),
        (lambda z, y: triplet(z, y, mining="random"), "unknown mining 'random'"),
        (lambda z, y: supcon(z, y, temperature=0.0), "temperature must be positive"),
    ],
)
def test_bad_options(call, message):
    z, labels = batch(24)
    with pytest.raises(ValueError, match=message):
        call(jnp.asarray(z), jnp.asarray(labels))


def test_memory_is_linear():
    """No array of all pairs, forward or backward: 8 times the examples, about 8 times the bytes."""
    labels = lambda n: jax.ShapeDtypeStruct((n,), jnp.int32)  # noqa: E731

    def temporary(name, n):
        loss, options = LOSSES[name]
        f = jax.jit(jax.grad(lambda z, y: loss(z, y, **options)[0]))
        compiled = f.lower(jax.ShapeDtypeStruct((n, 32), jnp.float32), labels(n)).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    for name in ("supcon", "triplet, all", "triplet, batch_hard", "lifted"):
        small, large = temporary(name, 2048), temporary(name, 16384)
        assert large < 12 * small, (name, small, large)
        assert large < 16384**2 // 4, (name, large)
