"""Mixup and cutmix against loops in float64, and over devices, micro-batches and missing labels."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding

from ssl_jax.views import mixing
from ssl_jax.views.mixing import Mixing, mix
from tests.marks import slow_unless

N, HEIGHT, WIDTH = 16, 12, 20
BOTH = Mixing(mixup=0.8, cutmix=1.0)


@functools.partial(jax.jit, static_argnames="section")
def run(section, images, labels, seed=0):
    key = jax.random.key(seed)
    return mix(images, labels, section, key=key, keys=jax.random.split(key, len(labels)))


def batch(n=N):
    rng = np.random.default_rng(0)
    return rng.normal(size=(n, HEIGHT, WIDTH, 3)).astype(np.float32), rng.integers(0, 10, n)


def kind_of(x, other, mixed, share):
    """Checks one image against its loop, and says what it is."""
    equal = (mixed == x).all(-1)
    if equal.all():
        assert share == 1
        return "same"
    replaced = (mixed == other).all(-1)
    if (equal | replaced).all():
        rows, columns = np.flatnonzero(replaced.any(1)), np.flatnonzero(replaced.any(0))
        box = np.zeros_like(replaced)
        box[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] = True
        np.testing.assert_array_equal(replaced, box)
        np.testing.assert_allclose(share, 1 - box.sum() / box.size, rtol=1e-6)
        return "cutmix"
    expected = np.float64(share) * x + (1 - np.float64(share)) * other
    np.testing.assert_allclose(mixed, expected, atol=1e-5)
    return "mixup"


@pytest.mark.parametrize("per", ["batch", "pair", "example"])
def test_images_are_mixed_with_their_partners(per):
    images, labels = batch()
    section = Mixing(mixup=0.8, cutmix=1.0, p=0.8, per=per)
    kinds, shares = [], []
    for seed in range(12):
        mixed, partner, share = jax.tree.map(np.asarray, run(section, images, labels, seed))
        np.testing.assert_array_equal(partner, np.roll(labels, N // 2))
        others = np.roll(images, N // 2, axis=0)
        kinds.append(list(map(kind_of, images, others, mixed, share)))
        shares.append(share)
        if per == "batch":
            assert len(set(kinds[-1])) == len(set(share)) == 1
        elif per == "pair":
            np.testing.assert_array_equal(share[: N // 2], share[N // 2 :])
            assert len(set(share)) > 2
        else:
            assert (share[: N // 2] != share[N // 2 :]).any()
    assert {kind for row in kinds for kind in row} == {"same", "cutmix", "mixup"}
    assert len(set(np.concatenate(shares))) > 6


def test_shares_and_boxes_have_the_papers_law():
    keys = jax.random.split(jax.random.key(1), 4000)

    @functools.partial(jax.jit, static_argnames="section")
    def draws(section):
        return jax.vmap(lambda key: mixing.sample(key, section, HEIGHT, WIDTH))(keys)

    share, box = map(np.asarray, draws(Mixing(mixup=0.8)))
    assert not box.any()
    rng = np.random.default_rng(0)
    quantiles = (0.1, 0.3, 0.5, 0.7, 0.9)
    expected = np.quantile(rng.beta(0.8, 0.8, 200_000), quantiles)
    np.testing.assert_allclose(np.quantile(share, quantiles), expected, atol=0.03)

    share, box = map(np.asarray, draws(Mixing(cutmix=1.0)))
    assert (share == 1).all()
    areas = []
    for _ in range(20_000):  # uniform shares, a centre in the image, clipped edges
        ratio = np.sqrt(1 - rng.uniform())
        sides = [int(size * ratio) for size in (HEIGHT, WIDTH)]
        centres = [rng.integers(size) for size in (HEIGHT, WIDTH)]
        lengths = [
            np.clip(c + (s + 1) // 2, 0, size) - np.clip(c - s // 2, 0, size)
            for c, s, size in zip(centres, sides, (HEIGHT, WIDTH), strict=True)
        ]
        areas.append(lengths[0] * lengths[1] / (HEIGHT * WIDTH))
    ours = box.mean((1, 2))
    np.testing.assert_allclose(
        np.quantile(ours, quantiles), np.quantile(areas, quantiles), atol=0.03
    )
    np.testing.assert_allclose(box.mean(0), box.mean(0)[::-1, ::-1], atol=0.06)  # anywhere alike

    share, box = map(np.asarray, draws(Mixing(mixup=0.8, cutmix=1.0, p=0.6, cutmix_p=0.25)))
    is_cut = box.any((1, 2))
    assert abs(is_cut.mean() - 0.6 * 0.25) < 0.04  # without boxes that rounding leaves empty
    assert abs((share < 1).mean() - 0.6 * 0.75) < 0.03 and not (is_cut & (share < 1)).any()


@pytest.mark.parametrize("per", slow_unless("example".__eq__, ["batch", "example"]))
def test_examples_without_a_label_are_not_mixed(per):
    images, labels = batch()
    labels[[1, 5]] = -1
    section = Mixing(mixup=0.8, per=per)
    mixed, partner, share = run(section, images, labels)
    alone = np.isin(np.arange(N) % (N // 2), (1, 5))
    np.testing.assert_array_equal(np.asarray(share) == 1, alone)
    np.testing.assert_array_equal(mixed[alone], images[alone])
    assert (np.asarray(partner)[~alone] >= 0).all()


@pytest.mark.parametrize("per", slow_unless("pair".__eq__, ["batch", "pair", "example"]))
def test_micro_batches_and_devices_mix_the_same_pairs(per):
    images, labels = batch()
    section = Mixing(mixup=0.8, cutmix=1.0, per=per)
    whole = run(section, images, labels)
    key = jax.random.key(0)
    keys = jax.random.split(key, N)
    # As gradient_cache: micro-batch i of 2 holds every second example.
    part = jax.jit(lambda images, labels, keys: mix(images, labels, section, key=key, keys=keys))
    for i in range(2):
        found = part(images[i::2], labels[i::2], keys[i::2])
        for ours, theirs in zip(found, whole, strict=True):
            np.testing.assert_array_equal(ours, theirs[i::2])

    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,), devices=jax.devices()[:8])
    rows = NamedSharding(mesh, jax.P("data"))
    spread = jax.jit(part, in_shardings=rows, out_shardings=rows)(images, labels, keys)
    for ours, theirs in zip(spread, whole, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-6)


def test_low_precision_and_odd_batches():
    images, labels = batch()
    mixed = run(BOTH, jnp.asarray(images, jnp.bfloat16), labels)
    assert mixed.images.dtype == jnp.bfloat16 and mixed.share.dtype == jnp.float32
    with pytest.raises(ValueError, match="even number of images, got 15"):
        jax.eval_shape(functools.partial(run, BOTH), images[:15], labels[:15])
