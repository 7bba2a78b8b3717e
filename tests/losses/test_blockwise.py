"""NT-Xent without its matrix: every schedule, mesh and size against a float64 oracle."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssl_jax import parallel
from ssl_jax.losses import blockwise_schedules as schedules
from ssl_jax.losses.contrastive import nt_xent
from ssl_jax.losses.implementation import choose_implementation
from tests.marks import slow_unless


def oracle(za, zb, temperature, normalize=True):
    """(loss, gradients of za and zb, accuracy, entropy) in float64, with the whole matrix."""
    za, zb = np.asarray(za, np.float64), np.asarray(zb, np.float64)
    n = len(za)
    x = np.concatenate([za, zb])
    norm = np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-6) if normalize else 1.0
    z = x / norm
    s = z @ z.T / temperature
    np.fill_diagonal(s, -np.inf)
    top = s.max(1, keepdims=True)
    e = np.exp(s - top)
    lse = top[:, 0] + np.log(e.sum(1))
    positive = np.concatenate([np.arange(n, 2 * n), np.arange(n)])
    loss = np.mean(lse - s[np.arange(2 * n), positive])
    p = e / e.sum(1, keepdims=True)
    target = np.zeros_like(p)
    target[np.arange(2 * n), positive] = 1
    dz = (p + p.T - 2 * target) @ z / (2 * n * temperature)
    if normalize:
        long = np.linalg.norm(x, axis=1, keepdims=True) > 1e-6
        dz = (dz - long * z * np.sum(z * dz, 1, keepdims=True)) / norm
    ab = s[:n, n:]
    q = np.exp(ab - ab.max(1, keepdims=True))
    q /= q.sum(1, keepdims=True)
    with np.errstate(divide="ignore", invalid="ignore"):
        entropy = -np.where(q > 0, q * np.log(q), 0).sum(1).mean()
    return loss, (dz[:n], dz[n:]), (np.diag(ab) >= ab.max(1)).mean(), entropy


def embeddings(n, d=12, seed=0, dtype=np.float32):
    rng = np.random.default_rng(seed)
    za = rng.normal(size=(n, d))
    return za.astype(dtype), (za + 0.7 * rng.normal(size=(n, d))).astype(dtype)


@functools.cache
def program(mesh, options):
    """(mesh, (za, zb, temperature) -> ((loss, metrics), gradients)), jitted over a mesh's axes."""
    options = dict(options)

    @jax.jit
    def f(za, zb, *temperature):
        how = dict(options, temperature=temperature[0]) if temperature else options
        return jax.value_and_grad(lambda a, b: nt_xent(a, b, **how), argnums=(0, 1), has_aux=True)(
            za, zb
        )

    if not mesh:
        return None, f
    count = int(np.prod([size for _, size in mesh]))
    return parallel.make_mesh(**{"data": 1, **dict(mesh)}, devices=jax.devices()[:count]), f


def measure(za, zb, mesh=None, *, temperature, traced=True, **options):
    """((loss, metrics), gradients) over a mesh given as its axes' sizes.

    One program for all temperatures, unless they are not `traced`.
    """
    arguments = (temperature,) if traced else ()
    options |= {} if traced else {"temperature": temperature}
    mesh, f = program(tuple((mesh or {}).items()), tuple(options.items()))
    if mesh is None:
        return f(za, zb, *arguments)
    with jax.set_mesh(mesh):
        return f(*jax.device_put((za, zb), parallel.batch_sharding(mesh)), *arguments)


def check(za, zb, temperature, normalize=True, rtol=1e-5, **options):
    (loss, metrics), grads = measure(
        za, zb, temperature=temperature, l2_normalize=normalize, **options
    )
    expected, gradients, accuracy, entropy = oracle(za, zb, temperature, normalize)
    # float32 knows a similarity of 1/t to 1e-7/t.
    np.testing.assert_allclose(loss, expected, rtol=rtol, atol=1e-7 / temperature)
    rtol = max(rtol, 5e-7 / temperature)
    for got, want in zip(grads, gradients, strict=True):
        assert got.dtype == za.dtype
        error = np.linalg.norm(np.asarray(got, np.float64) - want)
        assert error <= rtol * np.linalg.norm(want), error / np.linalg.norm(want)
    np.testing.assert_allclose(metrics["contrastive_accuracy"], accuracy, atol=1e-6)
    np.testing.assert_allclose(metrics["entropy"], entropy, rtol=2e-5, atol=5e-5)


MESHES = [
    {"data": 2},
    {"data": 4},
    {"data": 8},
    {"data": 2, "fsdp": 4},
    {"data": 2, "fsdp": 2, "tensor": 2},
]


@pytest.mark.parametrize("mesh", slow_unless(MESHES[-3:-1].__contains__, MESHES), ids=str)
@pytest.mark.parametrize("implementation", ["dense", "blockwise", "ring"])
def test_every_mesh_gives_the_oracles_value_and_gradient(implementation, mesh):
    za, zb = embeddings(n=64)
    check(za, zb, 0.1, implementation=implementation, block_size=8, mesh=mesh, traced=False)


@pytest.mark.parametrize("implementation", ["blockwise", "ring"])
def test_any_temperature_on_one_device(implementation):
    za, zb = embeddings(n=24)
    for temperature in (0.01, 0.02, 0.025, 0.5, 100.0):
        check(za, zb, temperature, implementation=implementation, block_size=16)


@pytest.mark.slow
@pytest.mark.parametrize("implementation", ["blockwise", "ring"])
def test_extreme_temperatures_on_eight_devices(implementation):
    za, zb = embeddings(n=64)
    for temperature in (0.01, 100.0):
        check(za, zb, temperature, implementation=implementation, block_size=8, mesh={"data": 8})


@pytest.mark.parametrize("mesh", slow_unless(bool, [None, {"data": 4}]), ids=str)
def test_plain_dot_products(mesh):
    za, zb = embeddings(n=32)
    for implementation in ("dense", "blockwise", "ring"):
        check(
            za, zb, 0.3, normalize=False, implementation=implementation, block_size=8, mesh=mesh,
            rtol=2e-5,
        )  # fmt: skip


@pytest.mark.parametrize(
    "n, block_size",
    slow_unless(
        [(1, 4), (13, 8), (37, 16)].__contains__,
        [(1, 4), (2, 2), (7, 4), (13, 8), (30, 64), (37, 16)],
    ),
)
def test_any_number_of_images_and_block_size_on_one_device(n, block_size):
    za, zb = embeddings(n)
    check(za, zb, 0.2, implementation="blockwise", block_size=block_size)
    check(za, zb, 0.01, implementation="blockwise", block_size=block_size)  # running maximum


@pytest.mark.slow
@pytest.mark.parametrize("n", [36, 52])
def test_a_rest_of_images_on_every_device(n):
    za, zb = embeddings(n)
    for implementation in ("blockwise", "ring"):
        check(za, zb, 0.2, implementation=implementation, block_size=4, mesh={"data": 4})
        check(za, zb, 0.01, implementation=implementation, block_size=4, mesh={"data": 4})


@pytest.mark.parametrize("mesh", slow_unless(bool, [None, {"data": 8}]), ids=str)
@pytest.mark.parametrize("implementation", ["blockwise", "ring"])
def test_closed_forms(implementation, mesh):
    run = functools.partial(measure, implementation=implementation, block_size=8, mesh=mesh)
    n = 16
    same = np.ones((n, 4), np.float32)
    for temperature in (0.01, 0.5):
        (loss, metrics), grads = run(same, same, temperature=temperature)
        np.testing.assert_allclose(loss, np.log(2 * n - 1), rtol=1e-5)
        atol = 2e-6 / temperature  # of the similarities
        np.testing.assert_allclose(metrics["entropy"], np.log(n), atol=atol)
        assert all(np.abs(g).max() < 1e-5 for g in grads)
    orthonormal = np.eye(n, dtype=np.float32)
    (loss, metrics), _ = run(orthonormal, orthonormal, temperature=0.5)
    np.testing.assert_allclose(loss, -2 + np.log(np.exp(2) + 2 * n - 2), rtol=1e-6)
    assert metrics["contrastive_accuracy"] == 1


@pytest.mark.parametrize("mesh", slow_unless(bool, [None, {"data": 4}]), ids=str)
def test_zero_vectors_have_a_finite_gradient(mesh):
    za, zb = embeddings(n=16)
    za[3] = 0
    zb[3] = 0
    for temperature in (0.01, 0.1):
        check(za, zb, temperature, implementation="blockwise", block_size=8, mesh=mesh)


@pytest.mark.parametrize("mesh", slow_unless(bool, [None, {"data": 4}]), ids=str)
def test_bfloat16_embeddings(mesh):
    """A float32 loss of the rounded embeddings; the gradient's weights are rounded as well."""
    za, zb = (np.asarray(z, jnp.bfloat16) for z in embeddings(n=64, d=32))
    expected, gradients, *_ = oracle(za, zb, 0.5)
    for implementation in ("dense", "blockwise", "ring"):
        (loss, _), grads = measure(
            za, zb, temperature=0.5, implementation=implementation, block_size=32, mesh=mesh
        )
        assert loss.dtype == jnp.float32
        np.testing.assert_allclose(loss, expected, rtol=2e-3)
        for got, want in zip(grads, gradients, strict=True):
            assert got.dtype == jnp.bfloat16
            error = np.linalg.norm(np.asarray(got, np.float64) - want)
            assert error < 2e-2 * np.linalg.norm(want)


def test_a_traced_temperature_has_its_gradient():
    za, zb = embeddings(n=16)
    for implementation in ("dense", "blockwise"):

        def f(t, implementation=implementation):
            return nt_xent(za, zb, temperature=t, implementation=implementation, block_size=8)[0]

        got = jax.jit(jax.grad(f))(0.3)
        want = (oracle(za, zb, 0.3 + 1e-6)[0] - oracle(za, zb, 0.3 - 1e-6)[0]) / 2e-6
        np.testing.assert_allclose(got, want, rtol=1e-4)


def test_the_cotangent_of_the_loss_scales_the_gradient():
    za, zb = embeddings(n=16)

    def f(weight):
        return jax.grad(
            lambda a: weight * nt_xent(a, zb, temperature=0.1, implementation="blockwise")[0]
        )(za)

    np.testing.assert_allclose(f(3.0), 3 * f(1.0), rtol=1e-5, atol=1e-7)


def test_pairs_of_chunks_come_once_each():
    for chunks in (1, 2, 3, 6, 7):
        seen = np.zeros((chunks, chunks), int)
        seen = schedules._over_pairs(lambda c, i, j: c.at[i, j].add(1), jnp.asarray(seen), chunks)
        np.testing.assert_array_equal(seen + seen.T, 1 - np.eye(chunks, dtype=int))


def collectives(text):
    names = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")
    lines = [line for line in text.splitlines() if " = " in line]
    return {name: [line for line in lines if f" {name}(" in line] for name in names}


def test_no_collective_carries_gradients():
    """The gathered schedule gathers z and one number a row, and sums scalars; nothing else."""
    mesh = parallel.make_mesh(data=8)
    x = jax.ShapeDtypeStruct((512, 64), jnp.float32, sharding=parallel.batch_sharding(mesh))
    with jax.set_mesh(mesh):
        f = jax.jit(
            jax.value_and_grad(
                lambda a, b: nt_xent(a, b, temperature=0.1, implementation="blockwise")[0], (0, 1)
            )
        )
        found = collectives(f.lower(x, x).compile().as_text())
    assert len(found["all-gather"]) == 3  # first views, second views, weights
    assert all("f32[]" in line.split(" all-reduce(")[0] for line in found["all-reduce"])
    assert not found["reduce-scatter"] + found["all-to-all"] + found["collective-permute"]


def test_what_auto_picks():
    assert choose_implementation(256, 128)[0] == "dense"
    assert choose_implementation(8192, 128)[0] == "blockwise"
    assert choose_implementation(65536, 128, shards=16)[0] == "blockwise"
    name, reason = choose_implementation(4 * 2**20, 128, itemsize=2, shards=256)
    assert name == "ring" and "2,048 MiB" in reason
    assert choose_implementation(4 * 2**20, 128, itemsize=2, shards=1)[0] == "blockwise"
    assert choose_implementation(1024, 128, shards=1)[0] == "dense"


def test_bad_input_is_named():
    za, zb = embeddings(n=12)
    with pytest.raises(ValueError, match="unknown implementation 'magic'; one of auto, dense"):
        nt_xent(za, zb, temperature=0.1, implementation="magic")
    with pytest.raises(ValueError, match="block_size must be positive, got 0"):
        nt_xent(za, zb, temperature=0.1, block_size=0)
    too_few = pytest.raises(ValueError, match="12 images do not divide over 8 devices")
    with jax.set_mesh(parallel.make_mesh(data=8)), too_few:
        nt_xent(za, zb, temperature=0.1, implementation="blockwise")
