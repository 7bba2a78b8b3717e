"""Changes of images by strength."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssl_jax.data.kinds import shapes
from ssl_jax.evals.properties.perturbations import NAMES, for_channels, perturb

FACTORS = shapes.draw_factors(0, "test", np.arange(6))
IMAGES = jnp.asarray(shapes.render(FACTORS, 16))
INDEX = jnp.arange(6)


@pytest.fixture(scope="module", params=NAMES)
def changed(request):
    """The images at strengths 0, 0.1, 0.5 and 1."""
    strengths = (0.0, 0.1, 0.5, 1.0)
    return request.param, [
        np.asarray(perturb(IMAGES, INDEX, strength, name=request.param)) for strength in strengths
    ]


def test_a_change_grows_with_its_strength(changed):
    name, images = changed
    assert all(some.shape == IMAGES.shape and some.dtype == np.uint8 for some in images)
    distance = [np.mean(np.abs(some.astype(float) - IMAGES)) for some in images]
    assert distance[0] <= (0.1 if name == "hue" else 0), distance
    assert distance[0] < distance[1] < distance[2] < distance[3], distance


def test_a_change_depends_on_the_image_number_alone(changed):
    name, (*_, images) = changed
    order = np.array([3, 1, 4, 0, 5, 2])
    got = np.asarray(perturb(IMAGES[order], INDEX[order], 1.0, name=name)).astype(int)
    np.testing.assert_allclose(got, images[order].astype(int), atol=1)


def test_changes_are_what_they_are_named_after():
    grey = jnp.full((2, 16, 16, 3), 100, jnp.uint8)
    for name in ("shift", "rotation", "zoom", "blur", "contrast", "hue"):
        np.testing.assert_array_equal(perturb(grey, INDEX[:2], 1.0, name=name), grey)
    bright = np.asarray(perturb(grey, jnp.arange(2, 4), 0.5, name="brightness"))
    assert set(np.unique(bright)) <= {60, 140}  # factor 0.6 or 1.4
    noise = np.asarray(
        perturb(jnp.full((2, 64, 64, 3), 128, jnp.uint8), INDEX[:2], 0.5, name="noise")
    )
    assert noise.std() / 255 == pytest.approx(0.1, rel=0.05)
    # A shift by a quarter of the side moves the middle of mass by four pixels.
    dot = jnp.zeros((6, 16, 16, 1), jnp.uint8).at[:, 7:9, 7:9].set(255)
    moved = np.asarray(perturb(dot, INDEX, 1.0, name="shift"), float)[..., 0]
    for one in moved:
        y, x = (np.average(np.arange(16), weights=one.sum(axis=axis)) for axis in (1, 0))
        assert np.hypot(y - 7.5, x - 7.5) == pytest.approx(4, abs=0.1)
    square = jnp.zeros((6, 16, 16, 1), jnp.uint8).at[:, 4:12, 4:12].set(255)
    zoomed = np.asarray(perturb(square, INDEX, 1.0, name="zoom"), float).sum(axis=(1, 2, 3))
    for ratio in zoomed / (64 * 255):
        assert min(abs(ratio - 1.5**2), abs(ratio - 1.5**-2)) < 0.1, ratio


def test_grey_images_have_no_hue():
    assert "hue" not in for_channels(NAMES, 1) and for_channels(NAMES, 3) == NAMES
    assert jax.eval_shape(lambda x: perturb(x, INDEX, 1.0, name="contrast"), IMAGES[..., :1]).shape
