"""Recipes: composition, randomness, devices, dtypes."""

import re

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding

from ssl_jax.core.errors import UserError
from ssl_jax.views import image, make_views

SIMCLR = ("random_resized_crop", "flip", "color_jitter", "grayscale", "gaussian_blur")
CROP = {"random_resized_crop": {"size": 24}}


def make_images(n=8, height=32, width=40, channels=3):
    shape = (n, height, width, channels)
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def keys(n=8, seed=7):
    return jax.random.split(jax.random.key(seed), n)


def run(config, images=None, *, seed=7, **options):
    images = make_images() if images is None else images
    return np.asarray(jax.jit(make_views(config, **options))(keys(len(images), seed), images))


def test_simclr_views_in_float32_and_bfloat16():
    config = ml_collections.ConfigDict({"ops": SIMCLR, **CROP, "gaussian_blur": {"kernel_size": 5}})
    images = make_images()
    make = jax.jit(make_views(config))
    views = np.asarray(make(keys(), images))
    assert views.shape == (8, 2, 24, 24, 3)
    assert views.dtype == np.float32
    assert views.min() >= 0
    assert views.max() <= 1
    assert np.abs(views[:, 0] - views[:, 1]).mean() > 0.1  # each view draws its own
    np.testing.assert_array_equal(views, make(keys(), images))  # and always the same
    assert np.abs(views - make(keys(seed=8), images)).mean() > 0.1
    assert make._cache_size() == 1

    rounded = run(config, dtype="bfloat16")
    assert rounded.dtype == jnp.bfloat16
    error = np.abs(rounded.astype(np.float32) - views)
    assert error.max() < 0.04  # the hue of nearly grey pixels is what suffers most
    assert error.mean() < 0.004


def test_raw_key_data_serve_as_well():
    config = {"ops": ("cutout",)}
    raw = make_views(config)(jax.random.key_data(keys()), make_images())
    np.testing.assert_array_equal(run(config), raw)


def test_missing_sub_dicts_mean_defaults():
    listed = {"ops": ("cutout", "flip"), **image.default_parameters()}
    np.testing.assert_array_equal(run({"ops": ("cutout", "flip")}), run(listed))


@pytest.mark.parametrize("first", ["random_resized_crop", "flip"])
def test_crop_and_flip_fold_into_one(first):
    second = "flip" if first == "random_resized_crop" else "random_resized_crop"
    folded = {"ops": (first, second), **CROP}
    # A colour op that does nothing stands between: two steps.
    apart = {"ops": (first, "solarize", second), **CROP, "solarize": {"p": 0.0}}
    np.testing.assert_allclose(run(folded), run(apart), atol=1e-5)
    text = str(jax.make_jaxpr(make_views(folded))(keys(), make_images()))
    assert " rev[" not in text  # nothing is mirrored pixel by pixel
    assert " rev[" in str(jax.make_jaxpr(make_views(apart))(keys(), make_images()))


def test_taking_an_op_away_leaves_the_others_draws():
    full = {"ops": ("cutout", "flip", "gaussian_noise"), "gaussian_noise": {"std": 1e-3, "p": 1.0}}
    without = {**full, "ops": ("flip", "gaussian_noise")}
    images = make_images() // 2 + 100
    kept, left = run(full, images, num_views=1), run(without, images, num_views=1)
    uncut = kept > 0.1
    assert 0.05 < 1 - uncut.mean() < 0.4
    np.testing.assert_allclose(kept[uncut], left[uncut], atol=1e-6)


def test_the_same_op_twice_draws_twice():
    images = np.full((200, 8, 8, 1), 128, np.uint8)
    noise = {"std": 0.05, "p": 1.0}
    once, twice = (
        run({"ops": ("gaussian_noise",) * times, "gaussian_noise": noise}, images, num_views=1)
        for times in (1, 2)
    )
    assert abs((once - 128 / 255).std() - 0.05) < 0.001
    assert abs((twice - 128 / 255).std() - 0.05 * np.sqrt(2)) < 0.001


def test_overrides_change_single_views():
    byol = {
        "ops": ("solarize", "flip"),
        "solarize": {"p": 0.0},
        "flip": {"p": 0.0},
        "overrides": {"1": {"solarize": {"p": 1.0}}, "2": {"ops": ("flip",), "flip": {"p": 1.0}}},
    }
    images = make_images()
    views = run(ml_collections.ConfigDict(byol), images, num_views=3)
    floats = images.astype(np.float32) / 255
    np.testing.assert_allclose(views[:, 0], floats, atol=1e-6)
    np.testing.assert_allclose(views[:, 1], np.where(floats >= 0.5, 1 - floats, floats), atol=1e-6)
    np.testing.assert_allclose(views[:, 2], floats[:, :, ::-1], atol=1e-6)


def test_an_override_leaves_the_other_views_draws():
    config = {"ops": ("cutout", "flip")}
    plain = run(config, num_views=3)
    changed = run({**config, "overrides": {"1": {"flip": {"p": 0.0}}}}, num_views=3)
    np.testing.assert_array_equal(plain[:, [0, 2]], changed[:, [0, 2]])
    assert np.abs(plain[:, 1] - changed[:, 1]).max() > 0.1


def test_views_of_different_sizes_are_refused():
    config = {
        "ops": ("random_resized_crop",),
        "random_resized_crop": {"size": 24},
        "overrides": {"1": {"random_resized_crop": {"size": 16}}},
    }
    with pytest.raises(UserError, match="views differ in size"):
        run(config)


def test_host_crops():
    crops = np.stack([make_images(height=24, width=24), 255 - make_images(height=24, width=24)], 1)
    views = run({"ops": ()}, crops)
    np.testing.assert_allclose(views, crops / np.float32(255), atol=1e-6)
    shared = run({"ops": ()}, crops[:, :1], num_views=3)
    np.testing.assert_allclose(shared, crops[:, [0, 0, 0]] / np.float32(255), atol=1e-6)
    config = {"ops": ("flip", "solarize"), "overrides": {"1": {"solarize": {"p": 1.0}}}}
    assert run(config, crops).shape == (8, 2, 24, 24, 3)
    with pytest.raises(
        UserError, match=r"3 views were asked of 2 host crops.*data.host_crops to 3"
    ):
        run({"ops": ()}, crops, num_views=3)
    with pytest.raises(ValueError, match="got shape"):
        run({"ops": ()}, crops[0, 0])


EVERY_OP = (  # an order that suits all of them, and not the one they are listed in
    "sobel",
    "flip",
    "random_resized_crop",
    "random_rotate90",
    "color_jitter",
    "random_affine",
    "elastic",
    "gaussian_blur",
    "cutout",
    "grayscale",
    "solarize",
    "tone_curve",
    "drop_channels",
    "gaussian_noise",
    "crop_and_pad",
    "resize",
    "center_crop",
    "rand_augment",
    "normalize",
    "random_erasing",
)
EVERY_CONFIG = {
    "ops": EVERY_OP,
    **CROP,
    "sobel": {"p": 0.1},
    "gaussian_blur": {"kernel_size": 5},
    "crop_and_pad": {"size": 20},
    "resize": {"size": 20},
    "center_crop": {"size": 16},
    "normalize": {"mean": (0.5,), "std": (0.25,)},
    "rand_augment": {"operations": ("rotate", "equalize"), "method": "bilinear"},
    "random_erasing": {"fill": "zero", "p": 0.5},
}


def test_ops_that_know_of_channels_take_one():
    ops = ("random_resized_crop", "color_jitter", "random_affine", "grayscale", "normalize")
    views = run({**EVERY_CONFIG, "ops": ops}, make_images(channels=1))
    assert views.shape == (8, 2, 24, 24, 1)
    assert -2.001 <= views.min() < -1.9
    assert 1.9 < views.max() <= 2.001


# -------------------------------------------------------------------------------- many devices

COLLECTIVE = re.compile(
    r"= \(?\w+\[([\d,]*)\].*? "
    r"(?:all-gather|all-to-all|all-reduce|collective-permute|reduce-scatter)(?:-start)?\("
)


def moved(compiled):
    """Sizes of what the collectives of a compiled program move, in numbers."""
    shapes = COLLECTIVE.findall(compiled.as_text())
    return [int(np.prod([int(side) for side in shape.split(",") if side])) for shape in shapes]


def compile_on(devices, function, images, **options):
    axes = ("data", "fsdp", "tensor")
    shape = (devices // 2, 2, 1) if devices > 1 else (1, 1, 1)
    mesh = jax.make_mesh(
        shape, axes, axis_types=(AxisType.Auto,) * 3, devices=jax.devices()[:devices]
    )
    batch = NamedSharding(mesh, jax.P(("data", "fsdp")))
    whole = NamedSharding(mesh, jax.P())
    jitted = jax.jit(function, in_shardings=(whole, batch), out_shardings=batch)
    each = keys(len(images))
    with jax.set_mesh(mesh):
        compiled = jitted.lower(each, images).compile()
    return compiled, compiled(jax.device_put(each, whole), jax.device_put(images, batch))


@pytest.mark.slow
def test_devices_change_nothing_and_images_stay_where_they_are():
    assert set(EVERY_OP) == set(image.OPS)
    images = make_images(n=16)
    views = make_views(EVERY_CONFIG)
    _, alone = compile_on(1, views, images)
    compiled, spread = compile_on(8, views, images)
    assert spread.shape == (16, 2, 16, 16, 3)
    assert len(spread.sharding.device_set) == 8
    assert -2.001 <= float(spread.min()) < -1.9
    assert 1.9 < float(spread.max()) <= 2.001
    np.testing.assert_allclose(spread, alone, atol=2e-5)
    assert max(moved(compiled), default=0) <= 16 * 64  # at most some keys, never an image


def test_simclr_at_full_size_moves_no_image():
    # Sizes at which the blur goes block by block.
    views = make_views({"ops": SIMCLR, "random_resized_crop": {"size": 128}}, dtype="bfloat16")
    compiled, _ = compile_on(8, views, make_images(n=8, height=160))
    assert max(moved(compiled), default=0) <= 16 * 64


def test_moved_images_would_be_seen():
    images = make_images(n=16)

    def rolled(keys, x):
        return jnp.roll(x, 1, axis=0).astype(jnp.float32) + jax.random.uniform(keys[0])

    compiled, _ = compile_on(8, rolled, images)
    assert max(moved(compiled), default=0) > 16 * 64
