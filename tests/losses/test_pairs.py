"""The one-sided losses: every implementation, mesh and size against a float64 oracle."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from ssl_jax import parallel
from ssl_jax.losses import info_nce, margin_triplet, nt_logistic, pair_plan, pairs
from ssl_jax.losses.implementation import choose_one_sided
from tests.marks import slow_unless

# --- The oracle: the whole matrix, in float64 -----------------------------------------------------


def unit(x, normalize):
    """(x at unit length, the pullback of a gradient)."""
    if not normalize:
        return x, lambda dz: dz
    length = np.linalg.norm(x, axis=1, keepdims=True)
    norm = np.maximum(length, 1e-6)
    z = x / norm
    return z, lambda dz: (dz - (length > 1e-6) * z * np.sum(z * dz, 1, keepdims=True)) / norm


def softplus(x):
    return np.logaddexp(x, 0)


def sigmoid(x):
    return np.exp(-softplus(-x))


def closest_farther(s, positive, negative):
    """One-hot [n m]: the largest of the negatives' similarities below the positive's."""
    chosen = np.zeros(s.shape, bool)
    for i in range(len(s)):
        below = [j for j in range(s.shape[1]) if negative[i, j] and s[i, j] < positive[i]]
        if below:
            chosen[i, max(below, key=lambda j: s[i, j])] = True
    return chosen


def oracle(
    loss, za, zb, bank=None, *, temperature=1.0, margin=None, normalize=True, in_batch=True,
    semi_hard=False,
):  # fmt: skip
    """(loss, gradients of anchors, others and bank, accuracy, entropy)."""
    bank = np.zeros((0, za.shape[1])) if bank is None else bank
    za, zb, bank = (np.asarray(x, np.float64) for x in (za, zb, bank))
    n = len(za)
    (a, pull_a), (b, pull_b), (c, pull_c) = (unit(x, normalize) for x in (za, zb, bank))
    columns = np.concatenate([b, c])
    s = a @ columns.T / temperature
    target = np.eye(n, len(columns), dtype=bool)
    negative = ~target
    negative[:, :n] &= in_batch
    positive = np.diag(s)
    # Softmax over positive and negatives.
    logits = np.where(target | negative, s, -np.inf)
    top = logits.max(1, keepdims=True)
    lse = top[:, 0] + np.log(np.exp(logits - top).sum(1))
    p = np.exp(logits - lse[:, None])
    with np.errstate(divide="ignore", invalid="ignore"):
        entropy = -np.where(p > 0, p * np.log(p), 0).sum(1).mean()
    accuracy = np.mean(positive >= np.where(negative, s, -np.inf).max(1, initial=-np.inf))
    used = closest_farther(s, positive, negative) if semi_hard else negative
    if loss is info_nce:
        each, ds = lse - positive, p - target
    elif loss is nt_logistic:
        each = softplus(-positive) + np.where(used, softplus(s), 0).sum(1)
        ds = np.where(used, sigmoid(s), 0) - target * sigmoid(-s)
    else:
        violation = s - positive[:, None] + margin
        each = np.where(used, np.maximum(violation, 0), 0).sum(1)
        inside = (used & (violation > 0)).astype(float)
        ds = inside - target * inside.sum(1, keepdims=True)
    ds = ds / (n * temperature)
    dcolumns = ds.T @ a
    gradients = pull_a(ds @ columns), pull_b(dcolumns[:n]), pull_c(dcolumns[n:])
    return each.mean(), gradients, accuracy, entropy


# --- The losses ----------------------------------------------------------------------------------

# How to call each loss with anchors, others and a bank, and what the oracle needs to know.
CASES = {
    "in batch and bank": (info_nce, dict(in_batch=True), dict(temperature=0.1)),
    "bank": (info_nce, dict(in_batch=False), dict(temperature=0.1)),
    "sharded bank": (info_nce, dict(in_batch=False, sharded=True), dict(temperature=0.01)),
    "in batch": (info_nce, dict(in_batch=True, bank=False), dict(temperature=100.0)),
    "logistic": (nt_logistic, {}, dict(temperature=0.1)),
    "logistic, semi-hard": (nt_logistic, dict(semi_hard=True), dict(temperature=0.01)),
    "margin": (margin_triplet, {}, dict(margin=0.4)),
    "margin, semi-hard": (margin_triplet, dict(semi_hard=True), dict(margin=0.8)),
}
BANKS = ("in batch and bank", "bank", "sharded bank")
# Where a few will do: all that is gathered, sent back and searched for.
FEW = ("in batch and bank", "sharded bank", "logistic", "margin, semi-hard")


def call(name, za, zb, bank, normalize=True, **options):
    """(loss, metrics) of one of the CASES."""
    loss, how, numbers = CASES[name]
    how = {"l2_normalize": normalize, **numbers, **how, **options}
    if loss is info_nce:
        use_bank, sharded = how.pop("bank", True), how.pop("sharded", False)
        how |= dict(negatives=bank if use_bank else None, negatives_sharded=sharded)
    return loss(za, zb, **how)


def expected(name, za, zb, bank, **options):
    loss, how, numbers = CASES[name]
    how = {**numbers, **how, **options}
    use_bank = how.pop("bank", loss is info_nce)
    how.pop("sharded", None)
    return oracle(loss, za, zb, bank if use_bank else None, **how)


def embeddings(n, k=0, d=12, seed=0):
    rng = np.random.default_rng(seed)
    za = rng.normal(size=(n, d)).astype(np.float32)
    zb = za + rng.normal(size=(n, d)).astype(np.float32)
    return za, zb, rng.normal(size=(k, d)).astype(np.float32)


def on_mesh(mesh, f, *arrays):
    """f of rows split over a mesh given as its axes' sizes, jitted."""
    if mesh is None:
        return jax.jit(f)(*arrays)
    mesh = parallel.make_mesh(**mesh)
    with jax.set_mesh(mesh):
        return jax.jit(f)(*jax.device_put(arrays, parallel.batch_sharding(mesh)))


def measure(names, arrays, mesh=None, **options):
    """For each case ((loss, metrics), gradients), all in one program."""

    def f(*arrays):
        return {
            name: jax.value_and_grad(
                functools.partial(call, name, **options), (0, 1, 2), has_aux=True
            )(*arrays)
            for name in names
        }

    return on_mesh(mesh, f, *arrays)


def check(name, arrays, got, rtol=1e-5, **options):
    (loss, metrics), gradients = got
    want, want_gradients, accuracy, entropy = expected(name, *arrays, **options)
    temperature = options.get("temperature", CASES[name][2].get("temperature", 1.0))
    # float32 knows a similarity of 1/t to 1e-7/t.
    np.testing.assert_allclose(loss, want, rtol=rtol, atol=1e-7 / temperature, err_msg=name)
    rtol = max(rtol, 5e-7 / temperature)
    for got_gradient, gradient, x in zip(gradients, want_gradients, arrays, strict=True):
        if not len(gradient):  # no bank in this case
            assert not np.any(got_gradient)
            continue
        assert got_gradient.dtype == x.dtype
        error = np.linalg.norm(np.asarray(got_gradient, np.float64) - gradient)
        # A zero vector's gradient is 1e6 times another's.
        assert error <= rtol * np.linalg.norm(gradient) + 1e-9, (name, error)
    np.testing.assert_allclose(metrics["contrastive_accuracy"], accuracy, atol=1e-6)
    assert ("entropy" in metrics) == (CASES[name][0] is not margin_triplet)
    if "entropy" in metrics:
        np.testing.assert_allclose(metrics["entropy"], entropy, rtol=2e-5, atol=5e-5)


@pytest.mark.parametrize(
    "mesh, n, k, names",
    [
        (None, 37, 29, CASES),
        ({"data": 8}, 72, 88, CASES),
        pytest.param({"data": 2, "fsdp": 4}, 64, 64, FEW, marks=pytest.mark.slow),  # whole tiles
        pytest.param({"data": 2, "fsdp": 2, "tensor": 2}, 36, 44, FEW, marks=pytest.mark.slow),
    ],
    ids=["one", "data 8", "data 2, fsdp 4", "data 2, fsdp 2, tensor 2"],
)
def test_every_mesh_gives_the_oracles_value_and_gradient(mesh, n, k, names):
    arrays = embeddings(n, k)
    found = measure(names, arrays, mesh, implementation="blockwise", block_size=8)
    for name in names:
        check(name, arrays, found[name])


@pytest.mark.parametrize("mesh", slow_unless(bool, [None, {"data": 2, "fsdp": 4}]), ids=str)
def test_dense(mesh):
    arrays = embeddings(24, 40)
    names = CASES if mesh is None else FEW
    found = measure(names, arrays, mesh, implementation="dense")
    for name in names:
        check(name, arrays, found[name])


@pytest.mark.parametrize("implementation", ["dense", "blockwise"])
def test_any_temperature_also_a_traced_one(implementation):
    arrays = embeddings(24, 16)
    names = ("in batch and bank", "logistic")

    def f(temperature, *arrays):
        return {
            name: jax.value_and_grad(
                lambda t, *x, name=name: call(
                    name, *x, temperature=t, implementation=implementation, block_size=16
                ),
                (0, 1, 2, 3),
                has_aux=True,
            )(temperature, *arrays)
            for name in names
        }

    jitted = jax.jit(f)
    for temperature in (0.01, 0.1, 100.0):
        found = jitted(temperature, *arrays)
        for name in names:
            value, (slope, *gradients) = found[name]
            check(name, arrays, (value, gradients), temperature=temperature)
            up, down = (
                expected(name, *arrays, temperature=temperature * step)[0]
                for step in (1 + 1e-5, 1 - 1e-5)
            )
            want = (up - down) / (2e-5 * temperature)
            np.testing.assert_allclose(slope, want, rtol=1e-4, atol=1e-6)


def test_plain_dot_products():
    arrays = embeddings(20, 12)
    names = ("in batch and bank", "logistic, semi-hard", "margin")
    found = measure(names, arrays, normalize=False, implementation="blockwise", block_size=8)
    for name in names:
        check(name, arrays, found[name], normalize=False, rtol=2e-5)


@pytest.mark.parametrize("n, k, block_size", [(1, 1, 4), (2, 40, 16), (13, 3, 8)])
def test_any_size_and_block_size(n, k, block_size):
    arrays = embeddings(n, k)
    names = ("in batch and bank", "logistic", "margin, semi-hard")
    found = measure(names, arrays, implementation="blockwise", block_size=block_size)
    for name in names:
        check(name, arrays, found[name])


def test_zero_vectors_have_a_finite_gradient():
    arrays = embeddings(16, 8)
    for x in arrays:
        x[3] = 0
    names = ("in batch and bank", "margin")
    found = measure(names, arrays, implementation="blockwise", block_size=8)
    for name in names:
        check(name, arrays, found[name])


@pytest.mark.parametrize("mesh", slow_unless(bool, [None, {"data": 8}]), ids=str)
def test_bfloat16_embeddings(mesh):
    """A float32 loss of the rounded embeddings; the gradient's weights are rounded as well."""
    arrays = [x.astype(jnp.bfloat16) for x in embeddings(64, 64, d=32)]
    names = ("in batch and bank", "logistic") if mesh is None else ("sharded bank",)
    options = dict(temperature=0.5)
    how = dict(block_size=32, implementation="blockwise" if mesh is None else "dense")
    found = measure(names, arrays, mesh, **how, **options)
    for name in names:
        (loss, _), gradients = found[name]
        want, want_gradients, *_ = expected(name, *arrays, **options)
        assert loss.dtype == jnp.float32
        np.testing.assert_allclose(loss, want, rtol=2e-3)
        for got, gradient in zip(gradients, want_gradients, strict=True):
            if len(gradient):
                assert got.dtype == jnp.bfloat16
                error = np.linalg.norm(np.asarray(got, np.float64) - gradient)
                assert error < 2e-2 * np.linalg.norm(gradient)


@pytest.mark.parametrize(
    "implementation, mesh", [("dense", {"data": 8}), ("blockwise", None)], ids=str
)
def test_identical_embeddings(implementation, mesh):
    n, k = 16, 24
    arrays = [np.full((rows, 4), 2.0, np.float32) for rows in (n, n, k)]

    def f(*arrays):
        how = dict(implementation=implementation, block_size=8)
        return {name: call(name, *arrays, **how) for name in CASES}

    found = on_mesh(mesh, f, *arrays)
    closed = {
        "in batch and bank": np.log(n + k),
        "bank": np.log(1 + k),
        "sharded bank": np.log(1 + k),
        "in batch": np.log(n),
        "logistic": softplus(-10) + (n - 1) * softplus(10),
        # No negative is farther away than the positive.
        "logistic, semi-hard": softplus(-100),
        "margin": (n - 1) * 0.4,
        "margin, semi-hard": 0,
    }
    for name in CASES:
        loss, _ = found[name]
        np.testing.assert_allclose(loss, closed[name], rtol=2e-5, atol=1e-6, err_msg=name)
    for name in (*BANKS, "in batch"):
        atol = 2e-6 / CASES[name][2]["temperature"]
        np.testing.assert_allclose(found[name][1]["entropy"], closed[name], rtol=1e-6, atol=atol)


# --- Excluded pairs ------------------------------------------------------------------------------


def other_parity(row, column):
    return (row[..., 0] - column[..., 0]) % 2 != 0


@pytest.mark.parametrize("block_size", [None, 8])
@pytest.mark.parametrize(
    "mesh, columns",
    [(None, "whole"), ({"data": 4, "tensor": 2}, "gathered"), ({"data": 4, "tensor": 2}, "split")],
    ids=str,
)
def test_pairs_excluded_by_ids_are_in_no_statistic(mesh, columns, block_size):
    q, _, k = embeddings(20, 12)
    rng = np.random.default_rng(3)
    row_ids, column_ids = (rng.integers(5, size=(n, 1)).astype(np.int32) for n in (20, 12))
    threshold = rng.normal(size=20).astype(np.float32)

    def f(q, k, threshold, row_ids, column_ids):
        def measure(q, k):
            plan = pair_plan.Plan(block_size, function=soft_hinge, excluded=other_parity)
            ids = dict(row_ids=row_ids, column_ids=column_ids)
            found = pairs.statistics(q, k, threshold, columns=columns, plan=plan, **ids)
            return found.lse.sum() + found.total.sum(), found

        return jax.value_and_grad(measure, (0, 1), has_aux=True)(q, k)

    (_, found), gradients = on_mesh(mesh, f, q, k, threshold, row_ids, column_ids)
    q64, k64 = q.astype(np.float64), k.astype(np.float64)
    used = (row_ids - column_ids.T) % 2 == 0
    s = q64 @ k64.T
    e = np.where(used, np.exp(s), 0)
    p = e / e.sum(1, keepdims=True)
    over = s - threshold[:, None]
    np.testing.assert_allclose(found.lse, np.log(e.sum(1)), rtol=1e-5)
    np.testing.assert_allclose(found.top, np.where(used, s, -np.inf).max(1), rtol=1e-5)
    np.testing.assert_allclose(found.mean, (p * s).sum(1), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found.total, (used * softplus(over)).sum(1), rtol=1e-5)
    weights = p + used * sigmoid(over)
    np.testing.assert_allclose(gradients[0], weights @ k64, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(gradients[1], weights.T @ q64, rtol=1e-4, atol=1e-5)


def soft_hinge(s, threshold):
    return jax.nn.softplus(s - threshold)


# --- Closed forms --------------------------------------------------------------------------------


def test_gradients_of_an_anchor_are_those_of_the_papers_table():
    """SimCLR Table 2: rows to maximise, with u a free vector on the unit sphere."""
    n, t, m = 8, 0.3, 0.6
    a, b, _ = (unit(x, True)[0].astype(np.float32) for x in embeddings(n, 1))
    s = a.astype(np.float64) @ b.T
    positive, other = np.diag(s)[:, None], ~np.eye(n, dtype=bool)
    e = np.exp(s / t)
    softmax = e / e.sum(1, keepdims=True)
    rows = {
        info_nce: (1 - np.diag(softmax)[:, None]) / t * b - (softmax * other) / t @ b,
        nt_logistic: sigmoid(-positive / t) / t * b - (sigmoid(s / t) * other) / t @ b,
        margin_triplet: ((positive - s < m) & other).sum(1, keepdims=True) * b
        - ((positive - s < m) & other) @ b,
    }
    for loss, row in rows.items():
        how = dict(margin=m) if loss is margin_triplet else dict(temperature=t)
        f = jax.jit(jax.grad(lambda u: loss(u, b, l2_normalize=False, **how)[0]))  # noqa: B023
        got = f(a)
        np.testing.assert_allclose(-n * got, row, atol=1e-5)


def run(loss, *arrays, **how):
    return jax.jit(functools.partial(loss, **how))(*arrays)


def test_closed_forms():
    rng = np.random.default_rng(0)
    q, k, v = (unit(rng.normal(size=(1, 8)), True)[0].astype(np.float32) for _ in range(3))
    loss, _ = run(info_nce, q, k, negatives=v, temperature=0.2)  # one negative
    np.testing.assert_allclose(loss, softplus((q @ v.T - q @ k.T).item() / 0.2), rtol=1e-5)

    axes = np.eye(4, dtype=np.float32)
    loss, _ = run(nt_logistic, axes[:2], axes[2:], temperature=0.1)  # all similarities 0
    np.testing.assert_allclose(loss, 2 * np.log(2), rtol=1e-6)
    loss, _ = run(margin_triplet, axes, axes, margin=0.0)  # positives closer
    assert loss == 0

    queue = np.tile(axes[1], (65536, 1))
    loss, metrics = run(info_nce, axes[:1], axes[:1], negatives=queue, temperature=0.07)
    np.testing.assert_allclose(loss, 0.040135, atol=5e-7)
    assert metrics["contrastive_accuracy"] == 1
    loss, metrics = run(
        info_nce, axes[:1], axes[:1], negatives=queue[:, ::-1] * 0, temperature=100.0
    )
    np.testing.assert_allclose(loss, np.log(np.exp(0.01) + 65536) - 0.01, rtol=1e-6)


def test_semi_hard_negatives_by_hand():
    def at(*degrees):
        angle = np.deg2rad(np.asarray(degrees, np.float32))
        return np.stack([np.cos(angle), np.sin(angle)], 1)

    # Seen from anchor 0, at 0 degrees: positive at 40, negatives at 10 (closer), 60 and 90.
    # Anchors 1 to 3 lie on their positives, where every negative is farther away.
    a, b = at(0, 10, 60, 90), at(40, 10, 60, 90)
    s = np.cos(np.deg2rad(np.array([40, 60, 30, 20, 30])))
    closest = [s[1] - s[0], s[2] - 1, s[3] - 1, s[4] - 1]  # 60; 40; 40; 60 degrees
    f = jax.jit(lambda m: margin_triplet(a, b, margin=m, semi_hard=True)[0])
    for m in (0.0, 0.1, 0.5):
        loss = f(m)
        want = np.mean([max(c + m, 0) for c in closest])
        np.testing.assert_allclose(loss, want, rtol=1e-5, atol=1e-7)
    want = np.mean(
        [softplus(-p) + softplus(x) for p, x in zip([s[0], 1, 1, 1], s[1:], strict=True)]
    )
    loss, metrics = run(nt_logistic, a, b, temperature=1.0, semi_hard=True)
    np.testing.assert_allclose(loss, want, rtol=1e-5)
    assert metrics["contrastive_accuracy"] == 0.75


def test_the_cotangent_of_the_loss_scales_the_gradient():
    za, zb, _ = embeddings(16)
    f = jax.jit(
        jax.grad(
            lambda a, weight: (
                weight * nt_logistic(a, zb, temperature=0.1, implementation="blockwise")[0]
            )
        )
    )
    np.testing.assert_allclose(f(za, 3.0), 3 * f(za, 1.0), rtol=1e-5, atol=1e-7)


# --- What is worked out and sent -----------------------------------------------------------------


def eight_devices():
    return jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))


def compiled(f, *shapes, mesh=None, argnums=0):
    """f's value and gradient of float32 arrays of these shapes, compiled but not run."""
    g = jax.jit(jax.value_and_grad(f, argnums))
    if mesh is None:
        return g.lower(*(jax.ShapeDtypeStruct(s, jnp.float32) for s in shapes)).compile()
    rows = NamedSharding(mesh, P("data"))
    with jax.set_mesh(mesh):
        x = [jax.ShapeDtypeStruct(s, jnp.float32, sharding=rows) for s in shapes]
        return g.lower(*x).compile()


def collectives(program):
    """[(name, numbers that come out of it)]"""
    names = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")
    found = []
    for line in program.as_text().splitlines():
        for name in names:
            if f" {name}(" in line and " = " in line:
                shape = line.split(" = ")[1].split(f" {name}(")[0]
                sizes = [
                    np.prod([int(x) for x in part.split("]")[0].split(",") if x], initial=1)
                    for part in shape.split("[")[1:]
                ]
                found.append((name, int(sum(sizes))))
    return found


@pytest.mark.parametrize("implementation", ["dense", "blockwise"])
def test_keys_without_gradient_cost_nothing(implementation):
    n, d = 128, 256
    of = functools.partial(info_nce, temperature=0.1, implementation=implementation)

    def stopped(q, k):
        return of(q, jax.lax.stop_gradient(k))[0]

    def both(q, k):
        return of(q, k)[0]

    products = 2 * n * n * d
    # One for the only tile, which blockwise does not make again, and one for each gradient.
    for f, argnums, count in ((stopped, (0, 1), 2), (stopped, 0, 2), (both, (0, 1), 3)):
        flops = compiled(f, (n, d), (n, d), argnums=argnums).cost_analysis()["flops"]
        assert abs(flops / products - count) < 0.2

    mesh = eight_devices()
    sent = collectives(compiled(stopped, (n, d), (n, d), mesh=mesh))
    assert [(name, size) for name, size in sent if size > 1] == [("all-gather", n * d)]
    sent = collectives(compiled(both, (n, d), (n, d), mesh=mesh, argnums=(0, 1)))
    assert sum(size > n for _, size in sent) == 2  # keys there, their gradient back


@pytest.mark.parametrize("argnums", [0, (0, 2)], ids=["queries", "queries and bank"])
def test_a_sharded_bank_is_never_gathered(argnums):
    n, k, d = 64, 4096, 32

    def f(q, keys, bank):
        return info_nce(
            q, jax.lax.stop_gradient(keys), negatives=bank, negatives_sharded=True,
            temperature=0.1, implementation="blockwise", block_size=256,
        )[0]  # fmt: skip

    program = compiled(f, (n, d), (n, d), (k, d), mesh=eight_devices(), argnums=argnums)
    sent = collectives(program)
    assert max(size for _, size in sent) == n * d  # the queries, and their gradient
    assert f"[{k},{d}]" not in program.as_text()


def test_memory_is_linear():
    def peak(f, n):
        program = compiled(lambda a, b: f(a, b)[0], (n, 32), (n, 32), argnums=(0, 1))
        return program.memory_analysis().temp_size_in_bytes

    f = functools.partial(info_nce, temperature=0.1, implementation="blockwise", block_size=256)
    small, large = peak(f, 4096), peak(f, 16384)
    assert large < 4.5 * small
    assert large < 0.02 * 4 * 16384**2


# --- The engine ----------------------------------------------------------------------------------


def _pull(s, p):
    return jnp.sin(s) * p


@pytest.mark.parametrize(
    "columns, mesh",
    [
        (pairs.BATCH, None),
        (pairs.BATCH, {"data": 2, "fsdp": 4}),
        (pairs.WHOLE, {"data": 8}),
        (pairs.SPLIT, {"data": 2, "fsdp": 2, "tensor": 2}),
    ],
    ids=str,
)
def test_all_statistics_and_their_gradients_at_once(columns, mesh):
    m, n = 24, 24 if columns == pairs.BATCH else 56
    q, _, k = embeddings(m, n, d=6)
    rng = np.random.default_rng(1)
    number, g, h = rng.normal(size=(3, m)).astype(np.float32)

    def f(plan, q, k, number):
        found = pairs.statistics(q, k, number, columns=columns, plan=plan)
        value = jnp.sum(g * found.lse + h * found.total)
        return value + 0 * jnp.sum(found.top + found.mean), found

    def near(plan, q, k, number):
        found = pairs.statistics(q, k, number, columns=columns, plan=plan)
        return jnp.sum(g * found.nearest), found

    def both(tiled, *x):
        size = 8 if tiled else None
        return (
            jax.value_and_grad(
                functools.partial(f, pair_plan.Plan(size, function=_pull)), (0, 1, 2), has_aux=True
            )(*x),
            jax.value_and_grad(
                functools.partial(near, pair_plan.Plan(size, nearest=True)), (0, 1, 2), has_aux=True
            )(*x),
        )

    want = jax.jit(functools.partial(both, False))(q, k, number)
    if columns != pairs.BATCH:  # one independent check of what dense does there
        s = q.astype(np.float64) @ k.T
        found = want[0][0][1]
        np.testing.assert_allclose(found.lse, np.log(np.exp(s).sum(1)), rtol=1e-5)
        np.testing.assert_allclose(found.total, (np.sin(s) * number[:, None]).sum(1), atol=1e-4)
        below = np.where(s < number[:, None], s, -np.inf).max(1)
        np.testing.assert_allclose(want[1][0][1].nearest, below, rtol=1e-5)
    got = on_mesh(mesh, functools.partial(both, True), q, k, number)
    chex.assert_trees_all_close(got, want, rtol=2e-5, atol=2e-5)


def test_a_row_without_columns():
    q = np.ones((1, 4), np.float32)
    for size in (None, 8):
        plan = pair_plan.Plan(size, function=_pull, nearest=False)

        def f(q, plan=plan):
            found = pairs.statistics(q, q, jnp.ones(1), columns=pairs.BATCH, plan=plan)
            return jnp.sum(found.lse + found.total), found

        (_, found), gradient = jax.value_and_grad(f, has_aux=True)(q)
        assert found.lse == found.top == pairs.MASKED and found.total == found.mean == 0
        assert not np.any(gradient)


# --- Choices and messages ------------------------------------------------------------------------


def test_what_auto_picks():
    assert choose_one_sided(256, 65536)[0] == "blockwise"
    assert choose_one_sided(256, 4096)[0] == "dense"
    assert choose_one_sided(4096, 4096, shards=8)[0] == "dense"
    name, reason = choose_one_sided(4096, 4096)
    assert name == "blockwise" and "64 MiB" in reason


@pytest.mark.wrong_shapes
def test_bad_input_is_named():
    za, zb, bank = embeddings(12, 20)
    nce = functools.partial(info_nce, za, zb, temperature=0.1)
    for loss, how in (
        (info_nce, dict(temperature=0.1)),
        (nt_logistic, dict(temperature=0.1)),
        (margin_triplet, dict(margin=0.4)),
    ):
        name = loss.__name__
        with pytest.raises(ValueError, match=rf"{name} takes two .*\(12, 12\), \(11, 12\)"):
            loss(za, zb[1:], **how)
        with pytest.raises(ValueError, match="'ring'; one of auto, dense, blockwise$"):
            loss(za, zb, implementation="ring", **how)
        with pytest.raises(ValueError, match="block_size must be positive, got 0"):
            loss(za, zb, block_size=0, **how)
    with pytest.raises(ValueError, match="temperature must be positive, got -1"):
        info_nce(za, zb, temperature=-1)
    with pytest.raises(ValueError, match="margin must not be negative, got -0.1"):
        margin_triplet(za, zb, margin=-0.1)
    with pytest.raises(ValueError, match=r"negatives must be \[k 12\].*\(20, 11\)"):
        nce(negatives=bank[:, 1:])
    with pytest.raises(ValueError, match=r"negatives must be \[k 12\].*\(0, 12\)"):
        nce(negatives=bank[:0])
    with pytest.raises(ValueError, match="in_batch=False needs negatives"):
        nce(in_batch=False)
    with pytest.raises(ValueError, match="negatives_sharded=True needs negatives"):
        nce(negatives_sharded=True)
    with jax.set_mesh(parallel.make_mesh(data=8)):
        with pytest.raises(ValueError, match="12 queries do not divide over 8 devices"):
            nce(negatives=bank)
        with pytest.raises(ValueError, match="12 images do not divide over 8 devices"):
            nt_logistic(za, zb, temperature=0.1)
        with pytest.raises(ValueError, match="20 negatives do not divide over 8 devices"):
            info_nce(za[:8], zb[:8], negatives=bank, negatives_sharded=True, temperature=0.1)
