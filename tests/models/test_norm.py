"""BatchNorm over groups of examples, and the exchange that deals groups out to each other."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from ssl_jax import hlo, parallel
from ssl_jax.core import batch_axes
from ssl_jax.core.batch_axes import ROWS, WHOLE
from ssl_jax.core.errors import UserError
from ssl_jax.core.tree_paths import by_path
from ssl_jax.models import make_encoder
from ssl_jax.models.norm import apply_in_groups, batch_norm, check_groups, interleave
from tests.marks import slow_unless

N, GROUPS = 32, 8
NET = make_encoder("convnet", widths=(4, 8))


def grid(devices):
    return parallel.make_mesh(devices=jax.devices()[:devices])


def problem():
    x = np.random.default_rng(0).normal(size=(N, 8, 8, 1)).astype(np.float32)
    params, buffers = jax.jit(NET.init)(jax.random.key(0), x[:1])
    return params, buffers, x * (1 + np.arange(N)[:, None, None, None])  # no two groups alike


def value(params, buffers, x, groups=GROUPS):
    """Something of every output, and the outputs."""
    (h, out), after = apply_in_groups(NET, params, buffers, x, groups=groups)
    weights = jnp.cos(jnp.arange(h.size, dtype=jnp.float32)).reshape(h.shape)
    return jnp.sum(weights * h), (h, out["stage1"], after)


def test_the_running_variance_is_divided_by_n():
    """As in Flax; PyTorch's is n / (n - 1) times as large, 4% at n = 25."""
    x = np.random.default_rng(0).normal(size=(25, 3)).astype(np.float32)
    norm = batch_norm(train=True)
    start = norm.init(jax.random.key(0), x)
    _, after = norm.apply(start, x, mutable=["batch_stats"])
    biased, unbiased = (0.9 + 0.1 * x.astype(np.float64).var(axis=0, ddof=ddof) for ddof in (0, 1))
    np.testing.assert_allclose(after["batch_stats"]["var"], biased, rtol=1e-6)
    np.testing.assert_allclose((unbiased - 0.9) / (biased - 0.9), 25 / 24)


def test_each_group_is_normalised_by_itself():
    params, buffers, x = problem()
    _, (h, stage, after) = jax.jit(value)(params, buffers, x)
    one = jax.jit(lambda x: NET.apply(params, buffers, x, train=True))
    parts = [one(part) for part in x.reshape(GROUPS, -1, *x.shape[1:])]
    expected = np.concatenate([part[0][0] for part in parts])
    np.testing.assert_allclose(h, expected, rtol=1e-5, atol=1e-6)
    expected = np.concatenate([part[0][1]["stage1"] for part in parts])
    np.testing.assert_allclose(stage, expected, rtol=1e-5, atol=1e-6)
    for path, leaf in by_path(after).items():
        mean = np.mean([by_path(part[1])[path] for part in parts], axis=0)
        np.testing.assert_allclose(leaf, mean, rtol=1e-5, atol=1e-6, err_msg=path)
    whole, _ = NET.apply(params, buffers, x, train=True)
    assert np.abs(whole[0] - h).max() > 0.1  # which those of the whole batch are not
    _, (h, _, _) = value(params, buffers, x, groups=None)
    np.testing.assert_allclose(h, whole[0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("manual", [False, True], ids=["jit", "shard_map"])
@pytest.mark.parametrize("devices", slow_unless((8).__eq__, [2, 8]))
def test_devices_do_not_matter(devices, manual):
    params, buffers, x = problem()
    f = jax.value_and_grad(value, has_aux=True)
    (loss, aux), grads = jax.jit(f)(params, buffers, x)
    mesh = grid(devices)

    def local(params, buffers, x):
        (h, out), after = apply_in_groups(NET, params, buffers, x, groups=GROUPS)
        return (h, out["stage1"]), after

    def spread(params, buffers, x):  # as micro-batches do it: each device its own rows
        run = batch_axes.on_each_device(local, (WHOLE, WHOLE, ROWS), (ROWS, WHOLE))
        (h, stage), after = run(params, buffers, x)
        weights = jnp.cos(jnp.arange(h.size, dtype=jnp.float32)).reshape(h.shape)
        return jnp.sum(weights * h), (h, stage, after)

    g = jax.value_and_grad(spread, has_aux=True) if manual else f
    with jax.set_mesh(mesh):
        placed = jax.device_put(x, parallel.batch_sharding(mesh))
        (found, found_aux), found_grads = jax.jit(g)(params, buffers, placed)
    np.testing.assert_allclose(found, loss, rtol=1e-4)
    for got, want in zip(
        jax.tree.leaves((found_aux, found_grads)), jax.tree.leaves((aux, grads)), strict=True
    ):
        np.testing.assert_allclose(got, want, rtol=1e-3, atol=1e-4)


def test_no_statistics_leave_a_device():
    params, buffers, x = problem()
    mesh = grid(8)

    def features(params, buffers, x, groups):
        return apply_in_groups(NET, params, buffers, x, groups=groups)[0][0]

    with jax.set_mesh(mesh):
        placed = jax.device_put(x, parallel.batch_sharding(mesh))
        lowered = jax.jit(features, static_argnums=3)
        grouped, whole = (
            hlo.read(lowered.lower(params, buffers, placed, groups).compile())
            for groups in (GROUPS, None)
        )
    assert not grouped.collectives
    assert {c.kind for c in whole.collectives} == {"all-reduce"}  # so they would have been seen


# Groups and rows in a group: as many, more and fewer rows than groups.
SHAPES = [(8, 32), (8, 8), (8, 4), (16, 2), (8, 12), (32, 8), (2, 64)]


@pytest.mark.parametrize("groups, rows", SHAPES)
def test_no_group_meets_itself_again(groups, rows):
    """Each group is dealt out evenly: two groups of before and after share few examples."""
    shared = np.gcd(groups, rows)
    x = np.arange(groups * rows)
    after = np.asarray(interleave(jnp.asarray(x), groups))
    assert sorted(after) == list(x)
    for group in after.reshape(groups, rows):
        origins, counts = np.unique(group // rows, return_counts=True)
        assert len(origins) == shared and set(counts) == {rows // shared}
    np.testing.assert_array_equal(interleave(jnp.asarray(after), groups), x)  # its own inverse
    # So an example's neighbours before and after are not the same ones.
    before = [set(group) for group in x.reshape(groups, rows)]
    assert all(set(group) not in before for group in after.reshape(groups, rows))


@pytest.mark.parametrize(
    "groups, rows, sizes",
    [
        (groups, rows, sizes)
        for groups, rows in SHAPES
        for sizes in ({"data": 2}, {"data": 8}, {"data": 4, "fsdp": 2})
        if groups % np.prod(list(sizes.values())) == 0  # others are refused
    ],
    ids=str,
)
def test_the_exchange_is_the_same_on_any_devices(groups, rows, sizes):
    devices = int(np.prod(list(sizes.values())))
    x = np.random.default_rng(0).normal(size=(groups * rows, 3)).astype(np.float32)
    expected = interleave(jnp.asarray(x), groups)
    mesh = parallel.make_mesh(**sizes, devices=jax.devices()[:devices])
    sharding = NamedSharding(mesh, P(("data", "fsdp")))
    weights = jnp.arange(x.size, dtype=jnp.float32).reshape(x.shape)
    with jax.set_mesh(mesh):
        placed = jax.device_put(x, sharding)

        def loss(x):
            exchanged = interleave(x, groups)
            return jnp.sum(weights * exchanged), exchanged

        grad, found = jax.jit(jax.grad(loss, has_aux=True))(placed)
    np.testing.assert_array_equal(found, expected)
    assert found.sharding.is_equivalent_to(sharding, 2)
    np.testing.assert_array_equal(grad, interleave(weights, groups))


@pytest.mark.parametrize("groups, rows", [(8, 32), (8, 4)])
def test_every_device_sends_its_rows_once(groups, rows):
    mesh = grid(8)
    x = np.zeros((groups * rows, 16, 16, 3), np.float32)
    with jax.set_mesh(mesh):
        placed = jax.device_put(x, parallel.batch_sharding(mesh))
        step = jax.jit(lambda x: interleave(x, groups)).lower(placed).compile()
    found = hlo.read(step).collectives
    assert [c.kind for c in found] == ["all-to-all"]
    assert found[0].bytes == x.nbytes // 8


def test_one_group_is_left_as_it_is():
    x = jnp.arange(6)
    assert interleave(x, None) is x and interleave(x, 1) is x


@pytest.mark.parametrize(
    "groups, rows, devices, message",
    [
        (4, 64, 8, "bn_groups 4 has to be a positive multiple of the 8 devices.*use 8"),
        (12, 96, 8, "positive multiple of the 8 devices.*use 16"),
        (0, 64, 1, "bn_groups 0 has to be a positive multiple"),
        (8, 60, 4, "bn_groups 8 has to cut 60 examples into groups of at least two"),
        (64, 64, 8, "cut 64 examples into groups of at least two.*or None"),
        (8, 24, 8, "bn_groups 8 and the 3 examples of a group have no common divisor"),
        (12, 144, 4, None),
        (24, 24 * 12, 8, "groups of 12 examples|bn_groups 24 of 12 examples cannot be interleaved"),
    ],
)
def test_groups_that_do_not_fit_are_named(groups, rows, devices, message):
    if message is None:
        check_groups(groups, rows, devices)
        return
    with pytest.raises(UserError, match=message):
        check_groups(groups, rows, devices)


def test_groups_have_to_fit_the_devices():
    params, buffers, x = problem()
    with jax.set_mesh(grid(8)), pytest.raises(UserError, match="bn_groups 4.*8 devices"):
        jax.eval_shape(lambda x: apply_in_groups(NET, params, buffers, x, groups=4), x)
    with jax.set_mesh(grid(8)), pytest.raises(UserError, match="bn_groups 4.*8 devices"):
        jax.eval_shape(lambda x: interleave(x, 4), x)
