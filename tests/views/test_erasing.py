"""Random erasing: where its rectangles are, and what fills them."""

import jax
import jax.numpy as jnp
import numpy as np

from ssl_jax.views import erasing, image

N = 3000


def rectangles(height, width, **options):
    keys = jax.random.split(jax.random.key(3), N)
    options = dict(area=(0.02, 1 / 3), ratio=(0.3, 1 / 0.3), p=1.0) | options
    return np.asarray(
        jax.jit(lambda keys: erasing.sample_rectangles(keys, (height, width), **options))(keys)
    )


def law(height, width, seed=0):
    """Heights and widths by a plain loop, float64."""
    rng, sides = np.random.default_rng(seed), []
    for _ in range(N):
        for _ in range(10):
            area = rng.uniform(0.02, 1 / 3) * height * width
            ratio = np.exp(rng.uniform(np.log(0.3), -np.log(0.3)))
            h, w = round(np.sqrt(area * ratio)), round(np.sqrt(area / ratio))
            if h < height and w < width:
                sides.append((h, w))
                break
    return np.array(sides)


def test_rectangles_have_the_law_of_a_plain_loop():
    masks = rectangles(24, 40)
    rows, columns = masks.any(2), masks.any(1)
    heights, widths = rows.sum(1), columns.sum(1)
    np.testing.assert_array_equal(masks, rows[:, :, None] & columns[:, None, :])
    np.testing.assert_array_equal(masks.sum((1, 2)), heights * widths)  # one block, not several
    expected = law(24, 40)
    for ours, theirs in zip((heights, widths), expected.T, strict=True):
        quantiles = [np.quantile(x, [0.1, 0.5, 0.9]) for x in (ours, theirs)]
        np.testing.assert_allclose(*quantiles, atol=1)
        np.testing.assert_allclose(ours.mean(), theirs.mean(), rtol=0.03)
    top = rows.argmax(1) / (24 - heights)
    left = columns.argmax(1) / (40 - widths)
    for place in (top, left):  # both ends as likely as the middle
        assert abs(place.mean() - 0.5) < 0.02 and place.min() == 0 and place.max() == 1
    assert abs(rectangles(24, 40, p=0.25).any((1, 2)).mean() - 0.25) < 0.03


def test_no_rectangle_that_is_too_large():
    assert not rectangles(8, 8, area=(1.0, 1.0), ratio=(1.0, 1.0)).any()


def test_fills():
    keys = jax.random.split(jax.random.key(0), 64)
    images = jnp.full((64, 16, 12, 3), 7.0)

    @jax.jit
    def erased(images):
        fills = ("pixel", "color", "zero")
        return [image.random_erasing(keys, images, fill=fill, p=1.0) for fill in fills]

    pixel, color, zero = map(np.asarray, erased(images))
    mask = zero == 0
    assert mask.any((1, 2, 3)).all() and (zero[~mask] == 7).all()
    for noise in (pixel, color):
        np.testing.assert_array_equal(noise != 7, mask)
    assert abs(pixel[mask].mean()) < 0.05 and abs(pixel[mask].std() - 1) < 0.05
    for x, inside in zip(color, mask, strict=True):
        assert all(len(np.unique(x[inside[..., c], c])) == 1 for c in range(3))
